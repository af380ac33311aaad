"""Expressions of parameters in NumPy and torch: every atom against cvxpy's own value, derivatives against differences and each other."""

from __future__ import annotations

import inspect
import pickle
from functools import cache

import cvxpy as cp
import numpy as np
import pytest
import torch
from atom_zoo import BY_NAME, CASES, Case
from cvxpy.atoms.affine.wraps import Wrap
from cvxpy.atoms.atom import Atom
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from conelayers.problem.dpp.translate import _REFUSED, _RULES, translate
from conelayers.problem.expressions import Evaluation, Expression, NumpyArithmetic, evaluate, pullback, pushforward
from conelayers.support.errors import CanonicalizationError
from conelayers.torch.arithmetic import TorchArithmetic

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:conv is deprecated"),
]
CHOSEN = [
    "matmul batched", "special index mask", "kron", "conv", "cumsum", "cumprod", "cummax", "huber parameter", "entr", "rel_entr",
    "logistic", "power parameter", "norm", "pnorm 3", "sum_largest axis", "log_sum_exp", "geo_mean weights", "prod", "sparse times matrix",
    "lambda_max", "sigma_max", "norm nuc", "log_det", "tr_inv", "von_neumann_entr", "gen_lambda_max", "eye_minus_inv", "pf_eigenvalue",
    "matrix_frac", "quad_form",
]  # fmt: skip


@cache
def translated(case: Case) -> tuple[list[cp.Parameter], cp.Expression, tuple[Expression, ...]]:
    parameters = case.parameters()
    expression = case.build(*parameters)
    return parameters, expression, translate([expression], parameters)


def values_of(case: Case, batch: int, shared: int | None = None) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    values = case.draw(rng, batch)
    return [v[:1] if i == shared else v for i, v in enumerate(values)]


def reference(case: Case, values: list[np.ndarray], instance: int) -> np.ndarray:
    parameters, expression, _ = translated(case)
    for p, v in zip(parameters, values, strict=True):
        p.value = v[instance if v.shape[0] > 1 else 0]
    return np.reshape(expression.value, expression.shape, order="F")


