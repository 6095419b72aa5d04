"""STAC items (1.1) of COGs, with the projection (2.0), raster (2.0), file (2.1) and processing (1.2) extensions."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.raster.errors import Code, RasterError
from services.raster.footprint import Footprint
from services.raster.parameters import RasterType
from services.raster.profile import Profile, as_json_number

if TYPE_CHECKING:
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader

STAC_VERSION = "1.1.0"
EXTENSIONS = (
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
)
COG_MEDIA_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
_SHA256_MULTIHASH = "1220"
_DATE_TAGS = ("ACQUISITIONDATETIME", "TIFFTAG_DATETIME")


def build_item(
    cog: DatasetReader,
    *,
    name: str,
    size: int,
    sha256: str,
    profile: Profile,
    footprint: Footprint | None,
    raster_type: RasterType,
    item_id: str,
    moment: tuple[datetime, str],
    thumbnail: str | None,
    created: datetime,
    histograms: Sequence[Mapping[str, Any] | None] = (),
    collection: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """The item of the COG ``cog``, which readers find as ``name``, as JSON-ready data.

    ``moment`` is when the data was acquired and who says so (:func:`moment_of`), ``collection`` the id of the item's
    collection and where that lies.

    ``footprint`` is None for a raster that is not on Earth: the item then has a null geometry and no bbox, as the
    specification asks. Links to assets are relative: the item lies beside them.

    Raises:
        RasterError: STAC_INVALID when it breaks a rule of the specification.
    """
    acquired, said_by = moment
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": list(EXTENSIONS),
        "id": item_id,
        "geometry": None if footprint is None else footprint.geometry,
        **({} if footprint is None else {"bbox": list(footprint.bbox)}),
        "properties": {
            "datetime": rfc3339(acquired),
            "created": rfc3339(created),
            "geoworker:datetime_source": said_by,
            "geoworker:raster_type": raster_type.value,
            **_projection(profile),
            "processing:software": software(),
        },
        "links": [] if collection is None else links_to(collection[1]),
        **({} if collection is None else {"collection": collection[0]}),
        "assets": {
            "data": {
                "href": f"./{name}",
                "type": COG_MEDIA_TYPE,
                "title": "Cloud Optimized GeoTIFF",
                "roles": ["data"],
                "file:size": size,
                "file:checksum": _SHA256_MULTIHASH + sha256,
                "bands": bands_of(cog, profile, histograms),
            },
            **({} if thumbnail is None else {"thumbnail": thumbnail_asset(thumbnail)}),
        },
    }
    check_item(item)
    return item


def links_to(collection: str) -> list[dict[str, str]]:
    """The links of what belongs to the collection at a relative place."""
    return [{"rel": rel, "href": collection, "type": "application/json"} for rel in ("collection", "parent", "root")]


def thumbnail_asset(name: str) -> dict[str, Any]:
    """The asset of a thumbnail."""
    return {"href": f"./{name}", "type": "image/png", "title": "Thumbnail", "roles": ["thumbnail"]}


def bands_of(
    cog: DatasetReader, profile: Profile, histograms: Sequence[Mapping[str, Any] | None] = ()
) -> list[dict[str, Any]]:
    """The band objects of a COG."""
    bands = [_band(cog, profile, number) for number in range(profile.count)]
    for band, histogram in zip(bands, histograms, strict=False):
        if histogram is not None:
            band["raster:histogram"] = dict(histogram)
    return bands


def check_item(item: dict[str, Any]) -> None:
    """Check what a schema cannot: that pystac reads it, that JSON can hold it, that bbox and geometry belong together.

    Raises:
        RasterError: STAC_INVALID.
    """
    import pystac

    try:
        json.dumps(item, allow_nan=False)
        pystac.Item.from_dict(item, preserve_dict=True)
    except (ValueError, TypeError, KeyError, pystac.STACError) as error:
        raise RasterError(Code.STAC_INVALID, f"the STAC item is not valid: {error}") from error
    if (item["geometry"] is None) != ("bbox" not in item):
        raise RasterError(Code.STAC_INVALID, "the STAC item must have both a geometry and a bbox, or neither")
    if "bbox" in item:
        west, south, east, north = item["bbox"]
        if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90):
            raise RasterError(Code.STAC_INVALID, f"the STAC item's bbox is off the Earth: {item['bbox']}")


def _projection(profile: Profile) -> dict[str, Any]:
    transform = profile.transform
    return {
        **_crs(profile.crs),
        "proj:shape": list(profile.shape),
        "proj:transform": [transform.a, transform.b, transform.c, transform.d, transform.e, transform.f],
        "proj:bbox": list(profile.bounds),
    }


def _crs(crs: CRS | None) -> dict[str, Any]:
    from pyproj import CRS as ProjCRS

    if crs is None:
        return {"proj:code": None}
    authority = crs.to_authority()
    if authority:
        return {"proj:code": ":".join(authority)}
    known = ProjCRS.from_wkt(crs.to_wkt())
    return {"proj:code": None, "proj:wkt2": known.to_wkt("WKT2_2019"), "proj:projjson": known.to_json_dict()}


def _band(cog: DatasetReader, profile: Profile, number: int) -> dict[str, Any]:
    band: dict[str, Any] = {
        "name": profile.descriptions[number] or f"band_{number + 1}",
        "data_type": profile.dtypes[number],
        "raster:sampling": "point" if cog.tags().get("AREA_OR_POINT") == "Point" else "area",
    }
    if profile.nodata[number] is not None:
        band["nodata"] = as_json_number(profile.nodata[number])
    if profile.units[number]:
        band["unit"] = profile.units[number]
    if profile.colorinterp[number] not in {"undefined", "gray"}:
        band["description"] = f"colour interpretation: {profile.colorinterp[number]}"
    if (cog.scales[number], cog.offsets[number]) != (1.0, 0.0):
        band["raster:scale"], band["raster:offset"] = cog.scales[number], cog.offsets[number]
    if profile.crs is not None and profile.crs.is_projected and not profile.is_rotated:
        band["raster:spatial_resolution"] = abs(profile.transform.a) * profile.crs.linear_units_factor[1]
    statistics = _statistics(cog.tags(number + 1))
    if statistics:
        band["statistics"] = statistics
    return band


_STATISTICS = {
    "STATISTICS_MINIMUM": "minimum",
    "STATISTICS_MAXIMUM": "maximum",
    "STATISTICS_MEAN": "mean",
    "STATISTICS_STDDEV": "stddev",
    "STATISTICS_VALID_PERCENT": "valid_percent",
}


def _statistics(tags: dict[str, str]) -> dict[str, float]:
    """The exact statistics that the COG carries in its tags."""
    found = {}
    for tag, name in _STATISTICS.items():
        try:
            value = float(tags.get(tag, "nan"))
        except ValueError:
            continue
        if math.isfinite(value):
            found[name] = value
    return found


def moment_of(cog: DatasetReader, path: Path, acquired: datetime | None) -> tuple[datetime, str]:
    """When the data was acquired, and who says so: the parameter, a tag of the raster, or the time of the file."""
    if acquired is not None:
        return acquired.astimezone(UTC), "parameter"
    tags = cog.tags()
    for tag in _DATE_TAGS:
        moment = _parsed(tags.get(tag, ""))
        if moment is not None:
            return moment, f"tag {tag}"
    return datetime.fromtimestamp(int(path.stat().st_mtime), UTC), "file time"


def _parsed(text: str) -> datetime | None:
    """A TIFF (``2015:04:09 13:53:50``) or ISO 8601 date; without a zone it is taken as UTC."""
    text = re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", text.strip())
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def rfc3339(moment: datetime) -> str:
    """A moment as STAC writes it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def software() -> dict[str, str]:
    """The versions of what made the item and its COG."""
    return dict(_versions())


@cache
def _versions() -> Mapping[str, str]:
    import rasterio

    versions = {"GDAL": str(rasterio.__gdal_version__)}
    for name in ("geoworker", "rasterio", "rio-cogeo"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
