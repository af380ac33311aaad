"""Solve and differentiate one cone program that is already in conic form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import numpy as np
import qdldl
import scipy.sparse as sp

from conelayers.derivatives.certificate import Certificates
from conelayers.derivatives.linearization import Linearization, SolutionMap
from conelayers.derivatives.policies import Policies, Singular, as_singular
from conelayers.derivatives.regularity import certify
from conelayers.layer.outcome import OnFailure, PartialLinearization, react
from conelayers.numerics.cones import Selection, as_selection
from conelayers.program.cone_dictionaries import as_cones
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.cones import Cones
from conelayers.program.data_gradients import A_gradient, P_gradient, b_gradient, q_gradient
from conelayers.program.names import Names, Naming
from conelayers.program.patterns import Pattern
from conelayers.program.solution import Residuals, Solution
from conelayers.solve.backends import choose_solver, parse_solver_args
from conelayers.solve.batch import solve_batch
from conelayers.solve.order import StartingOrder
from conelayers.support.arguments import as_real, as_sparse
from conelayers.support.errors import Status

__all__ = ["ConeSolution", "solve_and_differentiate"]


_ASYMMETRY = 1e-10  # times √(Pᵢᵢ Pⱼⱼ): a difference of Pᵢⱼ and Pⱼᵢ up to which P counts as symmetric
_SHIFT = 1e-9  # added to P's diagonal, scaled to 1: rounding errors of P may make an eigenvalue so much negative


@final
@dataclass(frozen=True)
class ConeSolution:
    """The solution of a cone program, and the derivative of its solution map.

    x, y, s: the solution, (n,), (m,) and (m,).
    status: how the solve ended.
    residuals: the relative errors in the optimality conditions, recomputed from the data.
    """

    x: np.ndarray
    y: np.ndarray
    s: np.ndarray
    status: Status
    residuals: Residuals
    _structure: Structure
    _solution: Solution
    _linearization: SolutionMap

    def certify(self) -> Certificates:
        """Whether the derivative is justified: a sequence with one Certificate."""
        names = Names.of_rows(self._structure.n, self._structure.m)
        return certify(self._linearization, self._solution, names)

    def jvp(self, dP: Any, dq: Any, dA: Any, db: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(dx, dy, ds) along (dP, dq, dA, db).

        Each may be None for zero. dP and dA may be sparse or dense; dP is symmetrised. Raises ValueError for wrong
        shapes; warns SingularDerivativeWarning where J is singular.
        """
        n, m = self.x.size, self.y.size
        dP, dA = _matrix("dP", dP, (n, n)), _matrix("dA", dA, (m, n))
        dq, db = _vector("dq", dq, n), _vector("db", db, m)
        r1 = -(0.5 * (dP @ self.x + dP.T @ self.x) + dA.T @ self.y + dq)
        dx, dy, ds = self._linearization.tangent(r1[None], (dA @ self.x - db)[None])
        return dx[0], dy[0], ds[0]

    def vjp(self, dx: Any, dy: Any = None, ds: Any = None) -> tuple[sp.csc_array, np.ndarray, sp.csc_array, np.ndarray]:
        """(dP, dq, dA, db), the gradients of ⟨dx, x⟩ + ⟨dy, y⟩ + ⟨ds, s⟩.

        dy and ds may be None for zero. The returned dP and dA are sparse, on the patterns of P (symmetric) and A.
        Raises ValueError for wrong shapes; warns SingularDerivativeWarning where J is singular.
        """
        n, m = self.x.size, self.y.size
        lam, mu = (
            h[0]
            for h in self._linearization.adjoint(
                _vector("dx", dx, n)[None], _vector("dy", dy, m)[None], _vector("ds", ds, m)[None]
            )
        )
        P, A = self._structure.P, self._structure.A
        dP = P.matrix(P_gradient(partial(_outer, P), self.x, lam))
        dA = A.matrix(A_gradient(partial(_outer, A), self.x, self.y, lam, mu))
        return dP, q_gradient(lam), dA, b_gradient(mu)


