"""The checks on the values of a call: their number, their shapes, their attributes, and that they are finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from conelayers.problem.attributes import FLOOR, TOLERANCE
from conelayers.problem.parameters import Batch, ParameterSpec, flatten, moved_array
from conelayers.support.arguments import as_array

__all__ = [
    "batch_sizes",
    "check_theta",
    "check_values",
    "combine_batch",
    "given_arrays",
    "in_order",
    "where_in_batch",
]


def combine_batch(
    specs: Sequence[ParameterSpec],
    values: Sequence[np.ndarray],
    *,
    validate: bool = True,
    infinite: np.ndarray | None = None,
) -> Batch:
    """A call's values, copied and checked.

    ``infinite`` (p,) bool: which entries of θ may be ±inf; none by default. Raises ValueError naming the parameter for
    a wrong number of values, a wrong shape, unequal batch sizes, values that are NaN, infinite where they may not be,
    or break the parameter's attributes.
    """
    sizes = batch_sizes(specs, [value.shape for value in values])
    batch = next((size for size in sizes if size is not None), 1)
    taken, all_finite = [], True
    for spec, given, size in zip(specs, values, sizes, strict=True):
        value = _copied(given)
        is_batched, finite = size is not None, bool(np.isfinite(value).all())
        if not finite or (validate and spec.constrained):
            several, may_be = value if is_batched else value[None], _part(infinite, spec)
            check_values(spec, several, is_batched, attributes=validate, infinite=may_be)
            if validate and spec.constrained:
                several = np.ascontiguousarray(moved_array(spec, several))
                value = several if is_batched else several[0]
        all_finite = all_finite and finite
        taken.append(value)
    return Batch(specs, tuple(size is not None for size in sizes), batch, values=taken, finite=all_finite)


def _copied(value: np.ndarray) -> np.ndarray:
    """A contiguous copy in float64; long doubles that are too large become infinite."""
    if value.dtype.itemsize <= 8:
        return np.array(value, dtype=np.float64, order="C")
    with np.errstate(over="ignore"):
        return np.array(value, dtype=np.float64, order="C")


def given_arrays(specs: Sequence[ParameterSpec], values: Sequence[Any], *, sparse: bool = False) -> list[Any]:
    """A call's values as numeric arrays; SciPy's sparse ones as they are, if ``sparse``.

    Raises TypeError naming the parameter for what is none, for complex values of a real parameter, for masks and for
    tensors with gradients; ValueError for a wrong number of values.
    """
    if len(values) != len(specs):
        _refuse_number(specs, len(values), len(values) == 1 and isinstance(values[0], (list, tuple, Mapping)))
    arrays = []
    for i, (spec, value) in enumerate(zip(specs, values, strict=True)):
        if type(value) is np.ndarray and value.dtype == np.float64:
            arrays.append(value)
            continue
        name = spec.numbered(i)
        if sparse and hasattr(value, "tocsc"):
            as_array(name, value.data if hasattr(value, "data") else value, complex_too=spec.is_complex)
            arrays.append(value)
        else:
            arrays.append(as_array(name, value, complex_too=spec.is_complex))
    return arrays


def check_theta(specs: Sequence[ParameterSpec], theta: Any) -> np.ndarray:
    """θ (B, p) of ``solve_flat``, in float64; ValueError naming it for another shape."""
    theta, size = np.asarray(theta, dtype=np.float64), sum(spec.size for spec in specs)
    if theta.ndim != 2 or theta.shape[1] != size:
        raise ValueError(
            f"theta: got shape {theta.shape}, expected (B, {size}): all parameters flattened column by column, one "
            "after the other"
        )
    return theta


def in_order(specs: Sequence[ParameterSpec], params: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, ...]:
    """A call's values in the order of the parameters; ValueError unless all come by position or all by name."""
    if not named:
        return tuple(params)
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(
            f"parameters: got values by name, but more than one parameter is named {', '.join(repeated)}; expected "
            "all by position, or "
            "parameters with names of their own"
        )
    if params or sorted(named) != sorted(names):
        raise ValueError(
            f"parameters: got {len(params)} by position and {', '.join(map(str, named))} by name, expected all by "
            "position or all "
            f"by name: {', '.join(spec.label for spec in specs)}"
        )
    return tuple(named[name] for name in names)


