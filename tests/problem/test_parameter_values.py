"""Values of parameters with attributes: checks, structured gradients, sparse and complex tensors; JAX's are in test_lifting_jax.py."""

from __future__ import annotations

import cvxpy as cp
import lifting_cases as cases
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sparse_parameters import COLS, ROWS, sparse_problem, sparse_values

from conelayers import Layer, Verdict
from conelayers.torch import ConeLayer

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")


def of(attribute: str, value: np.ndarray):
    """A layer of x = the parameter's first column, or itself."""
    shape = value.shape
    x = cp.Variable(shape)
    if attribute == "bounds":
        p = cp.Parameter(shape, name="p", bounds=[-1, 1])
    else:
        p = cp.Parameter(shape, name="p", **{attribute: True})
    return Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - p))), [p], [x])


@pytest.mark.parametrize(
    ("attribute", "good", "bad", "said"),
    [
        ("nonneg", np.ones(2), np.array([1.0, -1.0]), "nonneg=True"),
        ("nonpos", -np.ones(2), np.array([1.0, -1.0]), "nonpos=True"),
        ("pos", np.ones(2), np.zeros(2), "pos=True"),
        ("neg", -np.ones(2), np.zeros(2), "neg=True"),
        ("bounds", np.ones(2), 2 * np.ones(2), "bounds"),
        ("symmetric", np.ones((2, 2)), np.array([[1.0, 2.0], [0.0, 1.0]]), "must be symmetric"),
        ("PSD", np.eye(2), np.diag([1.0, -1.0]), "PSD=True"),
        ("NSD", -np.eye(2), np.diag([1.0, -1.0]), "NSD=True"),
        ("diag", np.eye(2), np.ones((2, 2)), "diag=True"),
    ],
)
def test_values_that_break_an_attribute_are_named_with_their_instance(attribute, good, bad, said) -> None:
    layer = of(attribute, good)
    layer.solve(good)
    with pytest.raises(ValueError, match=rf"parameter p at batch index 1: .*{said}"):
        layer.solve(np.stack([good, bad]))


def test_checks_of_attributes_can_be_left_out() -> None:
    x, p = cp.Variable(2), cp.Parameter(2, name="p", nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)))
    value = np.array([1.0, -1.0])
    with pytest.raises(ValueError, match="nonneg=True"):
        Layer(problem, [p], [x]).solve(value)
    np.testing.assert_allclose(Layer(problem, [p], [x], validate=False).solve(value).variables[0], value)
    layer = ConeLayer(problem, [p], [x], validate=False)
    np.testing.assert_allclose(layer(torch.tensor(value))[0], value)
    with pytest.raises(ValueError, match="NaN or infinite"):  # what no solver takes is refused in any case
        layer(torch.tensor([torch.nan, 1.0]))


def test_attributes_are_checked_of_parameters_that_enter_expressions_only() -> None:
    x, S = cp.Variable(2), cp.Parameter((2, 2), name="S", PSD=True)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - S @ S @ np.ones(2)))), [S], [x])
    with pytest.raises(ValueError, match=r"parameter S: was declared PSD=True"):
        layer(torch.diag(torch.tensor([1.0, -1.0])))


@pytest.mark.parametrize("attribute", ["symmetric", "PSD", "diag"])
def test_gradients_have_the_structure_of_their_parameter(attribute: str) -> None:
    rng = np.random.default_rng(0)
    S, x, b = cp.Parameter((3, 3), **{attribute: True}), cp.Variable(3), rng.normal(size=3)
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(S @ x - b) + cp.sum_squares(x))), [S], [x])
    value = np.diag(rng.uniform(1, 2, 3))
    (gradient,) = layer.solve(value).vjp(rng.normal(size=3))
    np.testing.assert_array_equal(gradient, gradient.T)
    if attribute == "diag":
        np.testing.assert_array_equal(gradient, np.diag(np.diag(gradient)))


def test_hermitian_gradients_are_hermitian() -> None:
    problem, parameters, variables, values = cases.density_matrix(np.random.default_rng(0))
    (gradient,) = (
        Layer(problem, parameters, variables).solve(*values).vjp(np.ones((3, 3)) + 1j * np.triu(np.ones((3, 3))))
    )
    np.testing.assert_allclose(gradient, gradient.conj().T, atol=1e-14)


