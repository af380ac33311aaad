"""The residual map of the homogeneous self-dual embedding in the gauge τ = 1, and its Jacobian.

    F(x, v) = [ P x + AᵀΠ(v) + q ;  −A x + b − Π(v) + v ],    Π the projection onto K*,  v = y − s
    J(D)    = [ P , AᵀD ;  −A , I − D ],                      D ∈ ∂_C Π(v)

F is zero exactly at a solution x, y = Π(v), s = y − v. O'Donoghue (2021); Busseti, Moursi, Boyd (2019).
"""

from __future__ import annotations

from typing import NamedTuple, final

import numpy as np

from conelayers.cones import ProductElement
from conelayers.program import ConeProgram, largest

__all__ = ["Point", "apply_jacobian", "apply_jacobian_transpose", "embedding_jacobian", "evaluate", "jacobian"]


@final
class Point(NamedTuple):
    """F at (x, v), with what it took: y = Π(v), s = y − v (in K, complementary to y) and D, batched (B, …)."""

    x: np.ndarray
    v: np.ndarray
    y: np.ndarray
    s: np.ndarray
    element: ProductElement
    F1: np.ndarray
    F2: np.ndarray

    def take(self, index: np.ndarray | list[int]) -> Point:
        """The points of a part of the batch."""
        x, v, y, s, F1, F2 = (h[index] for h in (self.x, self.v, self.y, self.s, self.F1, self.F2))
        return Point(x, v, y, s, self.element.take(index), F1, F2)

    def norm(self, program: ConeProgram) -> np.ndarray:
        """max(‖F₁‖ / (1 + ‖q‖ + ‖Px‖), ‖F₂‖ / (1 + ‖b‖ + ‖s‖)), (B,): scaled like the Residuals."""
        scale1 = 1 + np.maximum(largest(program.q), largest(program.Px(self.x)))
        scale2 = 1 + np.maximum(largest(program.b), largest(self.s))
        return np.maximum(largest(self.F1) / scale1, largest(self.F2) / scale2)

    def gap(self, program: ConeProgram) -> np.ndarray:
        """|xᵀPx + qᵀx + bᵀy| / (1 + max(|xᵀPx|, |qᵀx|, |bᵀy|)), (B,), which is xᵀF₁ + yᵀF₂ since y ⊥ s."""
        total = np.sum(self.x * self.F1, axis=1) + np.sum(self.y * self.F2, axis=1)
        terms = (self.x * program.Px(self.x), self.x * program.q, self.y * program.b)
        sizes = [np.abs(np.sum(h, axis=1)) for h in terms]
        return np.abs(total) / (1 + np.maximum(np.maximum(sizes[0], sizes[1]), sizes[2]))


def evaluate(program: ConeProgram, x: np.ndarray, v: np.ndarray) -> Point:
    """F(x, v) and the Clarke element at v, for x (B, n) and v (B, m)."""
    y, s, element = program.structure.cones.decompose(v)
    F1 = program.Px(x) + program.ATy(y) + program.q
    F2 = -program.Ax(x) + program.b - s
    return Point(x, v, y, s, element, F1, F2)


def apply_jacobian(
    program: ConeProgram, element: ProductElement, dx: np.ndarray, dv: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """J·[dx; dv]."""
    dy = element.apply(dv)
    return program.Px(dx) + program.ATy(dy), dv - dy - program.Ax(dx)


def apply_jacobian_transpose(
    program: ConeProgram, element: ProductElement, lam: np.ndarray, mu: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Jᵀ·[λ; μ]."""
    return program.Px(lam) - program.ATy(mu), mu + element.apply(program.Ax(lam) - mu)


def _dense_parts(program: ConeProgram, element: ProductElement) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    m = program.structure.m
    D = np.moveaxis(element.apply(np.broadcast_to(np.eye(m)[:, None, :], (m, program.batch, m))), 0, -1)
    P, A = program.structure.P.dense(program.P), program.structure.A.dense(program.A)
    return np.broadcast_to(P, (program.batch, *P.shape[1:])), np.broadcast_to(A, (program.batch, *A.shape[1:])), D


def jacobian(program: ConeProgram, element: ProductElement) -> np.ndarray:
    """J as a dense array (B, n + m, n + m): for inspection and tests; nothing solves with it."""
    P, A, D = _dense_parts(program, element)
    At = np.swapaxes(A, 1, 2)
    return np.concatenate(
        [np.concatenate([P, At @ D], axis=2), np.concatenate([-A, np.eye(D.shape[-1]) - D], axis=2)], axis=1
    )


def embedding_jacobian(program: ConeProgram, point: Point) -> np.ndarray:
    """M = (DQ(u) − I)·diag(I, D, 1) + I of the homogeneous embedding at u = (x, y, 1), dense (B, n + m + 1, n + m + 1).

    DQ(u) = [P, Aᵀ, q; −A, 0, b; −(q + 2Px)ᵀ, −bᵀ, xᵀPx]. Always singular at a solution; rank M = rank J.
    """
    P, A, D = _dense_parts(program, point.element)
    batch, m, n = A.shape
    Px = program.Px(point.x)
    DQ = np.zeros((batch, n + m + 1, n + m + 1))
    DQ[:, :n, :n], DQ[:, :n, n:-1], DQ[:, :n, -1] = P, np.swapaxes(A, 1, 2), program.q
    DQ[:, n:-1, :n], DQ[:, n:-1, -1] = -A, program.b
    DQ[:, -1, :n], DQ[:, -1, n:-1] = -(program.q + 2 * Px), -program.b
    DQ[:, -1, -1] = np.einsum("bi,bi->b", point.x, Px)
    identity = np.eye(n + m + 1)
    inner = np.broadcast_to(identity, DQ.shape).copy()
    inner[:, n:-1, n:-1] = D
    return (DQ - identity) @ inner + identity
