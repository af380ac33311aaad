"""A zoo of parametric problems with non-degenerate solutions, for all tests that go through a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cvxpy as cp
import numpy as np

ALL = ("CLARABEL", "SCS", "ECOS")
LINEAR = (*ALL, "HIGHS")
PSD = ("CLARABEL", "SCS")


@dataclass(frozen=True)
class Case:
    """A problem, its parameters and outputs, and a function that draws values for the parameters."""

    problem: cp.Problem
    parameters: list[cp.Parameter]
    variables: list[cp.Variable]
    draw: Callable[[np.random.Generator], list[np.ndarray]]
    solvers: tuple[str, ...] = ALL
    gp: bool = False


def dual(constraint: cp.Constraint, index: int = 0) -> cp.Variable:
    return constraint.dual_variables[index]


def _lp_transport() -> Case:
    # Random costs: the optimal basis is unique and non-degenerate with probability one.
    x = cp.Variable((3, 4), nonneg=True, name="x")
    cost, supply, demand = (
        cp.Parameter((3, 4), name="cost"),
        cp.Parameter(3, name="supply"),
        cp.Parameter(4, name="demand"),
    )
    out = cp.sum(x, axis=1) <= supply
    into = cp.sum(x, axis=0) == demand
    problem = cp.Problem(cp.Minimize(cp.sum(cp.multiply(cost, x))), [out, into])

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        return [rng.uniform(1, 2, (3, 4)), rng.uniform(5, 6, 3), rng.uniform(2, 3, 4)]

    return Case(problem, [cost, supply, demand], [x, dual(out), dual(into)], draw, LINEAR)


def _lp_inequality() -> Case:
    x = cp.Variable(3, name="x")
    c, G, h = cp.Parameter(3, name="c"), cp.Parameter((6, 3), name="G"), cp.Parameter(6, name="h")
    con = G @ x <= h
    problem = cp.Problem(cp.Minimize(c @ x), [con, cp.norm_inf(x) <= 10])

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        G = rng.standard_normal((6, 3))
        return [-G.T @ rng.uniform(0.1, 1, 6), G, rng.uniform(0.5, 1, 6)]

    return Case(problem, [c, G, h], [x, dual(con)], draw, LINEAR)


def _lp_maximize() -> Case:
    x = cp.Variable(3, name="x")
    c, b = cp.Parameter(3, name="c"), cp.Parameter(name="b")
    budget, box = cp.sum(x) <= b, x <= 1
    problem = cp.Problem(cp.Maximize(c @ x), [budget, box, x >= 0])
    return Case(
        problem,
        [c, b],
        [x, dual(budget), dual(box)],
        lambda rng: [rng.uniform(1, 2, 3), np.array(rng.uniform(1.2, 1.8))],
        LINEAR,
    )


def _qp_equality() -> Case:
    x = cp.Variable(4, name="x")
    A, b = cp.Parameter((2, 4), name="A"), cp.Parameter(2, name="b")
    con = A @ x == b
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [con])
    return Case(problem, [A, b], [x, dual(con)], lambda rng: [rng.standard_normal((2, 4)), rng.standard_normal(2)])


def _qp_parametric_p() -> Case:
    x = cp.Variable(4, name="x")
    P, q = cp.Parameter((4, 4), PSD=True, name="P"), cp.Parameter(4, name="q")
    con = cp.sum(x) == 1
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, P) + q @ x), [con, x >= -1])

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        G = rng.standard_normal((4, 4))
        return [G @ G.T + np.eye(4), rng.standard_normal(4)]

    return Case(problem, [P, q], [x, dual(con)], draw, ("CLARABEL", "SCS"))


def _qp_unconstrained() -> Case:
    x = cp.Variable(3, name="x")
    P, q = cp.Parameter((3, 3), PSD=True, name="P"), cp.Parameter(3, name="q")
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, P) + q @ x))

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        G = rng.standard_normal((3, 3))
        return [G @ G.T + np.eye(3), rng.standard_normal(3)]

    return Case(problem, [P, q], [x], draw, ("CLARABEL", "SCS"))


def _simplex_projection() -> Case:
    x = cp.Variable(5, nonneg=True, name="x")
    a = cp.Parameter(5, name="a")
    con = cp.sum(x) == 1
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - a)), [con])
    return Case(problem, [a], [x, dual(con)], lambda rng: [rng.standard_normal(5)])


def _box_projection() -> Case:
    x = cp.Variable(4, bounds=[-0.5, 0.5], name="x")
    a = cp.Parameter(4, name="a")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [])
    return Case(problem, [a], [x], lambda rng: [rng.standard_normal(4)])


def _ridge() -> Case:
    w = cp.Variable(3, name="w")
    X, y, lam = cp.Parameter((6, 3), name="X"), cp.Parameter(6, name="y"), cp.Parameter(nonneg=True, name="lam")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X @ w - y) + lam * cp.sum_squares(w)))
    return Case(
        problem,
        [X, y, lam],
        [w],
        lambda rng: [rng.standard_normal((6, 3)), rng.standard_normal(6), np.array(rng.uniform(0.5, 1))],
    )


def _lasso() -> Case:
    w = cp.Variable(4, name="w")
    X, y, lam = cp.Parameter((8, 4), name="X"), cp.Parameter(8, name="y"), cp.Parameter(nonneg=True, name="lam")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X @ w - y) + lam * cp.norm1(w)))

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        X = rng.standard_normal((8, 4))
        return [X, X @ np.array([1.0, -2.0, 0.0, 0.0]) + 0.1 * rng.standard_normal(8), np.array(2.0)]

    return Case(problem, [X, y, lam], [w], draw)


def _elastic_net() -> Case:
    w = cp.Variable(4, name="w")
    a, b = cp.Parameter(nonneg=True, name="a"), cp.Parameter(nonneg=True, name="b")
    rng = np.random.default_rng(7)
    X = rng.standard_normal((10, 4))
    y = X @ np.array([1.0, 0.0, -1.0, 0.5]) + 0.1 * rng.standard_normal(10)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X @ w - y) + a * cp.norm1(w) + b * cp.sum_squares(w)))
    return Case(problem, [a, b], [w], lambda rng: [np.array(rng.uniform(0.5, 1.5)), np.array(rng.uniform(0.5, 1.5))])


def _huber() -> Case:
    w = cp.Variable(2, name="w")
    y = cp.Parameter(7, name="y")
    X = np.random.default_rng(8).standard_normal((7, 2))
    problem = cp.Problem(cp.Minimize(cp.sum(cp.huber(X @ w - y, 0.5))))
    return Case(problem, [y], [w], lambda rng: [2 * rng.standard_normal(7)])


def _svm() -> Case:
    w, b = cp.Variable(2, name="w"), cp.Variable(name="b")
    X, margin = cp.Parameter((10, 2), name="X"), cp.Parameter(name="margin")
    labels = np.where(np.arange(10) < 5, 1.0, -1.0)
    problem = cp.Problem(
        cp.Minimize(0.5 * cp.sum_squares(w) + 0.7 * cp.sum(cp.pos(margin - cp.multiply(labels, X @ w + b))))
    )

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        return [rng.standard_normal((10, 2)) + labels[:, None], np.array(rng.uniform(0.9, 1.1))]

    return Case(problem, [X, margin], [w], draw)


def _portfolio() -> Case:
    w, f = cp.Variable(6, name="w"), cp.Variable(2, name="f")
    mu, F = cp.Parameter(6, name="mu"), cp.Parameter((6, 2), name="F")
    budget = cp.sum(w) == 1
    problem = cp.Problem(
        cp.Maximize(mu @ w - cp.sum_squares(f) - 0.5 * cp.sum_squares(w)), [f == F.T @ w, budget, w >= 0]
    )
    return Case(problem, [mu, F], [w, dual(budget)], lambda rng: [rng.standard_normal(6), rng.standard_normal((6, 2))])


def _mpc() -> Case:
    x, u = cp.Variable((2, 5), name="x"), cp.Variable((1, 4), name="u")
    x0, A, B = cp.Parameter(2, name="x0"), cp.Parameter((2, 2), name="A"), cp.Parameter((2, 1), name="B")
    start = x[:, 0] == x0
    dynamics = x[:, 1:] == A @ x[:, :-1] + B @ u
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) + 0.1 * cp.sum_squares(u)), [start, dynamics, cp.abs(u) <= 0.4])

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        return [
            rng.uniform(1, 2, 2),
            np.array([[1.0, 0.3], [0.0, 0.9]]) + 0.05 * rng.standard_normal((2, 2)),
            rng.uniform(0.5, 1, (2, 1)),
        ]

    return Case(problem, [x0, A, B], [x, u, dual(start), dual(dynamics)], draw)


def _socp_norm_ball() -> Case:
    x = cp.Variable(4, name="x")
    c, r, a = cp.Parameter(4, name="c"), cp.Parameter(nonneg=True, name="r"), cp.Parameter(4, name="a")
    ball = cp.SOC(r, x - a)
    problem = cp.Problem(cp.Minimize(c @ x), [ball])
    return Case(
        problem,
        [c, r, a],
        [x, dual(ball, 0), dual(ball, 1)],
        lambda rng: [rng.standard_normal(4), np.array(rng.uniform(0.5, 1)), rng.standard_normal(4)],
    )


def _socp_group_lasso() -> Case:
    w = cp.Variable(6, name="w")
    X, lam = cp.Parameter((8, 6), name="X"), cp.Parameter(nonneg=True, name="lam")
    y = np.random.default_rng(11).standard_normal(8)
    groups = cp.norm(w[:3]) + cp.norm(w[3:])
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X @ w - y) + lam * groups))
    return Case(problem, [X, lam], [w], lambda rng: [rng.standard_normal((8, 6)), np.array(0.3)])


def _socp_list_of_cones() -> Case:
    t, X = cp.Variable(3, name="t"), cp.Variable((2, 3), name="X")
    A, c = cp.Parameter((2, 3), name="A"), cp.Parameter(3, nonneg=True, name="c")
    cones, fixed = cp.SOC(t, X, axis=0), X[0] == 1
    problem = cp.Problem(cp.Minimize(c @ t + cp.sum(cp.multiply(A, X)) + 0.5 * cp.sum_squares(X)), [cones, fixed])
    return Case(
        problem,
        [A, c],
        [t, X, dual(cones, 0), dual(cones, 1), dual(fixed)],
        lambda rng: [rng.standard_normal((2, 3)), rng.uniform(0.5, 1, 3)],
    )


def _socp_robust_lp() -> Case:
    x = cp.Variable(3, name="x")
    A, b, rho = cp.Parameter((5, 3), name="A"), cp.Parameter(5, name="b"), cp.Parameter(nonneg=True, name="rho")
    cons = [A[i] @ x + rho * cp.norm(x) <= b[i] for i in range(5)]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - np.array([2.0, -1.0, 1.0]))), cons)

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        return [rng.standard_normal((5, 3)), rng.uniform(0.5, 1, 5), np.array(rng.uniform(0.1, 0.3))]

    return Case(problem, [A, b, rho], [x, dual(cons[0])], draw)


def _socp_large_cone() -> Case:
    # The cone has dimension 31: above the size at which it is lifted in sparse systems.
    x = cp.Variable(30, name="x")
    a, r = cp.Parameter(30, name="a"), cp.Parameter(nonneg=True, name="r")
    ball = cp.norm(x) <= r
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [ball, x[0] == 0.1])
    return Case(problem, [a, r], [x, dual(ball)], lambda rng: [rng.standard_normal(30), np.array(rng.uniform(0.5, 1))])


def _geometric_median() -> Case:
    x = cp.Variable(2, name="x")
    points = cp.Parameter((5, 2), name="points")
    problem = cp.Problem(cp.Minimize(cp.sum(cp.norm(points - cp.vstack([x] * 5), axis=1))))
    return Case(problem, [points], [x], lambda rng: [rng.standard_normal((5, 2))])


def _sdp_max_cut() -> Case:
    X = cp.Variable((4, 4), PSD=True, name="X")
    C = cp.Parameter((4, 4), symmetric=True, name="C")
    con = cp.diag(X) == 1
    problem = cp.Problem(cp.Minimize(cp.trace(C @ X) + 0.1 * cp.sum_squares(X)), [con])

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        G = rng.standard_normal((4, 4))
        return [G + G.T]

    return Case(problem, [C], [X, dual(con)], draw, PSD)


def _sdp_nearest_correlation() -> Case:
    X = cp.Variable((5, 5), symmetric=True, name="X")
    A = cp.Parameter((5, 5), symmetric=True, name="A")
    psd, unit = X >> 0, cp.diag(X) == 1
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(X - A)), [psd, unit])

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        G = rng.uniform(-1, 1, (5, 5))
        return [(G + G.T) / 2 + np.eye(5)]

    return Case(problem, [A], [X, dual(psd), dual(unit)], draw, PSD)


def _sdp_lmi() -> Case:
    x = cp.Variable(3, name="x")
    c, F = cp.Parameter(3, name="c"), cp.Parameter((3, 9), name="F")
    matrices = [cp.reshape(F[i], (3, 3), order="C") for i in range(3)]
    lmi = sum(x[i] * (matrices[i] + matrices[i].T) for i in range(3)) << np.eye(3)
    problem = cp.Problem(cp.Minimize(c @ x + 0.1 * cp.sum_squares(x)), [lmi])
    return Case(problem, [c, F], [x, dual(lmi)], lambda rng: [rng.standard_normal(3), rng.standard_normal((3, 9))], PSD)


def _sdp_lambda_max() -> Case:
    x = cp.Variable(2, name="x")
    A = cp.Parameter((4, 4), symmetric=True, name="A")
    rng = np.random.default_rng(3)
    B = [G + G.T for G in rng.standard_normal((2, 4, 4))]
    problem = cp.Problem(cp.Minimize(cp.lambda_max(A + x[0] * B[0] + x[1] * B[1]) + 0.5 * cp.sum_squares(x)))

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        G = rng.standard_normal((4, 4))
        return [G + G.T]

    return Case(problem, [A], [x], draw, PSD)


def _sdp_nsd_variable() -> Case:
    X = cp.Variable((3, 3), NSD=True, name="X")
    A = cp.Parameter((3, 3), symmetric=True, name="A")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - A)))

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        G = rng.standard_normal((3, 3))
        return [G + G.T]

    return Case(problem, [A], [X], draw, PSD)


def _attributes() -> Case:
    D, t = cp.Variable((3, 3), diag=True, name="D"), cp.Variable(nonpos=True, name="t")
    diagonal, sparse = (
        cp.Parameter((3, 3), diag=True, name="diagonal"),
        cp.Parameter((3, 3), sparsity=[(0, 1, 2), (1, 2, 0)], name="sparse"),
    )
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(D - diagonal - sparse) + cp.square(t - 1) + cp.sum_squares(sparse @ cp.diag(D))),
        [cp.trace(D) + t == 1],
    )

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        S = np.zeros((3, 3))
        S[[0, 1, 2], [1, 2, 0]] = rng.standard_normal(3)
        return [np.diag(rng.standard_normal(3)), S]

    return Case(problem, [diagonal, sparse], [D, t], draw)


def _scalars_and_constants() -> Case:
    x, y = cp.Variable(name="x"), cp.Variable((2, 2), name="y")
    p = cp.Parameter(name="p")
    problem = cp.Problem(
        cp.Minimize(cp.square(x - p) + cp.sum_squares(y - 1) + 3 * cp.sum(y) + 7),
        [x >= 0.1, y[0, 0] == p, cp.sum(y) >= x],
    )
    return Case(problem, [p], [x, y], lambda rng: [np.array(rng.uniform(0.5, 1))])


EXP = ("CLARABEL", "SCS", "ECOS")
POWER = ("CLARABEL", "SCS")


def _exp_logistic_regression() -> Case:
    w, b = cp.Variable(3, name="w"), cp.Variable(name="b")
    X, lam = cp.Parameter((12, 3), name="X"), cp.Parameter(nonneg=True, name="lam")
    labels = np.where(np.arange(12) % 2 == 0, 1.0, -1.0)
    loss = cp.sum(cp.logistic(cp.multiply(-labels, X @ w + b)))
    problem = cp.Problem(cp.Minimize(loss + lam * cp.sum_squares(w)))
    return Case(problem, [X, lam], [w, b], lambda rng: [rng.standard_normal((12, 3)), np.array(0.5)], EXP)


def _exp_sparse_logistic_regression() -> Case:
    w = cp.Variable(4, name="w")
    X, lam = cp.Parameter((12, 4), name="X"), cp.Parameter(nonneg=True, name="lam")
    labels = np.where(np.arange(12) % 2 == 0, 1.0, -1.0)
    loss = cp.sum(cp.logistic(cp.multiply(-labels, X @ w)))
    problem = cp.Problem(cp.Minimize(loss + lam * cp.norm1(w)))
    return Case(
        problem, [X, lam], [w], lambda rng: [rng.standard_normal((12, 4)) + 0.5 * labels[:, None], np.array(2.0)], EXP
    )


def _exp_entropy_maximization() -> Case:
    p = cp.Variable(5, name="p")
    A, b = cp.Parameter((2, 5), name="A"), cp.Parameter(2, name="b")
    moments, total = A @ p == b, cp.sum(p) == 1
    problem = cp.Problem(cp.Maximize(cp.sum(cp.entr(p))), [moments, total])

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        A = rng.standard_normal((2, 5))
        return [A, A @ rng.dirichlet(np.full(5, 3.0))]

    return Case(problem, [A, b], [p, dual(moments), dual(total)], draw, EXP)


def _exp_log_sum_exp() -> Case:
    x = cp.Variable(3, name="x")
    A, b = cp.Parameter((6, 3), name="A"), cp.Parameter(6, name="b")
    problem = cp.Problem(cp.Minimize(cp.log_sum_exp(A @ x + b) + 0.1 * cp.sum_squares(x)))
    return Case(problem, [A, b], [x], lambda rng: [rng.standard_normal((6, 3)), rng.standard_normal(6)], EXP)


def _exp_kl_projection() -> Case:
    p = cp.Variable(4, name="p")
    q, c = cp.Parameter(4, pos=True, name="q"), cp.Parameter(4, name="c")
    problem = cp.Problem(cp.Minimize(cp.sum(cp.kl_div(p, q)) + c @ p), [cp.sum(p) == 1])

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        return [rng.uniform(0.5, 1.5, 4), rng.standard_normal(4)]

    return Case(problem, [q, c], [p], draw, EXP)


def _exp_cone_itself() -> Case:
    x = cp.Variable((2, 3), name="x")
    a = cp.Parameter((2, 3), name="a")
    cone = cp.ExpCone(x[:, 0], x[:, 1], x[:, 2])
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [cone])
    outputs = [x, dual(cone, 0), dual(cone, 1), dual(cone, 2)]
    return Case(problem, [a], outputs, lambda rng: [rng.standard_normal((2, 3))], EXP)


def _exp_log_det() -> Case:
    X = cp.Variable((3, 3), PSD=True, name="X")
    S = cp.Parameter((3, 3), symmetric=True, name="S")
    problem = cp.Problem(cp.Minimize(cp.trace(S @ X) - cp.log_det(X)))

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        G = rng.standard_normal((3, 3))
        return [G @ G.T + np.eye(3)]

    return Case(problem, [S], [X], draw, POWER)


def _power_geometric_mean() -> Case:
    x = cp.Variable(3, name="x")
    c, b = cp.Parameter(3, pos=True, name="c"), cp.Parameter(name="b", pos=True)
    mean = cp.geo_mean(x, [0.2, 0.5, 0.3], approx=False)
    problem = cp.Problem(cp.Maximize(mean), [c @ x <= b])
    return Case(problem, [c, b], [x], lambda rng: [rng.uniform(0.5, 1.5, 3), np.array(rng.uniform(1, 2))], POWER)


def _power_norm() -> Case:
    x = cp.Variable(4, name="x")
    a, r = cp.Parameter(4, name="a"), cp.Parameter(name="r", pos=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [cp.pnorm(x, 3, approx=False) <= r])
    return Case(problem, [a, r], [x], lambda rng: [2 * rng.standard_normal(4), np.array(rng.uniform(0.5, 1))], POWER)


def _power_norm_by_second_order_cones() -> Case:
    x = cp.Variable(4, name="x")
    a = cp.Parameter(4, name="a")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a) + cp.pnorm(x, 3)))
    return Case(problem, [a], [x], lambda rng: [2 * rng.standard_normal(4)])


def _power_cone_itself() -> Case:
    x = cp.Variable((2, 3), name="x")
    a = cp.Parameter((2, 3), name="a")
    cone = cp.PowCone3D(x[:, 0], x[:, 1], x[:, 2], np.array([0.3, 0.6]))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [cone])
    outputs = [x, dual(cone, 0), dual(cone, 1), dual(cone, 2)]
    return Case(problem, [a], outputs, lambda rng: [rng.standard_normal((2, 3)) + np.array([0, 0, 2])], POWER)


def _power_cone_of_many_factors() -> Case:
    W, z = cp.Variable((4, 2), name="W"), cp.Variable(2, name="z")
    a = cp.Parameter((4, 2), name="a")
    alpha = np.array([[0.1, 0.4], [0.2, 0.3], [0.3, 0.2], [0.4, 0.1]])
    cone = cp.PowConeND(W, z, alpha, axis=0)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(W - a) - 2 * cp.sum(z)), [cone])
    outputs = [W, z, dual(cone, 0), dual(cone, 1)]
    return Case(problem, [a], outputs, lambda rng: [rng.uniform(0.5, 1.5, (4, 2))], POWER)


def _gp_box() -> Case:
    # The box of largest volume with bounded wall and floor area and aspect ratios (Boyd et al., 2007).
    h, w, d = (cp.Variable(pos=True, name=n) for n in "hwd")
    wall, floor, ratio = (cp.Parameter(pos=True, name=n) for n in ("wall", "floor", "ratio"))
    walls = 2 * (h * w + h * d) <= wall
    problem = cp.Problem(cp.Maximize(h * w * d), [walls, w * d <= floor, h <= ratio * w, d <= ratio * w])

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        return [np.array(rng.uniform(90, 110)), np.array(rng.uniform(9, 11)), np.array(rng.uniform(1.8, 2.2))]

    return Case(problem, [wall, floor, ratio], [h, w, d, dual(walls)], draw, gp=True)


def _gp_posynomial() -> Case:
    x = cp.Variable(3, pos=True, name="x")
    a, b = cp.Parameter(3, pos=True, name="a"), cp.Parameter(pos=True, name="b")
    objective = cp.sum(cp.multiply(a, x)) + b / (x[0] * x[1] * x[2])
    problem = cp.Problem(cp.Minimize(objective), [x[0] * x[1] <= 0.5])
    return Case(problem, [a, b], [x], lambda rng: [rng.uniform(0.5, 1.5, 3), np.array(rng.uniform(0.5, 1.5))], gp=True)


ZOO: dict[str, Callable[[], Case]] = {
    name[1:]: function
    for name, function in list(globals().items())
    if name.startswith("_") and callable(function) and getattr(function, "__module__", None) == __name__
}
