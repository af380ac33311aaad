"""A factorization of the presolved program's K, extended to the whole program's.

A definition row i with pivot a in column t, P's diagonal p there and the other entries l (presolve.py) couples (t, yᵢ)
to the rest of K through l alone:

    [ p  a  0  ]
    [ a  0  lᵀ ]   the pivot block's inverse is [0, 1/a; 1/a, −p/a²], its Schur complement adds (p/a²) l lᵀ to P.
    [ 0  l  …  ]

So the K of the smaller program is the Schur complement of all such blocks. The resulting operator is symmetric, even if
K is singular.
"""

from __future__ import annotations

from typing import final

import numpy as np

from conelayers.numerics.kkt.factorization import Factorization
from conelayers.numerics.presolve import Elimination, Presolved

__all__ = ["EliminatedFactorization", "extend_null_vectors"]


@final
class EliminatedFactorization(Factorization):
    """The K of the whole program, solved by that of the smaller one, ``inner``."""

    def __init__(self, elimination: Elimination, inner: Factorization) -> None:
        self._elimination, self._inner = elimination, inner

    @classmethod
    def of(cls, presolved: Presolved, inner: Factorization) -> Factorization:
        """The factorization of the whole program; ``inner`` itself if nothing was eliminated."""
        return inner if presolved.elimination is None else cls(presolved.elimination, inner)

    @property
    def singular(self) -> np.ndarray:
        return self._inner.singular

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        d, a, p, L = self._elimination.definitions, self._elimination.a, self._elimination.p, self._elimination.L
        f_t, f_y = p1[:, d.cols], p2[:, d.rows]
        inner_p1 = p1[:, d.kept_cols] - L.rmatvec(f_t / a - p / a**2 * f_y)
        inner_x, inner_y = self._inner.solve(inner_p1, p2[:, d.kept_rows])
        rest = f_y - L.matvec(inner_x)
        dx, dy = np.empty_like(p1), np.empty_like(p2)
        dx[:, d.kept_cols], dx[:, d.cols] = inner_x, rest / a
        dy[:, d.kept_rows], dy[:, d.rows] = inner_y, f_t / a - p / a**2 * rest
        return dx, dy

    def null_vectors(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        return self._extended(instance, self._inner.null_vectors(instance))

    def null_sample(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        return self._extended(instance, self._inner.null_sample(instance))

    def free_columns(self) -> np.ndarray | None:
        free = self._inner.free_columns()
        if free is None:
            return None
        d = self._elimination.definitions
        whole = np.zeros((len(free), d.cols.size + d.kept_cols.size), dtype=bool)
        whole[:, d.kept_cols] = free
        # e_j moves the columns whose definitions hold column j.
        whole[:, d.cols] = (free @ (d.L.dense(np.ones((1, d.L.nnz)))[0] != 0).T.astype(float)) > 0
        return whole

    def _extended(
        self, instance: int, null: tuple[np.ndarray, np.ndarray] | None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        return None if null is None else extend_null_vectors(self._elimination.take([instance]), *null)

    def take(self, index: np.ndarray | list[int]) -> EliminatedFactorization:
        return EliminatedFactorization(self._elimination.take(index), self._inner.take(index))

    def use_pseudo_inverse(self, instances: np.ndarray) -> EliminatedFactorization:
        return EliminatedFactorization(self._elimination, self._inner.use_pseudo_inverse(instances))


def extend_null_vectors(part: Elimination, inner_x: np.ndarray, inner_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Null vectors of the whole K from those (k, ·) of the smaller one, for the elimination of one instance."""
    d, a, p = part.definitions, part.a, part.p
    rest = -np.array([part.L.matvec(h[None])[0] for h in inner_x]).reshape(len(inner_x), a.size)
    dx = np.zeros((len(inner_x), d.cols.size + d.kept_cols.size))
    dy = np.zeros((len(inner_x), d.rows.size + d.kept_rows.size))
    dx[:, d.kept_cols], dx[:, d.cols] = inner_x, rest / a
    dy[:, d.kept_rows], dy[:, d.rows] = inner_y, -p / a**2 * rest
    return dx, dy
