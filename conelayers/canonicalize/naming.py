"""Which of the user's constraints each row of the cone program comes from, and how each variable is read off x.

A row whose multiplier cvxpy hands back as a constraint's dual value is that constraint's. cvxpy's rewriting adds more rows, which
share auxiliary columns (those of no variable of the user's) with the constraint that they rewrite, or with the objective: they
are found by following these columns, and the cones that rows belong to.
"""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from conelayers.canonicalize.recovery import read_dual, recovered_duals, variable_matrix
from conelayers.names import Names
from conelayers.program import Structure

__all__ = ["names_of"]

_LONGEST = 60


def names_of(
    problem: cp.Problem,
    program: Any,
    reductions: list[tuple[Any, Any]],
    structure: Structure,
    objective: np.ndarray,
) -> Names:
    """The names; ``objective`` (n,) bool says which columns the objective holds."""
    variables = tuple(
        (v.name(), tuple(v.shape), variable_matrix(v, problem, program, reductions)) for v in problem.variables()
    )
    labels = [_label(i, c) for i, c in enumerate(problem.constraints)]
    shapes = [tuple(c.shape) for c in problem.constraints]
    m = structure.m
    owner, entry = np.full(m, -1), np.full(m, -1)
    ones, numbers = (recovered_duals(h, program, reductions) for h in (np.ones(m), np.arange(1.0, m + 1)))
    for k, constraint in enumerate(problem.constraints):
        scales, labelled = (read_dual(constraint, h) for h in (ones, numbers))
        for position, (scale, number) in enumerate(zip(scales, labelled, strict=True)):
            used = np.flatnonzero(scale)
            rows = np.rint(number[used] / scale[used]).astype(np.int64) - 1
            owner[rows] = k
            # A cone of several arguments is one constraint: its rows have no place in one of them alone.
            entry[rows] = used if len(scales) == 1 else -1
            if position == 0 and len(scales) == 1:
                shapes[k] = tuple(constraint.dual_variables[0].shape)
    added = np.flatnonzero(owner < 0)
    if added.size:
        labels.append("the objective")
        shapes.append(())
        users = np.zeros(structure.n, dtype=bool)
        for _, _, matrix in variables:
            users[np.unique(matrix.indices)] = True
        owner = _follow(structure, owner, ~users, objective, len(problem.constraints))
        lost = np.flatnonzero(owner < 0)
        attributes: dict[str, int] = {}
        for row in lost.tolist():
            text = _attribute(structure, row, variables)
            owner[row] = attributes.setdefault(text, len(labels) + len(attributes))
        labels += attributes
        shapes += [()] * len(attributes)
    return Names(tuple(labels), tuple(shapes), owner, entry, variables)


def _label(index: int, constraint: Any) -> str:
    if constraint.label is not None:
        return f"constraint {index} ({constraint.label})"
    text = " ".join(str(constraint).split())
    return f"constraint {index} ({text if len(text) <= _LONGEST else text[:_LONGEST] + '…'})"


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
    firsts = np.repeat(starts, np.diff(np.append(starts, m)))
    ends = np.concatenate([A.rows[keep], np.arange(m)]), np.concatenate([m + A.cols[keep], firsts])
    graph = sp.coo_array((np.ones(ends[0].size), ends), shape=(size, size))
    count, component = connected_components(graph, directed=False)
    owner_of = np.full(count, -1)
    touched = component[m + np.flatnonzero(auxiliary & objective)]
    owner_of[touched] = objective_owner
    owned = np.flatnonzero(owner >= 0)[::-1]  # the first constraint of a component is the last to be written
    owner_of[component[owned]] = owner[owned]
    return np.where(owner >= 0, owner, owner_of[component[:m]])


def _attribute(structure: Structure, row: int, variables: tuple[tuple[str, tuple[int, ...], sp.csr_array], ...]) -> str:
    """A row of no constraint holds the attributes of the variables in it."""
    columns = structure.A.cols[structure.A.rows == row]
    inside = [name for name, _, matrix in variables if np.isin(columns, matrix.indices).any()]
    return f"the attributes of {', '.join(inside)}" if inside else "a constraint of cvxpy's own"
