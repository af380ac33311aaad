"""Problems with exponential cones. Their references are Newton's method on the smooth problems that the cones stand for."""

from __future__ import annotations

import cvxpy as cp
import numpy as np

from benchmarks.suite.case import Arrays, Family, Model, Solved

__all__ = ["ENTROPY", "LOGISTIC"]

EXTENDED = np.longdouble
STEPS = 60


def features(samples: int) -> int:
    return max(2, samples // 5)


def logistic(samples: int, _: np.random.Generator) -> Model:
    """minimize (1/N) Σ log(1 + exp(−(Z w)ᵢ)) + λ‖w‖², where row i of Z is the label times the features; Z and λ are parameters."""
    k = features(samples)
    w, Z, lam = cp.Variable(k), cp.Parameter((samples, k), name="Z"), cp.Parameter(nonneg=True, name="lambda")
    problem = cp.Problem(cp.Minimize(cp.sum(cp.logistic(-Z @ w)) / samples + lam * cp.sum_squares(w)))

    def draw(rng: np.random.Generator) -> Arrays:
        X, truth = rng.standard_normal((samples, k)), rng.standard_normal(k)
        labels = np.where(X @ truth + rng.standard_normal(samples) > 0, 1.0, -1.0)
        return [labels[:, None] * X, np.array(0.05)]

    def exact(values: Arrays, cotangents: Arrays) -> Solved:
        Z, lam = values[0].astype(EXTENDED), EXTENDED(float(values[1]))
        w = np.zeros(k, dtype=EXTENDED)

        def gradient(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            p = 1 / (1 + np.exp(Z @ w))
            return -(Z.T @ p) / samples + 2 * lam * w, p

        F, p = gradient(w)
        for _ in range(STEPS):
            H = (Z.T * (p * (1 - p))) @ Z / samples + 2 * lam * np.eye(k)
            step = np.linalg.solve(H.astype(float), -F.astype(float))
            F_new, p_new = gradient(w + step)
            if not np.abs(F_new).max() < np.abs(F).max():
                break
            w, F, p = w + step, F_new, p_new
        u = _refined_solve(H, cotangents[0])
        # ∂F/∂Z: dF = −(dZᵀp)/N + Zᵀ diag(p(1 − p)) dZ w / N, and the gradient is −(∂F)ᵀu.
        weights = p * (1 - p) * (Z @ u)
        dZ = (np.outer(p, u) - np.outer(weights, w)) / samples
        gradients = [dZ.astype(float), np.asarray(-2 * float(w @ u))]
        size = float(np.abs(Z.T @ p).max()) / samples

        def check(variables: Arrays) -> float:
            return float(np.abs(gradient(variables[0])[0]).max()) / max(1.0, size)

        return Solved([w.astype(float)], gradients, float(np.abs(F).max()), check)

    def kkt(values: Arrays, variables: Arrays) -> np.ndarray:
        p = 1 / (1 + np.exp(values[0] @ variables[0]))
        return (values[0].T * (p * (1 - p))) @ values[0] / samples + 2 * float(values[1]) * np.eye(k)

    return Model(problem, [Z, lam], [w], draw, exact=exact, kkt=kkt)


def entropy(n: int, rng: np.random.Generator) -> Model:
    """maximize Σ −xᵢ log xᵢ subject to A x = b, 1ᵀx = 1; b is the parameter."""
    m = n // 10
    A = rng.standard_normal((m, n))
    x, b = cp.Variable(n), cp.Parameter(m, name="b")
    problem = cp.Problem(cp.Maximize(cp.sum(cp.entr(x))), [A @ x == b, cp.sum(x) == 1])

    def draw(rng: np.random.Generator) -> Arrays:
        inside = rng.uniform(0.5, 1.5, n)
        return [A @ (inside / inside.sum())]

    def exact(values: Arrays, cotangents: Arrays) -> Solved:
        B = np.vstack([A, np.ones(n)]).astype(EXTENDED)
        d = np.append(values[0], 1.0).astype(EXTENDED)
        y = np.zeros(m + 1, dtype=EXTENDED)

        # x = exp(−1 − Bᵀy) is optimal for the y at which B x = d; that y minimizes a smooth convex function.
        def dual(y: np.ndarray) -> tuple[EXTENDED, np.ndarray]:
            x = np.exp(-1 - B.T @ y)
            return x.sum() + d @ y, x

        value, x = dual(y)
        for _ in range(STEPS):
            F = d - B @ x
            H = (B * x) @ B.T
            step, length = np.linalg.solve(H.astype(float), -F.astype(float)), 1.0
            value_new, x_new = dual(y + step)
            while value_new > value + 1e-17 * abs(value) and length > 1e-6:
                length /= 2
                value_new, x_new = dual(y + length * step)
            if length == 1.0 and not np.abs(d - B @ x_new).max() < np.abs(F).max():
                break
            y, value, x = y + length * step, value_new, x_new
        # dx = diag(x) Bᵀ H⁻¹ dd.
        u = _refined_solve((B * x) @ B.T, B @ (x * cotangents[0]))

        def check(variables: Arrays) -> float:
            feasible = np.abs(d - B @ variables[0]).max() / max(1.0, float(np.abs(d).max()))
            return float(max(feasible, np.abs(variables[0] - x).max()))

        return Solved([x.astype(float)], [u[:m].astype(float)], float(np.abs(d - B @ x).max()), check)

    def kkt(values: Arrays, variables: Arrays) -> np.ndarray:
        B = np.vstack([A, np.ones(n)])
        return (B * variables[0]) @ B.T

    return Model(problem, [b], [x], draw, exact=exact, kkt=kkt)


def _refined_solve(H: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    inverse = np.linalg.inv(H.astype(float))
    u = (inverse @ rhs).astype(EXTENDED)
    for _ in range(3):
        u = u + inverse @ (rhs - H @ u).astype(float)
    return u


LOGISTIC = Family(
    "logistic", logistic, [(100, 1), (500, 1)], [(100, 1)], lambda samples: f"{samples}×{features(samples)}"
)
ENTROPY = Family("entropy", entropy, [(50, 1), (500, 1)], [(50, 1)])
