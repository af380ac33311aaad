"""Where a problem's data may be infinite: in bounds, the right-hand sides of linear inequalities.

In Ax + s = b, s ≥ 0, a row with b = inf does not bound, and one with b = −inf cannot be satisfied. Infinity anywhere
else is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from conelayers.problem.expressions import Expression, positions_in
from conelayers.problem.input_map import Source
from conelayers.problem.parameters import ParameterSpec
from conelayers.problem.parametric import AffineMap
from conelayers.program.cone_program import Structure
from conelayers.program.names import Naming
from conelayers.support.errors import CanonicalizationError

__all__ = ["check_constants", "infinite_entries", "infinite_values"]

_CONVEXITY = frozenset({"PSD", "NSD"})  # attributes that an infinite matrix does not have


def check_constants(structure: Structure, maps: Mapping[str, AffineMap], naming: Naming) -> None:
    """Raises CanonicalizationError, naming the constraint, for NaN, and for infinite constants that are no bounds."""
    b, A = maps["b"], maps["A"]
    bounds = np.isinf(b.constant) & structure.cones.nonneg_rows & np.isfinite(_largest_coefficient(b))
    rows = b.unusable & ~bounds
    rows[structure.A.rows[A.unusable]] = True
    objective = any(maps[name].unusable.any() for name in maps if name not in ("A", "b"))
    if not rows.any() and not objective:
        return
    where = " and ".join([*naming.names.rows(rows.astype(float)), *(["the objective"] if objective else [])])
    raise CanonicalizationError(
        f"problem: got an infinite or NaN constant or coefficient in {where}, expected finite ones, or inf as a "
        "bound: alone on the right-hand side of a "
        "linear inequality; remove the constraint that it makes void"
    )


def _largest_coefficient(affine: AffineMap) -> np.ndarray:
    """The sum of the absolute values of the coefficients of each value, (rows,)."""
    found = np.zeros(affine.constant.size)
    found[affine.rows] = abs(affine.linear).sum(axis=1)
    return found


def infinite_entries(
    specs: Sequence[ParameterSpec], sources: Sequence[Source], expressions: Sequence[Expression], bounds: np.ndarray
) -> np.ndarray:
    """Which entries of θ may be infinite, (p,) bool: ``bounds`` that are the user's own values, used once."""
    computed_from = {i for expression in expressions for i in positions_in(expression)}
    infinite = bounds.copy()
    for spec, source in zip(specs, sources, strict=True):
        if source.position is None or source.position in computed_from or source.part or spec.attributes & _CONVEXITY:
            infinite[spec.columns] = False
    return infinite


def infinite_values(
    parameters: Sequence[ParameterSpec], specs: Sequence[ParameterSpec], sources: Sequence[Source], infinite: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Which entries (column-major) of each of the user's ``parameters`` may be infinite, given those of θ."""
    found = tuple(np.zeros(spec.size, dtype=bool) for spec in parameters)
    for spec, source in zip(specs, sources, strict=True):
        if source.position is not None and source.part is None:
            places = np.arange(spec.size) if not source.entries else parameters[source.position].positions
            found[source.position][np.asarray(places, dtype=np.int64)] = infinite[spec.columns]
    return found