def batch_sizes(specs: Sequence[ParameterSpec], shapes: Sequence[tuple[int, ...]]) -> list[int | None]:
    """The batch size of each value, None for an unbatched one; all batched ones have the same.

    Raises ValueError naming the parameter for a wrong number of values, a wrong shape and unequal batch sizes.
    """
    if len(shapes) != len(specs):
        _refuse_number(specs, len(shapes), False)
    sizes: list[int | None] = []
    for i, (spec, shape) in enumerate(zip(specs, shapes, strict=True)):
        if shape == spec.shape:
            sizes.append(None)
            continue
        extra = len(shape) - len(spec.shape)
        if extra not in (0, 1):
            raise ValueError(
                f"Invalid parameter dimensionality for {spec.numbered(i)}. Expected {len(spec.shape)} or "
                f"{len(spec.shape) + 1} dimensions, got {len(shape)}"
                + ("; there is one batch axis: reshape several to one" if extra > 1 else "")
            )
        if tuple(shape[extra:]) != spec.shape:
            expected = (
                f"the batched shape (batch_size, {', '.join(map(str, spec.shape))})" if extra else f"{spec.shape}"
            )
            raise ValueError(
                f"Invalid parameter shape for {spec.numbered(i)}. Expected {expected}, got {tuple(shape)}"
                + ("; the batch axis comes first" if extra and tuple(shape[:-1]) == spec.shape else "")
            )
        sizes.append(shape[0] if extra else None)
    distinct = {size for size in sizes if size is not None}
    if len(distinct) > 1:
        found = ", ".join(f"{spec.label}: {size}" for spec, size in zip(specs, sizes, strict=True) if size is not None)
        raise ValueError(
            f"Inconsistent batch sizes. Expected one size for all batched parameters, got {found}"
            + ("; what all instances share is passed without the axis" if 1 in distinct else "")
        )
    return sizes


def _refuse_number(specs: Sequence[ParameterSpec], got: int, together: bool) -> None:
    names = ", ".join(spec.label for spec in specs) or "none"
    raise ValueError(
        f"A tensor must be provided for each CVXPY parameter; received {got} tensors, expected {len(specs)} ({names})"
        + ("; pass them one by one: solve(*values)" if together else "")
    )


def _part(infinite: np.ndarray | None, spec: ParameterSpec) -> np.ndarray | None:
    """Which entries of one parameter may be infinite."""
    return None if infinite is None else infinite[spec.columns]


def _broken(flat: np.ndarray, infinite: np.ndarray | None) -> np.ndarray:
    """Which of the values (B, size) are NaN, or infinite where they may not be."""
    return ~np.isfinite(flat) if infinite is None else np.isnan(flat) | (np.isinf(flat) & ~infinite)


def check_values(
    spec: ParameterSpec,
    values: np.ndarray,
    batched: bool,
    *,
    attributes: bool = True,
    infinite: np.ndarray | None = None,
) -> None:
    """Raises ValueError where ``values`` (B, *shape) are not finite or break an attribute, naming what and where.

    ``infinite`` (size,) bool: which entries, column-major, may be ±inf; none by default.
    """
    if values.size == 0:
        return
    flat = flatten(values)
    broken = _broken(flat, infinite)
    if broken.any():
        _refuse(spec, np.any(broken, axis=1), batched, _not_finite(spec, flat, broken))
    if attributes and spec.constrained:
        _check_attributes(spec, values, flat, batched)


def _not_finite(spec: ParameterSpec, flat: np.ndarray, broken: np.ndarray) -> str:
    """What is said of the first value that is NaN, or infinite where it may not be."""
    i, entry = np.argwhere(broken)[0].tolist()
    index = ", ".join(str(int(k)) for k in np.unravel_index(entry, spec.shape, order="F"))
    got = f"got NaN or infinite values ({flat[i, entry]}{f' at [{index}]' if index else ''}), expected finite ones"
    if np.isnan(flat[i, entry]):
        return f"{got}; look for 0/0 or inf - inf where they are computed"
    return (
        f"{got}: infinite are only bounds, the right-hand sides of linear inequalities, of parameters that enter "
        "nothing else; "
        "leave out what should not bound, or write it as such an inequality"
    )