def cotangent_of(result: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(5)
    c = rng.standard_normal(result.shape)
    return c + 1j * rng.standard_normal(result.shape) if np.iscomplexobj(result) else c


def torch_gradients(case: Case, values: list[np.ndarray], cotangent: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    tensors = [torch.tensor(v, requires_grad=True) for v in values]
    (result,) = evaluate(translated(case)[2], tensors, TorchArithmetic())
    product = torch.tensor(cotangent).conj() * result
    loss = (product.real if product.is_complex() else product).sum()
    if not loss.requires_grad:
        return result.numpy(), [np.zeros_like(v) for v in values]
    gradients = torch.autograd.grad(loss, tensors, materialize_grads=True)
    return result.detach().resolve_conj().numpy(), [g.resolve_conj().numpy() for g in gradients]


def inner(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sum(np.real(np.conj(x) * y)))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_values_and_gradients(case: Case) -> None:
    nodes = translated(case)[2]
    # alone, a batch, and a batch whose first parameter is shared
    for batch, shared in ((1, None), (3, None), (3, 0)):
        values = values_of(case, batch, shared)
        (result,) = evaluate(nodes, values)
        for i in range(batch if result.shape[0] > 1 else 1):
            np.testing.assert_allclose(result[i], reference(case, values, i), rtol=1e-11, atol=1e-12)
    tangents = [case.draw(np.random.default_rng(4), 3)[i][: v.shape[0]] for i, v in enumerate(values)]
    (derivative,) = pushforward(nodes, values, tangents)
    h = 1e-5
    ahead, behind = (
        evaluate(nodes, [v + s * h * t for v, t in zip(values, tangents, strict=True)])[0] for s in (1, -1)
    )
    np.testing.assert_allclose(derivative, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-6)
    cotangent = cotangent_of(result)
    gradients = pullback(nodes, values, [cotangent])
    assert [g.shape for g in gradients] == [v.shape for v in values]
    along = sum(inner(g, t) for g, t in zip(gradients, tangents, strict=True))
    assert along == pytest.approx(inner(cotangent, derivative), rel=1e-10, abs=1e-10)
    torch_result, torch_gradient = torch_gradients(case, values, cotangent)
    np.testing.assert_allclose(torch_result, result, rtol=1e-11, atol=1e-12)
    for ours, theirs in zip(gradients, torch_gradient, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CHOSEN)
def test_torch_transformations(name: str) -> None:
    case = BY_NAME[name]
    evaluation = Evaluation(translated(case)[2], TorchArithmetic())
    values = [torch.tensor(v) for v in values_of(case, 4)]
    tangents = [torch.tensor(v) for v in case.draw(np.random.default_rng(4), 4)]

    def loss(*values: torch.Tensor) -> torch.Tensor:
        (result,) = evaluation([v[None] for v in values])
        return (result * torch.cos(torch.arange(result.numel(), dtype=torch.float64).reshape(result.shape))).sum()

    argnums = tuple(range(len(values)))
    plain = [v.clone().requires_grad_() for v in values]
    total = sum(loss(*(v[i] for v in plain)) for i in range(4))
    expected = torch.autograd.grad(total, plain)
    one = [v[0] for v in values]
    for ours, theirs in zip(vmap(grad(loss, argnums))(*values), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    _, along = jvp(loss, tuple(one), tuple(t[0] for t in tangents))
    dot = sum((g[0] * t[0]).sum() for g, t in zip(expected, tangents, strict=True))
    torch.testing.assert_close(along, dot, rtol=1e-10, atol=1e-10)
    # second derivatives: two orders of composition, and differences of the gradient
    H = hessian(loss, 0)(*one)
    torch.testing.assert_close(jacrev(jacfwd(loss, 0), 0)(*one), H, rtol=1e-8, atol=1e-8)
    step = 1e-5 * tangents[0][0]
    ahead, behind = (grad(loss)(one[0] + s * step, *one[1:]) for s in (1, -1))
    along = torch.tensordot(H, tangents[0][0], dims=one[0].ndim)
    torch.testing.assert_close(along, (ahead - behind) / 2e-5, rtol=2e-5, atol=2e-5)


def test_torch_compile() -> None:
    A, p, s = cp.Parameter((3, 3), PSD=True), cp.Parameter(3), cp.Parameter(pos=True)
    expressions = [
        cp.norm(A @ p) / s, cp.exp(p)[[2, 0]] @ A[:2], cp.lambda_max(A), cp.log_det(A), cp.sum_largest(p, 1.5), cp.cumsum(p),
        cp.geo_mean(cp.exp(p)), cp.quad_over_lin(p, s), cp.huber(p, s), cp.psd_wrap(A @ A),
    ]  # fmt: skip
    evaluation = Evaluation(translate(expressions, [A, p, s]), TorchArithmetic())
    case = BY_NAME["quad_form"]
    x, A_value = (torch.tensor(v) for v in values_of(case, 2))
    values = [A_value, x, torch.ones(1, dtype=torch.float64)]

    def loss(*values: torch.Tensor) -> torch.Tensor:
        return sum(r.square().sum() for r in evaluation(values))

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    gradients = []
    for f in (loss, compiled):
        leaves = [v.clone().requires_grad_() for v in values]
        gradients.append(torch.autograd.grad(f(*leaves), leaves))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


KINKS = {
    "norm": (lambda p: cp.norm(p), np.zeros(3), 0.0),
    "norm complex": (lambda p: cp.norm(p[:2] + 1j * p[2]), np.zeros(3), 0.0),
    "pnorm 3": (lambda p: cp.pnorm(p, 3), np.zeros(3), 0.0),
    "abs": (lambda p: cp.abs(p), np.zeros(3), 0.0),
    "abs complex": (lambda p: cp.abs(p * (1 + 2j)), np.zeros(3), 0.0),
    "std": (lambda p: cp.std(p), np.ones(3), 0.0),
    "huber": (lambda p: cp.huber(p), np.zeros(3), 0.0),
    "prod": (lambda p: cp.prod(p), np.zeros(3), 0.0),
    "cumprod": (lambda p: cp.cumprod(p)[2], np.array([2.0, 0.0, 3.0]), [0.0, 6.0, 0.0]),
    "geo_mean": (lambda p: cp.geo_mean(p), np.array([0.0, 1.0, 2.0]), 0.0),
    "harmonic_mean": (lambda p: cp.harmonic_mean(p), np.array([0.0, 1.0, 2.0]), 0.0),
    "norm nuc": (lambda p: cp.norm(cp.outer(p, p), "nuc"), np.zeros(3), 0.0),
    "sigma_max": (lambda p: cp.sigma_max(cp.outer(p, p)), np.zeros(3), 0.0),
    "power 2.5": (lambda p: cp.power(p, 2.5), np.zeros(3), 0.0),
}


@pytest.mark.parametrize("name", KINKS)
def test_derivatives_at_kinks(name: str) -> None:
    build, point, expected = KINKS[name]
    p = cp.Parameter(3)
    nodes = translate([build(p)], [p])
    (result,) = evaluate(nodes, [point[None]])
    leaf = torch.tensor(point[None], requires_grad=True)
    (torch_result,) = evaluate(nodes, [leaf], TorchArithmetic())
    (torch_gradient,) = torch.autograd.grad(torch_result.sum(), leaf)
    for gradient in (pullback(nodes, [point[None]], [np.ones_like(result)])[0], torch_gradient.numpy()):
        np.testing.assert_allclose(gradient[0], np.broadcast_to(expected, 3), atol=1e-12)


TIED = {
    "max": (lambda P: cp.max(P), np.ones((3, 3)), 1.0),
    "norm_inf": (lambda P: cp.norm_inf(P), -np.ones((3, 3)), -1.0),
    "cummax": (
        lambda P: cp.cummax(P, axis=None)[-1] if P.ndim == 1 else cp.cummax(cp.vec(P, "F"))[-1],
        np.ones((3, 3)),
        1.0,
    ),
    "sum_largest": (lambda P: cp.sum_largest(P, 2.5), np.ones((3, 3)), 2.5),
    "maximum": (lambda P: cp.sum(cp.maximum(P, 1)[0, 0]), np.ones((3, 3)), 0.5),
    "lambda_max": (lambda P: cp.lambda_max(P), np.eye(3), 1.0),
    "lambda_sum_largest": (lambda P: cp.lambda_sum_largest(P, 2), 2 * np.eye(3), 2.0),
    "sigma_max": (lambda P: cp.sigma_max(P), np.eye(3), 1.0),
    "norm nuc": (lambda P: cp.norm(P, "nuc"), np.eye(3), 3.0),
    "gen_lambda_max": (lambda P: cp.gen_lambda_max(P, np.eye(3)), np.eye(3), 1.0),
    "log_det": (lambda P: cp.log_det(P), np.eye(3), 3.0),
    "von_neumann_entr": (lambda P: cp.von_neumann_entr(P), np.eye(3), -3.0),
    "condition_number": (lambda P: cp.condition_number(P), np.eye(3), 0.0),
}


@pytest.mark.parametrize("name", TIED)
def test_ties_give_an_element_of_the_subdifferential(name: str) -> None:
    """The sum of the gradient's entries (its trace, for a function of eigenvalues) is that of every element."""
    build, point, expected = TIED[name]
    P = cp.Parameter((3, 3), symmetric=True)
    nodes = translate([build(P)], [P])
    (gradient,) = pullback(nodes, [point[None]], [np.ones(1)])
    leaf = torch.tensor(point[None], requires_grad=True)
    (torch_gradient,) = torch.autograd.grad(evaluate(nodes, [leaf], TorchArithmetic())[0].sum(), leaf)
    H = hessian(lambda v: evaluate(nodes, [v], TorchArithmetic())[0].sum())(torch.tensor(point[None]))
    assert torch.isfinite(H).all()
    for g in (gradient[0], torch_gradient[0].numpy()):
        assert np.isfinite(g).all()
        assert (np.trace(g) if "lambda" in name or name in SPECTRAL else g.sum()) == pytest.approx(expected, abs=1e-10)


SPECTRAL = ("sigma_max", "norm nuc", "log_det", "von_neumann_entr", "condition_number")


@pytest.mark.parametrize("name", ["log_det", "tr_inv", "von_neumann_entr"])
def test_second_derivatives_of_smooth_functions_with_repeated_eigenvalues(name: str) -> None:
    P = cp.Parameter((3, 3), PSD=True)
    evaluation = Evaluation(translate([getattr(cp, name)(P)], [P]), TorchArithmetic())
    A = torch.diag(torch.tensor([0.5, 0.5, 0.5 + 1e-6], dtype=torch.float64))
    D = torch.tensor([[1.0, 2, -1], [2, 0.5, 1], [-1, 1, 0.3]], dtype=torch.float64)
    H = hessian(lambda t: evaluation([(A + t * D)[None]])[0][0])(torch.zeros((), dtype=torch.float64))
    inverse = torch.linalg.inv(A)
    exact = {
        "log_det": -torch.trace(inverse @ D @ inverse @ D),
        "tr_inv": 2 * torch.trace(inverse @ D @ inverse @ D @ inverse),
        "von_neumann_entr": -2 * (D * D).sum(),
    }[name]
    torch.testing.assert_close(H, exact, rtol=1e-5 if name[0] == "v" else 1e-8, atol=0)


def test_boundaries() -> None:
    p = cp.Parameter(3)
    nodes = translate([cp.entr(p), cp.kl_div(p, p), cp.rel_entr(p, 1), cp.log_sum_exp(p)], [p])
    results = evaluate(nodes, [np.array([[0.0, 1.0, -1.0]])])
    np.testing.assert_array_equal(results[0], [[0, 0, -np.inf]])
    np.testing.assert_array_equal(results[1], [[0, 0, np.inf]])
    (gradient,) = pullback(nodes[:1], [np.array([[0.0, 1.0, 2.0]])], [np.ones((1, 3))])
    assert np.isfinite(gradient).all()
    assert gradient[0, 0] > 700  # steep, as the limit is
    huge = np.array([[3e200, 4e200, 0.0]])
    norm = translate([cp.norm(p)], [p])
    assert evaluate(norm, [huge])[0][0] == pytest.approx(5e200)
    assert evaluate(norm, [huge / 1e300 / 1e100])[0][0] == pytest.approx(5e-200)
    q = cp.Parameter((2, 2), symmetric=True)
    results = evaluate(translate([cp.log_det(q), cp.tr_inv(q), cp.von_neumann_entr(q)], [q]), [-np.eye(2)[None]])
    assert [float(r[0]) for r in results] == [-np.inf, np.inf, -np.inf]
    pure = evaluate(translate([cp.von_neumann_entr(q)], [q]), [np.ones((1, 2, 2)) / 2])[0]
    assert pure[0] == pytest.approx(0, abs=1e-12)


def test_structure_is_shared_folded_and_pickled() -> None:
    p, c = cp.Parameter(3), cp.Constant(np.arange(3.0))
    square = cp.square(p)
    nodes = translate([square + cp.exp(c), square * 2, cp.sign(c), cp.sqrt(cp.sum_squares(c))], [p])
    evaluation = Evaluation(nodes, NumpyArithmetic())
    assert sum(step[1].__name__ == "_power" for step in evaluation.steps) == 1
    assert len(evaluation.steps) == 3  # power, add, multiply
    values = [np.random.default_rng(0).standard_normal((2, 3))]
    again = pickle.loads(pickle.dumps(nodes))
    for ours, theirs in zip(evaluate(nodes, values), evaluate(again, values), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert evaluate(nodes, values)[2].shape == (1, 3)
    assert all(np.all(g == 0) for g in pullback(nodes[2:], values, [np.ones((1, 3)), np.ones(1)]))
    assert evaluate(pickle.loads(pickle.dumps(Evaluation(nodes, TorchArithmetic()))), [torch.tensor(values[0])])


def test_symbolic_quadratic_form() -> None:
    from cvxpy.atoms.quad_form import SymbolicQuadForm

    p = cp.Parameter(3)
    (node,) = translate([SymbolicQuadForm(p, np.eye(3), cp.quad_over_lin(p, 2))], [p])
    assert evaluate([node], [np.ones((1, 3))])[0][0] == pytest.approx(1.5)


REFUSED = {
    "ceil": cp.ceil, "floor": cp.floor, "sign": cp.sign, "length": cp.length,
    "perspective": lambda p: p[0] * cp.perspective(cp.square(cp.Variable(name="x")), cp.Variable(nonneg=True)),
    "quantum_rel_entr": lambda p: cp.quantum_rel_entr(cp.diag(p), np.eye(3)),
    "Variable": lambda p: p @ cp.Variable(3),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_atom_and_the_expression(name: str) -> None:
    p = cp.Parameter(3, name="rates")
    with pytest.raises(
        CanonicalizationError, match=rf"expression .*: {'Variable' if name == 'perspective' else name} "
    ):
        translate([REFUSED[name](p)], [p])


def test_every_atom_of_cvxpy_is_covered_or_refused() -> None:
    def subclasses(kind: type) -> set[type]:
        return {kind}.union(*(subclasses(k) for k in kind.__subclasses__()))

    own = {k for k in subclasses(Atom) if k.__module__.startswith("cvxpy.") and not inspect.isabstract(k)}
    uncovered = {k.__name__ for k in own if k not in _RULES and k not in _REFUSED and not issubclass(k, Wrap)}
    bases = {
        "LogicExpression",
        "_NaryLogicExpression",
        "Elementwise",
        "AffAtom",
        "AxisAtom",
        "UnaryOperator",
        "BinaryOperator",
    }
    assert uncovered <= bases | {"SymbolicQuadForm", "SuppFuncAtom"}
    used = {type(e) for case in CASES for e in _all(translated(case)[1])}
    untested = {k.__name__ for k in _RULES if k not in used}
    assert untested == set()


def _all(expression: cp.Expression) -> list[cp.Expression]:
    return [expression] + [e for a in expression.args for e in _all(a)]


def test_wrong_arguments() -> None:
    p, q = cp.Parameter(3), cp.Parameter((2, 3), name="q")
    with pytest.raises(CanonicalizationError, match="q is not among the parameters"):
        translate([q @ p], [p])
    nodes = translate([q @ p], [p, q])
    with pytest.raises(ValueError, match=r"value 1: got shape \(1, 3, 2\)"):
        evaluate(nodes, [np.ones((1, 3)), np.ones((1, 3, 2))])
    with pytest.raises(ValueError, match=r"got a batch of 2, the others have 4"):
        evaluate(nodes, [np.ones((2, 3)), np.ones((4, 2, 3))])
