"""Lasso-type models: every derivative against differences of polished solutions, the kinks from both sides, verdicts, criteria."""

import dataclasses
import importlib.util
import warnings

import cvxpy as cp
import mpmath as mp
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso as SklearnLasso
from sklearn.linear_model import lars_path
from sklearn.model_selection import GroupKFold, KFold, cross_val_score
from sklearn.svm import SVC

from conelayers import InaccurateSolutionWarning, Layer, SingularDerivativeWarning, Verdict
from conelayers.lasso import (
    CrossValidation,
    ElasticNet,
    GroupLasso,
    HoldOut,
    Lasso,
    LinearSVM,
    LogisticError,
    SparseLogistic,
    SquaredError,
    SquaredHinge,
    WeightedLasso,
    best_on_grid,
    solve,
    tune,
)

GROUPS = np.arange(24) // 3
MODELS = {
    "lasso": Lasso(),
    "elastic net": ElasticNet(),
    "weighted": WeightedLasso(),
    "groups": GroupLasso(GROUPS),
    "a level a group": GroupLasso(GROUPS, per_group=True),
    "logistic": SparseLogistic(),
    "machine": LinearSVM(),
}
CLASSIFIERS = ("logistic", "machine")


def made(n=60, p=24, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) + 0.5 * rng.standard_normal((n, 1)) + 1
    y = X @ np.where(np.arange(p) % 3 == 0, rng.standard_normal(p), 0) + 0.5 * rng.standard_normal(n) + 3
    return X, y


def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return X / X.std(axis=0), y / y.std()


def problem_of(name, n=60, intercept=True):
    X, y = made(n)
    return MODELS[name].problem(X, 1.0 * (y > np.median(y)) if name in CLASSIFIERS else y, fit_intercept=intercept)


def somewhere(problem):
    rng = np.random.default_rng(1)
    m = problem.hyperparameters
    largest = problem.largest
    base = largest[np.isfinite(largest)].max() - 2.0 if np.isfinite(largest).any() else -3.0
    return base + 0.3 * rng.standard_normal(m)


def point(solution):
    return np.append(solution.coef, solution.intercept)


# -- derivatives ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("n", [60, 16])  # more samples than features, and fewer
@pytest.mark.parametrize("name", MODELS)
def test_derivatives_are_those_of_the_polished_solution(name, n, intercept):
    problem = problem_of(name, n, intercept)
    theta = somewhere(problem)
    solution = problem.solve(theta)
    assert solution.converged
    assert solution.residual < 1e-12
    assert solution.certify().verdict is Verdict.CLASSICAL
    rng = np.random.default_rng(2)
    direction, bar = rng.standard_normal(theta.size), rng.standard_normal(solution.coef.size)
    # Differences of fourth order; the kinks are farther away than their steps.
    h = min(1e-3, 0.02 * solution.certify().margin / problem_scale(problem))
    ahead = {k: point(problem.solve(theta + k * h * direction, solution)) for k in (-2, -1, 1, 2)}
    difference = (8 * (ahead[1] - ahead[-1]) - (ahead[2] - ahead[-2])) / (12 * h)
    dw, dc = solution.jvp(direction)
    size = np.abs(difference).max()
    np.testing.assert_allclose(np.append(dw, dc), difference, atol=1e-8 * size + 1e-13 / h, rtol=0)
    np.testing.assert_allclose(solution.jacobian() @ direction, dw, atol=1e-12 * size)
    np.testing.assert_allclose(solution.vjp(bar, 0.7) @ direction, bar @ dw + 0.7 * dc, rtol=1e-9, atol=1e-12)


def problem_scale(problem):
    return problem.fit.scale if hasattr(problem, "fit") else 1.0


def test_the_lasso_has_its_closed_form():
    X, y = made()
    lam = 0.1
    solution = solve(Lasso(), X, y, np.log(lam), fit_intercept=False)
    S = solution.support
    closed = np.zeros(X.shape[1])
    closed[S] = -len(y) * lam * np.linalg.solve(X[:, S].T @ X[:, S], np.sign(solution.coef[S]))
    np.testing.assert_allclose(solution.jvp(np.ones(1))[0], closed, rtol=1e-10, atol=1e-14)