def _check_attributes(spec: ParameterSpec, values: np.ndarray, flat: np.ndarray, batched: bool) -> None:
    slack = TOLERANCE * np.abs(np.where(np.isinf(flat), 0.0, flat)).max(axis=1) + FLOOR
    attributes = spec.attributes
    low, high = flat.real.min(axis=1), flat.real.max(axis=1)
    for name, broken, expected in (
        ("nonneg", low < -slack, "≥ 0"),
        ("nonpos", high > slack, "≤ 0"),
        ("pos", low <= 0, "> 0"),
        ("neg", high >= 0, "< 0"),
    ):
        if name in attributes and broken.any():
            _refuse(
                spec,
                broken,
                batched,
                f"was declared {name}=True; got entries from {low.min():g} to {high.max():g}, expected all {expected}",
            )
    if spec.bounds is not None:
        lower, upper = (np.asarray(bound, dtype=float) for bound in spec.bounds)
        outside = (values < lower - TOLERANCE * (1 + np.abs(lower))) | (
            values > upper + TOLERANCE * (1 + np.abs(upper))
        )
        broken = np.asarray(flatten(outside).any(axis=1))
        if broken.any():
            _refuse(
                spec,
                broken,
                batched,
                f"was declared with bounds; got entries from {low.min():g} to {high.max():g}, expected all from "
                f"{lower.min():g} to {upper.max():g}",
            )
    if spec.positions is not None:
        others = np.ones(spec.size, dtype=bool)
        others[list(spec.positions)] = False
        broken = (np.abs(flat[:, others]) > slack[:, None]).any(axis=1)
        if broken.any():
            kind = "diag=True" if "diag" in attributes else "a sparsity pattern"
            _refuse(
                spec,
                broken,
                batched,
                f"was declared with {kind}; got entries outside it that are not zero, expected zeros there",
            )
    if "boolean" in attributes or "integer" in attributes:
        real = flat.real if "boolean" in attributes else np.where(np.isinf(flat.real), 0.0, flat.real)
        away = np.abs(real - (np.clip(np.round(real), 0, 1) if "boolean" in attributes else np.round(real))).max(axis=1)
        if (away > slack).any():
            name, expected = ("boolean", "0 or 1") if "boolean" in attributes else ("integer", "whole numbers")
            _refuse(
                spec,
                away > slack,
                batched,
                f"was declared {name}=True; got an entry that is off by {away.max():g}, expected {expected}",
            )
    if "imag" in attributes and (np.abs(flat.real) > slack[:, None]).any():
        broken = (np.abs(flat.real) > slack[:, None]).any(axis=1)
        _refuse(
            spec, broken, batched, "was declared imag=True; got a real part that is not zero, expected imaginary values"
        )
    if attributes & {"symmetric", "hermitian", "PSD", "NSD"}:
        mirrored = np.swapaxes(values, -1, -2).conj()
        with np.errstate(invalid="ignore"):
            gap = np.where(values == mirrored, 0.0, np.abs(values - mirrored)).reshape(len(values), -1).max(axis=1)
        if (gap > 2 * slack).any():
            _refuse(
                spec,
                gap > 2 * slack,
                batched,
                f"must be {'Hermitian' if 'hermitian' in attributes else 'symmetric'}; got an asymmetry of "
                f"{gap.max():g}, expected none. Pass (S + S.T) / 2"
                + (" with S.T conjugated" if "hermitian" in attributes else ""),
            )
    for name, sign in (("PSD", 1.0), ("NSD", -1.0)):
        if name in attributes:
            smallest = (
                np.linalg.eigvalsh(sign * (values + np.swapaxes(values, -1, -2).conj()) / 2)
                .reshape(len(values), -1)
                .min(axis=1)
            )
            if (smallest < -slack).any():
                _refuse(
                    spec,
                    smallest < -slack,
                    batched,
                    f"was declared {name}=True; got an eigenvalue {sign * smallest.min():g}, expected all "
                    f"{'≥' if sign > 0 else '≤'} 0",
                )


def _refuse(spec: ParameterSpec, broken: np.ndarray, batched: bool, what: str) -> None:
    raise ValueError(f"parameter {spec.label}{where_in_batch(broken, batched)}: {what}")


def where_in_batch(broken: np.ndarray, batched: bool) -> str:
    """The first of the ``broken`` (B,) instances, in a batched call."""
    return f" at batch index {', '.join(map(str, np.flatnonzero(broken)[:10]))}" if batched else ""
