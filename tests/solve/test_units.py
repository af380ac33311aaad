"""A change of units changes nothing but the units: solutions, gradients, verdicts, blame and warnings.

First inputs at which tolerances that were absolute, or relative to the wrong thing, gave wrong answers without a word, with their right ones
in closed form; then the property itself, on thousands of planted programs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import cvxpy as cp
import numpy as np
import pytest
from three_frameworks import Through, across
from unit_changes import AT_KINKS, CHANGES, FAMILIES, INFEASIBLE, PLANTS, Units, UnitSpec, plant, run, told

from conelayers import (
    Cones,
    Layer,
    SingularDerivativeError,
    SingularDerivativeWarning,
    SolveError,
    Status,
    Verdict,
    solve_and_differentiate,
)
from conelayers.numerics.cones import Selection
from conelayers.program.names import Names

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")

SCALES = [1e-8, 1e-5, 1.0, 1e3, 1e5, 1e6, 1e8]
UNJUSTIFIED = (Verdict.LEAST_SQUARES, Verdict.UNCERTIFIED)


# -- solutions that are not unique -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", SCALES)
@pytest.mark.parametrize(
    ("cones", "n"), [(Cones(nonneg=1), 2), (Cones(nonneg=1), 5), (Cones(soc=(2,)), 2), (Cones(psd=(2,)), 3)]
)
def test_a_sum_is_determined_and_its_terms_are_not(cones: Cones, n: int, K: float) -> None:
    """½(K Σxᵢ)² − K Σxᵢ beside an inactive K x₀ ≤ 1000: null vectors are not of size max(1, …), whatever K."""
    m = cones.dimension
    A, b = np.zeros((m, n)), np.zeros(m)
    A[0, 0], b[0] = K, 1e3
    b[-1] = 1e3 if cones.psd else b[-1]
    P, q = K**2 * np.ones((n, n)), np.full(n, -K)
    solution = solve_and_differentiate(P, q, A, b, cones)
    (certificate,) = solution.certify()
    assert solution.status is Status.SOLVED
    assert K * solution.x.sum() == pytest.approx(1, rel=1e-9)
    assert certificate.verdict is Verdict.LEAST_SQUARES
    assert certificate.second_order is False
    assert certificate.nullity == n - 1
    assert certificate.variables == Names.of_rows(n, m).columns(np.ones(n))
    with pytest.warns(SingularDerivativeWarning) as told_of:
        solution.vjp(np.eye(n)[0])
    assert f"not unique along {certificate.variables[0]}" in str(told_of[0].message)
    with pytest.raises(SingularDerivativeError):
        solve_and_differentiate(P, q, A, b, cones, singular="raise").vjp(np.eye(n)[0])


@pytest.mark.parametrize(("framework", "K"), across(SCALES))
def test_the_same_of_a_problem(framework: str, K: float) -> None:
    """The warning holds the certificate: it must not say that this is the derivative."""
    x, p = cp.Variable(2, name="x"), cp.Parameter(name="p")
    problem = cp.Problem(cp.Minimize(0.5 * cp.square(K * cp.sum(x)) - p * K * cp.sum(x)), [K * x[0] <= 1e3])
    through = Through(framework, problem, [p], x)
    (certificate,) = through.certify(1.0)
    assert certificate.verdict is Verdict.LEAST_SQUARES
    assert certificate.variables == ("x at [0], [1]",)
    with pytest.warns(SingularDerivativeWarning) as told_of:
        through.vjp([1.0, 0.0], 1.0)
    assert all("classical: " not in str(w.message) for w in told_of)


@pytest.mark.parametrize(
    ("framework", "K", "size", "points"),
    across(SCALES, (1, 2), ((1.0, 2.0, 3.0, 4.0), (-2.0, -1.0, 0.5, 0.7, 5.0, 6.0))),
)
def test_the_median_of_an_even_number_of_points(framework: str, K: float, size: int, points: tuple[float, ...]) -> None:
    """Σ |K x − K aᵢ|: every x between the two in the middle is a minimizer. cvxpy's epigraph variables grow with K, x does not."""
    x, a = cp.Variable(size, name="x"), cp.Parameter(len(points), name="a")
    problem = cp.Problem(cp.Minimize(sum(cp.norm1(K * x[i] - K * a) for i in range(size))))
    layer = Through(framework, problem, [a], x)
    (certificate,) = layer.certify(np.array(points))
    assert certificate.status is Status.SOLVED
    assert certificate.verdict in UNJUSTIFIED
    assert certificate.second_order is False
    assert any(name.startswith("x") for name in certificate.variables)
    middle = sorted(points)[len(points) // 2 - 1 : len(points) // 2 + 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularDerivativeWarning)
        found = layer.vjp(np.ones(size), np.array(points))[0]
    assert (found >= middle[0] - 1e-9).all()
    assert (found <= middle[1] + 1e-9).all()


@pytest.mark.parametrize(("framework", "K", "size"), across(SCALES, (1, 3)))
def test_a_plateau_between_a_kink_and_a_bound(framework: str, K: float, size: int) -> None:
    """|K(x − c)| − K(x − c) with x ≤ 1 is 0 on [c, 1]: no derivative, and not one without a word."""
    x, c = cp.Variable(size, name="x"), cp.Parameter(size, name="c")
    problem = cp.Problem(cp.Minimize(cp.sum(cp.abs(K * (x - c)) - K * (x - c))), [x <= 1])
    value = np.linspace(0.3, 0.5, size)
    layer = Through(framework, problem, [c], x, singular="raise")
    (certificate,) = layer.certify(value)
    assert certificate.verdict in UNJUSTIFIED
    assert certificate.second_order is False
    if certificate.verdict is Verdict.LEAST_SQUARES:
        with pytest.raises((SingularDerivativeError, RuntimeError)):  # JAX wraps what a callback raises
            layer.jvp([value], [np.ones(size)])


# -- blocks of different weights ---------------------------------------------------------------------------------------------------------

WEIGHED = {
    "exponential": (lambda z, w: w @ cp.exp(z) - 2 * w @ z, lambda n: np.full(n, math.log(2))),
    "reciprocal": (lambda z, w: w @ cp.inv_pos(z) + w @ z / 4, lambda n: np.full(n, 2.0)),
    "norms": (
        lambda z, w: sum(w[i] * cp.norm(cp.hstack([1.0, z[i] - i])) for i in range(z.size)) + w @ z / 2,
        lambda n: np.arange(n) - 1 / math.sqrt(3),
    ),
    "logistic": (lambda z, w: w @ cp.logistic(z) - w @ z / 3, lambda n: np.full(n, -math.log(2))),
}


@pytest.mark.parametrize(
    ("framework", "kind", "weights"),
    across(WEIGHED, ((1.0, 1e-6), (1e-3, 1.0, 1e-6), (1.0, 1e-8), (1e6, 1.0), (1e4, 1e-4, 1.0, 1e-2))),
)
def test_weights_of_separable_terms_do_not_matter(framework: str, kind: str, weights: tuple[float, ...]) -> None:
    """No progress below 1e−9 of the largest block is none of rounding: the others have not arrived. ∂z/∂w = 0, in units of 1/w."""
    n, (objective, solution) = len(weights), WEIGHED[kind]
    z, w = cp.Variable(n, name="z"), cp.Parameter(n, nonneg=True, name="w")
    layer = Through(framework, cp.Problem(cp.Minimize(objective(z, w))), [w], z)
    jacobian = []
    for i in range(n):
        found, (dw,) = layer.vjp(np.eye(n)[i], np.array(weights))
        np.testing.assert_allclose(found, solution(n), rtol=1e-8)
        jacobian.append(dw * np.array(weights))
    np.testing.assert_allclose(jacobian, 0, atol=1e-7)
    assert layer.certify(np.array(weights)).verdicts == (Verdict.CLASSICAL,)


# -- the mean element --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framework", "k", "copies", "selection"), across((0.25, 2.0, 32.0, 1e3, 1e6), (1, 3), ("low", "high", "mid"))
)
def test_the_mean_element_is_that_of_its_own_constraint(framework: str, k: float, copies: int, selection: str) -> None:
    """½x² − cx, x ≤ 0 at c = 0 beside ½z² − kz, z ≤ 1, which has nothing to do with it."""
    x, z, c = cp.Variable(name="x"), cp.Variable(copies), cp.Parameter(name="c")
    slope = {"low": 1.0, "high": 0.0, "mid": 0.5}[selection]
    objective = 0.5 * cp.square(x) - c * x + 0.5 * cp.sum_squares(z) - k * cp.sum(z)
    layer = Through(framework, cp.Problem(cp.Minimize(objective), [x <= 0, z <= 1]), [c], x, selection=selection)
    found, (dc,) = layer.vjp(1.0, 0.0)
    assert float(found) == pytest.approx(0, abs=1e-12)
    assert float(dc) == pytest.approx(slope, abs=1e-9)
    assert float(layer.jvp([0.0], [1.0])) == pytest.approx(slope, abs=1e-9)