def test_gradients_through_expressions_have_the_structure_too() -> None:
    b = np.array([1.0, -2.0, 0.5])
    H = np.array([[1, 2j, 1], [-2j, 3, 1j], [1, -1j, 2]])
    for attribute, value in (("PSD", H.real + np.eye(3)), ("diag", np.diag([1.0, 2.0, 3.0])), ("hermitian", H)):
        S, x = cp.Parameter((3, 3), **{attribute: True}), cp.Variable(3, complex=attribute == "hermitian")
        problem = cp.Problem(cp.Minimize(cp.sum_squares(x - S @ S @ b) + cp.norm(x)))
        layer = ConeLayer(problem, [S], [x])
        solution = layer.engine.solve(value)
        (gradient,) = solution.vjp(b)
        np.testing.assert_allclose(gradient, gradient.conj().T, atol=1e-13)
        tensor = torch.tensor(value, requires_grad=True)
        (layer(tensor)[0].real @ torch.tensor(b)).backward()
        np.testing.assert_allclose(tensor.grad.numpy(), gradient, atol=1e-12)
        if attribute == "diag":
            assert not gradient[~np.eye(3, dtype=bool)].any()


def test_sparse_values_give_sparse_gradients() -> None:
    problem, parameters, variables = sparse_problem()
    A, b = sparse_values()
    layer = Layer(problem, parameters, variables)
    expected = np.linalg.solve(A.T @ A + 0.1 * np.eye(3), A.T @ b)
    solution = layer.solve(A, b)
    np.testing.assert_allclose(solution.variables[0], expected, atol=1e-12)
    np.testing.assert_allclose(layer.solve(sp.csr_array(A), b).variables[0], expected, atol=1e-12)
    gradient = solution.vjp(np.ones(3))[0]
    outside = np.ones((4, 3), dtype=bool)
    outside[ROWS, COLS] = False
    assert not gradient[outside].any()

    torch_layer = ConeLayer(problem, parameters, variables)
    for convert in (torch.Tensor.to_dense, torch.Tensor.to_sparse):
        value = convert(torch.tensor(A)).requires_grad_()
        torch_layer(value, torch.tensor(b))[0].sum().backward()
        assert value.grad.layout is value.layout
        np.testing.assert_allclose(value.grad.to_dense().numpy(), gradient, atol=1e-13)
    # In any order, and with entries that are not stored.
    kept = torch.sparse_coo_tensor(
        torch.tensor(np.stack([ROWS[[3, 0]], COLS[[3, 0]]])),
        torch.ones(2, dtype=torch.float64),
        (4, 3),
        check_invariants=True,
    )
    np.testing.assert_allclose(
        torch_layer(kept, torch.tensor(b))[0].numpy(),
        torch_layer(kept.to_dense(), torch.tensor(b))[0].numpy(),
        atol=1e-14,
    )
    stacked = torch.stack([torch.tensor(A), 2 * torch.tensor(A)])
    np.testing.assert_allclose(torch_layer(stacked, torch.tensor(b))[0][0].numpy(), expected, atol=1e-12)


def test_sparse_values_outside_of_the_pattern_or_the_attributes_are_refused() -> None:
    problem, parameters, variables = sparse_problem(nonneg=True)
    A, b = sparse_values()
    for layer, wrap in (
        (Layer(problem, parameters, variables).solve, sp.csr_array),
        (ConeLayer(problem, parameters, variables), lambda h: torch.tensor(h).to_sparse()),
    ):
        target = torch.tensor(b) if isinstance(layer, ConeLayer) else b
        with pytest.raises(ValueError, match="sparsity pattern; got entries outside it"):
            layer(wrap(np.ones((4, 3))), target)
        with pytest.raises(ValueError, match="nonneg=True"):
            layer(wrap(-A), target)
    with pytest.raises(TypeError, match="expected a dense one"):
        ConeLayer(problem, parameters, variables)(torch.tensor(A), torch.tensor(b).to_sparse())


