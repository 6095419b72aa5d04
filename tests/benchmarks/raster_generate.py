"""Makes large rasters to measure with: fractal noise that looks like imagery or terrain, and compresses like it.

    python -m tests.benchmarks.raster_generate rgb 28000x26000 /tmp/rgb.tif
    python -m tests.benchmarks.raster_generate dem 28000x26000 /tmp/dem.tif --layout strips

``rgb`` is three bands of uint8, ``dem`` one of int16 with nodata -32768 in a corner, ``float`` one of float32,
``classes`` one of uint8 with a colour table. All lie in EPSG:32735 with pixels of 0.5 m.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.windows import Window

KINDS = {"rgb": (3, "uint8"), "dem": (1, "int16"), "float": (1, "float32"), "classes": (1, "uint8")}
_OCTAVES = 10
_LATTICE = 1024
_ROWS = 512


class FractalNoise:
    """Ten octaves of smooth noise, each half the size and half the height of the one before; 0 to 1, row by row."""

    def __init__(self, seed: int) -> None:
        self._lattice = np.random.default_rng(seed).random((_LATTICE, _LATTICE), dtype=np.float32)

    def rows(self, top: int, height: int, width: int) -> Any:
        """The rows from ``top`` on."""
        total = np.zeros((height, width), dtype=np.float32)
        weights = 0.0
        for octave in range(_OCTAVES):
            period, weight = 2048 // 2**octave, 0.5**octave
            total += weight * self._octave(top, height, width, period, octave * 131)
            weights += weight
        return total / weights

    def _octave(self, top: int, height: int, width: int, period: int, shift: int) -> Any:
        first, last = top // period, (top + height) // period
        rows = (np.arange(first - 2, last + 4) + shift) % _LATTICE
        columns = (np.arange(-2, width // period + 4) + shift) % _LATTICE
        box = (2.0, top / period - first + 2, width / period + 2, (top + height) / period - first + 2)
        knots = Image.fromarray(self._lattice[np.ix_(rows, columns)])
        return np.asarray(knots.resize((width, height), Image.Resampling.BILINEAR, box=box))


def generate(kind: str, width: int, height: int, path: Path, *, layout: str = "tiled", compress: str = "none") -> None:
    """Write a raster of that kind to ``path``, 512 rows at a time."""
    count, dtype = KINDS[kind]
    options: dict[str, Any] = {"compress": compress, "bigtiff": "IF_SAFER"}
    if layout == "tiled":
        options |= {"tiled": True, "blockxsize": 512, "blockysize": 512}
    if count == 3:
        options["interleave"] = "pixel"
    random = np.random.default_rng(7)
    noises = [FractalNoise(seed) for seed in range(count)]
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=count,
        dtype=dtype,
        crs="EPSG:32735",
        transform=Affine(0.5, 0.0, 300_000.0, 0.0, -0.5, 9_790_000.0),
        nodata={"dem": -32768, "float": float("nan")}.get(kind),
        **options,
    ) as written:
        if count == 3:
            written.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        if kind == "classes":
            written.write_colormap(1, {value: (value * 37 % 256, value * 91 % 256, 60, 255) for value in range(12)})
        for top in range(0, height, _ROWS):
            rows = min(_ROWS, height - top)
            pixels = np.stack([_values(kind, noise.rows(top, rows, width), random) for noise in noises])
            if kind in ("dem", "float") and top + rows <= height // 8:
                pixels[:, :, : width // 8] = written.nodata
            written.write(pixels, window=Window(0, top, width, rows))


def _values(kind: str, noise: Any, random: np.random.Generator) -> Any:
    match kind:
        case "rgb":
            grain = random.integers(-4, 5, noise.shape, dtype=np.int16)
            return np.clip((noise * 300 - 40).astype(np.int16) + grain, 0, 255).astype(np.uint8)
        case "dem":
            return (noise * 2400 + 800).astype(np.int16)
        case "float":
            return (noise * 2400 + 800).astype(np.float32)
        case _:
            return np.clip(noise * 20 - 4, 0, 11).astype(np.uint8)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("size", help="WIDTHxHEIGHT in pixels")
    parser.add_argument("path", type=Path)
    parser.add_argument("--layout", choices=("tiled", "strips"), default="tiled")
    parser.add_argument("--compress", default="none", choices=("none", "deflate", "lzw", "zstd"))
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.lower().split("x"))
    generate(arguments.kind, width, height, arguments.path, layout=arguments.layout, compress=arguments.compress)


if __name__ == "__main__":
    main()