# -- bounded problems --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framework", "eigenvalues"),
    across(((1, 1e-3, 1e-6), (1, 1e-4), (1, 1e-2, 1e-4, 1e-6), (1, 1e-4, 1e-8), (1e4, 1, 1e-4))),
)
def test_log_det_of_an_ill_conditioned_matrix(framework: str, eigenvalues: tuple[float, ...]) -> None:
    """tr(MX) − log det X has the minimum n + log det M at X = M⁻¹: that is large, and no ray."""
    n = len(eigenvalues)
    Q = np.linalg.qr(np.random.default_rng(n).standard_normal((n, n)))[0]
    M = (Q * np.array(eigenvalues)) @ Q.T
    M = (M + M.T) / 2
    X, p = cp.Variable((n, n), symmetric=True, name="X"), cp.Parameter((n, n), symmetric=True, name="M")
    layer = Through(framework, cp.Problem(cp.Minimize(cp.trace(p @ X) - cp.log_det(X))), [p], X)
    condition = max(eigenvalues) / min(eigenvalues)
    # At 1e8 the Jacobian is as good as singular, and a warning says so where a derivative is asked for.
    found = layer.vjp(np.eye(n) if condition < 1e7 else np.zeros((n, n)), M)[0]
    value = np.trace(M @ found) - np.linalg.slogdet(found)[1]
    assert value == pytest.approx(n + float(np.sum(np.log(eigenvalues))), abs=1e-6)
    right = (Q / np.array(eigenvalues)) @ Q.T
    np.testing.assert_allclose(found, right, atol=max(1e-9, 1e-14 * condition) * np.abs(right).max())


