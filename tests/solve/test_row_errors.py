"""SOLVED means that every row holds, whatever the numbers of the other rows: one loose bound must not hide a violated constraint.

Each problem is solved with a bound x₀ ≤ u that is never active. Nothing of the answer depends on u. Right values: vertices by HiGHS, active
sets by enumeration, closed forms, and the same problem without the bound, which cvxpy solves too.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import jax
import mpmath
import numpy as np
import pytest
import torch
from double_precision import double_precision
from scipy.optimize import linprog

import conelayers.jax
import conelayers.torch
from conelayers import Layer, SolveError, Status

WITH_INFINITY = False  # ±inf as a bound has its own tests
LOOSE = [1e3, 1e8, 1e10, 1e14, 1e20] + [np.inf] * WITH_INFINITY
BATCH = 8
SOLVERS = ("CLARABEL", "SCS", "ECOS")
CLOSE = 1e-8  # of x and of gradients, which are of size 1


@dataclass(frozen=True)
class Case:
    """A problem with parameters (*data, b, u), the variable x and the bound x₀ ≤ u; ``right`` solves it without the bound."""

    problem: cp.Problem
    parameters: list[cp.Parameter]
    x: cp.Variable
    draw: Callable[[np.random.Generator], list[np.ndarray]]
    bounded: bool = True

    def layer(self, kind: type = Layer, **options: Any) -> Any:
        return kind(self.problem, self.parameters, [self.x], **options)

    def stacked(self, seed: int, batch: int = BATCH) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [np.stack(v) for v in zip(*(self.draw(rng) for _ in range(batch)), strict=True)]


def _case(
    n: int, rows: int, objective: Callable, constraints: Callable = lambda x: [], *, bounded: bool = True
) -> Case:
    """minimize objective(x, c) subject to A x ≤ b, x₀ ≤ u and the constraints; A x ≤ b cuts off the origin's neighbourhood at 0.2 to 1."""
    x, c = cp.Variable(n, name="x"), cp.Parameter(n, name="c")
    A, b, u = cp.Parameter((rows, n), name="A"), cp.Parameter(rows, name="b"), cp.Parameter(name="u")
    held = [A @ x <= b, *constraints(x)] + ([x[0] <= u] if bounded else [])
    problem = cp.Problem(cp.Minimize(objective(x, c)), held)

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        return [rng.standard_normal(n), rng.standard_normal((rows, n)), rng.uniform(0.2, 1, rows)]

    return Case(problem, [c, A, b] + [u] * bounded, x, draw, bounded)


def linear(n: int, **o: Any) -> Case:
    return _case(n, 3, lambda x, c: c @ x, lambda x: [x >= -1, x <= 1], **o)


def quadratic(n: int, **o: Any) -> Case:
    return _case(n, 3, lambda x, c: 0.5 * cp.sum_squares(x - 2 * c), **o)


def second_order(n: int, **o: Any) -> Case:
    return _case(n, 2, lambda x, c: c @ x, lambda x: [cp.norm(x) <= 1], **o)


def exponential(n: int, **o: Any) -> Case:
    return _case(n, 2, lambda x, c: cp.sum(cp.exp(x)) + cp.sum(cp.exp(-x)) + 3 * c @ x, **o)


def logistic(n: int, **o: Any) -> Case:
    M = np.random.default_rng(7).standard_normal((3 * n, n))
    return _case(n, 2, lambda x, c: cp.sum(cp.logistic(M @ x)) + 2 * c @ x + 0.1 * cp.sum_squares(x), **o)


def semidefinite(n: int, **o: Any) -> Case:
    F = [G + G.T for G in np.random.default_rng(8).standard_normal((n, 3, 3))]
    return _case(
        n, 2, lambda x, c: c @ x, lambda x: [sum(x[i] * F[i] for i in range(n)) << np.eye(3), cp.norm(x) <= 3], **o
    )


KINDS = {f.__name__: f for f in (linear, quadratic, second_order, exponential, logistic, semidefinite)}
TAKEN = [(kind, None, n) for kind in KINDS for n in (2, 3, 4)] + [
    (kind, solver, 3) for kind in KINDS for solver in SOLVERS if (kind, solver) != ("semidefinite", "ECOS")
]


