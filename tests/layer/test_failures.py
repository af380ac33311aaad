"""Instances without a solution: what they do to a batch (nothing), and what is told of them."""

from __future__ import annotations

import copy
import pickle
import warnings

import cvxpy as cp
import numpy as np
import pytest
import torch
from failing_batches import FEW_KEPT, FEW_LOST, KEPT, LOST, _problem, _values
from torch.func import grad, jacrev, jvp, vmap

from conelayers import LPGD, FailedInstancesWarning, Layer, OnFailure, ProximalSmoothing, SolveError, Status
from conelayers.torch import ConeLayer, solve_cone_program

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")


def _layer(curved: bool = False, **options):
    return Layer(*_problem(curved), **options)


@pytest.mark.parametrize("curved", [False, True])
def test_a_failed_instance_leaves_the_others_exact(curved: bool) -> None:
    layer, values = _layer(curved, on_failure="nan"), _values()
    solution = layer.solve(*values)
    alone = _layer(curved).solve(*(v[KEPT] for v in values))
    g = np.random.default_rng(1).normal(size=(128, 3))
    np.testing.assert_allclose(solution.variables[0][KEPT], alone.variables[0], atol=1e-12)
    np.testing.assert_allclose(solution.value[KEPT], alone.value, atol=1e-12)
    for got, expected in zip(solution.vjp(g), alone.vjp(g[KEPT]), strict=True):
        np.testing.assert_allclose(got[KEPT], expected, atol=1e-10)
        assert np.isnan(got[list(LOST)]).all()
    tangents = [np.random.default_rng(2).normal(size=v.shape) for v in values]
    (moved,), (expected,) = solution.jvp(*tangents), alone.jvp(*(t[KEPT] for t in tangents))
    np.testing.assert_allclose(moved[KEPT], expected, atol=1e-10)
    assert {i for i, s in enumerate(solution.status) if not s.usable} == set(LOST)
    for i, status in LOST.items():
        assert solution.status[i] is status
        for lost in (solution.variables[0][i], solution.value[i], moved[i], solution.jacobian()[0][0][i]):
            assert np.isnan(lost).all()


@pytest.mark.parametrize("curved", [False, True])
def test_nothing_asked_of_a_failed_instance_is_a_gradient_of_zero(curved: bool) -> None:
    """So a shared parameter's gradient is that of the instances that the loss keeps."""
    layer, (c, u, e) = _layer(curved, on_failure="nan"), _values()
    shared = c[0]
    g = np.ones((128, 3))
    assert np.isnan(layer.solve(shared, u, e).vjp(g)[0]).all()
    g[list(LOST)] = 0.0
    got = layer.solve(shared, u, e).vjp(g)
    alone = _layer(curved).solve(shared, u[KEPT], e[KEPT]).vjp(g[KEPT])
    np.testing.assert_allclose(got[0], alone[0], atol=1e-9)
    assert (got[1][list(LOST)] == 0).all()


def test_last_tells_of_every_call() -> None:
    layer, values = _layer(), _values()
    assert layer.last is None
    with pytest.raises(SolveError, match="3 of 128 instances"):
        layer.solve(*values)
    info = layer.last
    assert info.failed == tuple(LOST)
    assert info.solved.sum() == 125
    assert np.isnan(info.residuals.primal[5])
    assert info.residuals.worst[KEPT].max() < 1e-9
    assert "3 of 128" not in str(info)
    assert "125 of 128 instances solved" in str(info)
    for status in LOST.values():
        assert status.advice in str(info)
    layer.solve(*(v[0] for v in values))
    assert layer.last.status == (Status.SOLVED,)
    assert info.failed == tuple(LOST)  # what was told stays
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.last is None
    assert pickle.loads(pickle.dumps(info)).failed == tuple(LOST)


def test_the_chain_of_solvers_is_recorded() -> None:
    """Two iterations are enough for nobody; without the limit the default's chain goes on until someone is."""
    layer, values = _layer(curved=True, on_failure="nan"), [v[0] for v in _values()]
    layer.solve(*values, solver_args={"solve_method": "CLARABEL", "max_iters": 2})
    info = layer.last
    assert info.status == (Status.ITERATION_LIMIT,)
    (attempts,) = info.attempts
    assert [a.solver for a in attempts] == ["CLARABEL"]
    assert attempts[0].status is Status.ITERATION_LIMIT
    values[1] = np.array(-1.0)  # infeasible: whoever comes first with a certificate is the last
    layer.solve(*values)
    (attempts,) = layer.last.attempts
    assert all(a.status is Status.FAILED for a in attempts[:-1])
    assert attempts[-1].status is Status.PRIMAL_INFEASIBLE
    assert layer.last.solver == (attempts[-1].solver,)