GROWING = {
    "root": (
        lambda x, a: a @ x - cp.sum(cp.sqrt(x)),
        lambda a: 1 / (4 * a**2),
        lambda a: -1 / (4 * a),
        lambda a: -1 / (2 * a**3),
    ),
    "power": (
        lambda x, a: cp.sum(cp.power(x, 1.5)) / 1.5 - a @ x,
        lambda a: a**2,
        lambda a: -(a**3) / 3,
        lambda a: 2 * a,
    ),
    "logarithm": (
        lambda x, a: a @ x - cp.sum(cp.log(x)),
        lambda a: 1 / a,
        lambda a: 1 + np.log(a),
        lambda a: -1 / a**2,
    ),
}


@pytest.mark.parametrize(
    ("framework", "rates", "kind"),
    [
        *across(((1e-3,), (1e-3, 1.0), (1e-2, 1e2, 1.0)), GROWING),
        *across(((1e3,),), ("power", "logarithm")),
        *across(((1e-5,),), ("logarithm",)),
    ],
)
def test_what_grows_slowly_is_bounded(framework: str, rates: tuple[float, ...], kind: str) -> None:
    """a x − √x, x^1.5/1.5 − a x and a x − log x: x = 1/(4a²), a², 1/a. A point of size 1e6 is no certificate of unboundedness."""
    objective, solution, value, slope = GROWING[kind]
    a = np.array(rates)
    x, p = cp.Variable(a.size, name="x"), cp.Parameter(a.size, name="a")
    layer = Through(framework, cp.Problem(cp.Minimize(objective(x, p))), [p], x)
    found, (da,) = layer.vjp(np.ones(a.size), a)
    np.testing.assert_allclose(found, solution(a), rtol=1e-7)
    np.testing.assert_allclose(da, slope(a), rtol=1e-6)
    assert value(a).size == a.size
    if framework == "numpy":
        assert float(layer.layer.solve(a).value) == pytest.approx(float(value(a).sum()), rel=1e-9)