def unhindered(layer: Any, *values: np.ndarray) -> Any:
    """Solve whatever becomes of it: which instances are not SOLVED is what the tests tell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return layer.solve(*values, on_failure="nan")


def statuses(solution: Any) -> str:
    counts = {s: solution.status.count(s) for s in dict.fromkeys(solution.status)}
    return ", ".join(f"{k} {s.value}" for s, k in counts.items())


def off(ours: np.ndarray, right: np.ndarray) -> np.ndarray:
    """For each instance, the largest error relative to the largest entry, but at least 1."""
    ours, right = (h.reshape(len(h), -1) for h in (ours, right))
    return np.abs(ours - right).max(axis=1) / np.maximum(1.0, np.abs(right).max(axis=1))


def reference(kind: str, n: int, seed: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """The data, x, a cotangent g and the gradient of ⟨g, x⟩ in b of the problems without the bound, x as cvxpy finds it."""
    case = KINDS[kind](n, bounded=False)
    data = case.stacked(seed)
    solution = case.layer().solve(*data)
    g = np.random.default_rng(seed + 1).standard_normal(solution.variables[0].shape)
    for i in range(BATCH):
        for parameter, value in zip(case.parameters, data, strict=True):
            parameter.value = value[i]
        case.problem.solve(solver=cp.CLARABEL)
        np.testing.assert_allclose(solution.variables[0][i], case.x.value, atol=2e-4)
    return data, solution.variables[0], g, solution.vjp(g)[2]


@pytest.mark.parametrize(("kind", "solver", "n"), TAKEN)
def test_the_answer_does_not_depend_on_a_loose_bound(kind: str, solver: str | None, n: int) -> None:
    """Residuals over the largest b of the instance call a point SOLVED that violates every other row."""
    data, x, g, gradient = reference(kind, n, n)
    layer = KINDS[kind](n).layer(solver=solver)
    wrong = []
    for u in LOOSE:
        solution = unhindered(layer, *data, np.full(BATCH, u))
        if set(solution.status) != {Status.SOLVED}:
            wrong.append(f"u = {u:g}: {statuses(solution)}")
            continue
        found = solution.vjp(g)
        errors = off(solution.variables[0], x).max(), off(found[2], gradient).max(), np.abs(found[3]).max()
        if max(errors) > CLOSE:
            wrong.append(f"u = {u:g}: x, db and du off by {', '.join(f'{e:.1e}' for e in errors)}")
    assert not wrong, "; ".join(wrong)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("u", LOOSE)
def test_vertices_are_those_of_highs(u: float, n: int) -> None:
    """min cᵀx, −1 ≤ x ≤ 1, Ax ≤ b: at a vertex A_B x = b_B, and the gradient of gᵀx in b is A_B⁻ᵀ g."""
    count, case = 40, linear(n)
    c, A, b = case.stacked(n, count)
    g = np.random.default_rng(0).standard_normal((count, n))
    solution = unhindered(case.layer(), c, A, b, np.full(count, u))
    assert set(solution.status) == {Status.SOLVED}, statuses(solution)
    gradient = solution.vjp(g)[2]
    for i in range(count):
        G, h = np.vstack([A[i], np.eye(n), -np.eye(n)]), np.concatenate([b[i], np.ones(2 * n)])
        found = linprog(c[i], A_ub=G, b_ub=h, bounds=(None, None), method="highs-ds")
        active = np.flatnonzero(h - G @ found.x < 1e-9)
        assert active.size == n
        right = np.zeros(h.size)
        right[active] = np.linalg.solve(G[active].T, g[i])
        np.testing.assert_allclose(solution.variables[0][i], np.linalg.solve(G[active], h[active]), atol=CLOSE)
        np.testing.assert_allclose(gradient[i], right[:3], atol=CLOSE * max(1, np.abs(right).max()))


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("u", LOOSE)
def test_projections_onto_polyhedra_by_enumeration(u: float, n: int) -> None:
    """½‖x − t‖², Ax ≤ b: of all sets of active rows one fits."""
    count, case = 20, quadratic(n)
    c, A, b = case.stacked(n, count)
    solution = unhindered(case.layer(), c, A, b, np.full(count, u))
    assert set(solution.status) == {Status.SOLVED}, statuses(solution)
    for i in range(count):
        np.testing.assert_allclose(solution.variables[0][i], _projection(2 * c[i], A[i], b[i]), atol=CLOSE)


def _projection(t: np.ndarray, A: np.ndarray, b: np.ndarray) -> np.ndarray:
    for size in range(len(b) + 1):
        for rows in map(list, itertools.combinations(range(len(b)), size)):
            if size > t.size:
                continue
            y = np.linalg.solve(A[rows] @ A[rows].T, A[rows] @ t - b[rows])
            x = t - A[rows].T @ y
            if (y >= -1e-12).all() and (A @ x <= b + 1e-9).all():
                return x
    raise AssertionError("no set of active rows fits")


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("u", LOOSE)
def test_logistic_regression_in_sixty_digits(u: float, n: int) -> None:
    """Σ log(1 + exp(mᵢᵀx)) + ½‖x‖², x₀ ≤ u: Newton's method in mpmath."""
    M = np.random.default_rng(n).standard_normal((3 * n, n)) + 0.5
    x, p, bound = cp.Variable(n), cp.Parameter((3 * n, n)), cp.Parameter()
    objective = cp.sum(cp.logistic(p @ x)) + 0.5 * cp.sum_squares(x)
    layer = Layer(cp.Problem(cp.Minimize(objective), [x[0] <= bound]), [p, bound], [x])
    solution = unhindered(layer, M[None], np.array([u]))
    assert solution.status == (Status.SOLVED,), statuses(solution)
    with mpmath.workdps(60):
        rows, z = mpmath.matrix(M.tolist()), mpmath.matrix(n, 1)
        for _ in range(30):
            sigma = [1 / (1 + mpmath.exp(-h)) for h in rows * z]
            weights = mpmath.diag([h * (1 - h) for h in sigma])
            z = z - mpmath.lu_solve(rows.T * weights * rows + mpmath.eye(n), rows.T * mpmath.matrix(sigma) + z)
        right = np.array([float(h) for h in z])
    np.testing.assert_allclose(solution.variables[0][0], right, atol=1e-10)


