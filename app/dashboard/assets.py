"""The static files of the package, at addresses that have a digest of their content."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from importlib import resources

from app.dashboard.worldmap import world_svg

_WORLD = "world.svg"
_FILES = frozenset({"dashboard.css", "live.js", "morph.js", "actions.js", "times.js", "favicon.svg"})


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is and compressed."""

    plain: bytes
    packed: bytes
    media_type: str


@cache
def asset(name: str) -> Asset | None:
    """The file of that name, or None."""
    if name == _WORLD:
        plain = world_svg()
    elif name in _FILES:
        plain = resources.files(__package__).joinpath("static", name).read_bytes()
    else:
        return None
    return Asset(
        plain,
        gzip.compress(plain, mtime=0),
        mimetypes.guess_type(name)[0] or "application/octet-stream",
    )


@cache
def digest() -> str:
    """The first digits of the SHA-256 of all files: scripts name each other, so they change address together."""
    whole = hashlib.sha256()
    for name in sorted({*_FILES, _WORLD}):
        found = asset(name)
        whole.update(found.plain if found is not None else b"")
    return whole.hexdigest()[:12]


def static_url(name: str) -> str:
    """The address of a file.

    Raises:
        KeyError: when there is no such file.
    """
    if asset(name) is None:
        raise KeyError(name)
    return f"/static/{digest()}/{name}"