@pytest.mark.parametrize(("kind", "rate"), [("root", 1e-5), ("root", 3e-5), ("power", 1e-5)])
def test_digits_that_the_cone_cannot_hold_are_not_asked_for(kind: str, rate: float) -> None:
    """cvxpy writes √x ≥ t as ‖(x − 1, 2t)‖ ≤ x + 1: at x = 2.5e9 rounding of x leaves seven digits of the 1, and of the value, and no derivative."""
    objective, solution, value, _ = GROWING[kind]
    x, p = cp.Variable(1, name="x"), cp.Parameter(1, name="a")
    found = Layer(cp.Problem(cp.Minimize(objective(x, p))), [p], [x]).solve(np.array([rate]))
    np.testing.assert_allclose(found.variables[0], solution(np.array([rate])), rtol=1e-5)
    assert float(found.value) == pytest.approx(float(value(np.array([rate])).sum()), rel=1e-6)


@pytest.mark.parametrize("n", [2, 4, 6])
def test_infeasible_linear_programs_are_not_told_as_unbounded(n: int) -> None:
    """240 each, in all units: a bounded box, and two rows that contradict each other."""
    rng, count, rows = np.random.default_rng(n), 240, 2 * n + 3
    c, A = rng.standard_normal((count, n)), rng.standard_normal((count, 3, n))
    b = rng.uniform(0.2, 1, (count, 3))
    A[:, 1], b[:, 1] = -A[:, 0], -b[:, 0] - 10.0 ** rng.uniform(-3, 1, count)
    G = np.concatenate([A, np.broadcast_to(np.vstack([np.eye(n), -np.eye(n)]), (count, 2 * n, n))], axis=1)
    h = np.concatenate([b, np.ones((count, 2 * n))], axis=1)
    C, R = (10.0 ** rng.integers(-8, 9, (count, k)) for k in (n, rows))
    P, zero = np.zeros((count, n, n)), (np.zeros((count, n)), np.zeros((count, rows)), np.zeros((count, rows)))
    plain = run((P, c, G, h), Cones(nonneg=rows), zero, Selection.DEFAULT)
    assert set(plain.status) == {Status.PRIMAL_INFEASIBLE}
    changed = run((P, C * c, R[:, :, None] * G * C[:, None, :], R * h), Cones(nonneg=rows), zero, Selection.DEFAULT)
    assert set(changed.status) == {Status.PRIMAL_INFEASIBLE}