@pytest.mark.parametrize("kind", ["linear", "quadratic", "second_order"])
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_the_same_through_the_frameworks(framework: str, kind: str) -> None:
    """What the engine sets aside, the adapters hand on: u as a tensor of the batch, its gradient zero."""
    data, x, g, gradient = reference(kind, 3, 5)
    case, wrong = KINDS[kind](3), []
    for u in LOOSE:
        bound = np.full(BATCH, u)
        try:
            if framework == "torch":
                layer = case.layer(conelayers.torch.ConeLayer)
                tensors = [torch.tensor(h, requires_grad=True) for h in (*data, bound)]
                (ours,) = layer(*tensors)
                ours.backward(torch.tensor(g))
                ours, db, du = ours.detach().numpy(), tensors[2].grad.numpy(), tensors[3].grad.numpy()
            else:
                layer = case.layer(conelayers.jax.ConeLayer)
                with double_precision():
                    ours, pull = jax.vjp(
                        jax.jit(lambda *values, layer=layer: layer(*values)[0]), *map(jax.numpy.asarray, (*data, bound))
                    )
                    _, _, db, du = map(np.asarray, pull(jax.numpy.asarray(g)))
        except (SolveError, UserWarning, RuntimeError) as error:
            wrong.append(f"u = {u:g}: {error!r:.100}")
            continue
        errors = off(np.asarray(ours), x).max(), off(db, gradient).max(), np.abs(du).max()
        if max(errors) > CLOSE:
            wrong.append(f"u = {u:g}: x, db and du off by {', '.join(f'{e:.1e}' for e in errors)}")
    assert not wrong, "; ".join(wrong)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("unit", [1e-10, 1e6, 1e10, 1e14])
@pytest.mark.parametrize("kind", ["linear", "quadratic"])
def test_a_variable_in_other_units(kind: str, unit: float, n: int) -> None:
    """x₀ = z/unit: the bound on z is 1e10, and the row that holds it is not the only one that counts."""
    case = KINDS[kind](n, bounded=False)
    c, A, b = case.stacked(n)
    right = case.layer().solve(c, A, b).variables[0]
    z, p, q, B, h = cp.Variable(n), cp.Parameter(n), cp.Parameter(n), cp.Parameter((3, n)), cp.Parameter(3)
    scale = np.concatenate([[unit], np.ones(n - 1)])
    if kind == "linear":
        problem = cp.Problem(cp.Minimize(p @ z + q @ z), [B @ z <= h, z >= -scale, z <= scale])
        values = c / scale, np.zeros_like(c)
    else:
        problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(cp.multiply(1 / scale, z) - p) + q @ z), [B @ z <= h])
        values = 2 * c, np.zeros_like(c)
    solution = unhindered(Layer(problem, [p, q, B, h], [z]), *values, A / scale, b)
    assert set(solution.status) == {Status.SOLVED}, statuses(solution)
    np.testing.assert_allclose(solution.variables[0] / scale, right, atol=CLOSE)