def test_a_large_sparse_parameter_is_never_made_dense() -> None:
    n = 3000
    places = np.arange(n)
    P, x, c = cp.Parameter((n, n), sparsity=(places, places)), cp.Variable(n), np.linspace(-1, 1, n)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(P @ x - c) + cp.sum_squares(x))), [P], [x])
    assert sum(spec.size for spec in layer.engine.compiled_for().parameters) == n
    value = torch.sparse_coo_tensor(
        torch.tensor(np.stack([places, places])),
        torch.full((n,), 2.0, dtype=torch.float64),
        (n, n),
        check_invariants=True,
    ).requires_grad_()
    (solution,) = layer(value)
    np.testing.assert_allclose(solution.detach().numpy(), 0.4 * c, atol=1e-12)
    solution.sum().backward()
    assert value.grad.is_sparse


def test_scipys_sparse_values_in_every_derivative() -> None:
    A, s, x = cp.Parameter((4, 3), sparsity=(ROWS, COLS)), cp.Parameter(nonneg=True), cp.Variable(3)
    value, b = sparse_values()
    layer = Layer(cp.Problem(cp.Minimize(s**2 * cp.sum_squares(A @ x - b) + cp.sum_squares(x))), [A, s], [x])
    dense, sparse = layer.solve(value, 0.9), layer.solve(sp.csc_array(value), 0.9)
    (gradient, _), (expected, _) = sparse.vjp(b[:3]), dense.vjp(b[:3])
    np.testing.assert_allclose(gradient.toarray(), expected, atol=1e-14)
    np.testing.assert_allclose(sparse.jvp(sp.csr_array(value), 1.0)[0], dense.jvp(value, 1.0)[0], atol=1e-14)
    np.testing.assert_allclose(sparse.jacobian()[0][0], dense.jacobian()[0][0], atol=1e-14)
    plain = cp.Parameter((4, 3))
    other = Layer(cp.Problem(cp.Minimize(cp.sum_squares(plain @ x - b))), [plain], [x])
    np.testing.assert_array_equal(other.solve(sp.csr_array(value)).variables[0], other.solve(value).variables[0])


def test_an_empty_batch() -> None:
    problem, parameters, variables = sparse_problem()
    layer = ConeLayer(problem, parameters, variables)
    assert layer(torch.zeros(0, 4, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))[0].shape == (0, 3)


# Complex values


def complex_tensors(make, seed: int = 1):
    problem, parameters, variables, values = make(np.random.default_rng(seed))
    layer = ConeLayer(problem, parameters, variables)
    return layer, tuple(torch.tensor(np.asarray(v)).requires_grad_() for v in values)


@pytest.mark.parametrize("make", [cases.complex_lasso, cases.complex_projection], ids=lambda make: make.__name__)
def test_complex_gradcheck(make) -> None:
    layer, tensors = complex_tensors(make)
    assert torch.autograd.gradcheck(lambda *t: layer(*t)[0], tensors, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda *t: layer(*t)[0], tensors)


def test_hermitian_variables_duals_and_certificates() -> None:
    """The dual variable of X ⪰ 0, and a certificate that is not upset by the real form's doubled multipliers."""
    problem, parameters, variables, values = cases.density_matrix(np.random.default_rng(1))
    dual = problem.constraints[0].dual_variables[0]
    layer = ConeLayer(problem, parameters, [*variables, dual])
    X, S = layer(torch.tensor(values[0]))
    assert X.dtype == S.dtype == torch.complex128
    torch.testing.assert_close(X, X.mH)
    assert float((X @ S).abs().max()) < 1e-8
    parameters[0].value = values[0]
    problem.solve(solver=cp.CLARABEL)
    np.testing.assert_allclose(S.numpy(), dual.value, atol=1e-5)
    assert layer.certify(torch.tensor(values[0]))[0].verdict is Verdict.CLASSICAL