@pytest.mark.parametrize(
    ("framework", "gap", "kind", "warned"), across((1e-3, 1e-6, 1e-10), ("square", "exponential"), (False, True))
)
def test_an_empty_interval_however_short_is_infeasible(framework: str, gap: float, kind: str, warned: bool) -> None:
    """0 ≤ x ≤ −gap holds for no x, and a row whose numbers are of size 1e−10 is violated by all of them; also where the layer has spoken before."""
    x, u = cp.Variable(2 if framework == "numpy" else 1, name="x"), cp.Parameter(name="u")
    objective = cp.sum_squares(x - 1) if kind == "square" else cp.sum(cp.exp(x))
    layer = Through(framework, cp.Problem(cp.Minimize(objective), [x >= 0, x <= u]), [u], x)
    g = np.ones(x.shape)
    if warned:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SingularDerivativeWarning)
            layer.vjp(g, 0.0)  # feasible: the point 0, at which both bounds are active
    with pytest.raises((SolveError, RuntimeError)) as caught:
        layer.vjp(g, -gap)
    assert "primal infeasible" in str(caught.value) or "SolveError" in repr(caught.value)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_a_warning_is_once_for_ones_own_cause(scale: float) -> None:
    """A layer that has warned of rows that depend on each other warns of others that do, in whatever units."""
    x, A, b = cp.Variable(4, name="x"), cp.Parameter((3, 4), name="A"), cp.Parameter(3, name="b")
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x)), [A @ x == b]), [A, b], [x])
    independent = np.random.default_rng(0).standard_normal((2, 4))
    for rows in ((0, 0, 1), (0, 1, 0), (0, 1, 1)):
        solution = layer.solve(scale * independent[list(rows)], scale * np.ones(2)[list(rows)])
        with pytest.warns(SingularDerivativeWarning, match="linearly dependent"):
            solution.vjp(np.ones(4))


@pytest.mark.parametrize(
    ("framework", "far", "scale", "n", "kind"),
    [
        *across((3.0, 1e4), (1e-10, 1.0, 1e8), (3, 10), ("squares", "norm")),
        *across((1e8,), (1e-10, 1.0, 1e8), (3, 10), ("squares",)),  # ‖x − a‖ is known to 1e−8 of the radius there
    ],
)
def test_projections_onto_balls_of_any_size(framework: str, far: float, scale: float, n: int, kind: str) -> None:
    """x = r a/‖a‖, dx/dr = a/‖a‖ for ‖a‖ = far · r: exact to rounding is exact, and what warns of it (here: an error) is wrong."""
    direction = np.random.default_rng(n).standard_normal(n)
    x, a, r = cp.Variable(n, name="x"), cp.Parameter(n, name="a"), cp.Parameter(name="r", nonneg=True)
    distance = cp.sum_squares(x - a) if kind == "squares" else cp.norm(x - a)
    layer = Through(framework, cp.Problem(cp.Minimize(distance), [cp.norm(x) <= r]), [a, r], x)
    g, unit = np.ones(n), direction / np.linalg.norm(direction)
    found, (da, dr) = layer.vjp(g, far * scale * unit, scale)
    np.testing.assert_allclose(found, scale * unit, atol=1e-9 * scale)
    assert float(dr) == pytest.approx(float(g @ unit), abs=1e-8)
    np.testing.assert_allclose(far * da, g - (g @ unit) * unit, atol=1e-7)


@pytest.mark.parametrize("solver", ["CLARABEL", "SCS", "ECOS", None])
@pytest.mark.parametrize("limit", [10**12, 10**30])
@pytest.mark.parametrize("kind", ["linear", "second-order", "exponential"])
def test_an_iteration_limit_of_any_size(kind: str, limit: int, solver: str | None) -> None:
    """A limit beyond what a backend's integers hold is no limit, and no breakdown."""
    x, a = cp.Variable(2, name="x"), cp.Parameter(2, name="a")
    held = {"linear": x >= -1, "second-order": cp.norm(x) <= 2, "exponential": cp.sum(cp.exp(x)) <= 2}[kind]
    problem = cp.Problem(cp.Maximize(cp.sum(x)), [held, x <= a])
    layer = Layer(problem, [a], [x], solver=solver, solver_args={"max_iters": limit})
    np.testing.assert_allclose(layer.solve(np.array([0.2, -0.3])).variables[0], [0.2, -0.3], atol=1e-8)