def solve_and_differentiate(
    P: Any,
    q: Any,
    A: Any,
    b: Any,
    cones: Cones | Mapping[str, Any],
    *,
    solver: str | None = None,
    solver_args: Mapping[str, Any] | None = None,
    singular: Singular | str = Singular.WARN,
    selection: Selection | str = Selection.DEFAULT,
) -> ConeSolution:
    """Solve minimize ½ xᵀPx + qᵀx subject to Ax + s = b, s ∈ K, and differentiate its solution map.

    P: (n, n), full symmetric positive semidefinite, sparse or dense, or None for zero.
    q: (n,).
    A: (m, n), sparse or dense.
    b: (m,), inf in rows of the nonnegative cone that do not bound: there s is inf, y is zero, and gradients are zero.
    cones: a Cones or an SCS-style dict; its order and scaling are those of the rows.
    solver, solver_args, singular, selection: as for Layer.

    Returns a ConeSolution. Raises ValueError for bad data (naming the argument), SolveError for a program without a
    solution. The derivative: Agrawal et al., "Differentiating through a cone program" (2019), solved directly.
    """
    policies = as_singular(singular), as_selection(selection)
    cones = as_cones(cones)
    q = _vector("q", q, None)
    n = q.size
    if n == 0:
        raise ValueError("q: got an empty vector, expected at least one variable")
    b = _vector("b", b, None)
    A = as_sparse("A", A, (b.size, n))
    P = _matrix("P", P, (n, n))
    if cones.dimension != b.size:
        raise ValueError(
            f"cones: got cones with {cones.dimension} rows in total, expected {b.size}, the rows of A and b"
        )
    for name, values in (("P", P.data), ("q", q), ("A", A.data)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: got NaN or infinite entries, expected finite ones")
    _check_bounds(b, cones)
    if not _is_symmetric(P):
        raise ValueError(
            "P: got a matrix that is not symmetric, expected the full symmetric one (not a triangle); pass (P + P.T) / "
            "2"
        )
    P = sp.csc_array((P + P.T) / 2)  # a symmetric pattern
    P.sort_indices()
    if not _is_positive_semidefinite(P):
        raise ValueError(
            "P: got a matrix with a negative eigenvalue, expected a positive semidefinite one; the problem is not "
            "convex"
        )
    arguments = parse_solver_args(solver_args, solver)
    chosen = choose_solver(arguments.method or solver, cones, P.nnz > 0, arguments.native_names)
    settings = arguments.for_solver(chosen)
    structure = Structure(Pattern.of(P), Pattern.of(A), cones)
    program = ConeProgram(structure, P.data[None], q[None], A.data[None], b[None])
    named = (arguments.method or solver) is not None
    order = StartingOrder(chosen, settings, named, arguments.max_seconds, arguments.fallback)
    solved = solve_batch(program, order, arguments.jobs_forward, derivative_jobs=arguments.jobs_backward)
    naming = Naming(partial(Names.of_rows, structure.n, structure.m))
    react(solved.solution, OnFailure.RAISE if arguments.raises else OnFailure.NAN, naming)
    applied = Policies(*policies, naming)
    solution, linearization = applied.apply(
        solved.solution, replace(Linearization.of(solved), max_seconds=arguments.max_seconds)
    )
    return _single(structure, solution, PartialLinearization.of(linearization, solution))


def _check_bounds(b: np.ndarray, cones: Cones) -> None:
    """Raises ValueError, naming the entry, where b is NaN, or infinite outside of the nonnegative cone's rows."""
    broken = np.flatnonzero(np.isnan(b) | (np.isinf(b) & ~cones.nonneg_rows))
    if broken.size:
        i = int(broken[0])
        fix = "" if np.isnan(b[i]) else "; leave out the row, which infinity makes void or infeasible"
        raise ValueError(
            f"b: got NaN or infinite entries ({b[i]} at [{i}]), expected finite ones, or inf in rows of the "
            f"nonnegative cone, {_rows_of(cones)}{fix}"
        )


def _rows_of(cones: Cones) -> str:
    """Which rows belong to the nonnegative cone, in words."""
    if not cones.nonneg:
        return "of which there are none"
    return f"rows {cones.zero} to {cones.zero + cones.nonneg - 1}"


def _is_symmetric(P: sp.csc_array) -> bool:
    """Whether P and Pᵀ agree to rounding, entry by entry, relative to √(Pᵢᵢ Pⱼⱼ), the bound of a semidefinite entry."""
    difference, root = sp.coo_array(abs(P - P.T)), np.sqrt(np.abs(P.diagonal()))
    sizes = np.maximum(root[difference.row] * root[difference.col], abs(P)[difference.row, difference.col])
    return bool((difference.data <= _ASYMMETRY * sizes).all())


def _is_positive_semidefinite(P: sp.csc_array) -> bool:
    """Whether LDLᵀ of EPE + εI has positive pivots only, for a tiny ε and the E that makes EPE's diagonal 1."""
    if P.nnz == 0:
        return True
    diagonal = P.diagonal()
    filled = np.unique(P.indices)
    if not (diagonal[filled] > 0).all():  # an empty diagonal entry makes the row zero
        return bool((diagonal >= 0).all() and not abs(P[filled[diagonal[filled] == 0]]).sum())
    scale = sp.diags_array(1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)))
    shifted = scale @ P @ scale + _SHIFT * sp.eye_array(P.shape[0])
    pivots = qdldl.Solver(sp.csc_matrix(shifted)).factors()[1]
    return bool(np.all(pivots > 0))


def _single(structure: Structure, solution: Solution, linearization: SolutionMap) -> ConeSolution:
    return ConeSolution(
        x=solution.x[0],
        y=solution.y[0],
        s=solution.s[0],
        status=solution.status[0],
        residuals=solution.residuals.take(0),
        _structure=structure,
        _solution=solution,
        _linearization=linearization,
    )


def _outer(pattern: Pattern, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The entries of a bᵀ on the pattern."""
    return a[pattern.rows] * b[pattern.cols]


def _matrix(name: str, value: Any, shape: tuple[int, int]) -> sp.csc_array:
    """A CSC matrix with sorted indices and no duplicates, copied; zero for None."""
    if value is None:
        return sp.csc_array(shape)
    return as_sparse(name, value, shape)


def _vector(name: str, value: Any, size: int | None) -> np.ndarray:
    if value is None and size is not None:
        return np.zeros(size)
    vector = np.array(as_real(name, value, error=ValueError, what="a real vector"))
    if vector.ndim != 1 or (size is not None and vector.size != size):
        expected = "a vector" if size is None else f"({size},)"
        raise ValueError(f"{name}: got shape {vector.shape}, expected {expected}")
    return vector
