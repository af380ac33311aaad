"""Every problem of the zoo with every solver: solutions as cvxpy's, gradients as central differences, adjointness."""

from __future__ import annotations

import warnings

import cvxpy as cp
import numpy as np
import pytest
from reference import central_difference, direction_for
from zoo import ALL, ZOO

from conelayers import Layer, Status

CASES = [(name, solver) for name, make in ZOO.items() for solver in ALL if solver in make().solvers]


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(sum(map(ord, name)))


@pytest.mark.parametrize(("name", "solver"), CASES)
def test_solution_is_cvxpys(name: str, solver: str) -> None:
    """A wrong cone order, sign, triangle or recovery would show here, duals included."""
    case = ZOO[name]()
    values = case.draw(_rng(name))
    solution = Layer(case.problem, case.parameters, case.variables, solver=solver, gp=case.gp).solve(*values)
    assert solution.status is Status.SOLVED
    assert solution.residuals.worst <= 1e-9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cvxpy's own, about sparse values
        for parameter, value in zip(case.parameters, values, strict=True):
            parameter.value = value
        case.problem.solve(solver=cp.CLARABEL, gp=case.gp)
        expected = [v.value.toarray() if hasattr(v.value, "toarray") else v.value for v in case.variables]
        optimum = case.problem.value
    assert solution.value == pytest.approx(optimum, abs=1e-6, rel=1e-6)
    for variable, value, reference in zip(case.variables, solution.variables, expected, strict=True):
        assert value.shape == variable.shape
        # cvxpy reports the dual of a single second-order cone as a column.
        np.testing.assert_allclose(value, np.reshape(reference, value.shape), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(("name", "solver"), CASES)
def test_gradient_is_the_central_difference(name: str, solver: str) -> None:
    """The adjoint along random directions of each parameter; and ⟨g, J d⟩ = ⟨Jᵀg, d⟩."""
    rng = _rng(name)
    case = ZOO[name]()
    layer = Layer(case.problem, case.parameters, case.variables, solver=solver, gp=case.gp)
    values = case.draw(rng)
    solution = layer.solve(*values)
    g = [rng.standard_normal(v.shape) for v in solution.variables]
    gradients = solution.vjp(*g)
    for k, (spec, gradient) in enumerate(zip(layer.parameters, gradients, strict=True)):
        assert gradient.shape == spec.shape
        d = direction_for(spec.attributes, spec.positions, spec.shape, rng)

        def along(t: float, k: int = k, d: np.ndarray = d) -> float:
            moved = [v + t * d if i == k else v for i, v in enumerate(values)]
            return sum(float(np.sum(a * b)) for a, b in zip(g, layer.solve(*moved).variables, strict=True))

        adjoint = float(np.sum(gradient * d))
        tangents = solution.jvp(*[d if i == k else None for i in range(len(values))])
        forward = sum(float(np.sum(a * b)) for a, b in zip(g, tangents, strict=True))
        assert forward == pytest.approx(adjoint, abs=1e-9, rel=1e-9)
        assert central_difference(along, 1e-4) == pytest.approx(
            adjoint, abs=1e-7 * max(1.0, float(np.linalg.norm(gradient)))
        )


@pytest.mark.parametrize("name", ZOO)
def test_batch_is_its_instances(name: str) -> None:
    """A batch gives what its instances give one by one, in value and gradient; a sum for an unbatched parameter."""
    rng = _rng(name)
    case = ZOO[name]()
    layer = Layer(case.problem, case.parameters, case.variables, gp=case.gp)
    draws = [case.draw(rng) for _ in range(3)]
    stacked = [np.stack(v) for v in zip(*draws, strict=True)]
    batched = layer.solve(*stacked)
    g = [rng.standard_normal(v.shape) for v in batched.variables]
    gradients = batched.vjp(*g)
    for i, draw in enumerate(draws):
        single = layer.solve(*draw)
        for a, b in zip(batched.variables, single.variables, strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-9, rtol=1e-9)
        for a, b in zip(gradients, single.vjp(*[h[i] for h in g]), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-7, rtol=1e-7)


def test_unbatched_parameter_is_broadcast_and_its_gradient_summed() -> None:
    case = ZOO["qp_equality"]()
    layer = Layer(case.problem, case.parameters, case.variables, gp=case.gp)
    rng = np.random.default_rng(0)
    A, b = rng.standard_normal((2, 4)), rng.standard_normal((3, 2))
    solution = layer.solve(A, b)
    repeated = layer.solve(np.broadcast_to(A, (3, 2, 4)), b)
    g = [rng.standard_normal(v.shape) for v in solution.variables]
    dA, db = solution.vjp(*g)
    dA_each, db_each = repeated.vjp(*g)
    np.testing.assert_allclose(dA, dA_each.sum(axis=0), atol=1e-12)
    np.testing.assert_allclose(db, db_each, atol=1e-12)


def test_batch_of_one_keeps_its_axis_and_an_empty_batch_is_empty() -> None:
    case = ZOO["sdp_nearest_correlation"]()
    layer = Layer(case.problem, case.parameters, case.variables, gp=case.gp)
    (value,) = case.draw(np.random.default_rng(0))
    one = layer.solve(value[None])
    assert one.variables[0].shape == (1, 5, 5)
    assert one.status == (Status.SOLVED,)
    empty = layer.solve(np.zeros((0, 5, 5)))
    assert [v.shape for v in empty.variables] == [(0, 5, 5), (0, 5, 5), (0, 5)]
    assert empty.vjp(*empty.variables)[0].shape == (0, 5, 5)
    assert empty.status == ()
