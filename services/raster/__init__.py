"""Rasters: validation, Cloud Optimized GeoTIFF, STAC item, thumbnail. Light to import: GDAL loads when it is used."""

from __future__ import annotations

from pathlib import Path


def sample_raster() -> Path:
    """The GeoTIFF that ships with this project: Landsat RGB of the Bahamas, 791 x 718 pixels, EPSG:32618."""
    return Path(__file__).with_name("sample") / "RGB.byte.tif"
