"""Which of the user's constraints each row of the cone program comes from, and how each variable is read off x.

A row whose multiplier cvxpy hands back as a constraint's dual value is that constraint's. cvxpy's rewriting adds more
rows, which share auxiliary columns (those of no variable of the user's) with the constraint that they rewrite, or with
the objective: they are found by following these columns, and the cones that rows belong to.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from conelayers.problem.canonicalize.recovery import read_dual, recovered_duals, variable_matrices
from conelayers.problem.parametric import AffineMap, OutputSpec
from conelayers.program.cone_program import Structure
from conelayers.program.names import Names

__all__ = ["constant_rows", "names_of"]

_LONGEST = 60


def names_of(
    problem: cp.Problem,
    program: Any,
    reductions: list[tuple[Any, Any]],
    structure: Structure,
    maps: dict[str, AffineMap],
    outputs: tuple[OutputSpec, ...],
    auxiliary: frozenset[int],
    E: sp.csr_array | None = None,
    *,
    written: Sequence[cp.Constraint],
    origins: Sequence[int | str],
) -> Names:
    """The names of rows and variables; ``auxiliary`` variables are not the user's.

    written: the constraints as the user wrote them, which are the first of the problem's. origins: what the others were
    added for.

    cvxpy's rows are E times those of the program (hermitian.py).
    """
    known = [v for v in problem.variables() if v.id not in auxiliary]
    variables = tuple(variable_matrices(known, program, reductions))
    labels = [_label(i, c) for i, c in enumerate(written)]
    parts = [origin for origin in dict.fromkeys(origins) if isinstance(origin, str)]
    place = {part: len(labels) + k for k, part in enumerate(parts)}
    labels += [_shortened(part) for part in parts]
    owners = [*range(len(written)), *(h if isinstance(h, int) else place[h] for h in origins)]
    shapes = [*(tuple(c.shape) for c in written), *((),) * len(parts)]
    m = structure.m if E is None else E.shape[0]
    owner, entry = np.full(m, -1), np.full(m, -1)
    ones, numbers = (recovered_duals(h, program, reductions) for h in (np.ones(m), np.arange(1.0, m + 1)))
    for k, constraint in enumerate(problem.constraints):
        scales, labelled = (read_dual(constraint, h) for h in (ones, numbers))
        for position, (scale, number) in enumerate(zip(scales, labelled, strict=True)):
            for part in (np.real, np.imag):
                used = np.flatnonzero(part(scale))
                rows = np.rint(part(number)[used] / part(scale)[used]).astype(np.int64) - 1
                owner[rows] = owners[k]
                # A cone of several arguments is one constraint: its rows have no place in one of them alone.
                entry[rows] = used if len(scales) == 1 and k < len(written) else -1
            if position == 0 and len(scales) == 1 and k < len(written):
                shapes[k] = tuple(constraint.dual_variables[0].shape)
    if E is not None:
        first = sp.csc_array(E)
        rows = first.indices[first.indptr[:-1]]  # one of cvxpy's for each of the program's
        owner = np.array([max(owner[first.indices[a:b]]) for a, b in pairwise(first.indptr.tolist())], dtype=np.int64)
        entry = entry[rows]
    added = np.flatnonzero(owner < 0)
    if added.size:
        if "the objective" not in place:
            labels.append("the objective")
            shapes.append(())
        objective_owner = labels.index("the objective")
        users = np.zeros(structure.n, dtype=bool)
        for _, _, matrix in variables:
            users[np.unique(matrix.indices)] = True
        owner = _follow(structure, owner, ~users, _objective(structure, maps), objective_owner)
        lost = np.flatnonzero(owner < 0)
        attributes: dict[str, int] = {}
        for row, text in zip(lost.tolist(), _attributes(structure, lost, variables), strict=True):
            owner[row] = attributes.setdefault(text, len(labels) + len(attributes))
        labels += attributes
        shapes += [()] * len(attributes)
    constant = constant_rows(structure, maps, outputs)
    return Names(tuple(labels), tuple(shapes), owner, entry, variables, constant, added=entry < 0)


def _objective(structure: Structure, maps: dict[str, AffineMap]) -> np.ndarray:
    """Which columns the objective holds, (n,) bool."""
    held = maps["q"].constant != 0
    held[structure.P.cols] = True
    held[maps["q"].rows] = True
    return held


def constant_rows(structure: Structure, maps: dict[str, AffineMap], outputs: tuple[OutputSpec, ...]) -> np.ndarray:
    """Which rows are linear constraints that no parameter enters and whose multipliers are not returned, (m,) bool."""
    constant = structure.cones.orthant_rows.copy()
    constant[structure.A.rows[maps["A"].rows]] = False
    constant[maps["b"].rows] = False
    for output in outputs:
        if not output.primal:
            constant[output.matrix.indices] = False
    return constant


def _label(index: int, constraint: Any) -> str:
    if constraint.label is not None:
        return f"constraint {index} ({constraint.label})"
    return f"constraint {index} ({_shortened(' '.join(str(constraint).split()))})"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _follow(
    structure: Structure, owner: np.ndarray, auxiliary: np.ndarray, objective: np.ndarray, objective_owner: int
) -> np.ndarray:
    """The owners, those of added rows taken from rows with which they are connected by auxiliary columns."""
    m, n = structure.m, structure.n
    A = structure.A
    keep = auxiliary[A.cols]
    size = m + n
    # The rows of one cone belong together, also those that hold constants only.
    starts = structure.cones.block_starts
    firsts = np.repeat(starts, structure.cones.block_sizes)
    ends = np.concatenate([A.rows[keep], np.arange(m)]), np.concatenate([m + A.cols[keep], firsts])
    graph = sp.coo_array((np.ones(ends[0].size), ends), shape=(size, size))
    count, component = connected_components(graph, directed=False)
    owner_of = np.full(count, -1)
    touched = component[m + np.flatnonzero(auxiliary & objective)]
    owner_of[touched] = objective_owner
    owned = np.flatnonzero(owner >= 0)[::-1]  # the first constraint of a component is the last to be written
    owner_of[component[owned]] = owner[owned]
    return np.where(owner >= 0, owner, owner_of[component[:m]])


def _attributes(
    structure: Structure, rows: np.ndarray, variables: tuple[tuple[str, tuple[int, ...], sp.csr_array], ...]
) -> list[str]:
    """Rows of no constraint hold the attributes of the variables in them."""
    holder = np.full(structure.n, -1)
    for k, (_, _, matrix) in enumerate(variables):
        holder[matrix.indices] = k
    found: dict[int, set[int]] = {row: set() for row in rows.tolist()}
    inside = np.isin(structure.A.rows, rows)
    for row, col in zip(structure.A.rows[inside].tolist(), structure.A.cols[inside].tolist(), strict=True):
        if holder[col] >= 0:
            found[row].add(int(holder[col]))
    texts: dict[frozenset[int], str] = {frozenset(): "a constraint of cvxpy's own"}
    result = []
    for row in rows.tolist():
        key = frozenset(found[row])
        if key not in texts:
            texts[key] = f"the attributes of {', '.join(variables[k][0] for k in sorted(key))}"
        result.append(texts[key])
    return result