def test_solutions_are_those_of_the_known_solvers():
    X, y = made()
    lasso = SklearnLasso(alpha=0.1, tol=1e-12, max_iter=100_000).fit(X, y)
    ours = solve(Lasso(), X, y, np.log(0.1))
    np.testing.assert_allclose(ours.coef, lasso.coef_, atol=1e-7)
    np.testing.assert_allclose(ours.intercept, lasso.intercept_, atol=1e-6)
    labels = 1.0 * (y > np.median(y))
    machine = SVC(kernel="linear", C=0.3, tol=1e-10).fit(X, labels)
    ours = solve(LinearSVM(), X, labels, np.log(0.3))
    np.testing.assert_allclose(point(ours), np.append(machine.coef_[0], machine.intercept_), atol=1e-5)


def test_groups_agree_with_cvxpy():
    X, y = made()
    w, c = cp.Variable(24), cp.Variable()
    penalty = sum(np.sqrt(3) * cp.norm(w[3 * g : 3 * g + 3]) for g in range(8))
    cp.Problem(cp.Minimize(cp.sum_squares(y - X @ w - c) / (2 * len(y)) + 0.2 * penalty)).solve(solver="CLARABEL")
    np.testing.assert_allclose(solve(GroupLasso(GROUPS), X, y, np.log(0.2)).coef, w.value, atol=1e-4)


@pytest.mark.parametrize("name", ["lasso", "elastic net", "weighted", "groups", "logistic", "machine"])
def test_a_far_warm_start_leads_to_the_same_solution(name):
    # The whole path in one jump: the support has to be built and taken down by the polish, or the solver asked again.
    problem = problem_of(name)
    theta = somewhere(problem)
    cold = problem.solve(theta)
    for shift in (1.5, -4.0):
        warm = problem.solve(theta, problem.solve(theta + shift))
        assert warm.converged
        np.testing.assert_allclose(point(warm), point(cold), atol=1e-9)


@pytest.mark.parametrize("shape", [(20, 60), (40, 400)])
def test_weak_penalties_of_many_features(shape):
    # scikit-learn's guess has more active features than samples there: the polish has to take them down to a support with one solution.
    rng = np.random.default_rng(0)
    X = rng.standard_normal(shape)
    y = X[:, :4].sum(axis=1) + 0.1 * rng.standard_normal(shape[0])
    lasso, groups = Lasso().problem(X, y), GroupLasso(np.arange(shape[1])).problem(X, y)
    for depth in (2.0, 5.0, 8.0):
        theta = lasso.largest - depth
        ours = lasso.solve(theta)
        assert ours.converged
        assert ours.certify().verdict is Verdict.CLASSICAL
        as_groups = groups.solve(theta)  # of one feature each: the same problem by another penalty
        np.testing.assert_allclose(as_groups.coef, ours.coef, atol=1e-10)
        np.testing.assert_allclose(as_groups.jvp(np.ones(1))[0], ours.jvp(np.ones(1))[0], atol=1e-9)


@pytest.mark.parametrize("name", ["lasso", "elastic net", "weighted", "groups", "logistic"])
@pytest.mark.parametrize("size", [1e-20, 1e-6, 1e6, 1e20])
def test_units_of_the_features_do_not_matter(name, size):
    X, y = made()
    y = 1.0 * (y > np.median(y)) if name in CLASSIFIERS else y
    theta = somewhere(problem_of(name))
    plain = MODELS[name].problem(X, y).solve(theta)
    powers = np.array([1.0, 2.0]) if name == "elastic net" else 1.0
    scaled = MODELS[name].problem(size * X, y).solve(theta + powers * np.log(size))
    assert scaled.converged
    np.testing.assert_allclose(size * scaled.coef, plain.coef, atol=1e-10)
    direction = np.ones(theta.size)
    np.testing.assert_allclose(size * scaled.jvp(direction)[0], plain.jvp(direction)[0], atol=1e-9)
    assert scaled.certify().verdict is plain.certify().verdict


@pytest.mark.parametrize("intercept", [True, False])
def test_machine_with_every_sample_twice(intercept):
    X, y = made(200, 5)
    y = 1.0 * (y > np.median(y))
    twice = solve(LinearSVM(), np.vstack([X, X]), np.append(y, y), np.log(0.5), fit_intercept=intercept)
    assert twice.converged
    np.testing.assert_allclose(twice.coef, solve(LinearSVM(), X, y, 0.0, fit_intercept=intercept).coef, atol=1e-10)
    assert not twice.certify().justified


