"""The smallest KKT matrix that a careful person would write for a problem whose solution is known: active rows only."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import qdldl
import scipy.sparse as sp
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits

from benchmarks.suite.bare import ClarabelSolver
from benchmarks.suite.case import Arrays, Model, QuadraticForm
from benchmarks.suite.conic_form import ConeData, ConeDims, ConicForm

__all__ = ["factorizer", "order", "quadratic_data", "reduced_kkt", "threads"]

TIGHT = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
LARGEST_DENSE = 3000
ONE_THREAD = 500
SHIFT = 1e-9  # QDLDL does not pivot: it factors K + diag(δI, −δI)

Matrix = np.ndarray | sp.csc_array


def reduced_kkt(model: Model, form: ConicForm, values: Arrays) -> Matrix:
    """The matrix of one instance: the family's own, or that of its quadratic program."""
    if model.kkt is not None:
        zeros = [np.zeros(v.shape) for v in model.variables]
        exact = model.exact(values, zeros).variables if model.exact else None
        return model.kkt(values, exact or form.variables(ClarabelSolver(form.data(values), **TIGHT).solve()[0]))
    return _quadratic(model.quadratic, values)


def quadratic_data(form: QuadraticForm, values: Arrays) -> ConeData:
    """The quadratic program of one instance in conic form."""
    data = {**form.constants, **{k: v[0] for k, v in form.parametric(np, *[v[None] for v in values]).items()}}
    rows = sp.csc_array(sp.vstack([sp.csr_array(data["A"]), sp.csr_array(data["G"])]))
    dims = ConeDims(len(data["b"]), len(data["h"]), (), (), 0)
    return ConeData(sp.csc_array(data["P"]), data["q"], rows, np.concatenate([data["b"], data["h"]]), dims)


def _quadratic(form: QuadraticForm, values: Arrays) -> Matrix:
    """[P, Cᵀ; C, 0], C the equalities and active inequalities; a variable at an active bound is left out with it."""
    data = quadratic_data(form, values)
    _, y, s = ClarabelSolver(data, **TIGHT).solve()
    active = (y > s) | (np.arange(y.size) < data.dims.zero)
    C = sp.csr_array(data.A)[active]
    singleton = np.diff(C.indptr) == 1
    free = np.ones(form.n, dtype=bool)
    free[C[singleton].indices] = False
    C = sp.csc_array(C[~singleton])[:, free]
    K = sp.csc_array(sp.block_array([[data.P[free][:, free], C.T], [C, None]]))
    K.eliminate_zeros()
    return K


def order(matrix: Matrix) -> int:
    return matrix.shape[0]


def factorizer(matrix: Matrix) -> tuple[str, Callable[[Any], Any], Callable[[Matrix], Any]]:
    """LAPACK's or QDLDL's LDLᵀ, whichever is faster for this matrix: (name, factor, conversion to what it factors)."""
    choices = []
    if order(matrix) <= LARGEST_DENSE:
        choices.append(("LAPACK", lapack.dsytrf, _dense))
    if sp.issparse(matrix):
        choices.append(("QDLDL", qdldl.Solver, _shifted))
    times = []
    for _, factor, convert in choices:
        converted = convert(matrix)
        with threads(matrix):
            factor(converted)
            start = time.perf_counter()
            factor(converted)
            times.append(time.perf_counter() - start)
    return choices[int(np.argmin(times))]


def threads(matrix: Matrix) -> threadpool_limits:
    """A context with as many BLAS threads as a factorization can use: at small orders they cost more than they bring."""
    return threadpool_limits(1 if order(matrix) <= ONE_THREAD else 2, "blas")


def _dense(matrix: Matrix) -> np.ndarray:
    return np.asfortranarray(matrix.toarray() if sp.issparse(matrix) else matrix)


def _shifted(matrix: sp.csc_array) -> sp.csc_matrix:
    """K + diag(δI, −δI), the sign by the block: rows with no diagonal entry are constraints."""
    sign = np.where(matrix.diagonal() == 0, -1.0, 1.0)
    return sp.csc_matrix(matrix + SHIFT * sp.diags_array(sign))
