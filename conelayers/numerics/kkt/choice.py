"""The choice of a factorization for a program."""

from __future__ import annotations

import numpy as np

from conelayers.numerics.cones import ProductElement
from conelayers.numerics.kkt.aligned import AlignedFactorization
from conelayers.numerics.kkt.condensed import CondensedFactorization, prefers_condensed
from conelayers.numerics.kkt.dense import DenseFactorization
from conelayers.numerics.kkt.diagonal import DiagonalFactorization
from conelayers.numerics.kkt.factorization import Factorization
from conelayers.numerics.kkt.krylov import KrylovFactorization
from conelayers.numerics.kkt.sparse import SparseFactorization
from conelayers.numerics.kkt.stacked import factorize_stacked
from conelayers.program.cone_program import ConeProgram, Structure

__all__ = ["factorize", "prefers_dense", "prefers_krylov"]

# Orders n + m, measured on two cores: up to the first ones LAPACK is faster whatever the density; above the last one
# even
# storing a dense matrix costs too much; in between QDLDL is faster if K is sparse.
_ALWAYS_DENSE, _ALWAYS_DENSE_ORTHANTS = 250, 500
_NEVER_DENSE = 5000
_DENSE_FROM = 0.1  # density of K from which LAPACK is faster
_FULL = 0.01  # density from which the factor of a matrix without structure has nearly all entries


def prefers_dense(structure: Structure) -> bool:
    """Whether dense matrices are cheaper than sparse ones for programs of this structure."""
    order = structure.n + structure.m
    orthants = structure.cones.kinds <= {"zero", "nonneg"}  # K has the active rows only, and no rows to rotate
    if order <= (_ALWAYS_DENSE_ORTHANTS if orthants else _ALWAYS_DENSE):
        return True
    if order > _NEVER_DENSE:
        return False
    # A semidefinite block mixes all of its rows; a second-order cone stays sparse by lifting.
    cones = structure.cones
    fill = sum((k * (k + 1) // 2) ** 2 for k in cones.psd) + sum(k**4 for k in cones.hermitian)
    entries = structure.P.nnz + 2 * min(structure.A.nnz + fill, structure.m * structure.n) + structure.m
    return entries > _DENSE_FROM * order**2


def prefers_krylov(structure: Structure) -> bool:
    """Whether K is too large for a dense matrix and too full for a sparse factor."""
    n, m = structure.n, structure.m
    full_P = n > _NEVER_DENSE and structure.P.nnz > _FULL * n**2
    return full_P or (min(n, m) > _NEVER_DENSE and structure.A.nnz > _FULL * n * m)


def factorize(
    program: ConeProgram, element: ProductElement, jobs: int, delta: np.ndarray | None = None
) -> Factorization:
    """Factor the reduced KKT matrix K, or K_δ for δ (B,), of every instance (factorization.py), on up to ``jobs``
    threads.
    """
    aligned = AlignedFactorization.of(program, element, delta)
    if aligned is not None:
        return aligned
    if prefers_condensed(program.structure):
        return CondensedFactorization.of(program, element, delta)
    if prefers_dense(program.structure):
        stacked = factorize_stacked(program, element, delta) if program.batch > 1 else None
        return stacked or DenseFactorization.of(program, element, delta)
    if delta is None:
        diagonal = DiagonalFactorization.of(program, element, jobs)
        if diagonal is not None:
            return diagonal
    if prefers_krylov(program.structure):
        return KrylovFactorization.of(program, element, jobs, delta)
    return SparseFactorization.of(program, element, jobs, delta)
