"""Rows without a coefficient whose right-hand side is rounding, which no constraint of the user's is."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

from conelayers import Layer, SolveError


def test_a_geometric_program_whose_monomial_cancels() -> None:
    """c·x²·x⁻² == c is no constraint; log c − log c of a rounded product was one, and the program said to be infeasible."""
    x, c, value = cp.Variable(pos=True), cp.Parameter(pos=True, name="c"), cp.Parameter(pos=True, name="value")
    problem = cp.Problem(cp.Minimize(x + 1 / x), [c * x**2 * x**-2 == value])
    layer = Layer(problem, [c, value], [x], gp=True)
    for number in (1.7942307295441624, 0.9973622323193637, 1.0):  # the logarithm of 1 is no measure of its rounding
        for rounded in (number, np.nextafter(number, 2), np.nextafter(number, 0)):
            solution = layer.solve(number, rounded)
            np.testing.assert_allclose(solution.variables[0], 1.0, rtol=1e-8)
    with pytest.raises(SolveError, match="infeasible"):
        layer.solve(1.0, 1.0 + 1e-9)


@pytest.mark.parametrize("inequality", [False, True])
def test_sums_that_cancel(inequality: bool) -> None:
    """0.1 + 0.2 − 0.3 is not a contradiction in a row whose coefficients are zero, and 1e−9 is; where they are not, it is data."""
    x, a, p = cp.Variable(), cp.Parameter(name="a"), cp.Parameter(3, name="p")
    left, right = a * x, p[0] + p[1] - p[2]
    sign = -1.0 if inequality else 1.0
    constraint = left <= -right if inequality else left == right
    layer = Layer(cp.Problem(cp.Minimize(cp.square(x - 1)), [constraint]), [a, p], [x])
    numbers = np.array([0.1, 0.2, 0.3])
    assert numbers[0] + numbers[1] - numbers[2] > 0
    np.testing.assert_allclose(layer.solve(0.0, numbers).variables[0], 1.0, rtol=1e-9)
    with pytest.raises(SolveError, match="infeasible"):
        layer.solve(0.0, [*numbers[:2], 0.3 - 1e-9])
    small = 0.1 + 0.2 - 0.3
    np.testing.assert_allclose(layer.solve(sign, numbers).variables[0], 1.0 if inequality else small, atol=1e-9)
    batch = layer.solve(np.array([0.0, sign]), numbers)
    np.testing.assert_allclose(batch.variables[0][0], 1.0, rtol=1e-9)


def test_one_small_number_is_what_it_says() -> None:
    """0·x == 1e−30 has no solution: the user wrote that number, and nothing was rounded."""
    x, b = cp.Variable(), cp.Parameter(name="b")
    layer = Layer(cp.Problem(cp.Minimize(cp.square(x)), [0 * x == b]), [b], [x])
    with pytest.raises(SolveError, match="infeasible"):
        layer.solve(1e-30)
    layer.solve(0.0)
