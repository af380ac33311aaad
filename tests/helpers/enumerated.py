"""Random cone programs with planted kinks, and their generalized Jacobians by enumeration, independent of the package's own elements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from listed_elements import exponential_elements, opposite, power_elements

from conelayers.derivatives.linearization import Linearization
from conelayers.numerics.cones import product_cone
from conelayers.numerics.cones.psd import matrix_to_svec, svec_to_matrix
from conelayers.numerics.presolve import presolve
from conelayers.numerics.residual import evaluate
from conelayers.numerics.residuals_of_points import residuals_of
from conelayers.numerics.scaling import equilibrate_program
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.cones import Cones
from conelayers.program.patterns import Pattern
from conelayers.program.solution import Solution
from conelayers.support.errors import Status

SINGULAR = 1e-9


@dataclass(frozen=True)
class Planted:
    """P (n, n), A (m, n), the cones, a solution (x, v) and lists of Clarke elements of each block (k, d, d)."""

    P: np.ndarray
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray
    cones: Cones
    x: np.ndarray
    v: np.ndarray
    y: np.ndarray
    s: np.ndarray
    elements: list[np.ndarray]

    @property
    def kinks(self) -> int:
        """The number of blocks with more than one element."""
        return sum(len(e) > 1 for e in self.elements)

    def linearized(self) -> tuple[Linearization, Solution]:
        """The package's own objects at exactly this point."""
        n, m = self.q.size, self.b.size
        structure = Structure(
            Pattern.of(sp.csc_array(np.ones((n, n)) * np.any(self.P))),
            Pattern.of(sp.csc_array(np.ones((m, n)))),
            self.cones,
        )
        P = self.P.ravel(order="F")[None, : structure.P.nnz]
        program = ConeProgram(structure, P, self.q[None], self.A.ravel(order="F")[None], self.b[None])
        scaled, scaling, _ = equilibrate_program(program)
        x, y, s = scaling.scale(self.x[None], self.y[None], self.s[None])
        presolved = presolve(scaled)
        point = evaluate(presolved.whole, x, y - s)
        residuals = residuals_of(presolved.whole, point)
        solution = Solution(self.x[None], self.y[None], self.s[None], (Status.SOLVED,), residuals, ("planted",), ("",))
        return Linearization(presolved, point, scaling, 1), solution

    def smallest_ratio(self, rng: np.random.Generator, count: int) -> float:
        """The smallest σ_min/σ_max of J(D) over the products of listed elements: all of them, or ``count`` of them, and as many of their hulls."""
        m, n = self.A.shape
        total = int(np.prod([len(e) for e in self.elements], dtype=np.int64))
        if total <= count:
            picks = np.stack(np.unravel_index(np.arange(total), [len(e) for e in self.elements]), axis=1)
        else:
            picks = np.stack([rng.integers(len(e), size=count) for e in self.elements], axis=1)
            picks[0], picks[1] = 0, [len(e) - 1 for e in self.elements]  # the lists begin and end with their extremes
        D = np.zeros((2 * len(picks), m, m))
        start = 0
        for k, listed in enumerate(self.elements):
            d = listed.shape[1]
            D[: len(picks), start : start + d, start : start + d] = listed[picks[:, k]]
            weights = rng.dirichlet(np.full(len(listed), 0.3), size=len(picks))
            D[len(picks) :, start : start + d, start : start + d] = np.einsum("ik,kab->iab", weights, listed)
            start += d
        J = np.zeros((len(D), n + m, n + m))
        J[:, :n, :n], J[:, n:, :n] = self.P, -self.A
        J[:, :n, n:], J[:, n:, n:] = self.A.T @ D, np.eye(m) - D
        values = np.linalg.svd(J, compute_uv=False)
        return float(np.min(values[:, -1] / np.maximum(values[:, 0], 1e-300)))


