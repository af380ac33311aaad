"""Problems that are DCP but not DPP as layers: values against cvxpy's own solve, gradients against differences, in NumPy and torch."""

from __future__ import annotations

import copy
import pickle
import warnings

import cvxpy as cp
import lifting_cases as cases
import numpy as np
import pytest
import torch
from cvxpy.atoms.affine.wraps import nsd_wrap
from torch.func import hessian, jacrev, vmap

from conelayers import CanonicalizationError, Layer, Verdict
from conelayers.torch import ConeLayer

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
ALL = pytest.mark.parametrize("make", [*cases.REAL, *cases.COMPLEX], ids=lambda make: make.__name__)
# cvxpy has no DCP form of these two with parameters: it takes constants only.
CONSTANTS = {cases.huber_threshold: cases.huber_of_constants, cases.beamforming: cases.beamforming_of_constants}


def drawn(make, seed: int = 1) -> tuple[cp.Problem, list, list, list[np.ndarray]]:
    problem, parameters, variables, values = make(np.random.default_rng(seed))
    return problem, parameters, variables, [np.asarray(v) for v in values]


def options(make) -> dict:
    return {"gp": True} if make is cases.geometric else {}


def like(rng: np.random.Generator, value: np.ndarray, parameter: cp.Parameter | None = None) -> np.ndarray:
    """A random array of the value's kind, with the parameter's structure."""
    h = rng.normal(size=value.shape)
    if np.iscomplexobj(value):
        h = h + 1j * rng.normal(size=value.shape)
    if parameter is not None and any(parameter.attributes[a] for a in ("symmetric", "PSD", "hermitian")):
        h = (h + h.conj().T) / 2
    return 1j * h.imag if parameter is not None and parameter.attributes["imag"] else h


def inner(a, b) -> float:
    return sum(float(np.real(np.vdot(x, y))) for x, y in zip(a, b, strict=True))


@ALL
@pytest.mark.parametrize("seed", [1, 2])
def test_the_solution_is_cvxpys(make, seed: int) -> None:
    problem, parameters, variables, values = drawn(make, seed)
    solution = Layer(problem, parameters, variables, **options(make)).solve(*values)
    if make in CONSTANTS:
        problem, variables = CONSTANTS[make](values)
    else:
        for p, v in zip(parameters, values, strict=True):
            p.value = v
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the problem is not DPP
        accuracy = dict.fromkeys(("tol_gap_rel", "tol_gap_abs", "tol_feas"), 1e-12)
        problem.solve(solver=cp.CLARABEL, ignore_dpp=True, **options(make), **accuracy)
    assert solution.residuals.worst < 1e-9
    assert float(solution.value) == pytest.approx(problem.value, rel=1e-7, abs=1e-8)
    for ours, variable in zip(solution.variables, variables, strict=True):
        np.testing.assert_allclose(ours, variable.value, atol=3e-4)  # cvxpy's objective is right to 1e−8 or so


@ALL
def test_derivatives(make) -> None:
    """vjp against central differences, jvp as its adjoint, and torch's gradient the same."""
    problem, parameters, variables, values = drawn(make)
    rng = np.random.default_rng(3)
    layer = Layer(problem, parameters, variables, **options(make))
    solution = layer.solve(*values)
    weights = [like(rng, v) for v in solution.variables]
    gradients = solution.vjp(*weights)
    direction = [like(rng, v, p) for v, p in zip(values, parameters, strict=True)]
    slope = inner(gradients, direction)

    def loss(t: float) -> float:
        moved = [v + t * d for v, d in zip(values, direction, strict=True)]
        return inner(weights, layer.solve(*moved).variables)

    h = 1e-6
    assert slope == pytest.approx((loss(h) - loss(-h)) / (2 * h), rel=1e-6, abs=1e-6)
    assert inner(weights, solution.jvp(*direction)) == pytest.approx(slope, rel=1e-10, abs=1e-10)

    tensors = [torch.tensor(v, requires_grad=True) for v in values]
    outputs = ConeLayer(problem, parameters, variables, **options(make))(*tensors)
    for output, ours in zip(outputs, solution.variables, strict=True):
        np.testing.assert_allclose(output.detach().numpy(), ours, atol=1e-13)
    sum((torch.tensor(w).conj() * o).sum().real for w, o in zip(weights, outputs, strict=True)).backward()
    for tensor, gradient in zip(tensors, gradients, strict=True):
        np.testing.assert_allclose(tensor.grad.numpy(), gradient, atol=1e-10)