# -- the property ------------------------------------------------------------------------------------------------------------------------

BATCH = 30
PLANTED = [(family, what) for family in FAMILIES for what in (*PLANTS, *INFEASIBLE) if FAMILIES[family].takes(what)]


def test_at_least_two_thousand_programs_are_drawn() -> None:
    assert BATCH * len(PLANTED) >= 2000


@pytest.mark.parametrize(("family", "what"), PLANTED)
def test_units_change_nothing_but_the_units(family: str, what: str) -> None:
    """A tolerance that is absolute, or relative to the largest number of the instance, makes another verdict, other names, a derivative of the
    wrong element, or a point where Newton stopped too early out of the same program in other units.
    """
    halves = ("low", "high") if what in AT_KINKS else ("default",)
    wrong = [
        fault
        for seed, selection in enumerate(halves)
        for fault in UnitSpec(FAMILIES[family], what, CHANGES, selection, BATCH // len(halves), seed).faults()
    ]
    # Degenerate and weakly active at once, a point is known to the root of rounding: one in a batch may be taken for another kind.
    few = 1 if what in ("weak and free", "weak and dependent") else 0
    assert sum(bool(faults) for _, faults in wrong) <= few, told(wrong)


@pytest.mark.parametrize("family", ["quadratic", "quadratic, rank 2", "second-order", "semidefinite"])
def test_the_default_element_at_a_kink_is_the_one_that_is_documented(family: str) -> None:
    """If the sign of a rounding error chose the element, another choice of units would have another gradient."""
    found = UnitSpec(FAMILIES[family], "kinked", CHANGES, "default", BATCH, 2).faults()
    wrong = [(change, faults - {"kinks"}) for change, faults in found]  # which are listed, the property tests
    assert not told(wrong), told(wrong)


def _changed_gradients(family: str, changes: Sequence[str], selection: Selection) -> np.ndarray:
    """How much the gradients of a batch with planted kinks change with the units, (B,), relative to their largest entry."""
    cones, n, rng = FAMILIES[family].cones, FAMILIES[family].n, np.random.default_rng(3)
    planted = plant(FAMILIES[family], "kinked", BATCH, rng)
    g = planted.cotangents(Selection.LOW, rng)
    gradients = []
    for some in (("none",), changes):
        units = Units.draw([some[i % len(some)] for i in range(BATCH)], cones, n, rng)
        C, R, omega = units.columns, units.rows, units.objective
        out = run(units.changed(planted), cones, (C * g[0], R * g[1] / omega, g[2] / R), selection)
        gradients.append(np.concatenate([omega * C * out.lam, R * out.mu], axis=1))
    return np.abs(gradients[1] - gradients[0]).max(axis=1) / np.abs(gradients[0]).max(axis=1)


@pytest.mark.parametrize("family", [family for family, what in PLANTED if what == "kinked" and family != "mixed"])
def test_the_default_element_does_not_depend_on_the_units(family: str) -> None:
    """The planted points of exponential and power cones are kinks up to rounding only: it must not decide."""
    error = _changed_gradients(family, CHANGES[1:], Selection.DEFAULT)
    assert (error <= 1e-9).all(), f"{(~(error <= 1e-9)).sum()} of {BATCH} differ"


@pytest.mark.parametrize("family", ["quadratic", "quadratic, rank 2", "second-order", "exponential"])
def test_the_mean_element_does_not_depend_on_the_units_of_the_columns(family: str) -> None:
    """Halfway between D_min and D_max is meant in the user's units of the rows: those of the equilibrated program change with the columns."""
    error = _changed_gradients(family, ("all columns", "each column"), Selection.MID)
    assert (error <= 1e-9).all(), f"{(~(error <= 1e-9)).sum()} of {BATCH} differ"
