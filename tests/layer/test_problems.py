"""``backward`` and ``derivative`` of cvxpy problems: cvxpy's own answers where these are right, differences elsewhere."""

from __future__ import annotations

import warnings

import cvxpy as cp
import lifting_cases as cases
import numpy as np
import pytest
import scipy.sparse as sp

from conelayers import LPGD, SingularDerivativeError, SolveError, Verdict, backward, derivative


def least_squares():
    rng = np.random.default_rng(0)
    A, b = cp.Parameter((5, 3), name="A"), cp.Parameter(5, name="b")
    x, y = cp.Variable(3, name="x"), cp.Variable(name="y")
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(A @ x + y - b) + 0.1 * cp.sum_squares(x)), [x >= 0, cp.norm(x) <= 1]
    )
    A.value = rng.normal(size=(5, 3))
    b.value = A.value @ np.array([0.5, 0.3, 0.0]) + 0.1 * rng.normal(size=5)
    return problem, {"x": x, "y": y, "A": A, "b": b}


def geometric():
    x, y = cp.Variable(pos=True), cp.Variable(pos=True)
    a, b = cp.Parameter(pos=True), cp.Parameter(pos=True)
    problem = cp.Problem(cp.Minimize(a * x + y / x + 1 / y), [x * y >= b, x <= 2 * a])
    a.value, b.value = 1.5, 0.7
    return problem, {}


@pytest.mark.parametrize(("make", "gp"), [(least_squares, False), (geometric, True)])
def test_what_is_filled_is_what_cvxpy_fills(make, gp: bool) -> None:
    problem, _ = make()
    rng = np.random.default_rng(1)
    variables, parameters = problem.variables(), problem.parameters()
    for v in variables:
        v.gradient = rng.normal(size=v.shape)
    for p in parameters:
        p.delta = rng.normal(size=p.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem.solve(requires_grad=True, gp=gp, eps=1e-11)
        problem.backward()
        problem.derivative()
    theirs = [np.asarray(p.gradient) for p in parameters], [np.asarray(v.delta) for v in variables]
    backward(problem, gp=gp)
    derivative(problem, gp=gp)
    for ours, expected in zip([p.gradient for p in parameters], theirs[0], strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    for ours, expected in zip([v.delta for v in variables], theirs[1], strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_the_defaults_are_ones_and_zeros_and_values_may_change() -> None:
    problem, leaves = least_squares()
    solution = backward(problem)
    np.testing.assert_allclose(leaves["A"].gradient, solution.vjp(np.ones(3), np.ones(()))[0])
    first = leaves["A"].gradient
    leaves["A"].delta = np.ones((5, 3))
    derivative(problem)
    np.testing.assert_allclose(leaves["x"].delta, solution.jvp(np.ones((5, 3)), None)[0])
    assert isinstance(leaves["y"].delta, float)
    leaves["A"].value = 0.5 * leaves["A"].value + np.ones((5, 3))
    backward(problem)
    assert not np.allclose(leaves["A"].gradient, first)


@pytest.mark.parametrize(
    "make",
    [cases.semidefinite, cases.risk_limit, cases.exponential_utility, cases.complex_projection, cases.density_matrix],
    ids=lambda make: make.__name__,
)
def test_every_cone_parameters_anywhere_and_complex_values(make) -> None:
    problem, parameters, _, values = make(np.random.default_rng(2))
    for p, v in zip(parameters, values, strict=True):
        p.value = v
    rng = np.random.default_rng(3)
    direction = [rng.normal(size=np.shape(v)) * (1 + 0j if np.iscomplexobj(v) else 1) for v in values]
    for i, p in enumerate(parameters):
        if any(p.attributes[a] for a in ("symmetric", "PSD", "hermitian")):
            direction[i] = (direction[i] + direction[i].conj().T) / 2
        p.delta = direction[i]
    solution = backward(problem)
    assert solution.certify()[0].verdict is Verdict.CLASSICAL
    slope = sum(float(np.real(np.vdot(p.gradient, d))) for p, d in zip(parameters, direction, strict=True))

    def total(t: float) -> float:
        for p, v, d in zip(parameters, values, direction, strict=True):
            p.value = v + t * d
        return sum(float(np.real(h).sum()) for h in backward(problem).variables)

    h = 1e-6
    assert slope == pytest.approx((total(h) - total(-h)) / (2 * h), rel=1e-5, abs=1e-6)
    total(0.0)
    derivative(problem)
    assert sum(float(np.real(v.delta).sum()) for v in problem.variables()) == pytest.approx(slope, rel=1e-9, abs=1e-9)


def test_options_are_the_layers() -> None:
    x, c = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(c @ x), [x >= 0, cp.sum(x) == 1])
    c.value = np.array([1.0, 2.0])
    x.gradient = np.array([1.0, 0.0])
    backward(problem, solver="SCS", smoothing=LPGD(tau=5.0))
    assert np.all(np.isfinite(c.gradient))
    flat = cp.Problem(cp.Minimize(cp.norm_inf(x - c)), [x[0] + x[1] == c[0]])
    c.value = np.zeros(2)
    with pytest.raises(SingularDerivativeError):
        backward(flat, singular="raise")


def test_sparse_parameters_without_a_warning() -> None:
    A, x = cp.Parameter((2, 2), sparsity=([0, 1], [1, 0])), cp.Variable(2)
    A.value_sparse = sp.coo_array((np.array([1.0, 2.0]), ([0, 1], [1, 0])), shape=(2, 2))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - 1) + cp.sum_squares(x)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backward(problem)
    expected = [0.0, (1 - 1) / 4, (1 - 4) / 25, 0.0]  # a/(1 + a²), differentiated, column by column
    np.testing.assert_allclose(np.ravel(A.gradient.toarray()), [0.0, expected[1], expected[2], 0.0], atol=1e-12)


def test_errors() -> None:
    problem, leaves = least_squares()
    leaves["x"].gradient = np.ones(3)
    leaves["b"].value = None
    with pytest.raises(ValueError, match="the parameters b have no value"):
        backward(problem)
    with pytest.raises(TypeError, match=r"problem: got int, expected a cvxpy\.Problem"):
        backward(3)
    x, p = cp.Variable(), cp.Parameter()
    infeasible = cp.Problem(cp.Minimize(x), [x >= p, x <= p - 1])
    p.value = 0.0
    with pytest.raises(SolveError):
        backward(infeasible)
