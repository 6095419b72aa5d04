"""The tiles of one task on disk: each a COG, beside it what it leaves for the whole, both under their names only when
they are whole. A later attempt finds what is there by itself, even when its checkpoint could not be saved any more.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.raster.outputs import publish, sha256_of
from services.raster.tally import Tally
from services.raster.tiff_write import Written
from services.raster.tile_grid import Place

if TYPE_CHECKING:
    from services.raster.pixels import Pixels


@dataclass(frozen=True, slots=True, order=True)
class TileKey:
    """A tile by its tier (0: full resolution; each further one covers the tails of the one before) and place."""

    tier: int
    place: Place

    @property
    def text(self) -> str:
        """``0/12/7``: tier, row, column."""
        return f"{self.tier}/{self.place.row}/{self.place.column}"


@dataclass(frozen=True, slots=True)
class TileRecord:
    """A finished tile: its size and SHA-256; ``size`` 0: every pixel of it is without data, there is no file."""

    size: int
    sha256: str

    @property
    def empty(self) -> bool:
        """Whether it has no pixel with data."""
        return self.size == 0

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"size": self.size, "sha256": self.sha256}


EMPTY = TileRecord(0, "")


@dataclass(frozen=True, slots=True)
class TileStore:
    """Where tiles are.

    Args:
        tiles: directory of the files of full resolution; they are outputs of their own or parts of one.
        scratch: directory of everything that is not kept.
        stem: what the tiles' names begin with.
        fingerprint: of everything that decides a tile's pixels; tiles of another fingerprint are not taken.
        durable: the tiles are outputs, each on disk before it counts. Parts of an output are not waited for: their
            checksums show whether a later attempt may take them.
    """

    tiles: Path
    scratch: Path
    stem: str
    fingerprint: str
    durable: bool

    def path(self, key: TileKey) -> Path:
        """A tile's file."""
        directory = self.tiles if key.tier == 0 else self.scratch
        tier = "" if key.tier == 0 else f"_t{key.tier}"
        return directory / f"{self.stem}{tier}_r{key.place.row:04d}_c{key.place.column:04d}.tif"

    def tail_path(self, key: TileKey) -> Path:
        """What a tile leaves for the whole: its smallest overview, uncompressed, and its tallies."""
        return self.scratch / f"{self.path(key).stem}.npz"

    def save(self, key: TileKey, written: Written | None, tail: Pixels, tallies: Sequence[Tally]) -> TileRecord:
        """Give a finished tile (its file lies at :meth:`part`) its name, and keep what it leaves."""
        import numpy as np

        record = EMPTY if written is None else TileRecord(written.size, written.sha256)
        facts = {**record.as_dict(), "of": self.fingerprint, "tallies": [tally.as_dict() for tally in tallies]}
        arrays = {"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}
        if not record.empty:
            self._name(key)
            arrays["values"] = tail.values
            if tail.mask is not None:
                arrays["mask"] = np.packbits(tail.mask, axis=1)
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        part = self.tail_path(key).with_suffix(".part")
        part.write_bytes(content.getbuffer())
        part.replace(self.tail_path(key))
        return record

    def _name(self, key: TileKey) -> None:
        if self.durable:
            publish(self.part(key), self.path(key))
        else:
            self.part(key).replace(self.path(key))

    def part(self, key: TileKey) -> Path:
        """Where a tile's file is written before it is whole."""
        path = self.path(key)
        return path.with_name(f".{path.name}.part")

    def found(self, key: TileKey, marked: Mapping[str, Any] | None) -> TileRecord | None:
        """The tile when an earlier attempt finished it and it is still whole; ``marked`` is what was checkpointed."""
        try:
            facts = self.facts(key)
        except (OSError, ValueError, KeyError):
            return None
        record = TileRecord(int(facts["size"]), str(facts["sha256"]))
        if facts["of"] != self.fingerprint or (marked is not None and dict(marked) != record.as_dict()):
            return None
        if record.empty:
            return record
        path = self.path(key)
        try:
            whole = path.stat().st_size == record.size and sha256_of(path) == record.sha256
        except OSError:
            return None
        return record if whole else None

    def facts(self, key: TileKey) -> dict[str, Any]:
        """Size, SHA-256 and tallies."""
        import numpy as np

        with np.load(self.tail_path(key), allow_pickle=False) as kept:
            facts: dict[str, Any] = json.loads(kept["facts"].tobytes())
        return facts

    def tallies(self, key: TileKey) -> list[Tally]:
        """What was counted in a tile, one tally a band."""
        return [Tally.from_dict(tally) for tally in self.facts(key)["tallies"]]

    def tail(self, key: TileKey) -> tuple[Any, Any] | None:
        """A tile's smallest overview as (values, mask or None); None when it is without data."""
        import numpy as np

        with np.load(self.tail_path(key), allow_pickle=False) as kept:
            if "values" not in kept:
                return None
            values = kept["values"]
            mask = np.unpackbits(kept["mask"], axis=1, count=values.shape[2]).astype(bool) if "mask" in kept else None
        return values, mask

    def begin(self) -> None:
        """Make the directories and remove what an attempt that was killed left half written."""
        for directory in (self.tiles, self.scratch):
            directory.mkdir(parents=True, exist_ok=True)
            for left in directory.iterdir():
                if left.name.endswith(".part") and left.name.lstrip(".").startswith(self.stem):
                    left.unlink(missing_ok=True)

    def settle(self) -> None:
        """Wait until the names in the directory of tiles are on disk."""
        directory = os.open(self.tiles, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
