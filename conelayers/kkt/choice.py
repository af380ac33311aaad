"""Which factorization a program gets."""

from __future__ import annotations

from conelayers.cones import ProductElement
from conelayers.kkt.dense import DenseFactorization
from conelayers.kkt.factorization import Factorization
from conelayers.kkt.reduction import ReducedFactorization, reduce_program
from conelayers.kkt.sparse import SparseFactorization
from conelayers.program import ConeProgram, Structure

__all__ = ["factorize"]

# Measured on two cores: below the first order LAPACK's constant is smaller whatever the density; above the second the
# dense matrix itself is the cost; between them QDLDL wins where K is sparse.
_ALWAYS_DENSE = 100
_NEVER_DENSE = 5000
_DENSE_FROM = 0.1


def _prefers_dense(structure: Structure) -> bool:
    order = structure.n + structure.m
    if order <= _ALWAYS_DENSE:
        return True
    if order > _NEVER_DENSE:
        return False
    # A semidefinite block mixes all of its rows; a second-order cone stays sparse by lifting.
    fill = sum((k * (k + 1) // 2) ** 2 for k in structure.cones.psd)
    entries = structure.P.nnz + 2 * min(structure.A.nnz + fill, structure.m * structure.n) + structure.m
    return entries > _DENSE_FROM * order**2


def factorize(program: ConeProgram, element: ProductElement, jobs: int) -> Factorization:
    """Factor the reduced KKT matrix K of every instance (kkt/factorization.py), on up to ``jobs`` threads.

    Definition rows are eliminated first (kkt/reduction.py).
    """
    reduced = reduce_program(program, element)
    if reduced is not None:
        inner_program, inner_element, reduction = reduced
        return ReducedFactorization(program, reduction, _factorize(inner_program, inner_element, jobs))
    return _factorize(program, element, jobs)


def _factorize(program: ConeProgram, element: ProductElement, jobs: int) -> Factorization:
    if _prefers_dense(program.structure):
        return DenseFactorization.of(program, element)
    return SparseFactorization.of(program, element, jobs)