@ALL
def test_batches_and_shared_parameters(make) -> None:
    problem, parameters, variables, values = drawn(make)
    layer = Layer(problem, parameters, variables, **options(make))
    single = layer.solve(*values)
    other = [v * 1.02 if i % 2 == 0 else v for i, v in enumerate(values)]
    stacked = [np.stack([v, w]) if i % 2 == 0 else v for i, (v, w) in enumerate(zip(values, other, strict=True))]
    together, second = layer.solve(*stacked), layer.solve(*other)
    weights = [np.ones_like(v) for v in single.variables]
    gradients = together.vjp(*(np.stack([w, w]) for w in weights))
    for both, a, b in zip(together.variables, single.variables, second.variables, strict=True):
        np.testing.assert_allclose(both, np.stack([a, b]), atol=1e-9)
    for i, (both, a, b) in enumerate(zip(gradients, single.vjp(*weights), second.vjp(*weights), strict=True)):
        np.testing.assert_allclose(both, np.stack([a, b]) if i % 2 == 0 else a + b, atol=1e-7)
    tangents = [np.ones_like(v) if not np.iscomplexobj(v) else v for v in values]
    for both, a in zip(
        together.jvp(*(np.stack([t, t]) if i % 2 == 0 else t for i, t in enumerate(tangents))),
        single.jvp(*tangents),
        strict=True,
    ):
        np.testing.assert_allclose(both[0], a, atol=1e-7)


@pytest.mark.parametrize("make", cases.REAL, ids=lambda make: make.__name__)
def test_what_was_replaced_is_reported_and_can_be_refused(make) -> None:
    problem, parameters, variables, _ = drawn(make)
    layer = Layer(problem, parameters, variables, **options(make))
    assert layer.lifted
    assert [spec.name for spec in layer.parameters] == [p.name() for p in parameters]
    with pytest.raises(CanonicalizationError, match=r"must be D[PG]P"):
        Layer(problem, parameters, variables, lift=False, **options(make))


def test_reports_name_expressions_and_what_is_known_of_them() -> None:
    problem, parameters, variables, _ = drawn(cases.ridge)
    lifted = ConeLayer(problem, parameters, variables).lifted
    said = {(r.expression, r.by, r.shape, r.attributes) for r in lifted}
    assert any(
        by == "variable" and shape == (5,) and expression.startswith("A @ ") for expression, by, shape, _ in said
    )
    assert any(by == "parameter" and "(w, 2" in e and attributes == "nonneg" for e, by, _, attributes in said), said
    assert not Layer(*_plain()).lifted


def _plain():
    x, p = cp.Variable(2), cp.Parameter(2)
    return cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0]), [p], [x]


