"""Checks of what the user passes, which becomes arrays and flags.

Every error names the argument, what was got and expected, and the fix.
"""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

__all__ = [
    "as_array",
    "as_flag",
    "as_flags",
    "as_integers",
    "as_real",
    "as_sparse",
    "check_count",
    "check_keywords",
    "described",
]

# Keywords of other packages' layers and of their earlier versions, and what to write instead.
_MOVED = {
    "constraints": "multipliers are returned like variables: variables=[constraint.dual_variables[0]]",
    "custom_method": "a solver is chosen by name: solver='ECOS', or solver_args={'solve_method': 'ECOS'}",
}


def check_keywords(unknown: Iterable[str], known: Sequence[str]) -> None:
    """Raises TypeError for keywords that a layer's constructor does not have, with what to write in their place."""
    for name in unknown:
        alike = difflib.get_close_matches(name, known, 1)
        fix = _MOVED.get(name) or (f"did you mean {alike[0]!r}?" if alike else "leave it out")
        raise TypeError(
            f"{name}: got an unexpected keyword argument {name!r}, expected one of {', '.join(known)}; {fix}"
        )


def described(value: Any) -> str:
    """The type of a value, in words."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else type(value).__name__


def as_flag(name: str, value: Any) -> bool:
    """True or False, Python's or NumPy's, 0 or 1. Raises ValueError naming the argument."""
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, numbers.Integral) and value in (0, 1)):
        return bool(value)
    raise ValueError(f"{name}: got {value!r}, expected True or False")


def as_flags(name: str, values: Any, count: int, of: str) -> tuple[bool, ...]:
    """``count`` flags, one for each ``of``; all True for None. Raises ValueError or TypeError naming the argument."""
    if values is None:
        return (True,) * count
    if not isinstance(values, (Sequence, np.ndarray)) or isinstance(values, str):
        raise TypeError(f"{name}: got {described(values)}, expected {count} flags, one for each {of}")
    if len(values) != count:
        raise ValueError(f"{name}: got {len(values)} flags, expected {count}, one for each {of}")
    return tuple(bool(value) for value in values)


def check_count(where: str, what: str, given: Any, count: int, of: str) -> None:
    """Check that ``count`` tangents or cotangents are given. Raises TypeError or ValueError naming the call."""
    if not isinstance(given, (Sequence, np.ndarray)) or isinstance(given, str):
        raise TypeError(f"{where}: got {described(given)}, expected a sequence of {count} {what}, one for each {of}")
    if len(given) != count:
        raise ValueError(f"{where}: got {len(given)} {what}, expected {count}, one for each {of} (None for zero)")


def as_array(
    name: str,
    value: Any,
    *,
    complex_too: bool = False,
    error: type[Exception] = TypeError,
    what: str = "an array of real numbers",
) -> np.ndarray:
    """A numeric array of any shape, in its own dtype; SciPy's sparse arrays become dense. ``what`` describes it in
    messages.

    Raises ``error`` for values that hold no numbers, and for arrays that NumPy would change silently: masked ones,
    complex ones where real ones are expected, and tensors that require a gradient.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise error(f"{name}: got a masked array, expected {what}, and its mask would be ignored; pass its .filled(…)")
    if value is None or isinstance(value, (str, bytes, type)):
        raise error(f"{name}: got {described(value)}, expected {what}")
    try:
        array = value.toarray() if hasattr(value, "toarray") else np.asarray(value)
    except Exception as cause:  # whatever a framework's own __array__ raises
        raise error(f"{name}: got {described(value)}, expected {what}; {_way_out(value)}") from cause
    if array.dtype.kind not in ("iufc" if complex_too else "iuf"):
        if array.dtype.kind == "O" and array.ndim == 0:
            raise error(f"{name}: got {described(value)}, expected {what}{_value_of(value)}")
        fix = {
            "b": "; convert it with .astype(float)",
            "c": "; pass the real part",
            "O": "; convert it with .astype(float)",
        }
        if name.startswith("parameter"):
            what, fix["c"] = "real floating-point values", "; declare the parameter complex=True, or pass the real part"
        raise error(f"{name}: got dtype {array.dtype}, expected {what}{fix.get(array.dtype.kind, '')}")
    return array


def as_real(
    name: str, value: Any, *, error: type[Exception] = TypeError, what: str = "an array of real numbers"
) -> np.ndarray:
    """An array like ``as_array``'s, in float64."""
    with np.errstate(over="ignore"):  # large long doubles become infinite, which the caller's checks report
        return as_array(name, value, error=error, what=what).astype(np.float64, copy=False)


def as_integers(values: Any) -> np.ndarray:
    """The values as int64.

    Raises TypeError if they are not integers; its text does not name the argument, which callers add.
    """
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"got entries of type {array.dtype}, expected integers")
    return array.astype(np.int64)


def as_sparse(name: str, value: Any, shape: tuple[int, int]) -> sp.csc_array:
    """A CSC matrix of that shape in float64, with sorted indices and no duplicates, copied.

    Raises ValueError naming the argument.
    """
    what = f"a sparse or dense real matrix of shape {shape}"
    if sp.issparse(value):
        as_array(name, value.tocoo().data, error=ValueError, what=what)
    else:
        value = as_real(name, value, error=ValueError, what=what)
    if value.shape != shape:
        raise ValueError(f"{name}: got shape {value.shape}, expected {shape}")
    matrix = sp.csc_array(value, dtype=np.float64, copy=True)
    matrix.sum_duplicates()
    matrix.sort_indices()
    return matrix


def _way_out(value: Any) -> str:
    """How to convert a value that NumPy cannot."""
    module = type(value).__module__.partition(".")[0]
    if module == "torch":
        return "pass tensors to conelayers.torch, or value.detach().cpu().double().numpy()"
    if module in ("jax", "jaxlib"):
        return "pass arrays of JAX to conelayers.jax; a traced one has no values here"
    if isinstance(value, (list, tuple)):
        return "rows of a nested list have to have the same length"
    return "convert it with np.asarray"


def _value_of(value: Any) -> str:
    """How to convert a single object that holds no number."""
    module = type(value).__module__.partition(".")[0]
    if module == "cvxpy":
        return "; pass its .value"
    return "; make it a list" if hasattr(value, "__next__") else ""
