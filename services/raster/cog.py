"""Cloud Optimized GeoTIFFs: written under a temporary name, proved whole, then published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from core.errors import TransientError
from services.raster.cog_check import CogCheck, check_cog
from services.raster.cog_options import CogOptions
from services.raster.errors import Code, RasterError
from services.raster.gdal import gdal_errors, gdal_messages, judged_here
from services.raster.materialise import STATISTICS_TAGS, nodata_to_mask, warp_to
from services.raster.outputs import part_of, publish, sha256_of
from services.raster.parameters import RasterType
from services.raster.profile import Georeferencing, Profile, crs_name, has_own_crs, parsed_crs
from services.raster.source import Source, open_source
from services.raster.watch import Watch

if TYPE_CHECKING:
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Cog:
    """A finished COG: where it is, what it weighs, and how it was made and checked."""

    path: Path
    size: int
    sha256: str
    crs: str | None
    shape: tuple[int, int]
    band_count: int
    dtype: str
    raster_type: RasterType
    options: CogOptions
    check: CogCheck
    resampled: bool

    def as_dict(self) -> dict[str, Any]:
        """The JSON form that ``create_cog`` returns."""
        return {
            "path": str(self.path),
            "size_bytes": self.size,
            "sha256": self.sha256,
            "crs": self.crs,
            "shape": list(self.shape),
            "band_count": self.band_count,
            "dtype": self.dtype,
            "raster_type": self.raster_type.value,
            "compression": self.options.compression.value,
            "lossless": self.options.lossless,
            "blocksize": self.options.blocksize,
            "overviews": list(self.check.overviews),
            "overview_resampling": self.options.overview_resampling.value,
            "resampled": self.resampled,
            "resampling": self.options.resampling.value if self.resampled else None,
            "validation": {
                "valid": True,
                "validator": "rio-cogeo, strict",
                "every_block_decoded": True,
                "pixels_equal_source": True if self.check.pixels_compared else None,
                "warnings": list(self.check.warnings),
            },
            "statistics": [band.as_dict() for band in self.check.statistics],
        }


def create_cog(
    source: Source,
    destination: Path,
    *,
    profile: Profile,
    options: CogOptions,
    raster_type: RasterType,
    target_crs: str | None,
    owner: str,
    watch: Watch,
) -> Cog:
    """Make the COG of ``source`` at ``destination``.

    The CRS is kept, and with a lossless codec every pixel, unless ``target_crs`` differs or ground control points alone
    place the raster. Call it inside :func:`services.raster.gdal.gdal_environment`.

    Raises:
        RasterError: when it cannot be made or does not pass its check; nothing is left under the final name.
        StopRequested: when the task was asked to stop.
    """
    with open_source(source) as opened, part_of(destination, owner) as part:
        target = _crs_to_warp_to(profile, target_crs)
        with _encodable(opened, profile, options, target=target, part=part, watch=watch) as encodable:
            _encode(encodable, part, options, watch)
        unchanged = target is None and options.lossless
        check = check_cog(part, watch, source=opened if unchanged else None)
        facts = _facts(part)
        publish(part, destination)
    return Cog(
        path=destination,
        size=destination.stat().st_size,
        sha256=sha256_of(destination),
        raster_type=raster_type,
        options=options,
        check=check,
        resampled=target is not None,
        **facts,
    )


def passes(profile: Profile, options: CogOptions, target_crs: str | None) -> int:
    """How often the pixels are gone through: written to scratch if need be, encoded, checked."""
    scratch = _crs_to_warp_to(profile, target_crs) is not None or _needs_mask(profile, options)
    return 3 if scratch else 2


def _crs_to_warp_to(profile: Profile, target_crs: str | None) -> CRS | None:
    target = None if target_crs is None else parsed_crs(target_crs)
    if profile.georeferencing is Georeferencing.GCPS:
        return target or profile.crs
    return None if target is None or target == profile.crs else target


def _needs_mask(profile: Profile, options: CogOptions) -> bool:
    """Whether nodata must become a mask: a lossy codec would change the nodata value itself."""
    return not options.lossless and profile.has_nodata and not profile.has_alpha


@contextmanager
def _encodable(
    source: DatasetReader, profile: Profile, options: CogOptions, *, target: CRS | None, part: Path, watch: Watch
) -> Iterator[DatasetReader | Path]:
    """What the COG driver is to copy: the source as it is, with its CRS supplied, or scratch pixels on disk."""
    scratch = part.with_name(part.name + ".pixels")
    if target is not None:
        yield warp_to(source, profile, target, options, scratch=scratch, watch=watch)
    elif _needs_mask(profile, options):
        yield nodata_to_mask(source, scratch, watch)
    elif not has_own_crs(source) or _has_statistics(source):
        yield _corrected(source, profile, part)
    else:
        yield source


def _has_statistics(source: DatasetReader) -> bool:
    return any(name.startswith(STATISTICS_TAGS) for band in source.indexes for name in source.tags(band))


def _corrected(source: DatasetReader, profile: Profile, part: Path) -> Path:
    """A VRT of our own making over the source, with its CRS supplied and without statistics.

    GDAL trusts statistics that a source carries and would write them into the COG, however old they are.
    """
    import rasterio
    from rasterio.shutil import copy

    described = part.with_name(part.name + ".vrt")
    copy(source, described, driver="VRT")
    with rasterio.open(described, "r+", driver="VRT") as view:
        view.crs = profile.crs
    document = ElementTree.parse(described)  # noqa: S314 - GDAL has just written it
    for metadata in document.iter("Metadata"):
        for entry in metadata.findall("MDI"):
            if entry.get("key", "").startswith(STATISTICS_TAGS):
                metadata.remove(entry)
    document.write(described, encoding="utf-8")
    return described


def _encode(encodable: DatasetReader | Path, part: Path, options: CogOptions, watch: Watch) -> None:
    import rasterio
    from rasterio.shutil import copy

    with ExitStack() as stack, gdal_messages() as messages:
        try:
            if isinstance(encodable, Path):
                driver = "VRT" if encodable.suffix == ".vrt" else "GTiff"
                encodable = stack.enter_context(rasterio.open(encodable, driver=driver))
            watch.advance(0, "writing the COG")
            creation = options.creation_options(encodable.width, encodable.height)
            copy(encodable, part, driver="COG", **creation)
        except gdal_errors() as error:
            raise _why_not_written(str(error.__cause__ or error), messages) from error
        watch.advance(encodable.width * encodable.height, "writing the COG")


def _why_not_written(reason: str, messages: list[str]) -> Exception:
    said = "; ".join(dict.fromkeys([reason, *messages]))
    if any(sign in said for sign in ("No space left", "Free disk space", "free disk space")):
        return TransientError(f"no space left for the COG: {said}")
    if any(sign in said for sign in ("ReadEncoded", "decode", "Decode", "Read error", "IReadBlock", "read at")):
        return RasterError(Code.CORRUPT_DATA, f"the source has pixels that cannot be read: {said}")
    return RasterError(Code.COG_WRITE_FAILED, f"the COG could not be written: {said}")


def _facts(part: Path) -> dict[str, Any]:
    import rasterio

    with judged_here(), rasterio.open(part, driver="GTiff") as cog:
        return {
            "crs": crs_name(cog.crs),
            "shape": (cog.height, cog.width),
            "band_count": cog.count,
            "dtype": cog.dtypes[0],
        }
