"""STAC collections (1.1) of tiles and of rasters, with the mosaic over them as their asset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from services.raster.errors import Code, RasterError
from services.raster.stac import COG_MEDIA_TYPE, EXTENSIONS, STAC_VERSION

_WORLD = [-180.0, -90.0, 180.0, 90.0]
_SHA256_MULTIHASH = "1220"
VRT_MEDIA_TYPE = "application/xml"


def file_asset(
    href: str, media_type: str, title: str, roles: Sequence[str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The asset of a file of which size and SHA-256 are known."""
    return {
        "href": f"./{href}",
        "type": media_type,
        "title": title,
        "roles": list(roles),
        "file:size": facts["size_bytes"],
        "file:checksum": _SHA256_MULTIHASH + facts["sha256"],
    }


def build_collection(
    *,
    collection_id: str,
    description: str,
    items: Sequence[Mapping[str, Any]],
    hrefs: Sequence[str],
    assets: Mapping[str, Mapping[str, Any]],
    summaries: Mapping[str, Any],
    parent: str | None = None,
) -> dict[str, Any]:
    """The collection of ``items`` (or collections), which lie at ``hrefs`` relative to it; ``parent`` lies beside it.

    Raises:
        RasterError: STAC_INVALID when it breaks a rule of the specification.
    """
    boxes = [box for item in items for box in _boxes(item)]
    moments = sorted(moment for item in items for moment in _moments(item))
    collection: dict[str, Any] = {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": list(EXTENSIONS),
        "id": collection_id,
        "description": description,
        "license": "other",
        "extent": {
            "spatial": {"bbox": [_around(boxes)]},
            "temporal": {"interval": [[moments[0], moments[-1]] if moments else [None, None]]},
        },
        "summaries": dict(summaries),
        "assets": {name: dict(asset) for name, asset in assets.items()},
        "item_assets": {
            "data": {"type": COG_MEDIA_TYPE, "roles": ["data"], "title": "Cloud Optimized GeoTIFF"},
        },
        "links": [
            *([] if parent is None else [{"rel": "parent", "href": parent, "type": "application/json"}]),
            *(_link(item, href) for item, href in zip(items, hrefs, strict=True)),
        ],
    }
    _check(collection)
    return collection


def _link(member: Mapping[str, Any], href: str) -> dict[str, str]:
    item = member["type"] == "Feature"
    return {
        "rel": "item" if item else "child",
        "href": f"./{href}",
        "type": "application/geo+json" if item else "application/json",
        "title": str(member["id"]),
    }


def _boxes(member: Mapping[str, Any]) -> list[list[float]]:
    if member["type"] == "Collection":
        return list(member["extent"]["spatial"]["bbox"])
    return [member["bbox"]] if "bbox" in member else []


def _moments(member: Mapping[str, Any]) -> list[str]:
    if member["type"] == "Collection":
        return [moment for interval in member["extent"]["temporal"]["interval"] for moment in interval if moment]
    return [member["properties"]["datetime"]]


def _around(boxes: Sequence[Sequence[float]]) -> list[float]:
    """The box around all; where some cross the 180th meridian it goes around the Earth the shorter way."""
    if not boxes:
        return list(_WORLD)
    south, north = min(box[1] for box in boxes), max(box[3] for box in boxes)
    if all(box[0] <= box[2] for box in boxes):
        return [min(box[0] for box in boxes), south, max(box[2] for box in boxes), north]
    spans = [(box[0], box[2] if box[0] <= box[2] else box[2] + 360.0) for box in boxes]
    spans = [(west + 360.0, east + 360.0) if east < 0 else (west, east) for west, east in spans]
    west, east = min(span[0] for span in spans), max(span[1] for span in spans)
    if east - west >= 360.0:
        return [-180.0, south, 180.0, north]
    return [west, south, east - 360.0 if east > 180.0 else east, north]


def _check(collection: Mapping[str, Any]) -> None:
    import pystac

    try:
        json.dumps(collection, allow_nan=False)
        pystac.Collection.from_dict(dict(collection), preserve_dict=True)
    except (ValueError, TypeError, KeyError, pystac.STACError) as error:
        raise RasterError(Code.STAC_INVALID, f"the STAC collection is not valid: {error}") from error
