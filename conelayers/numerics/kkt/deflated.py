"""K⁺ from a factorization that solves consistent systems and knows the null space, if K is too large to be decomposed.

ker K is the direct sum of null vectors (dx, 0) and (0, η) with Nη = 0 (proximal.py), and on the latter B is an
isometry, BᵀBη = η (factorization.py: there Λ = 1). With orthonormal bases X of the dx and Y of the Bη, and Π =
diag(XXᵀ, YYᵀ), the minimum-norm least-squares solution is (I − Π) K⁻ (I − Π) for any K⁻ that solves consistent systems,
on (p₁, p₂) and (dx, Bη) as they are.
"""

from __future__ import annotations

from typing import final

import numpy as np

from conelayers.numerics.kkt.factorization import Factorization

__all__ = ["LARGEST_WHOLE", "DeflatedFactorization"]

LARGEST_WHOLE = 300  # order of J up to which a dense K is decomposed as a whole
_PRESENT = 1e-8  # singular values of the halves of unit null vectors above which these are independent

_Pair = tuple[np.ndarray, np.ndarray]


@final
class DeflatedFactorization(Factorization):
    """K⁺ of the instances of ``inner``, by their null vectors."""

    def __init__(self, inner: Factorization, bases: list[_Pair]) -> None:
        self._inner, self._bases = inner, bases

    @classmethod
    def of(cls, inner: Factorization, batch: int) -> DeflatedFactorization:
        """The deflated factorization, with the null vectors that ``inner`` knows for each instance."""
        found = [inner.null_vectors(i) for i in range(batch)]
        assert all(null is not None for null in found), "the null vectors are not known"
        return cls(inner, [(_basis(null[0]), _basis(null[1])) for null in found if null is not None])

    @property
    def singular(self) -> np.ndarray:
        return self._inner.singular

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._without(*self._inner.solve(*self._without(p1, p2)))

    def _without(self, first: np.ndarray, last: np.ndarray) -> _Pair:
        """(I − Π) applied to each instance."""
        first, last = first.copy(), last.copy()
        for i, (X, Y) in enumerate(self._bases):
            first[i] -= X.T @ (X @ first[i])
            last[i] -= Y.T @ (Y @ last[i])
        return first, last

    def null_vectors(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        X, Y = self._bases[instance]
        dx, dy = np.zeros((len(X) + len(Y), X.shape[1])), np.zeros((len(X) + len(Y), Y.shape[1]))
        dx[: len(X)], dy[len(X) :] = X, Y
        return dx, dy

    def take(self, index: np.ndarray | list[int]) -> DeflatedFactorization:
        return DeflatedFactorization(self._inner.take(index), [self._bases[i] for i in index])

    def use_pseudo_inverse(self, instances: np.ndarray) -> DeflatedFactorization:
        return self


def _basis(vectors: np.ndarray) -> np.ndarray:
    """An orthonormal basis (k', size) of the span of the rows of ``vectors`` (k, size)."""
    if not len(vectors):
        return vectors
    _, sizes, V = np.linalg.svd(vectors, full_matrices=False)
    return V[sizes > _PRESENT]