def planted_program(seed: int, *, nonsymmetric: bool = False) -> Planted:
    """Small integers in A, so that ranks fail exactly or clearly hold; P of any rank, or zero."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 7))
    nonneg, soc, psd = int(rng.integers(0, 4)), tuple(int(d) for d in rng.integers(2, 5, rng.integers(0, 2))), ()
    if rng.random() < 0.5:
        psd = (int(rng.integers(1, 4)),)
    exp = power = 0
    if nonsymmetric:
        exp, power, psd = int(rng.integers(0, 2)), int(rng.integers(0, 2)), ()
    alpha = float(rng.choice([0.3, 0.5, 0.7]))
    zero = int(rng.integers(0, 2))
    if not (nonneg or soc or psd or exp or power):
        nonneg = 2
    cones = Cones(zero=zero, nonneg=nonneg, soc=soc, psd=psd, exp=exp, power=(alpha,) * power)
    A = rng.integers(-3, 4, (cones.dimension, n)).astype(float)
    if rng.random() < 0.1 and n > 1:
        A[:, -1] = 0.0
    rank = n if rng.random() < 0.5 else int(rng.integers(0, n + 1))
    G = rng.integers(-2, 3, (n, rank)).astype(float)
    P = G @ G.T
    blocks = [(np.ones(1) * rng.standard_normal(), np.ones((1, 1, 1))) for _ in range(zero)]
    blocks += [_nonneg(rng) for _ in range(nonneg)] + [_second_order(rng, d) for d in soc]
    blocks += [_semidefinite(rng, k) for k in psd]
    blocks += [_exponential(rng) for _ in range(exp)] + [_power(rng, alpha) for _ in range(power)]
    v = np.concatenate([h for h, _ in blocks])
    x = rng.integers(-2, 3, n).astype(float)
    y = product_cone(cones).project_dual(v)[0]
    s = y - v
    # Equilibration would take rounding for the size of the data.
    q, b = (np.where(np.abs(h) < 1e-13, 0.0, h) for h in (-P @ x - A.T @ y, A @ x + s))
    return Planted(P, q, A, b, cones, x, v, y, s, [e for _, e in blocks])


def planted_block(kind: str, detail: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """v of one block, regular or on a kink, and its listed elements: ``kind`` and ``detail`` as fuzzing.blocks gives them."""
    if kind == "nonneg":
        return _nonneg(rng)
    if kind in ("soc", "psd"):
        return (_second_order if kind == "soc" else _semidefinite)(rng, int(detail))
    return _exponential(rng) if kind == "exp" else _power(rng, detail)


def _nonneg(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    value = float(rng.choice([-1.0, 0.0, 1.0])) * float(rng.uniform(0.5, 2))
    listed = [0.0, 1.0] if value == 0 else [float(value > 0)]
    return np.array([value]), np.array(listed)[:, None, None]


def _curved(w: np.ndarray, rho: float) -> np.ndarray:
    d = w.size + 1
    H = np.zeros((d, d))
    H[0, 0], H[0, 1:], H[1:, 0] = 1, w, w
    H[1:, 1:] = (1 + rho) * np.eye(d - 1) - rho * np.outer(w, w)
    return H / 2


def _second_order(rng: np.random.Generator, d: int) -> tuple[np.ndarray, np.ndarray]:
    # A Pythagorean direction: ‖u‖ is exact, and so are the kinks.
    w = np.zeros(d - 1)
    w[rng.permutation(d - 1)[:2]] = [0.6, 0.8][: min(2, d - 1)]
    if d == 2:
        w[0] = rng.choice([-1.0, 1.0])
    kind, size = rng.choice(["inside", "polar", "curved", "boundary", "polar boundary", "origin"]), 1.25
    if kind == "origin":
        rays = rng.standard_normal((20, d - 1))
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        listed = [_curved(h, rho) for h, rho in zip(rays, [*rng.uniform(-1, 1, 16), 1, 1, -1, -1], strict=True)]
        return np.zeros(d), np.stack([np.zeros((d, d)), *listed, np.eye(d)])
    t = {"inside": 2.0, "polar": -2.0, "curved": 0.5, "boundary": 1.0, "polar boundary": -1.0}[kind]
    v = size * np.concatenate([[t], w])
    listed = {
        "inside": [np.eye(d)],
        "polar": [np.zeros((d, d))],
        "curved": [_curved(w, t)],
        "boundary": [_curved(w, 1.0), np.eye(d)],
        "polar boundary": [np.zeros((d, d)), _curved(w, -1.0)],
    }[kind]
    return v, np.stack(listed)


def _semidefinite(rng: np.random.Generator, order: int) -> tuple[np.ndarray, np.ndarray]:
    signs = rng.choice([-1.0, 0.0, 1.0], order)
    values = signs * rng.uniform(0.5, 2, order)
    Q = (
        np.eye(order)[rng.permutation(order)]
        if rng.random() < 0.5
        else np.linalg.qr(rng.standard_normal((order, order)))[0]
    )
    V = (Q * values) @ Q.T
    v = matrix_to_svec(V)
    zero = np.flatnonzero(signs == 0)
    top, bottom = (
        np.maximum.outer(values * (signs > 0), values * (signs > 0)),
        np.maximum.outer(-values * (signs < 0), -values * (signs < 0)),
    )
    total = top + bottom
    omega = np.where(total > 0, top / np.where(total > 0, total, 1), 0.0)

    def matrix(on_zero) -> np.ndarray:
        """D as a matrix on scaled vectors; ``on_zero`` acts on the block of zero eigenvalues."""
        columns = []
        for e in np.eye(v.size):
            H = Q.T @ svec_to_matrix(e, order) @ Q
            out = omega * H
            if zero.size:
                out[np.ix_(zero, zero)] = on_zero(H[np.ix_(zero, zero)])
            columns.append(matrix_to_svec(Q @ out @ Q.T))
        return np.stack(columns, axis=-1)

    if not zero.size:
        return v, matrix(None)[None]
    k = zero.size
    listed = [matrix(lambda H: 0 * H)]
    for _ in range(6 if k > 1 else 0):  # limits at 0 are the derivatives at regular points
        R = np.linalg.qr(rng.standard_normal((k, k)))[0]
        mu = rng.standard_normal(k)
        up, down = (
            np.maximum.outer(np.maximum(mu, 0), np.maximum(mu, 0)),
            np.maximum.outer(np.maximum(-mu, 0), np.maximum(-mu, 0)),
        )
        inner = up / (up + down)
        listed.append(matrix(lambda H, R=R, inner=inner: R @ (inner * (R.T @ H @ R)) @ R.T))
    listed.append(matrix(lambda H: H))
    return v, np.stack(listed)


def _listed(elements) -> np.ndarray:
    """Matrices, the smallest first and the largest last."""
    count = len(elements.values)
    D = np.stack([elements.apply(np.broadcast_to(e, (count, 3))) for e in np.eye(3)], axis=-1)
    return D[np.argsort(np.trace(D, axis1=1, axis2=2), kind="stable")]


def _exponential(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    v = np.array(
        [
            (-1, 0, 1),
            (-1, -1, 0),
            (-1, 0, -1),
            (-1, 0, 0),
            (0, -1, 1),
            (0, -1, -1),
            (0, -1, 0),
            (0, 0, 1),
            (0, 0, -1),
            (0, 0, 0),
            (0, 1, 1),
            (0.3, -0.2, 0.7),
            (1, 1, 4),
            (2, 1, -3),
        ],
        dtype=float,
    )[rng.integers(14)]
    return -v, _listed(opposite(exponential_elements(v)))


def _power(rng: np.random.Generator, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    v = np.array(
        [
            (1, 0, 0),
            (0, 1, 0),
            (-1, 0, 0),
            (0, -1, 0),
            (0, 0, 0),
            (1, 1, 1),
            (1, 1, -1),
            (0.3, -0.2, 0.7),
            (1, 2, 0.3),
            (-1, -1, 0.1),
        ],
        dtype=float,
    )[rng.integers(10)]
    return -v, _listed(opposite(power_elements(v, alpha)))
