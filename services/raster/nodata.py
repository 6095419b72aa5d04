"""Which pixels a nodata value leaves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def can_occur(nodata: float, dtype: str | np.dtype[Any]) -> bool:
    """Whether a pixel of ``dtype`` can have the value; one that cannot says nothing of the pixels."""
    import numpy as np

    if np.dtype(dtype).kind == "f":
        return True
    limits = np.iinfo(dtype)
    return float(nodata).is_integer() and limits.min <= nodata <= limits.max


def differs(values: npt.NDArray[Any], nodata: float) -> npt.NDArray[np.bool_] | None:
    """Where ``values`` are not nodata; None when none of them can be."""
    import numpy as np

    if not can_occur(nodata, values.dtype):
        return None
    with np.errstate(over="ignore"):
        found: npt.NDArray[np.bool_] = ~np.isnan(values) if math.isnan(nodata) else values != values.dtype.type(nodata)
    return found


def is_extreme(nodata: float, dtype: str | np.dtype[Any]) -> bool:
    """Whether no value of ``dtype`` lies beyond it, or it is no number: nothing between other values can be it."""
    import numpy as np

    if math.isnan(nodata):
        return True
    limits = np.finfo(dtype) if np.dtype(dtype).kind == "f" else np.iinfo(dtype)
    return bool(nodata <= limits.min or nodata >= limits.max)


def keep_off(values: npt.NDArray[Any], valid: npt.NDArray[np.bool_], nodata: float) -> None:
    """Change in place whole numbers that are ``nodata`` though they are ``valid`` to one less, or to one more where
    there is no less, as GDAL's warper does (``AvoidNoData`` in its ``gdalwarpkernel.cpp``).
    """
    import numpy as np

    others = None if values.dtype.kind == "f" else differs(values, nodata)
    if others is not None:
        missing = int(nodata)
        values[valid & ~others] = missing - 1 if missing > np.iinfo(values.dtype).min else missing + 1