def test_what_is_tried_after_a_broken_solver_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    from conelayers.solve.backends import SOLVERS
    from conelayers.solve.backends.solver import RawSolution

    def broken(solver, instance, settings, *_, **__) -> RawSolution:
        n, m = len(instance.q), len(instance.b)
        return RawSolution(np.zeros(n), np.zeros(m), np.zeros(m), Status.FAILED, "broke on purpose")

    monkeypatch.setattr(type(SOLVERS["CLARABEL"]), "solve", broken)
    layer = _layer(curved=True)
    layer.solve(*(v[0] for v in _values()))
    assert layer.last.status == (Status.SOLVED,)
    (attempts,) = layer.last.attempts
    assert {a.solver for a in attempts if a.status is Status.FAILED} <= {"CLARABEL"}
    assert layer.last.solver[0] != "CLARABEL"
    assert layer.last.solver[0] == next(a.solver for a in attempts if a.error < 1e-9)


def test_policies_and_their_errors() -> None:
    values = _values()
    with pytest.raises(ValueError, match="on_failure: got 'skip', expected one of 'raise', 'nan', 'warn'"):
        _layer(on_failure="skip")
    layer = _layer()
    with pytest.raises(ValueError, match="on_failure: got 'skip'"):
        layer.solve(*values, on_failure="skip")
    with pytest.warns(FailedInstancesWarning, match=r"dual infeasible at batch index 40\..*NaN"):
        solution = layer.solve(*values, on_failure=OnFailure.WARN)
    assert np.isnan(solution.variables[0][40]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer.solve(*values, on_failure="nan")
    with pytest.raises(ValueError, match=r"parameter c at batch index 0.*got NaN"):  # bad input is not a failure
        layer.solve(np.full((128, 3), np.nan), *values[1:], on_failure="nan")


def test_a_batch_in_which_everything_fails() -> None:
    layer, (c, u, e) = _layer(on_failure="nan"), _values()
    solution = layer.solve(c, -abs(u), e)
    assert np.isnan(solution.variables[0]).all()
    assert np.isnan(solution.vjp(np.ones((128, 3)))[0]).all()
    assert (solution.vjp(np.zeros((128, 3)))[0] == 0).all()
    assert np.isnan(solution.jvp(np.ones_like(c), None, None)[0]).all()
    assert all(certificate.status is not Status.SOLVED for certificate in solution.certify())
    single = layer.solve(c[0], -1.0, 1.0)
    assert np.isnan(single.variables[0]).all()
    assert single.status is Status.PRIMAL_INFEASIBLE


@pytest.mark.parametrize("smoothing", [LPGD(tau=0.1), ProximalSmoothing(temperature=0.5)])
def test_smoothed_gradients_of_the_others(smoothing) -> None:
    layer, values = _layer(smoothing=smoothing, on_failure="nan"), _values()
    solution = layer.solve(*values)
    alone = _layer(smoothing=smoothing).solve(*(v[KEPT] for v in values))
    g = np.ones((128, 3))
    got, expected = solution.vjp(g)[0], alone.vjp(g[KEPT])[0]
    np.testing.assert_allclose(got[KEPT], expected, atol=1e-9)
    assert np.isnan(got[list(LOST)]).all()
    nothing = layer.solve(values[0], -abs(values[1]), values[2])
    assert np.isnan(nothing.vjp(g)[0]).all()
    assert (nothing.vjp(0 * g)[0] == 0).all()
    if smoothing.forward_mode:
        (moved,) = solution.jvp(values[0], None, None)
        np.testing.assert_allclose(moved[KEPT], alone.jvp(values[0][KEPT], None, None)[0], atol=1e-9)
        assert np.isnan(moved[list(LOST)]).all()


def test_a_geometric_program_and_a_lifted_one() -> None:
    x, a, b = cp.Variable(pos=True), cp.Parameter(pos=True), cp.Parameter(pos=True)
    gp = Layer(cp.Problem(cp.Minimize(x + a / x), [x >= b, x <= 2]), [a, b], [x], gp=True, on_failure="nan")
    y, p, q = cp.Variable(), cp.Parameter(), cp.Parameter(nonneg=True)
    lifted = Layer(cp.Problem(cp.Minimize((y - p * p) ** 2), [cp.exp(y) <= q]), [p, q], [y], on_failure="nan")
    for layer, values in ((gp, ([1.0, 1.0], [0.5, 3.0])), (lifted, ([1.0, 1.0], [2.0, 0.0]))):
        solution = layer.solve(*map(np.array, values))
        assert np.isfinite(solution.variables[0]).tolist() == [True, False]
        for cotangent, ok in (([1.0, 1.0], [True, False]), ([1.0, 0.0], [True, True])):
            for gradient in solution.vjp(np.array(cotangent)):
                assert np.isfinite(gradient).tolist() == ok


@pytest.mark.parametrize("curved", [False, True])
def test_torch_in_every_mode(curved: bool) -> None:
    layer, values = ConeLayer(*_problem(curved), on_failure="nan"), [torch.tensor(v[:64]) for v in _values()]
    weight = values[0][0].clone().requires_grad_()
    (x,) = layer(weight, *values[1:])
    assert layer.last.failed == tuple(FEW_LOST)
    assert x[FEW_LOST].isnan().all()
    torch.nansum(x).backward()
    keep = torch.tensor(FEW_KEPT)
    (squared,) = torch.autograd.grad(
        (layer(weight, *values[1:])[0][torch.from_numpy(layer.last.solved)] ** 2).sum(), weight
    )
    assert squared.isfinite().all()
    alone = weight.detach().clone().requires_grad_()
    ConeLayer(*_problem(curved))(alone, *(v[keep] for v in values[1:]))[0].sum().backward()
    torch.testing.assert_close(weight.grad, alone.grad, atol=1e-9, rtol=0)

    def masked(w: torch.Tensor) -> torch.Tensor:
        return torch.nansum(layer(w, *values[1:])[0])

    def asked(w: torch.Tensor) -> torch.Tensor:
        return layer(w, *values[1:])[0].sum()

    w = weight.detach()
    torch.testing.assert_close(grad(masked)(w), alone.grad, atol=1e-9, rtol=0)
    assert grad(asked)(w).isnan().all()
    each = vmap(lambda u, e: grad(lambda w: layer(w, u, e)[0].sum())(w))(*values[1:])
    torch.testing.assert_close(each[keep].sum(0), alone.grad, atol=1e-9, rtol=0)
    assert each[FEW_LOST].isnan().all()
    assert jacrev(lambda w: layer(w, *values[1:])[0])(w)[FEW_LOST].isnan().all()
    _, tangent = jvp(lambda w: layer(w, *values[1:])[0], (w,), (torch.ones(3, dtype=w.dtype),))
    assert tangent[FEW_LOST].isnan().all()
    assert tangent[keep].isfinite().all()
    hessian = torch.func.hessian(masked)(w)
    assert hessian.isfinite().all()
    value = layer.value(weight, *values[1:])
    assert value[FEW_LOST].isnan().all()
    (gradient,) = torch.autograd.grad(torch.nansum(value), weight)
    assert gradient.isfinite().all()
    (gradient,) = torch.autograd.grad(layer.value(weight, *values[1:]).sum(), weight)
    assert gradient.isnan().all()


def test_torch_policies() -> None:
    layer, values = ConeLayer(*_problem(False)), [torch.tensor(v) for v in _values()]
    with pytest.raises(SolveError):
        layer(*values)
    assert layer.last.failed == tuple(LOST)
    with pytest.warns(FailedInstancesWarning):
        layer(*values, on_failure="warn")
    outputs, solution = layer.solve(*values, on_failure="nan")
    assert solution.status[40] is Status.DUAL_INFEASIBLE
    assert outputs[0][40].isnan().all()


def test_torch_in_a_compiled_graph() -> None:
    layer, values = ConeLayer(*_problem(False), on_failure="nan"), [torch.tensor(v) for v in _values()]
    weight = values[0][0].clone().requires_grad_()
    torch.compile(lambda w: torch.nansum(layer(w, *values[1:])[0]), backend="aot_eager")(weight).backward()
    plain = values[0][0].clone().requires_grad_()
    torch.nansum(layer(plain, *values[1:])[0]).backward()
    torch.testing.assert_close(weight.grad, plain.grad, atol=1e-12, rtol=0)


def test_a_cone_program_in_torch() -> None:
    A, cones = torch.tensor([[1.0], [-1.0]], dtype=torch.float64), {"l": 2}
    b = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([-1.0], dtype=torch.float64)
    x, y, s = solve_cone_program(None, q, A, b, cones, on_failure="nan")
    assert x[1].isnan().all()
    assert y[1].isnan().all()
    assert s[1].isnan().all()
    torch.nansum(x).backward()
    torch.testing.assert_close(b.grad, torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64))
