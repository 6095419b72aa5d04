"""What a result looks like: its images, histogram, place on the map, STAC item and files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from app.artifacts import Artifact, place_of
from app.dashboard.worldmap import FootprintMap, footprint_map
from core.errors import PermanentError

_MOST_ITEM_BYTES = 2_000_000
_MOST_IMAGES = 12
_MOST_BANDS = 8
_CHART_HEIGHT = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image of a result."""

    title: str
    address: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A band's histogram as an SVG path in a box as wide as there are bins."""

    name: str
    path: str
    bins: int
    low: float
    high: float
    facts: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Everything there is to see of a result."""

    pictures: Sequence[Picture] = ()
    before: Picture | None = None
    after: Picture | None = None
    charts: Sequence[Chart] = ()
    place: FootprintMap | None = None
    item: Mapping[str, Any] | None = None
    item_address: str | None = None
    files: Sequence[tuple[Artifact, str, int | None]] = field(default_factory=tuple)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.pictures or self.charts or self.place or self.files)


def gallery(
    job_id: str, result: Mapping[str, Any], artifacts: Mapping[str, Artifact], *, with_item: bool = True
) -> Gallery:
    """What a result of a job shows; what cannot be read from here is left out, and the item when it is not asked for.

    Raises:
        TransientError: when the item lies elsewhere and cannot be read now.
    """
    item, item_artifact = _item(result, artifacts) if with_item else (None, None)
    thumbnail = _picture(job_id, artifacts, result.get("thumbnail"), "Thumbnail", "The result in small")
    before = _picture(job_id, artifacts, result.get("before"), "Before", "The source in its own projection")
    named = {one.address for one in (thumbnail, before) if one is not None}
    others = [
        Picture(title=name, address=address(job_id, name), text=f"The image {name}")
        for name, artifact in artifacts.items()
        if artifact.media_type == "image/png" and address(job_id, name) not in named
    ]
    reprojected = before is not None and thumbnail is not None
    return Gallery(
        pictures=[*([thumbnail] if thumbnail is not None and not reprojected else []), *others[:_MOST_IMAGES]],
        before=before if reprojected else None,
        after=thumbnail if reprojected else None,
        charts=charts(item),
        place=footprint_map(item["geometry"]) if item is not None and item.get("geometry") else None,
        item=item,
        item_address=address(job_id, item_artifact.name) if item_artifact is not None else None,
        files=[(one, address(job_id, name), one.size) for name, one in artifacts.items()],
    )


def address(job_id: str, name: str) -> str:
    """Where an artifact is served."""
    return f"/api/jobs/{job_id}/artifacts/{quote(name, safe='')}"


def _name(entry: Any) -> str | None:
    path = entry.get("path") if isinstance(entry, Mapping) else entry
    return place_of(path).name if isinstance(path, str) else None


def _picture(job_id: str, artifacts: Mapping[str, Artifact], entry: Any, title: str, text: str) -> Picture | None:
    name = _name(entry)
    if name is None or name not in artifacts:
        return None
    return Picture(title=title, address=address(job_id, name), text=text)


def _item(
    result: Mapping[str, Any], artifacts: Mapping[str, Artifact]
) -> tuple[Mapping[str, Any] | None, Artifact | None]:
    name = _name(result.get("stac"))
    artifact = artifacts.get(name) if name is not None else None
    if artifact is None or (artifact.size or 0) > _MOST_ITEM_BYTES:
        return None, artifact
    try:
        item = json.loads(artifact.content())
    except (OSError, ValueError, PermanentError):
        return None, artifact
    return (item if isinstance(item, dict) and item.get("type") == "Feature" else None), artifact


def charts(item: Mapping[str, Any] | None) -> Sequence[Chart]:
    """The histograms of an item's bands, where its assets have any (STAC's raster extension)."""
    bands = [
        band
        for asset in (item or {}).get("assets", {}).values()
        for band in asset.get("bands", ())
        if "raster:histogram" in band
    ]
    return [_chart(band) for band in bands[:_MOST_BANDS]]


def _chart(band: Mapping[str, Any]) -> Chart:
    histogram, statistics = band["raster:histogram"], band.get("statistics", {})
    counts = histogram["buckets"]
    top = max(counts, default=0) or 1
    points = "".join(f"V{_CHART_HEIGHT - round(_CHART_HEIGHT * n / top, 1):g}h1" for n in counts)
    return Chart(
        name=str(band.get("name", "band")),
        path=f"M0 {_CHART_HEIGHT}{points}V{_CHART_HEIGHT}Z",
        bins=len(counts),
        low=histogram["min"],
        high=histogram["max"],
        facts={name: statistics[name] for name in ("mean", "stddev") if name in statistics},
    )
