"""The array-API namespace of an array.

NumPy's is returned without a search, which would cost small programs noticeable time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

__all__ = ["Array", "device", "namespace"]

Array = Any  # any array that follows the array-API standard; NumPy's and torch's are tested


def namespace(*arrays: Array) -> Any:
    """NumPy itself (version 2 follows the standard), or what array-api-compat finds."""
    return np if type(arrays[0]) is np.ndarray else array_namespace(*arrays)
