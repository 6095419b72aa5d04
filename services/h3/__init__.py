"""H3 grids: cells of an area at several resolutions, stored, exported, drawn and filled with raster statistics."""