@pytest.mark.parametrize("solver", ["CLARABEL", "SCS", "ECOS"])
@pytest.mark.parametrize("make", [cases.mean_variance, cases.ridge, cases.risk_limit], ids=lambda make: make.__name__)
def test_every_solver_gives_the_same(make, solver: str) -> None:
    """ECOS takes no quadratic objective: another program, with other parameters of its own."""
    problem, parameters, variables, values = drawn(make)
    expected = Layer(problem, parameters, variables).solve(*values)
    fixed = Layer(problem, parameters, variables, solver=solver).solve(*values)
    named = Layer(problem, parameters, variables).solve(*values, solver_args={"solve_method": solver})
    ones = np.ones_like(expected.variables[0])
    for solution in (fixed, named):
        np.testing.assert_allclose(solution.variables[0], expected.variables[0], atol=1e-8)
        for a, b in zip(solution.vjp(ones), expected.vjp(ones), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_dual_variables_of_constraints_that_were_rewritten() -> None:
    problem, parameters, _, values = drawn(cases.risk_limit)
    dual = problem.constraints[0].dual_variables[0]
    (ours,) = Layer(problem, parameters, [dual]).solve(*values).variables
    for p, v in zip(parameters, values, strict=True):
        p.value = v
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem.solve(solver=cp.CLARABEL)
    np.testing.assert_allclose(np.ravel(ours), np.ravel(dual.value), rtol=1e-4)


def test_transformations_and_second_derivatives() -> None:
    problem, parameters, variables, values = drawn(cases.reciprocal)
    layer = ConeLayer(problem, parameters, variables)
    p, b = (torch.tensor(v) for v in values)
    many = torch.stack([b, 2 * b, -b])
    torch.testing.assert_close(vmap(lambda h: layer(p, h)[0])(many), layer(p, many)[0])
    J = jacrev(lambda h: layer(h, b)[0])(p)
    torch.testing.assert_close(J, torch.as_tensor(layer.jacobian(p, b)[0][0]))
    assert torch.autograd.gradcheck(
        lambda *t: layer(*t)[0], (p.requires_grad_(), b.requires_grad_()), check_forward_ad=True
    )
    assert torch.autograd.gradgradcheck(lambda *t: layer(*t)[0], (p, b))
    H = hessian(lambda h: layer(h, b.detach())[0].square().sum())(p.detach())
    h = 1e-5
    slopes = [jacrev(lambda h: layer(h, b.detach())[0].square().sum())(p.detach() + t) for t in (h, -h)]
    assert float(H) == pytest.approx(float(slopes[0] - slopes[1]) / (2 * h), rel=1e-5)


def test_values_and_jacobians() -> None:
    for make in (cases.ridge, cases.mean_variance, cases.matrix_product):
        problem, parameters, variables, values = drawn(make)
        solution = Layer(problem, parameters, variables).solve(*values)
        (row,) = solution.jacobian()
        for k in range(row[0].shape[0]):
            unit = np.zeros_like(solution.variables[0])
            unit[k] = 1
            for block, gradient in zip(row, solution.vjp(unit), strict=True):
                np.testing.assert_allclose(block[k], gradient, atol=1e-10)
        batch = [np.stack([v, v]) if i == 0 else v for i, v in enumerate(values)]
        (both,) = Layer(problem, parameters, variables).solve(*batch).jacobian()
        for block, own in zip(both, row, strict=True):
            np.testing.assert_allclose(block, np.stack([own, own]), atol=1e-9)
        layer = ConeLayer(problem, parameters, variables)
        tensors = tuple(torch.tensor(v, requires_grad=True) for v in values)
        assert torch.autograd.gradcheck(layer.value, tensors, atol=1e-5)


def test_compiled_graphs() -> None:
    problem, parameters, variables, values = drawn(cases.ridge)
    layer = ConeLayer(problem, parameters, variables)
    compiled = torch.compile(lambda *t: layer(*t)[0].square().sum(), backend="aot_eager", fullgraph=True)
    plain, traced = ([torch.tensor(v, requires_grad=True) for v in values] for _ in range(2))
    layer(*plain)[0].square().sum().backward()
    compiled(*traced).backward()
    for a, b in zip(plain, traced, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_layers_travel() -> None:
    problem, parameters, variables, values = drawn(cases.risk_limit)
    layer = Layer(problem, parameters, variables)
    expected = layer.solve(*values).variables[0]
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        np.testing.assert_array_equal(other.solve(*values).variables[0], expected)
        assert other.lifted == layer.lifted


def test_float32_stays_float32() -> None:
    problem, parameters, variables, values = drawn(cases.ridge)
    tensors = [torch.tensor(v, dtype=torch.float32, requires_grad=True) for v in values]
    (x,) = ConeLayer(problem, parameters, variables)(*tensors)
    x.sum().backward()
    assert x.dtype == torch.float32
    assert all(t.grad.dtype == torch.float32 for t in tensors)


def test_names_in_certificates_are_the_users() -> None:
    """What lifting introduced is free where its weight is zero; nobody feels it, and it is not blamed."""
    x, p = cp.Variable(3, name="x"), cp.Parameter(nonneg=True, name="p")
    A = cp.Parameter((3, 3), name="A")
    layer = Layer(cp.Problem(cp.Minimize(p * cp.norm(A @ x) + cp.sum_squares(x - 1))), [A, p], [x])
    (certificate,) = layer.certify(np.eye(3), np.array(0.5))
    assert certificate.verdict is Verdict.CLASSICAL
    assert layer.certify(np.eye(3), np.array(0.0))[0].verdict in (Verdict.CLASSICAL, Verdict.CERTIFIED)


def test_problem_data_are_the_programs() -> None:
    problem, parameters, variables, values = drawn(cases.ridge)
    layer = ConeLayer(problem, parameters, variables)
    data = layer.problem_data(*(torch.tensor(v) for v in values))
    n, m = data.q.size, data.b.size
    assert data.P.shape == (n, n)
    assert data.A.shape == (m, n)
    assert data.cones.dimension == m
    solution = layer.engine.solve(*values)
    np.testing.assert_allclose(data.A @ solution.x + solution.s, data.b, atol=1e-9)
    np.testing.assert_allclose(data.P @ solution.x + data.A.T @ solution.y, -data.q, atol=1e-9)
    batch = layer.engine.problem_data(*(np.stack([v, v]) for v in values))
    assert len(batch.A) == 2
    assert batch.q.shape == (2, n)


def refused(make, *phrases: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error) as caught:
        make()
    for phrase in phrases:
        assert phrase in str(caught.value), str(caught.value)


def test_what_cannot_be_computed_is_refused_by_name() -> None:
    x, p = cp.Variable(2), cp.Parameter(2, name="p")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - cp.ceil(p))))
    refused(
        lambda: Layer(problem, [p], [x]), "ceil(p)", "derivative is zero or does not exist", error=CanonicalizationError
    )
    X = cp.Parameter((2, 2), name="X", PSD=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - cp.quantum_rel_entr(X, np.eye(2)))))
    refused(lambda: Layer(problem, [X], [x]), "quantum_rel_entr", "new Parameter", error=CanonicalizationError)


