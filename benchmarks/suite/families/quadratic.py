"""Quadratic programs: dense, projection onto the simplex, factor portfolio, sparse, model predictive control."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from benchmarks.suite.case import Arrays, Family, Model, QuadraticForm, sparse

__all__ = ["DENSE_QP", "MPC", "PORTFOLIO", "SIMPLEX", "SPARSE_QP"]


def dense_qp(n: int, _: np.random.Generator) -> Model:
    """minimize ½‖L x‖² + qᵀx subject to A x = b, G x ≤ h, all of L, q, A, b, G, h parameters, n/2 rows in each of A and G."""
    m = n // 2
    x = cp.Variable(n)
    L, q = cp.Parameter((n, n), name="L"), cp.Parameter(n, name="q")
    A, b = cp.Parameter((m, n), name="A"), cp.Parameter(m, name="b")
    G, h = cp.Parameter((m, n), name="G"), cp.Parameter(m, name="h")

    def draw(rng: np.random.Generator) -> Arrays:
        A_value, G_value = rng.standard_normal((m, n)), rng.standard_normal((m, n))
        inside = rng.standard_normal(n)
        L_value = rng.standard_normal((n, n)) / np.sqrt(n) + np.eye(n)
        q_value = rng.standard_normal(n)
        return [L_value, q_value, A_value, A_value @ inside, G_value, G_value @ inside + rng.uniform(0, 1, m)]

    def parametric(xp: Any, L: Any, q: Any, A: Any, b: Any, G: Any, h: Any) -> dict[str, Any]:
        return {"P": L.mT @ L, "q": q, "A": A, "b": b, "G": G, "h": h}

    return Model(
        cp.Problem(cp.Minimize(0.5 * cp.sum_squares(L @ x) + q @ x), [A @ x == b, G @ x <= h]),
        [L, q, A, b, G, h],
        [x],
        draw,
        QuadraticForm(n, {}, parametric, [(slice(0, n), (n,))]),
    )


def simplex(n: int, _: np.random.Generator) -> Model:
    """The projection of a point onto the probability simplex."""
    x, point = cp.Variable(n), cp.Parameter(n, name="point")
    constants = {
        "P": sparse(2 * sp.eye_array(n)),
        "A": sparse(np.ones((1, n))),
        "b": np.ones(1),
        "G": sparse(-sp.eye_array(n)),
        "h": np.zeros(n),
    }
    return Model(
        cp.Problem(cp.Minimize(cp.sum_squares(x - point)), [cp.sum(x) == 1, x >= 0]),
        [point],
        [x],
        lambda rng: [rng.standard_normal(n)],
        QuadraticForm(n, constants, lambda xp, point: {"q": -2 * point}, [(slice(0, n), (n,))]),
    )


def factors(assets: int) -> int:
    return max(10, assets // 20)


def portfolio(n: int, rng: np.random.Generator) -> Model:
    """maximize μᵀw − γ(‖y‖² + wᵀDw) subject to y = Fᵀw, 1ᵀw = 1, w ≥ 0; the expected returns μ are the parameter."""
    k = factors(n)
    loadings, idiosyncratic = rng.standard_normal((n, k)) / np.sqrt(k), rng.uniform(0.1, 0.5, n)
    w, y, mu = cp.Variable(n), cp.Variable(k), cp.Parameter(n, name="mu")
    risk = cp.sum_squares(y) + cp.sum_squares(cp.multiply(np.sqrt(idiosyncratic), w))
    problem = cp.Problem(cp.Maximize(mu @ w - risk), [y == loadings.T @ w, cp.sum(w) == 1, w >= 0])
    constants = {
        "P": sparse(2 * sp.diags_array(np.concatenate([idiosyncratic, np.ones(k)]))),
        "A": sparse(sp.block_array([[sp.csc_array(loadings.T), -sp.eye_array(k)], [np.ones((1, n)), None]])),
        "b": np.append(np.zeros(k), 1.0),
        "G": sparse(sp.hstack([-sp.eye_array(n), sp.csc_array((n, k))])),
        "h": np.zeros(n),
    }

    def parametric(xp: Any, mu: Any) -> dict[str, Any]:
        return {"q": xp.concatenate([-mu, xp.zeros((mu.shape[0], k), dtype=mu.dtype)], 1)}

    return Model(
        problem,
        [mu],
        [w],
        lambda rng: [0.1 * rng.standard_normal(n) + 0.2],
        QuadraticForm(n + k, constants, parametric, [(slice(0, n), (n,))]),
    )


def _local(rng: np.random.Generator, rows: int, n: int, per_row: int, window: int) -> sp.csr_array:
    """Random rows, each with its entries in a window of neighbouring columns, the windows spread evenly."""
    start = np.linspace(0, n - window, rows).astype(int)
    cols = start[:, None] + np.argsort(rng.random((rows, window)), axis=1)[:, :per_row]
    row = np.repeat(np.arange(rows), per_row)
    return sp.csr_array(sp.coo_array((rng.standard_normal(row.size), (row, cols.ravel())), shape=(rows, n)))


def sparse_qp(n: int, rng: np.random.Generator) -> Model:
    """minimize ½ xᵀPx + qᵀx subject to A x = b, −1 ≤ x ≤ 1, entries of P and A near the diagonal; q and b are parameters."""
    m = n // 10
    R = _local(rng, n, n, 4, 20)
    P = sparse(R.T @ R + 0.1 * sp.eye_array(n))
    A = sparse(_local(rng, m, n, 5, 40))
    x, q, b = cp.Variable(n), cp.Parameter(n, name="q"), cp.Parameter(m, name="b")
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, cp.psd_wrap(P)) + q @ x), [A @ x == b, x >= -1, x <= 1])

    def draw(rng: np.random.Generator) -> Arrays:
        return [2 * rng.standard_normal(n), A @ rng.uniform(-0.5, 0.5, n)]

    identity = sp.eye_array(n)
    constants = {"P": P, "A": A, "G": sparse(sp.vstack([identity, -identity])), "h": np.ones(2 * n)}
    form = QuadraticForm(n, constants, lambda xp, q, b: {"q": q, "b": b}, [(slice(0, n), (n,))])
    return Model(problem, [q, b], [x], draw, form)


def mpc(horizon: int, rng: np.random.Generator) -> Model:
    """Inputs of a linear system with bounded inputs and states over a horizon; the initial state is the parameter."""
    states, inputs = 6, 2
    dynamics = np.eye(states) + 0.2 * rng.standard_normal((states, states)) / np.sqrt(states)
    drive = 0.5 * rng.standard_normal((states, inputs))
    X, U = cp.Variable((horizon + 1, states)), cp.Variable((horizon, inputs))
    start = cp.Parameter(states, name="start")
    steps = [X[0] == start, X[1:] == X[:-1] @ dynamics.T + U @ drive.T]
    # Not cp.abs(U) <= 0.4: its epigraph variables are not unique where the bound is slack.
    constraints = [*steps, U <= 0.4, U >= -0.4, X[1:] <= 20.0, X[1:] >= -20.0]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X) + 0.1 * cp.sum_squares(U)), constraints)

    nx, nu = (horizon + 1) * states, horizon * inputs
    shift = sp.eye_array(horizon, horizon + 1, k=1)
    previous = sp.eye_array(horizon, horizon + 1)
    follow = sp.kron(shift, np.eye(states)) - sp.kron(previous, dynamics)
    first = sp.eye_array(states, nx + nu)
    bounded = sp.eye_array(nx + nu, format="csr")[states:]
    bound = np.concatenate([np.full(nx - states, 20.0), np.full(nu, 0.4)])
    constants = {
        "P": sparse(2 * sp.diags_array(np.concatenate([np.ones(nx), np.full(nu, 0.1)]))),
        "q": np.zeros(nx + nu),
        "A": sparse(sp.vstack([first, sp.hstack([follow, -sp.kron(sp.eye_array(horizon), drive)])])),
        "G": sparse(sp.vstack([bounded, -bounded])),
        "h": np.concatenate([bound, bound]),
    }

    def parametric(xp: Any, start: Any) -> dict[str, Any]:
        rest = xp.zeros((start.shape[0], horizon * states), dtype=start.dtype)
        return {"b": xp.concatenate([start, rest], 1)}

    form = QuadraticForm(nx + nu, constants, parametric, [(slice(nx, nx + nu), (horizon, inputs))])
    return Model(problem, [start], [U], lambda rng: [rng.uniform(-2, 2, states)], form)


DENSE_QP = Family(
    "dense QP",
    dense_qp,
    [(n, B) for n in (10, 50, 100) for B in (1, 32, 128)],
    [(10, 1), (10, 128), (50, 32), (100, 1)],
)
SIMPLEX = Family("simplex", simplex, [(10**k, 1) for k in (2, 3, 4, 5)], [(10**3, 1), (10**4, 1)])
PORTFOLIO = Family(
    "portfolio",
    portfolio,
    [(200, 1), (1000, 1), (2000, 1)],
    [(200, 1), (1000, 1)],
    lambda n: f"{n}×{factors(n)}",
)
SPARSE_QP = Family("sparse QP", sparse_qp, [(1000, 1), (5000, 1), (20_000, 1)], [(1000, 1)])
MPC = Family("MPC QP", mpc, [(10, 1), (10, 32), (50, 1)], [(10, 1), (10, 32)])
