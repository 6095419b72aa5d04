"""Which options a COG is written with: what was asked for, checked against what the raster can bear."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from services.raster.errors import Code, RasterError
from services.raster.parameters import CogParameters, Compression, RasterType, Resampling
from services.raster.profile import Profile

MAX_THREADS = 4
_NEW_VALUES = frozenset(Resampling) - {Resampling.NEAREST, Resampling.MODE}
_PREDICTABLE = frozenset({Compression.DEFLATE, Compression.ZSTD, Compression.LZW})


@dataclass(frozen=True, slots=True, kw_only=True)
class CogOptions:
    """How one COG is written.

    ``lossless`` says that decoded pixels equal those that were encoded; ``predictor`` is GDAL's PREDICTOR.
    """

    compression: Compression
    quality: int
    predictor: bool
    resampling: Resampling
    overview_resampling: Resampling
    blocksize: int
    threads: int

    @property
    def lossless(self) -> bool:
        """Whether no pixel changes by the codec."""
        if self.compression is Compression.WEBP:
            return self.quality == 100
        return self.compression is not Compression.JPEG

    def creation_options(self, width: int, height: int) -> dict[str, Any]:
        """Options of GDAL's COG driver for a raster of ``width`` x ``height`` pixels.

        One that fits into a single block needs no overviews; there GDAL would copy those of the source.
        """
        options: dict[str, Any] = {
            "COMPRESS": self.compression.value.upper(),
            "BLOCKSIZE": self.blocksize,
            "BIGTIFF": "IF_SAFER",
            "OVERVIEWS": "NONE" if max(width, height) <= self.blocksize else "IGNORE_EXISTING",
            "OVERVIEW_RESAMPLING": self.overview_resampling.name,
            "NUM_THREADS": self.threads,
            "STATISTICS": "YES",
        }
        if self.compression in {Compression.JPEG, Compression.WEBP}:
            options["QUALITY"] = self.quality
        if self.compression in _PREDICTABLE:
            options["PREDICTOR"] = "YES" if self.predictor else "NO"
        return options


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
        predictor=not categorical and profile.dtype not in {"int64", "uint64"},
        resampling=resampling,
        overview_resampling=overviews,
        blocksize=params.blocksize,
        threads=available_threads(),
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


def available_threads() -> int:
    """Threads for GDAL's compression: the processors this process may use, four at most."""
    return min(MAX_THREADS, len(os.sched_getaffinity(0)))