def test_machine_from_anywhere():
    # Steps of the active-set method are counted: it went round in circles where C rose while no sample was on the margin.
    problem = problem_of("machine")
    cold = problem.solve(-3.0)
    for shift in (-6.0, -4.0, -2.0, 2.0, 5.0):
        conditions = problem.solve(-3.0 + shift).conditions
        machine = dataclasses.replace(conditions, C=np.exp(-3.0))
        start = np.exp(-shift) * conditions.multipliers
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("conelayers.lasso.svm._REPAIRS", 200)
            found = problem._polished(machine.C, conditions.point, start, conditions.free, conditions.full)
        assert found.residual < 1e-12
        np.testing.assert_allclose(found.point, point(cold), atol=1e-9)


def test_machine_on_unscaled_data_comes_to_an_end():
    # libsvm alone would take minutes to hours on these.
    rng = np.random.default_rng(0)
    X = 1e4 * rng.standard_normal((50, 5))
    y = 1.0 * (X[:, 0] + 8e3 * rng.standard_normal(50) > 0)
    solution = solve(LinearSVM(), X, y, 0.0)
    assert solution.converged
    np.testing.assert_allclose(solution.coef, solve(LinearSVM(), 1e-4 * X, y, np.log(1e8)).coef * 1e-4, rtol=1e-6)


def test_a_solve_that_stops_short_says_so(monkeypatch):
    X, y = made()
    monkeypatch.setattr("conelayers.lasso.polish._ACCEPTED", -1.0)
    with pytest.warns(InaccurateSolutionWarning, match="KKT residual .* raise the penalty"):
        assert not solve(Lasso(), X, y, -2.0).converged


# -- kinks and verdicts ----------------------------------------------------------------------------------------------------------


def one_sided(problem, theta, side, h=1e-5):
    # A difference of third order to one side, from solutions that all lie on it.
    values = [point(problem.solve(theta + side * k * h)) for k in range(4)]
    return side * (-11 * values[0] + 18 * values[1] - 9 * values[2] + 2 * values[3]) / (6 * h)


def test_lasso_at_the_kinks_of_its_path():
    # At each knot of the LARS path one feature enters or leaves: both sides' derivatives are elements, and all of them are invertible.
    X, y = diabetes()
    problem = Lasso().problem(X, y)
    knots = lars_path(X - X.mean(axis=0), y - y.mean(), method="lasso")[0]
    for knot in knots[:8]:
        theta = np.log([knot])
        solution = problem.solve(theta)
        certificate = solution.certify()
        assert certificate.verdict is Verdict.CERTIFIED
        assert certificate.kinks.size == 1
        assert certificate.margin < certificate.kink_tolerance < 1e-11
        np.testing.assert_array_equal(np.union1d(certificate.support, certificate.kinks), certificate.extended)
        low, high = (np.append(*solution.jvp(np.ones(1), side)) for side in ("low", "high"))
        sides = [one_sided(problem, theta, side) for side in (1, -1)]
        # Features enter as λ falls on these knots: "high" has them active.
        np.testing.assert_allclose(low, sides[0], atol=1e-6)
        np.testing.assert_allclose(high, sides[1], atol=1e-6)
        E = certificate.extended
        Z = X[:, E] - X[:, E].mean(axis=0)
        closed = -len(y) * knot * np.linalg.solve(Z.T @ Z, np.sign(Z.T @ (y - solution.predict(X))))
        np.testing.assert_allclose(high[E], closed, rtol=1e-9)


