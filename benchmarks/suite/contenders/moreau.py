"""Moreau: its interior-point method on the conic form, its active-set method on quadratic programs.

Its default settings stop at an iteration limit and return whatever they have; here limits and tolerances are explicit
and every status but "solved" is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import moreau
import moreau.torch
import numpy as np
import scipy.sparse as sp
import torch

from benchmarks.suite.bare import clarabel_order
from benchmarks.suite.case import Case, Model
from benchmarks.suite.conic_form import ConicForm
from benchmarks.suite.contenders.affine import affine, flatten, unflatten
from benchmarks.suite.contenders.contender import Contender, quadratic_only
from benchmarks.suite.contenders.stacked_qp import TorchQP, sparsity
from benchmarks.suite.contenders.torch_layer import TorchLayer

__all__ = ["ACTIVE_SET", "INTERIOR_POINT"]

ITERATIONS = 10_000
TOLERANCE = 1e-9
ACCEPTED = {moreau.SolverStatus.Solved}

Tensors = list[torch.Tensor]


@final
class Moreau(TorchLayer):
    """data: the parameters ↦ (P's values, A's values, q, b), all (B, …); recover: x (B, n) ↦ the variables."""

    warm_starts = True

    def __init__(
        self, solver: Any, data: Callable[[Tensors], Tensors], recover: Callable[[torch.Tensor], Tensors]
    ) -> None:
        super().__init__(self._solve)
        self._solver, self._data, self._recover = solver, data, recover
        self._last: Any = None

    def call(self, tensors: Tensors, warm: bool) -> Tensors:
        start = self._last.to_warm_start() if warm and self._last is not None else None
        return self._solve(*tensors, start=start)

    def _solve(self, *tensors: torch.Tensor, start: Any = None) -> Tensors:
        solution = self._solver.solve(*self._data(list(tensors)), warm_start=start)
        status = self._solver.info.status
        failed = [s for s in (status if isinstance(status, list) else [status]) if s not in ACCEPTED]
        if failed:
            raise RuntimeError(f"status {failed[0].name} of {len(failed)} instances")
        self._last = solution
        return self._recover(solution.x)


def _csr(matrix: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(matrix.indptr.astype(np.int64)), torch.from_numpy(matrix.indices.astype(np.int64))


def _settings(case: Case, method: str) -> moreau.Settings:
    settings = {
        "solver": method,
        "device": "cpu",
        "batch_size": case.batch,
        "enable_grad": True,
        "max_iter": ITERATIONS,
    }
    if method == "ipm":
        tolerances = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), TOLERANCE)
        return moreau.Settings(**settings, ipm_settings=moreau.IPMSettings(**tolerances))
    exact = moreau.ActiveSetSettings(iter_limit=ITERATIONS, primal_tol=TOLERANCE)
    return moreau.Settings(**settings, active_set_settings=exact)


def _quadratic(model: Model, case: Case, method: str) -> Moreau:
    """½ xᵀPx + qᵀx, (A; G) x + s = (b; h): matrices dense where a parameter enters them."""
    form = model.quadratic
    P, A, G = (sparsity(form, case, name) for name in "PAG")
    rows = sp.csr_array(sp.vstack([A, G]))
    cones = moreau.Cones(num_zero_cones=A.shape[0], num_nonneg_cones=G.shape[0])
    settings = _settings(case, method)
    solver = moreau.torch.Solver(form.n, rows.shape[0], *_csr(P), *_csr(rows), cones=cones, settings=settings)
    qp = TorchQP(form, case)

    def data(tensors: Tensors) -> Tensors:
        P, q, A, b, G, h = qp.stored(tensors)
        return [P, torch.cat([A, G], 1), q, torch.cat([b, h], 1)]

    return Moreau(solver, data, qp.recover)


def _conic(model: Model, case: Case) -> Moreau:
    """cvxpy's conic form; semidefinite rows in Clarabel's order, from which Moreau comes."""
    form = ConicForm.compile(model)
    (m, n), dims = form.A.shape, form.dims
    to_clarabel = clarabel_order(dims, m)
    place = np.empty(m, dtype=np.int64)
    place[to_clarabel] = np.arange(m)
    P, P_affine = _by_rows(form.P.shape, form.P.rows, form.P.cols, form.P.affine)
    A, A_affine = _by_rows(form.A.shape, place[form.A.rows], form.A.cols, form.A.affine)
    cones = moreau.Cones(
        num_zero_cones=dims.zero,
        num_nonneg_cones=dims.nonneg,
        so_cone_dims=list(dims.soc),
        psd_dims=list(dims.psd),
        num_exp_cones=dims.exponential,
    )
    solver = moreau.torch.Solver(n, m, *_csr(P), *_csr(A), cones=cones, settings=_settings(case, "ipm"))
    maps = [P_affine, A_affine, form.q, form.b[to_clarabel]]

    def data(tensors: Tensors) -> Tensors:
        theta = flatten(form, tensors if case.batched else [t.unsqueeze(0) for t in tensors])
        return [affine(matrix, theta) for matrix in maps]

    def recover(x: torch.Tensor) -> Tensors:
        variables = [unflatten(affine(matrix, x), shape) for matrix, shape in form.recovery]
        return variables if case.batched else [v.squeeze(0) for v in variables]

    return Moreau(solver, data, recover)


def _by_rows(
    shape: tuple[int, int], rows: np.ndarray, cols: np.ndarray, maps: sp.csr_array
) -> tuple[sp.csr_array, sp.csr_array]:
    """A pattern by rows, and the affine map of its entries in that order."""
    order = np.lexsort((cols, rows))
    pattern = sp.csr_array(sp.coo_array((np.ones(order.size), (rows, cols)), shape=shape))
    return pattern, maps[order]


INTERIOR_POINT = Contender(
    "moreau", lambda model, case: _quadratic(model, case, "ipm") if model.quadratic else _conic(model, case)
)
ACTIVE_SET = Contender("moreau", lambda model, case: _quadratic(model, case, "active_set"), quadratic_only)
