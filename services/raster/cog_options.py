"""Which options a COG is written with: what was asked for, checked against what the raster can bear."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, assert_never

from services.raster.errors import Code, RasterError
from services.raster.parameters import CogParameters, Compression, RasterType, Resampling, Verification
from services.raster.profile import Profile

_NEW_VALUES = frozenset(Resampling) - {Resampling.NEAREST, Resampling.MODE}


@dataclass(frozen=True, slots=True, kw_only=True)
class CogOptions:
    """How one COG is written, and how far its blocks are checked.

    ``predictor`` is the TIFF tag's number (1 none, 2 whole numbers, 3 floats), ``level`` the codec's (None: its own
    default), ``colours`` says that the bands are red, green and blue.
    """

    compression: Compression
    quality: int
    predictor: int
    level: int | None
    colours: bool
    resampling: Resampling
    overview_resampling: Resampling
    blocksize: int
    verification: Verification

    @property
    def lossless(self) -> bool:
        """Whether no pixel changes by the codec."""
        if self.compression is Compression.WEBP:
            return self.quality == 100
        return self.compression is not Compression.JPEG

    def block_options(self) -> dict[str, Any]:
        """Options of GDAL's GTiff driver for blocks as a COG has them."""
        options: dict[str, Any] = {
            "COMPRESS": self.compression.value.upper(),
            "TILED": "YES",
            "BLOCKXSIZE": self.blocksize,
            "BLOCKYSIZE": self.blocksize,
            "INTERLEAVE": "PIXEL",
        }
        match self.compression:
            case Compression.DEFLATE | Compression.ZSTD | Compression.LZW:
                options["PREDICTOR"] = self.predictor
                if self.level is not None:
                    options["ZSTD_LEVEL" if self.compression is Compression.ZSTD else "ZLEVEL"] = self.level
            case Compression.JPEG:
                options["JPEG_QUALITY"] = self.quality
                if self.colours:
                    options["PHOTOMETRIC"] = "YCBCR"
            case Compression.WEBP:
                options["WEBP_LOSSLESS" if self.lossless else "WEBP_LEVEL"] = "YES" if self.lossless else self.quality
            case Compression.NONE:
                pass
            case _:
                assert_never(self.compression)
        return options

    def plain(self) -> CogOptions:
        """The same blocks of one band without compression."""
        return replace(self, compression=Compression.NONE, colours=False)


def options_for(params: CogParameters, profile: Profile, raster_type: RasterType) -> CogOptions:
    """What was asked for, with defaults that fit the raster.

    Raises:
        RasterError: OPTION_NOT_ALLOWED, naming the option, what was given and what would be allowed.
    """
    categorical = raster_type is RasterType.CATEGORICAL or profile.has_colormap
    _check_codec(params, profile, categorical=categorical)
    resampling = params.resampling or (Resampling.NEAREST if categorical else Resampling.BILINEAR)
    overviews = params.overview_resampling or _overview_default(profile, categorical=categorical)
    for field, chosen in (("resampling", resampling), ("overview_resampling", overviews)):
        if categorical and chosen in _NEW_VALUES:
            raise RasterError(
                Code.OPTION_NOT_ALLOWED,
                f"{field}: {chosen.value} would mix categories into values that mean nothing; use nearest or mode"
                + ("" if profile.has_colormap else ", or give raster_type if the pixels are no categories"),
            )
    return CogOptions(
        compression=params.compression,
        quality=params.quality,
        predictor=_predictor(profile, categorical=categorical),
        level=_level(params),
        colours=profile.count - profile.has_alpha == 3,
        resampling=resampling,
        overview_resampling=overviews,
        blocksize=params.blocksize,
        verification=params.verification,
    )


def _overview_default(profile: Profile, *, categorical: bool) -> Resampling:
    exact_only = profile.dtype in {"int64", "uint64"}
    return Resampling.NEAREST if categorical or exact_only else Resampling.AVERAGE


def _check_codec(params: CogParameters, profile: Profile, *, categorical: bool) -> None:
    codec = params.compression
    if codec not in {Compression.JPEG, Compression.WEBP}:
        return
    lossy = codec is Compression.JPEG or params.quality < 100
    bands = profile.count - (1 if profile.has_alpha else 0)
    allowed = {1, 3} if codec is Compression.JPEG else {3}
    if categorical and lossy:
        problem = f"{codec.value} would blur categories"
    elif profile.dtype != "uint8":
        problem = f"{codec.value} takes 8-bit pixels (uint8), the raster has {profile.dtype}"
    elif bands not in allowed:
        wanted = " or ".join(map(str, sorted(allowed)))
        problem = f"{codec.value} takes {wanted} bands (alpha apart), the raster has {bands}"
    else:
        return
    raise RasterError(Code.OPTION_NOT_ALLOWED, f"compression: {problem}; use deflate, zstd or lzw")


def _predictor(profile: Profile, *, categorical: bool) -> int:
    """Differences of neighbours compress better, but not those of categories; GDAL has none for 64-bit integers."""
    if categorical or profile.dtype in {"int64", "uint64"}:
        return 1
    return 3 if profile.dtype.startswith("float") else 2


_LEVELS = {Compression.DEFLATE: (1, 12, 6), Compression.ZSTD: (1, 22, 9)}


def _level(params: CogParameters) -> int | None:
    """The codec's level: what was asked for, else the default of GDAL's COG driver."""
    known = _LEVELS.get(params.compression)
    if known is None:
        if params.level is not None:
            raise RasterError(
                Code.OPTION_NOT_ALLOWED, f"level: {params.compression.value} has no levels; only deflate and zstd have"
            )
        return None
    low, high, usual = known
    if params.level is not None and not low <= params.level <= high:
        raise RasterError(
            Code.OPTION_NOT_ALLOWED,
            f"level: {params.level} is not from {low} to {high}, as {params.compression.value} has",
        )
    return usual if params.level is None else params.level
