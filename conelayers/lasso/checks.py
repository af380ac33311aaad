"""Checks of what the user gives: every error names the argument, what was got, what was expected, and the fix."""

from __future__ import annotations

from numbers import Integral, Real

import numpy as np
from scipy.sparse import issparse

from conelayers.support.arguments import as_real

__all__ = ["checked_data", "checked_flag", "checked_integer", "checked_logarithms", "checked_positive", "signs"]

_LARGEST = 1e60  # the largest entry of X and y that is accepted: products and squares stay far from overflow


def checked_data(X: object, y: object, names: tuple[str, str] = ("X", "y")) -> tuple[np.ndarray, np.ndarray]:
    """X (n, p) and y (n,) as finite float64 arrays. Raises ValueError otherwise; names: what messages call them."""
    X_, y_ = _real(names[0], X), _real(names[1], y)
    if X_.ndim != 2 or not X_.size:
        raise ValueError(
            f"{names[0]}: got shape {X_.shape}, expected (n, p) with n, p ≥ 1; reshape a single feature to (n, 1)"
        )
    if y_.shape != X_.shape[:1]:
        raise ValueError(
            f"{names[1]}: got shape {y_.shape}, expected ({X_.shape[0]},), one number for each row of {names[0]}; "
            "np.ravel makes a column one-dimensional"
        )
    return X_, y_


def _real(name: str, data: object) -> np.ndarray:
    if issparse(data):
        raise ValueError(f"{name}: got a sparse matrix, expected a dense array; .toarray() makes one")
    if data is None:
        raise ValueError(f"{name}: got None, expected an array of real numbers")
    if isinstance(data, np.ma.MaskedArray):
        raise ValueError(
            f"{name}: got a masked array, expected real numbers everywhere, and its mask would be ignored; pass its "
            ".filled(…)"
        )
    try:
        array = np.asarray(data)
        array = array.astype(np.float64) if array.dtype.kind == "O" else array
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: got what is no array of real numbers, expected one ({error})") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: got entries of type {array.dtype}, expected real numbers; encode them first")
    array = array.astype(np.float64, copy=False)
    largest = np.abs(array).max(initial=0.0)
    if not np.isfinite(largest):
        raise ValueError(f"{name}: got NaN or infinite entries, expected finite numbers; impute or remove them")
    if largest > _LARGEST:
        raise ValueError(f"{name}: got an entry of size {largest:.0e}, expected at most {_LARGEST:.0e}; rescale it")
    return array


def signs(y: np.ndarray, name: str = "y") -> np.ndarray:
    """Labels in {−1, 1} from {−1, 1} or {0, 1}. Raises ValueError for other labels, or if there is one class only."""
    found = np.unique(y)
    if found.size != 2 or set(found) not in ({0.0, 1.0}, {-1.0, 1.0}):
        shown = ", ".join(f"{v:g}" for v in found[:5]) + (", …" if found.size > 5 else "")
        raise ValueError(
            f"{name}: got the values {shown}, expected both of two labels, −1 and 1 or 0 and 1; map the classes to them"
        )
    return np.where(y == found[1], 1.0, -1.0)


def checked_logarithms(log_hyperparameters: object, m: int, name: str = "log_hyperparameters") -> np.ndarray:
    """θ as an array (m,) of finite numbers. Raises ValueError otherwise."""
    theta = np.atleast_1d(as_real(name, log_hyperparameters)).copy()
    if theta.shape != (m,):
        raise ValueError(f"{name}: got shape {theta.shape}, expected ({m},), one logarithm a hyperparameter")
    if not (np.abs(theta) < 300).all():
        raise ValueError(
            f"{name}: got {theta[np.argmax(~(np.abs(theta) < 300))]}, expected finite logarithms between −300 and 300; "
            "for no penalty, take a very negative one"
        )
    return theta


def checked_integer(name: str, value: object) -> int:
    """A positive integer of Python's or NumPy's. Raises ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
        raise ValueError(f"{name}: got {value!r}, expected a positive integer")
    return int(value)


def checked_positive(name: str, value: object) -> float:
    """A positive number. Raises ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < np.inf:
        raise ValueError(f"{name}: got {value!r}, expected a positive number")
    return float(value)


def checked_flag(name: str, value: object) -> bool:
    """True or False of Python's or NumPy's. Raises ValueError otherwise."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}: got {value!r}, expected True or False")
    return bool(value)