@pytest.mark.parametrize("name", ["groups", "logistic", "elastic net", "weighted"])
def test_where_the_first_coordinate_enters(name):
    problem = problem_of(name)
    theta = np.full(problem.hyperparameters, problem.largest[np.isfinite(problem.largest)].max())
    if name == "elastic net":
        theta[1] = -3.0
    solution = problem.solve(theta)
    certificate = solution.certify()
    assert certificate.verdict is Verdict.CERTIFIED
    assert not solution.support.size
    assert certificate.kinks.size == (3 if name == "groups" else 1)
    np.testing.assert_allclose(solution.jvp(np.ones(theta.size), "low")[0], 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        high = np.append(*solution.jvp(np.ones(theta.size), "high"))
    # A group turns as it grows, so that its differences are not exact; the others' are piecewise smooth.
    np.testing.assert_allclose(high, one_sided(problem, theta, -1), atol=1e-5 * np.abs(high).max())


def kink_of(problem, C):
    # Between kinks multipliers and slacks are affine in C: the next C at which a free multiplier reaches 0 or C, or another slack 0.
    here, back = (problem.solve(np.log([c])).conditions for c in (C, C * (1 - 1e-4)))
    a, slack = here.multipliers[here.free], (1 - here.samples.Z @ here.point)[~here.free]
    da = (a - back.multipliers[here.free]) / (here.C - back.C)
    dslack = (slack - (1 - back.samples.Z @ back.point)[~here.free]) / (here.C - back.C)
    reach = np.concatenate([(C - a) / (da - 1), -a / da, -slack / dslack])
    return C + reach[reach > 0].min()


def test_machine_at_a_kink():
    X, y = made()
    problem = LinearSVM().problem(X, 1.0 * (y > np.median(y)))
    kink = kink_of(problem, 0.02)
    kink = kink_of(problem, kink * (1 - 2e-4))  # from next to it, to rounding
    solution = problem.solve(np.log([kink]))
    certificate = solution.certify()
    assert certificate.kinks.size == 1
    assert certificate.verdict is Verdict.CERTIFIED
    assert certificate.item == "sample"
    sides = [one_sided(problem, np.log([kink]), side, 1e-6) for side in (1, -1)]
    elements = [np.append(*solution.jvp(np.ones(1), side)) for side in ("low", "high")]
    assert np.abs(sides[0] - sides[1]).max() > 1e-2 * np.abs(sides[0]).max()
    for side in sides:
        assert min(np.abs(side - element).max() for element in elements) < 1e-6 * np.abs(side).max()


def test_duplicate_features_are_named():
    X, y = diabetes()
    X = np.column_stack([X, X[:, 2]])
    names = [f"column {j}" for j in range(11)]
    problem = Lasso().problem(X, y)
    solution = problem.solve([np.log(0.05)])
    # Whatever the solver does with the two, move the weight to the first, or to both.
    z = solution.conditions.z
    total = z[2] + z[10]
    for share, verdict in ((1.0, Verdict.UNCERTIFIED), (0.5, Verdict.LEAST_SQUARES)):
        z = z.copy()
        z[2], z[10] = share * total, (1 - share) * total
        start = dataclasses.replace(solution, conditions=dataclasses.replace(solution.conditions, z=z))
        moved = problem.solve([np.log(0.05)], start)
        certificate = moved.certify(names)
        assert certificate.verdict is verdict
        assert not certificate.justified
        assert certificate.blamed == ("column 2", "column 10")
        assert "column 2, column 10" in str(certificate)
        assert "ridge" in certificate.advice
        assert certificate.smallest_singular_value < 1e-12
    with pytest.warns(SingularDerivativeWarning, match="linearly dependent"):
        dw = moved.jvp(np.ones(1))[0]
    # The predictions are determined all the same.
    single = solve(Lasso(), X[:, :10], y, np.log(0.05)).jvp(np.ones(1))[0]
    np.testing.assert_allclose(X @ dw, X[:, :10] @ single, atol=1e-9)


def test_a_ridge_certifies_duplicates():
    X, y = diabetes()
    certificate = solve(ElasticNet(), np.column_stack([X, X[:, 2]]), y, np.log([0.05, 0.1])).certify()
    assert certificate.verdict is Verdict.CLASSICAL
    assert certificate.smallest_singular_value > 0.1


def test_nothing_is_certified_where_it_did_not_converge():
    solution = problem_of("lasso").solve([np.log(0.1)])
    certificate = dataclasses.replace(solution, converged=False).certify()
    assert certificate.verdict is Verdict.UNCERTIFIED
    assert "did not converge" in str(certificate)


# -- the cone layer --------------------------------------------------------------------------------------------------------------


def cone_layers(X, y):
    # The models as convex programs, with λ as parameters: θ's entries are their logarithms.
    n, p = X.shape
    w = cp.Variable(p)
    fit, lam, mu, levels = cp.sum_squares(X @ w - y) / (2 * n), *(cp.Parameter(s, nonneg=True) for s in ((), (), p))
    yield Lasso(), Layer(cp.Problem(cp.Minimize(fit + lam * cp.norm1(w))), [lam], [w])
    elastic = fit + lam * cp.norm1(w) + mu * cp.sum_squares(w) / 2
    yield ElasticNet(), Layer(cp.Problem(cp.Minimize(elastic)), [lam, mu], [w])
    yield WeightedLasso(), Layer(cp.Problem(cp.Minimize(fit + levels @ cp.abs(w))), [levels], [w])


@pytest.mark.parametrize("which", range(3), ids=["lasso", "elastic net", "weighted"])
def test_the_cone_layer_gives_the_same_hypergradient(which):
    X, y = diabetes()
    X, y = X - X.mean(axis=0), y - y.mean()
    X_train, y_train, X_val, y_val = X[:300], y[:300], X[300:], y[300:]
    model, layer = list(cone_layers(X_train, y_train))[which]
    criterion = HoldOut(model, X_train, y_train, X_val, y_val, fit_intercept=False)
    shares = np.linspace(0.5, 2.0, criterion.hyperparameters)
    for level in (0.3, 0.1, 0.03, 0.01, 0.001):
        values = level * shares
        ours = criterion.evaluate(np.log(values))
        assert ours.justified
        solution = layer.solve(*(values if which < 2 else [values]))
        (coef,) = solution.variables
        slopes = np.hstack(solution.vjp(2 * X_val.T @ (X_val @ coef - y_val) / len(y_val)))
        np.testing.assert_allclose(ours.solutions[0].coef, coef, atol=1e-9)
        np.testing.assert_allclose(ours.gradient, values * slopes, rtol=1e-8, atol=1e-10)


# -- criteria and descent --------------------------------------------------------------------------------------------------------


def criteria():
    X, y = made()
    labels = 1.0 * (y > np.median(y))
    yield HoldOut(Lasso(), X[:40], y[:40], X[40:], y[40:])
    yield CrossValidation(ElasticNet(), X, y, cv=3, fit_intercept=False)
    yield CrossValidation(WeightedLasso(), X, y, cv=3)
    yield CrossValidation(GroupLasso(GROUPS, per_group=True), X, y, cv=3)
    yield CrossValidation(SparseLogistic(), X, labels, LogisticError(), cv=3)
    yield CrossValidation(LinearSVM(), X, labels, SquaredHinge(), cv=3)
    yield HoldOut(LinearSVM(), X[:40], labels[:40], X[40:], labels[40:], LogisticError())


@pytest.mark.parametrize("criterion", list(criteria()), ids=lambda c: f"{type(c).__name__} {type(c.model).__name__}")
def test_hypergradients(criterion):
    theta = somewhere(criterion)
    here = criterion.evaluate(theta)
    assert here.converged
    assert here.justified
    direction, h = np.random.default_rng(3).standard_normal(theta.size), 1e-6
    ahead, behind = (criterion.evaluate(theta + s * h * direction, here).value for s in (1, -1))
    np.testing.assert_allclose(here.gradient @ direction, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-8)


def test_cross_validation_is_scikit_learns():
    X, y = diabetes()
    folds = KFold(4, shuffle=True, random_state=0)
    ours = CrossValidation(Lasso(), X, y, cv=folds).evaluate([np.log(0.02)])
    theirs = -cross_val_score(SklearnLasso(0.02, tol=1e-10), X, y, cv=folds, scoring="neg_mean_squared_error")
    np.testing.assert_allclose(ours.folds, theirs, rtol=1e-6)
    np.testing.assert_allclose(ours.value, theirs.mean(), rtol=1e-6)


@pytest.mark.parametrize("method", ["lbfgs", "gradient"])
def test_descent_finds_the_minimum_that_a_fine_grid_finds(method):
    X, y = diabetes()
    criterion = CrossValidation(Lasso(), X, y)
    grid = np.linspace(-7, -4, 151)
    fine = best_on_grid(criterion, grid)
    tuning = tune(criterion, fine.log_hyperparameters + 0.3, method=method, tolerance=1e-7)
    assert tuning.converged, tuning.reason
    assert tuning.value <= fine.value + 1e-9
    assert tuning.value < fine.value + 1e-6
    best = [r.value for r in tuning.history if r.best]
    assert best == sorted(best, reverse=True)
    assert min(best) == tuning.value
    assert "evaluations" in str(tuning)


def test_a_hundred_hyperparameters_lower_the_error_that_one_can_reach():
    X, y = made(90, 120, seed=4)
    criterion = HoldOut(WeightedLasso(), X[:60], y[:60], X[60:], y[60:])
    levels = np.linspace(criterion.largest.max(), criterion.largest.max() - 5, 20)
    shared = best_on_grid(criterion, [np.full(120, level) for level in levels])
    tuning = tune(criterion, shared, steps=40)
    assert tuning.value < 0.7 * shared.value
    assert tuning.best.gradient.shape == (120,)


def test_descent_speaks(capsys):
    criterion = HoldOut(Lasso(), *made(), *made(seed=5))
    tune(criterion, -2.0, steps=2, verbose=True)
    assert "evaluation   1   criterion" in capsys.readouterr().out
    with_bounds = tune(criterion, -2.0, steps=5, bounds=(-2.5, -1.5))
    assert -2.5 <= with_bounds.log_hyperparameters[0] <= -1.5


# -- solvers, and errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["celer", "skglm"])
def test_optional_solvers(solver):
    X, y = made()
    if importlib.util.find_spec(solver) is None:
        with pytest.raises(ImportError, match=f"pip install {solver}"):
            Lasso().problem(X, y, solver=solver)
        return
    ours = solve(Lasso(), X, y, np.log(0.1), solver=solver)
    np.testing.assert_allclose(ours.coef, solve(Lasso(), X, y, np.log(0.1)).coef, atol=1e-10)


X, Y = made()
HOLD_OUT = HoldOut(Lasso(), X, Y, X, Y)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: solve(Lasso(), X[0], Y, 0.0), r"X: got shape \(24,\), expected \(n, p\)"),
        (lambda: solve(Lasso(), X, Y[:5], 0.0), r"y: got shape \(5,\), expected \(60,\)"),
        (lambda: solve(Lasso(), X * np.nan, Y, 0.0), "X: got NaN or infinite"),
        (lambda: solve(Lasso(), X, Y, [0.0, 0.0]), r"log_hyperparameters: got shape \(2,\), expected \(1,\)"),
        (lambda: solve(Lasso(), X, Y, -np.inf), "log_hyperparameters: got -inf, expected finite"),
        (lambda: solve(Lasso(), X, Y, 0.0, solver="saga"), "solver: got 'saga', expected one of 'scikit-learn'"),
        (lambda: solve(LinearSVM(), X, Y > 0, 0.0, solver="celer"), "solver: got 'celer'"),
        (lambda: solve(SparseLogistic(), X, Y, 0.0), "y: got the values .* expected both of two labels"),
        (lambda: GroupLasso(np.array([0, 2])), "groups: got .* integers from 0 with none left out"),
        (lambda: solve(GroupLasso(GROUPS[:6]), X, Y, 0.0), "groups: got 6 entries, expected 24"),
        (lambda: solve(Lasso(), X, Y, 0.0).jvp(np.ones(2)), r"direction: got shape \(2,\), expected \(1,\)"),
        (lambda: solve(Lasso(), X, Y, 0.0).vjp(np.ones(2)), r"coef_bar: got shape \(2,\), expected \(24,\)"),
        (
            lambda: solve(Lasso(), X, Y, 0.0).jvp(np.ones(1), "left"),
            "side: got 'left', expected one of 'own', 'low', 'high'",
        ),
        (
            lambda: Lasso().problem(X, Y).solve(0.0, solve(Lasso(), X[:, :3], Y, 0.0)),
            "start: got a solution with 4 coordinates, expected 25",
        ),
        (lambda: HoldOut(Lasso(), X, Y, X[:, :3], Y).evaluate([0.0]), "X_val: got 3 columns, expected 24"),
        (lambda: tune(HOLD_OUT, 0.0, method="newton"), "method: got 'newton', expected one of 'lbfgs', 'gradient'"),
        (lambda: tune(HOLD_OUT, 0.0, steps=0), "steps: got 0, expected a positive integer"),
        (lambda: tune(HOLD_OUT, 0.0, tolerance=-1), "tolerance: got -1, expected a positive number"),
        (lambda: tune(HOLD_OUT, 0.0, bounds=(1.0, 2.0)), r"bounds: got \(1.0, 2.0\) for a start at \[0.\]"),
        (lambda: best_on_grid(HOLD_OUT, []), "grid: got no point"),
        (lambda: tune(HOLD_OUT, 0.0, tolerance="small"), "tolerance: got 'small', expected a positive number"),
        (
            lambda: solve(Lasso(), csr_matrix(X), Y, 0.0),
            r"X: got a sparse matrix, expected a dense array; .toarray\(\)",
        ),
        (lambda: HoldOut(Lasso(), X, Y, csr_matrix(X), Y).evaluate([0.0]), "X_val: got a sparse matrix"),
        (lambda: solve(Lasso(), X * 1j, Y, 0.0), "X: got entries of type complex128, expected real numbers"),
        (lambda: solve(Lasso(), X, Y.astype(str), 0.0), "y: got entries of type <U.*, expected real numbers"),
        (lambda: solve(Lasso(), [[object()]], [1.0], 0.0), "X: got what is no array of real numbers"),
        (lambda: solve(Lasso(), X, Y[:, None], 0.0), r"y: got shape \(60, 1\), .* np.ravel"),
        (lambda: solve(Lasso(), X, Y * 1e70, 0.0), "y: got an entry of size .*, expected at most 1e[+]60; rescale it"),
        (lambda: solve(Lasso(), X, Y, 0.0, fit_intercept="no"), "fit_intercept: got 'no', expected True or False"),
        (
            lambda: HoldOut(SparseLogistic(), X, Y > 3, X, Y > 3).evaluate([0.0]),
            r"error: got SquaredError\(\) for SparseLogistic, a classifier, expected LogisticError",
        ),
        (
            lambda: HoldOut(SparseLogistic(), X, Y > 3, X, Y, LogisticError()).evaluate([0.0]),
            "y_val: got the values .* expected both of two labels",
        ),
        (
            lambda: CrossValidation(Lasso(), X, Y).evaluate([0.0], HOLD_OUT.evaluate([0.0])),
            "start: got an evaluation with 1 folds, expected 5",
        ),
        (lambda: CrossValidation(Lasso(), X, Y, cv=1).evaluate([0.0]), "cv: got 1, which does not split these data"),
        (
            lambda: CrossValidation(Lasso(), X, Y, cv=GroupKFold(3)).evaluate([0.0]),
            r"cv: .*splitter\.split\(X, y, groups",
        ),
        (lambda: CrossValidation(Lasso(), X, Y, cv=[]).evaluate([0.0]), "cv: got no split, .* pass a list"),
        (
            lambda: CrossValidation(Lasso(), X, Y, cv=[([0], [])]).evaluate([0.0]),
            "cv: got 1 rows to fit to and 0 to judge",
        ),
        (
            lambda: CrossValidation(Lasso(), X, Y, cv=[([0], [60])]).evaluate([0.0]),
            "cv: got indices in split 0 .* 0 to 59",
        ),
        (
            lambda: CrossValidation(SparseLogistic(), X, np.arange(60) > 29, LogisticError(), cv=KFold(2)).evaluate(
                [0.0]
            ),
            "cv: got one class only .* in split 0, expected both",
        ),
    ],
)
def test_errors_name_the_argument_and_the_fix(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_losses_agree_with_their_slopes():
    rng = np.random.default_rng(0)
    y, eta = np.sign(rng.standard_normal(20)), rng.standard_normal(20)
    for error in (SquaredError(), LogisticError(), SquaredHinge()):
        direction = rng.standard_normal(20)
        difference = (error.value(y, eta + 1e-6 * direction) - error.value(y, eta - 1e-6 * direction)) / 2e-6
        np.testing.assert_allclose(error.slope(y, eta) @ direction, difference, rtol=1e-7)


# -- nearly dependent features --------------------------------------------------------------------------------------------------


def exact_derivatives(X, y, solution, theta, intercept, ridge=0.0):
    """dw/dθ on the support in 60 digits, one column a hyperparameter of its own for each feature, and for μ; and whether the signs are right."""
    n, S = len(y), solution.support
    with mp.workdps(60):
        F, b = mp.matrix(X[:, S].tolist()), mp.matrix(y.tolist())
        if intercept:
            for j in range(F.cols):
                mean = mp.fsum(F[:, j]) / n
                for i in range(n):
                    F[i, j] -= mean
        s = [mp.sign(float(v)) for v in solution.coef[S]]
        lam = [mp.exp(mp.mpf(float(h))) for h in np.broadcast_to(theta, X.shape[1])[S]]
        G = F.T * F / n
        for j in range(F.cols):
            G[j, j] += mp.mpf(float(ridge))
        inverse = G**-1
        w = inverse * (F.T * b / n - mp.matrix([a * c for a, c in zip(lam, s, strict=True)]))
        moves = [[-inverse[i, j] * lam[j] * s[j] for j in range(F.cols)] for i in range(F.cols)]
        of_ridge = -mp.mpf(float(ridge)) * (inverse * w)
        right = all(mp.sign(a) == c for a, c in zip(w, s, strict=True))
    return np.array(moves, dtype=float), np.array(list(of_ridge), dtype=float), right


@pytest.mark.parametrize("noise", [1e-4, 1e-6, 1e-7, 1e-8, 1e-10, 1e-13, 0.0])
@pytest.mark.parametrize("name", ["lasso", "elastic net", "weighted", "groups"])
def test_hypergradients_of_nearly_dependent_features_keep_their_digits_or_say_that_they_have_none(name, noise):
    # LU of the Gram matrix had relative errors of 1e−3 at 1e−6, with the verdict "classical".
    for seed in range(3):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((40, 6)) + 1
        X[:, 1] = X[:, 0] + noise * rng.standard_normal(40)
        y, bar = X @ rng.standard_normal(6) + 0.1 * rng.standard_normal(40), rng.standard_normal(6)
        theta = np.full(6 if name == "weighted" else 1, np.log(1e-9))
        given = np.append(theta, np.log(1e-12)) if name == "elastic net" else theta
        model = GroupLasso(np.arange(6)) if name == "groups" else MODELS[name]
        for intercept in (True, False):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                solution = solve(model, X, y, given, fit_intercept=intercept)
                got, verdict = solution.vjp(bar), solution.certify().verdict
            if not verdict.justified:
                assert noise < 1e-9
                continue
            moves, of_ridge, right = exact_derivatives(
                X, y, solution, theta, intercept, 1e-12 if name == "elastic net" else 0
            )
            wanted = np.zeros(6)
            wanted[solution.support] = bar[solution.support] @ moves
            wanted = wanted if name == "weighted" else wanted.sum(keepdims=True)
            if name == "elastic net":
                wanted = np.append(wanted, bar[solution.support] @ of_ridge)
            assert right
            error = np.abs(got - wanted).max() / np.abs(wanted).max()
            # Of an elastic net without other information along x₁ − x₂ the solution itself, which ∂/∂log μ takes, has a few digits.
            assert error < (1e-2 if name == "elastic net" and noise < 1e-9 else max(1e-11, 1e-14 / max(noise, 1e-10)))


def test_hypergradients_of_logistic_models_with_nearly_dependent_features():
    for noise in (1e-3, 1e-5, 1e-6):
        rng = np.random.default_rng(0)
        X = rng.standard_normal((60, 4))
        X[:, 1] = X[:, 0] + noise * rng.standard_normal(60)
        y, bar = 1.0 * (X[:, 2] + rng.standard_normal(60) > 0), rng.standard_normal(4)
        solution = solve(SparseLogistic(), X, y, np.log(1e-9), fit_intercept=False)
        assert solution.certify().verdict is Verdict.CLASSICAL
        S, n = solution.support, len(y)
        with mp.workdps(60):
            eta = [
                mp.fsum(mp.mpf(a) * mp.mpf(b) for a, b in zip(row, solution.coef.tolist(), strict=True))
                for row in X.tolist()
            ]
            F = mp.matrix(X[:, S].tolist())
            weighted = mp.matrix(
                [[F[i, j] / (2 + mp.exp(eta[i]) + mp.exp(-eta[i])) / n for j in range(F.cols)] for i in range(n)]
            )
            moved = mp.lu_solve(F.T * weighted, mp.matrix(bar[S].tolist()))
            wanted = -mp.mpf(np.exp(np.log(1e-9))) * mp.fsum(
                m * mp.sign(float(c)) for m, c in zip(moved, solution.coef[S], strict=True)
            )
        assert abs(solution.vjp(bar)[0] / float(wanted) - 1) < 1e-15 / noise + 1e-11
