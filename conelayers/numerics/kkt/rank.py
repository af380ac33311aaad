"""The null space of the reduced KKT matrix K of any element, for certificates: nothing is solved with it.

The ranks are those of the equilibrated K, EKE, never of AAᵀ, which squares condition numbers. A symmetric
eigendecomposition finds them if it is cheap, else block inverse iteration with the factored EKE + δ·diag(I, −I), whose
Ritz values bound the smallest |λ| from above.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from conelayers.numerics.cones import ProductElement
from conelayers.numerics.kkt.aligned import AlignedFactorization
from conelayers.numerics.kkt.assembly import Assembled, assemble
from conelayers.numerics.kkt.choice import prefers_krylov
from conelayers.numerics.kkt.condensed import CondensedFactorization, prefers_condensed
from conelayers.numerics.kkt.elimination import extend_null_vectors
from conelayers.numerics.kkt.factorization import SINGULAR_BELOW
from conelayers.numerics.kkt.quasi_definite import QuasiDefinite
from conelayers.numerics.presolve import Presolved

__all__ = ["null_space"]

_DENSE_UP_TO = 600  # order up to which an eigendecomposition is cheap
_STEPS = 3  # of inverse iteration
_BLOCK, _LARGEST_BLOCK = 8, 32  # first and largest number of vectors in a block
_CLEAR = (1e-15, 1e-6)  # ratios |λ|/max|λ| between these are checked by a pivoted factor


def null_space(
    presolved: Presolved, element: ProductElement, instance: int, cutoff: float = SINGULAR_BELOW
) -> tuple[np.ndarray, np.ndarray] | None:
    """Directions dx (k, n), dy (k, m) that span ker K(D) of one instance, in the equilibrated units.

    D is an element of the whole program. Eigenvalues with |λ|/max|λ| up to ``cutoff`` count as zero. A large system may
    have more null vectors than the 32 or more that are found. None if K cannot be factored.
    """
    program = presolved.smaller
    if prefers_krylov(program.structure):
        return None
    inner_element = presolved.element(element)
    part, one = program.take([instance]), inner_element.take([instance])
    aligned = AlignedFactorization.of(part, one, cutoff=cutoff)
    if aligned is not None:
        null = aligned.null_vectors(0)
        return None if null is None else _extended(presolved, instance, null)
    if prefers_condensed(program.structure):
        null = CondensedFactorization.of(part, one, cutoff=cutoff).null_vectors(0)
        return _extended(presolved, instance, null)
    assembled = assemble(program, inner_element, instance)
    vectors = _dense(assembled, cutoff) if assembled.order <= _DENSE_UP_TO else _sparse(assembled, cutoff)
    if vectors is None:
        return None
    inner = np.linalg.qr(assembled.scales[:, None] * vectors)[0].T
    return _extended(presolved, instance, assembled.null_vectors(inner))


def _extended(
    presolved: Presolved, instance: int, null: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The null vectors of the whole K from those of the smaller program's K."""
    if presolved.elimination is None:
        return null
    return extend_null_vectors(presolved.elimination.take([instance]), *null)


def _dense(assembled: Assembled, cutoff: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(assembled.matrix.toarray())
    magnitude = np.abs(values)
    return vectors[:, magnitude <= cutoff * magnitude.max(initial=0.0)]


def _sparse(assembled: Assembled, cutoff: float) -> np.ndarray | None:
    factor = QuasiDefinite(assembled)
    size = assembled.largest_eigenvalue()
    width = min(_BLOCK, assembled.order)
    while True:
        values, vectors = factor.smallest(width, _STEPS)
        if not np.isfinite(values).all():
            return None
        if _CLEAR[0] * size < values.min() < _CLEAR[1] * size:
            # Without pivoting the null vectors have errors of about 1e−8 if pivots grow.
            values, vectors = _shifted(assembled, width, size)
        null = values <= cutoff * size
        if not null.all() or width >= min(_LARGEST_BLOCK, assembled.order):
            return vectors[:, null]
        width = min(4 * width, _LARGEST_BLOCK, assembled.order)  # the null space may be larger than the block


def _shifted(assembled: Assembled, width: int, size: float) -> tuple[np.ndarray, np.ndarray]:
    """|λ| and vectors like ``QuasiDefinite.smallest``, by Lanczos' method with an LU of EKE − σI, σ = 1e−6."""
    if width >= assembled.order:
        values, vectors = np.linalg.eigh(assembled.matrix.toarray())
    else:
        start = np.random.default_rng(2).standard_normal(assembled.order)
        matrix = sp.csc_matrix(assembled.matrix)
        values, vectors = spla.eigsh(matrix, k=width, sigma=1e-6 * size, which="LM", v0=start)
    return np.abs(values), vectors