def test_values_at_which_an_expression_has_no_value_are_named() -> None:
    problem, parameters, variables, _ = drawn(cases.reciprocal)
    layer = Layer(problem, parameters, variables)
    p, b = np.array([1.0, 1e-320, 2.0]), np.ones(3)
    refused(lambda: layer.solve(p, b), "1.0 / p", "batch index 1", "NaN or infinite")


def test_a_singular_matrix_of_a_quadratic_constraint_is_refused_with_a_way_out() -> None:
    problem, parameters, variables, values = drawn(cases.risk_limit)
    values[1] = np.diag([1.0, 1.0, 1.0, 0.0])
    refused(
        lambda: Layer(problem, parameters, variables).solve(*values), "S", "not positive definite", "psd_wrap(M.T @ M)"
    )
    tensors = [torch.tensor(v) for v in values]
    refused(lambda: ConeLayer(problem, parameters, variables)(*tensors), "S", "not positive definite")
    problem, parameters, variables, values = drawn(cases.mean_variance)
    values[2] = np.diag([1.0, 1.0, 1.0, 0.0])  # in a quadratic objective nothing is factored
    Layer(problem, parameters, variables).solve(*values)


def test_a_singular_matrix_that_rounding_makes_definite_is_refused() -> None:
    x, M = cp.Variable(3), cp.Parameter((2, 3), name="M")
    P = cp.psd_wrap(M.T @ M / 2 + M.T @ M / 2)  # not seen to be MᵀM
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [cp.quad_form(x, P) <= 0.1]), [M], [x])
    torch_layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [cp.quad_form(x, P) <= 0.1]), [M], [x])
    rng = np.random.default_rng(0)
    for _ in range(20):
        value = rng.normal(size=(2, 3))
        refused(lambda v=value: layer.solve(v), "not positive definite")
        refused(lambda v=value: torch_layer(torch.tensor(v)), "not positive definite")


def test_expressions_that_are_written_twice_are_one_parameter() -> None:
    x, p, q = cp.Variable(3), cp.Parameter(name="p"), cp.Parameter((3, 3), name="q")
    problem = cp.Problem(cp.Minimize(p**2 * cp.norm1(x) + cp.norm(p * q @ x - 1)), [p * q @ x >= -1, p**2 * x <= 1])
    by_parameters = [said.expression for said in Layer(problem, [p, q], [x]).lifted if said.by == "parameter"]
    assert len(by_parameters) == 2, by_parameters


def test_what_stays_refused_says_what_to_do() -> None:
    p, q = cp.Parameter(nonneg=True, name="p"), cp.Parameter(nonneg=True, name="q")
    x = cp.Variable(2, name="x", bounds=[-p * q, q])
    problem = cp.Problem(cp.Minimize(cp.sum_squares(p**2 * x - 1)))
    refused(lambda: Layer(problem, [p, q], [x]), "bounds are those of x", "constraints", error=CanonicalizationError)
    y = cp.Variable(2)
    deep = y
    for _ in range(180):
        deep = p * deep + 1
    problem = cp.Problem(cp.Minimize(cp.sum_squares(deep)))
    refused(lambda: Layer(problem, [p], [y]), "setrecursionlimit", error=CanonicalizationError)
    summed = cp.Problem(cp.Minimize(cp.quad_form(cp.cumsum(y), cp.psd_wrap(p * np.eye(2)))))
    refused(lambda: Layer(summed, [p], [y]), "NotImplementedError", "another way", error=CanonicalizationError)