@pytest.mark.parametrize("solver", [None, *SOLVERS])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_huber_with_a_loose_bound(n: int, solver: str | None) -> None:
    """For one unknown and ones, the root of Σ clip(w − yᵢ, ±M) = 0, piecewise linear; for more, w does not depend on u."""
    rng = np.random.default_rng(n)
    X = np.ones((7, 1)) if n == 1 else rng.standard_normal((7, n))
    w, y, u = cp.Variable(n), cp.Parameter(7), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.sum(cp.huber(X @ w - y, 0.5))), [w[0] <= u])
    value = 2 * rng.standard_normal(7)
    bounds = np.array([*LOOSE, 1e12])
    solution = unhindered(Layer(problem, [y, u], [w], solver=solver), np.tile(value, (bounds.size, 1)), bounds)
    assert set(solution.status) == {Status.SOLVED}, statuses(solution)
    if n == 1:
        low, high = value.min(), value.max()
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (low, middle) if np.clip(middle - value, -0.5, 0.5).sum() > 0 else (middle, high)
        right = np.array([low])
    else:
        right = Layer(cp.Problem(problem.objective), [y], [w]).solve(value).variables[0]
    np.testing.assert_allclose(solution.variables[0], np.tile(right, (bounds.size, 1)), atol=CLOSE)


@pytest.mark.parametrize("u", LOOSE)
@pytest.mark.parametrize("solver", [None, *SOLVERS])
@pytest.mark.parametrize("kind", ["linear", "second_order", "exponential"])
def test_infeasible_problems_are_told_as_such(kind: str, solver: str | None, u: float) -> None:
    """Two rows that contradict each other by 0.4: beside a b of 1e10 that is not rounding."""
    n, case = 3, KINDS[kind](3)
    c, A, b = case.stacked(3, 4)
    A[:, 1], b[:, 1] = -A[:, 0], -b[:, 0] - 0.4
    solution = unhindered(case.layer(solver=solver), c, A, b, np.full(4, u))
    assert set(solution.status) == {Status.PRIMAL_INFEASIBLE}, f"n = {n}: {statuses(solution)}"


SOFT = [
    (form, n, penalty)
    for form in ("ℓ₁, linear", "ℓ₁, quadratic", "squares, quadratic", "contradictory", "norm")
    for n, penalty in ((2, 1e6), (3, 1e8), (4, 1e8))
]


@pytest.mark.filterwarnings("ignore::conelayers.ZeroDerivativeWarning")
@pytest.mark.parametrize(("form", "n", "penalty"), SOFT)
def test_soft_constraints_with_large_penalties(form: str, n: int, penalty: float) -> None:
    """A penalty beyond the multiplier holds the constraints exactly; squares by a shift of size 1/ρ; of contradictory ones
    that with the larger weight.
    """
    rng = np.random.default_rng(n)
    t, A, b = rng.standard_normal(n) * 2, rng.standard_normal((3, n)), rng.uniform(0.2, 1, 3)
    x, slack, rho = cp.Variable(n), cp.Variable(3), cp.Parameter(nonneg=True)
    box = [x >= -1, x <= 1]
    soft = [A @ x <= b + slack, slack >= 0]
    if form == "ℓ₁, linear":
        problem = cp.Problem(cp.Minimize(t @ x + rho * cp.sum(slack)), [*box, *soft])
        right = linprog(t, A_ub=A, b_ub=b, bounds=(-1, 1), method="highs-ds").x
    elif form == "ℓ₁, quadratic":
        problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - t) + rho * cp.sum(slack)), soft)
        right = _projection(t, A, b)
    elif form == "squares, quadratic":
        a, excess = A[0], abs(A[0] @ t) - 0.1
        problem = cp.Problem(
            cp.Minimize(0.5 * cp.sum_squares(x - t) + rho / 2 * cp.square(cp.pos(cp.abs(a @ x) - 0.1)))
        )
        right = t - a * np.sign(a @ t) * excess * penalty / (1 + penalty * (a @ a))
    elif form == "contradictory":
        # x₀ ≤ −0.2 and x₀ ≥ 0.3 with weights 1 and 2: the second holds.
        problem = cp.Problem(cp.Minimize(t @ x + rho * (cp.pos(x[0] + 0.2) + 2 * cp.pos(0.3 - x[0]))), box)
        right = np.concatenate([[0.3], -np.sign(t[1:])])
    else:
        problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - t) + rho * cp.norm(cp.pos(A @ x - b))))
        right = _projection(t, A, b)
    solution = unhindered(Layer(problem, [rho], [x]), np.array([penalty]))
    assert solution.status == (Status.SOLVED,), statuses(solution)
    np.testing.assert_allclose(solution.variables[0][0], right, atol=CLOSE)
    assert math.isfinite(float(solution.vjp(np.ones((1, n)))[0][0]))