def test_complex_values_in_single_precision_batches_and_for_real_parameters() -> None:
    layer, (c, r) = complex_tensors(cases.complex_projection)
    z, _ = layer(c.detach().to(torch.complex64), r.detach().to(torch.float32))
    assert z.dtype == torch.complex64
    batch = torch.stack([c.detach(), 1j * c.detach()])
    both, _ = layer(batch, r.detach())
    torch.testing.assert_close(both[0], layer(c, r)[0])
    torch.testing.assert_close(layer(c.detach().real, r.detach())[0], layer(c.detach().real + 0j, r.detach())[0])
    with pytest.raises(TypeError, match=r"parameter 1 \(r\): got dtype torch\.complex128"):
        layer(c, r.detach() + 0j)
    with pytest.raises(ValueError, match=r"parameter c at batch index 1: .*NaN or infinite"):
        layer(torch.stack([c.detach(), c.detach() * torch.nan]), r.detach())


def test_values_that_are_not_hermitian_or_imaginary_are_refused() -> None:
    problem, parameters, variables, values = cases.density_matrix(np.random.default_rng(1))
    with pytest.raises(ValueError, match="parameter C: must be Hermitian"):
        Layer(problem, parameters, variables).solve(values[0] + np.triu(np.ones((3, 3)), 1))
    problem, parameters, variables, values = cases.phases(np.random.default_rng(1))
    with pytest.raises(ValueError, match="imag=True"):
        Layer(problem, parameters, variables).solve(values[0] + 1, values[1])


def test_the_optimal_value_of_a_complex_problem() -> None:
    layer, tensors = complex_tensors(cases.complex_lasso)
    assert torch.autograd.gradcheck(layer.value, tensors, atol=1e-5)


def test_what_cvxpys_reduction_of_complex_values_gets_wrong() -> None:
    """It divides by complex numbers as by their parts, and has no squares of what is imaginary only."""
    z, w, c = cp.Variable(2, complex=True), cp.Variable(2, imag=True), cp.Parameter(2, complex=True)
    value = np.array([1 + 2j, 0.5 - 1j])
    two = cp.Constant(2 - 1j)
    for quotient, expected in (
        (z / c[0] - c, value * value[0]),
        (z / two - c, value * (2 - 1j)),
        (z - c / two, value / (2 - 1j)),
        (1 / two * z - c, value * (2 - 1j)),
    ):
        layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(quotient))), [c], [z])
        np.testing.assert_allclose(layer.solve(value).variables[0], expected, atol=1e-12)
    with pytest.raises(ValueError, match="division by complex numbers"):
        Layer(cp.Problem(cp.Minimize(cp.sum_squares(z / two - c))), [c], [z], lift=False)
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(w - 1j * cp.imag(c)))), [c], [w])
    np.testing.assert_allclose(layer.solve(value).variables[0], 1j * value.imag, atol=1e-12)


def test_hermitian_quadratic_forms_of_expressions() -> None:
    z, A, p = cp.Variable(2, complex=True), cp.Parameter((1, 2), complex=True), cp.Parameter(nonneg=True)
    H, c = cp.Parameter((2, 2), hermitian=True), np.array([1 + 1j, -2.0])
    value, root = np.array([[2, 1j], [-1j, 3]]), np.array([[1.0, 1j]])
    for P, matrix in ((cp.psd_wrap(p**2 * H), 0.25 * value), (cp.psd_wrap(p**2 * cp.psd_wrap(A.H @ A)), None)):
        problem = cp.Problem(cp.Minimize(cp.sum_squares(z - c) + cp.quad_form(z, P)))
        matrix = 0.25 * root.conj().T @ root if matrix is None else matrix
        values = {H.id: value, A.id: root, p.id: 0.5}
        layer = Layer(problem, problem.parameters(), [z])
        solution = layer.solve(*(values[h.id] for h in problem.parameters()))
        np.testing.assert_allclose(solution.variables[0], np.linalg.solve(np.eye(2) + matrix, c), atol=1e-12)


@pytest.mark.parametrize("seed", [1, 2])
def test_products_with_hermitian_variables_keep_their_cones(seed: int) -> None:
    problem, parameters, variables, values = cases.hermitian_products(np.random.default_rng(seed))
    layer = Layer(problem, parameters, variables)
    assert layer.problem_data(*map(np.asarray, values)).cones.hermitian == (2, 4)
    assert layer.certify(*map(np.asarray, values))[0].verdict is Verdict.CLASSICAL
