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
