"""The symmetric reduced KKT matrix of each instance, factored once, for Newton steps, tangents and cotangents alike.

With D = B C Bᵀ (B of full column rank, C ≻ 0), N = C⁻¹ − BᵀB ⪰ 0, and dy = D dv = Bη, the system J·[dx; dv] = [r₁; r₂]
reads

    dv = r₂ + A dx + dy                                    (second row)
    P dx + Aᵀ dy = r₁                                      (first row)
    dy = D(r₂ + A dx + dy)  ⟺  BᵀA dx − N η = −Bᵀ r₂

and the adjoint Jᵀ·[λ; μ] = [gx; D gy + (D − I) gs], with μ = −gs − Bη,

    P λ + AᵀB η = gx − Aᵀgs,    BᵀA λ − N η = Bᵀ gy.

So both are K·[·; η] = [p₁; Bᵀp₂] with the one symmetric K = [P, AᵀB; BᵀA, −N]: forward p = (r₁, −r₂), adjoint
p = (gx − Aᵀgs, gy). With B = U√Λ, C = I this is N = I − Λ; directions with Λ = 0 are not in the range of D and drop
out.

Proximal Newton steps (newton.py) factor K_δ, with P + δI for P and N + δ BᵀB for N.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

__all__ = ["SINGULAR_BELOW", "Factorization"]

# |λ|/max|λ| of the equilibrated K below which a direction counts as null. K has an eigenvalue −σ²/p for a singular
# value σ
# of A where P is p: a larger threshold would call A with condition number 1e5 rank-deficient.
SINGULAR_BELOW = 1e-13


class Factorization(ABC):
    """K of every instance of a batch, factored."""

    @property
    @abstractmethod
    def singular(self) -> np.ndarray:
        """Which instances have a singular K, (B,) bool; for these ``solve`` returns one of the solutions if there are
        any.
        """

    @abstractmethod
    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """dx (or λ) (B, n) and Bη (B, m) with K·[dx; η] = [p₁; Bᵀp₂], for p₁ (B, n) and p₂ (B, m)."""

    @abstractmethod
    def null_vectors(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        """ker K of an instance as rows (dx, Bη), (k, n) and (k, m), k = 0 if it is regular; None if it is not known."""

    def null_sample(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        """A few null vectors, random ones if there are many: a linear map that is zero on them is zero on ker K."""
        return self.null_vectors(instance)

    def free_columns(self) -> np.ndarray | None:
        """The zero columns of K, (B, n) bool, whose unit vectors span ker K; all of them where it is more than that.
        None if that is not known.
        """
        return None

    @abstractmethod
    def take(self, index: np.ndarray | list[int]) -> Factorization:
        """The factorization of a part of the batch."""

    @abstractmethod
    def use_pseudo_inverse(self, instances: np.ndarray) -> Factorization:
        """The same factorization with the pseudo-inverse of K for these instances (indices)."""