def test_a_matrix_wrapped_as_the_opposite_of_what_it_is_is_refused() -> None:
    x, M = cp.Variable(2), cp.Parameter((2, 2), name="M")
    problem = cp.Problem(cp.Maximize(-cp.sum_squares(x - 1)), [cp.quad_form(x, nsd_wrap(M.T @ M)) >= -1])
    refused(lambda: Layer(problem, [M], [x]).solve(np.eye(2)), "not negative definite")


# ------------------------------------------------------------------------------------------------ names in certificates


def _names(problem: cp.Problem, parameters: list, variables: list) -> set[str]:
    """Whatever a certificate of the layer can blame."""
    for made in (
        Layer(problem, parameters, variables),
        pickle.loads(pickle.dumps(Layer(problem, parameters, variables))),
    ):
        names = made.compiled_for().names
        found = {names.constraints[owner] for owner in names.row_constraint.tolist()}
        # Every row is blamed on something that can be printed, with all of its entries.
        for row in range(names.row_constraint.size):
            assert names.rows(np.eye(names.row_constraint.size)[row])
    return found


def test_certificates_name_what_the_user_wrote() -> None:
    """Turnover costs tc·‖w − prev‖₁ are rewritten with z = w − prev, which nobody wrote."""
    n = 3
    w, z = cp.Variable(n, name="w"), cp.Variable(n, name="z")
    prev, tc, risk = (
        cp.Parameter(n, name="prev"),
        cp.Parameter(nonneg=True, name="tc"),
        cp.Parameter(nonneg=True, name="risk"),
    )
    budget = cp.sum(w) == 1
    first = f"constraint 0 ({budget})"
    turnover = tc * cp.norm1(w - prev)
    costs = f"the objective's term {turnover}"
    assert _names(cp.Problem(cp.Minimize(cp.sum_squares(w) + turnover), [budget]), [prev, tc], [w]) == {first, costs}
    assert _names(cp.Problem(cp.Maximize(cp.sum(w) - turnover), [budget]), [prev, tc], [w]) == {
        first,
        f"the objective's term -({turnover})",
    }
    bounded = turnover <= risk
    assert _names(cp.Problem(cp.Minimize(cp.sum_squares(w)), [budget, bounded]), [prev, tc, risk], [w]) == {
        first,
        f"constraint 1 ({bounded})",
    }
    labelled = (tc * cp.norm(w - prev) <= risk).set_label("turnover")
    assert "constraint 1 (turnover)" in _names(
        cp.Problem(cp.Minimize(cp.sum_squares(w)), [budget, labelled]), [prev, tc, risk], [w]
    )
    for term in (
        tc * cp.huber(w[0] - prev[0]),
        tc * cp.maximum(w[0] - prev[0], 0),
        tc * cp.sum_squares(w - prev),
        tc * cp.norm(cp.multiply(prev, w) - 1),
    ):
        found = _names(cp.Problem(cp.Minimize(cp.sum(z) + term), [z >= w, budget]), [prev, tc], [w])
        assert all("==" not in name or name == f"constraint 1 ({budget})" for name in found)
        assert any(name.startswith("the objective's term tc * ") for name in found)


def test_certificates_of_lifted_problems_blame_the_right_term() -> None:
    """Both at the kink of the turnover costs and where constraints depend on each other."""
    w, prev, tc = cp.Variable(4, name="w"), cp.Parameter(4, name="prev"), cp.Parameter(nonneg=True, name="tc")
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(w) + tc * cp.maximum(w[0] - prev[0], 0) + tc * cp.norm1(w - prev)),
        [cp.sum(w) == 1, 2 * cp.sum(w) == 2],
    )
    layer = Layer(problem, [prev, tc], [w])
    (certificate,) = layer.certify(np.full(4, 0.25), 1.0)
    said = str(certificate)
    assert "constraint 0 (Sum(w, None, False) == 1.0)" in said
    assert "the objective's term tc * " in said
    assert "== w + -prev" not in said
    assert "constraint 2" not in said
