"""J(D) and the embedding's Jacobian M as dense matrices: what tests of the residual map compare with."""

from __future__ import annotations

import numpy as np

from conelayers.numerics.cones import ProductElement
from conelayers.numerics.residual import Point
from conelayers.program.cone_program import ConeProgram

__all__ = ["embedding_jacobian", "jacobian"]


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
