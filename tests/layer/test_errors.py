"""Bad input gets an error at once that names the argument, what was got and what was expected."""

from __future__ import annotations

import copy
import pickle
import sys
from types import ModuleType

import cvxpy as cp
import diffcp
import numpy as np
import pytest
import scs
import torch

from conelayers import (
    CanonicalizationError,
    Cones,
    InaccurateSolutionWarning,
    Layer,
    SolveError,
    Status,
    solve_and_differentiate,
)
from conelayers.torch import ConeLayer

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")

SCS_VERSION = tuple(map(int, scs.__version__.split(".")[:2]))


def leaves():
    return cp.Variable(3, name="x"), cp.Parameter(3, name="p"), cp.Parameter(nonneg=True, name="r")


def refused(make, *phrases: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error) as caught:
        make()
    for phrase in phrases:
        assert phrase in str(caught.value)


def layer(objective: cp.Expression, constraints=(), parameters=(), variables=(), **options) -> Layer:
    return Layer(cp.Problem(cp.Minimize(objective), list(constraints)), list(parameters), list(variables), **options)


def test_not_dcp_names_the_expression() -> None:
    x, p, _ = leaves()
    refused(
        lambda: layer(cp.sqrt(cp.sum_squares(x - p)), (), [p], [x]),
        "must be DCP",
        "quad_over_lin",
        error=CanonicalizationError,
    )
    y = cp.Variable(pos=True, name="y")
    q = cp.Parameter(pos=True, name="q")
    refused(lambda: layer(q / y * y * y, (), [q], [y]), "must be DCP", "pass gp=True")


def test_not_dpp_names_the_expression_and_the_fix_where_lifting_is_off() -> None:
    x, p, r = leaves()
    refused(
        lambda: layer(cp.sum_squares(x - p) + r * cp.norm1(cp.multiply(p, x)), (), [p, r], [x], lift=False),
        "must be DPP",
        "`r * norm1(p * x)`",
        "lift=True",
    )
    refused(lambda: layer(cp.sum_squares(x), [x >= p * r], [p, r], [x], lift=False), "must be DPP", "Promote(r, (3,))")
    P = cp.Parameter((3, 3), PSD=True, name="P")
    refused(lambda: layer(cp.sum(x), [cp.quad_form(x, P) <= 1], [P], [x], lift=False), "must be DPP", "QuadForm(x, P)")
    refused(lambda: layer(cp.quad_form(x, P), (), [P], [x], solver="ECOS", lift=False), "must be DPP", "QuadForm(x, P)")
    refused(
        lambda: layer(cp.maximum(cp.quad_form(x, P), 1), (), [P], [x], lift=False),
        "must be DPP",
        "`maximum(QuadForm(x, P), 1.0)`",
    )


def test_parameters_and_variables_must_be_the_problems() -> None:
    x, p, r = leaves()
    objective = cp.sum_squares(x - p)
    refused(lambda: layer(objective, (), [], [x]), "must exactly match problem.parameters", "missing: p")
    refused(lambda: layer(objective, (), [p, r], [x]), "must exactly match problem.parameters", "not in the problem: r")
    refused(lambda: layer(objective, (), [p, p], [x]), "given twice: p")
    refused(lambda: layer(objective, (), [p], [cp.Variable(name="z")]), "z must be a subset of problem.variables")
    other = x >= 0
    refused(lambda: layer(objective, (), [p], other.dual_variables), "must be a subset of problem.variables")
    refused(lambda: layer(objective, (), [p], []), "variables: got an empty list")
    refused(lambda: Layer(cp.Problem(cp.Minimize(objective)), p, [x]), "must be provided as a list or tuple")
    refused(lambda: layer(objective, (), [x], [x]), "parameters[0]: got Variable")
    refused(lambda: Layer(objective, [p], [x]), "problem: got", error=TypeError)


@pytest.mark.parametrize("attribute", ["integer", "boolean"])
def test_integer_variables_are_refused(attribute: str) -> None:
    x, p = cp.Variable(2, name="x", **{attribute: True}), cp.Parameter(2, name="p")
    refused(
        lambda: layer(cp.sum_squares(x - p), (), [p], [x]), f"variable x is {attribute}", error=CanonicalizationError
    )


def test_a_parameter_in_an_exponent_is_refused() -> None:
    """cvxpy calls it DPP and fixes its value at compilation."""
    x, a = cp.Variable(3, name="x"), cp.Parameter(name="a", pos=True)
    a.value = 0.3
    constraint = cp.PowCone3D(x[0], x[1], x[2], a)
    refused(
        lambda: layer(cp.sum_squares(x), [constraint], [a], [x]), "exponent", "parameter a", error=CanonicalizationError
    )
    power = cp.sum(cp.power(cp.abs(x), a))
    refused(lambda: layer(power, (), [a], [x]), "exponent", "parameter a", error=CanonicalizationError)


def test_quasiconvex_and_nonconvex_problems_are_refused_with_a_way_out() -> None:
    x, p, _ = leaves()
    refused(lambda: layer(cp.length(x - p), (), [p], [x]), "must be DCP", "It is DQCP", "level a Parameter")
    refused(lambda: layer(-cp.sum_squares(x - p), (), [p], [x]), "must be DCP", "local ones")
    S = cp.Parameter((3, 3), symmetric=True, name="S")
    refused(lambda: layer(cp.quad_form(x, S), (), [S], [x]), "must be DCP", "PSD=True")


def test_solvers_that_do_not_take_the_problem_are_refused_at_construction() -> None:
    X, A = cp.Variable((3, 3), symmetric=True, name="X"), cp.Parameter((3, 3), symmetric=True, name="A")
    refused(lambda: layer(cp.trace(X), [X >> A], [A], [X], solver="ECOS"), "ECOS", "psd", "CLARABEL, SCS")
    refused(lambda: layer(cp.trace(X), [X >> A], [A], [X], solver="GUROBI"), "solver: got 'GUROBI'", "CLARABEL")
    refused(lambda: layer(cp.trace(X), [X >> A], [A], [X], solver_args={"solve_method": "ECOS"}), "ECOS", "psd")


@pytest.mark.parametrize(
    ("solver_args", "phrase"),
    [
        ({"foo": 1}, "got 'foo'"),
        ({"solve_method": "Clarabel", "eps_abs": 1e-3}, "add solve_method='SCS'"),
        ({"eps": -1}, "eps: got -1"),
        ({"tol": "small"}, "tol: got 'small'"),
        ({"eps": 1e-6, "tol": 1e-6}, "keep one"),
        ({"max_iters": 0}, "max_iters: got 0"),
        ({"max_iters": 2.5}, "max_iters: got 2.5"),
        ({"mode": "fast"}, "mode: got 'fast'"),
        ({"mode": "lpgd"}, "lpgd"),
        ({"solve_method": "OSQP"}, "got 'OSQP'"),
        ({"n_jobs_forward": 0}, "n_jobs_forward: got 0"),
        ({"verbose": "yes"}, "verbose: got 'yes'"),
        ({"max_step_fraction": "large"}, "CLARABEL refused"),
    ],
)
def test_unknown_or_bad_options_are_named(solver_args, phrase: str) -> None:
    x, p, _ = leaves()
    made = layer(cp.sum_squares(x - p), (), [p], [x])
    refused(lambda: made.solve(np.ones(3), solver_args=solver_args), phrase)


def test_options_reach_the_backend() -> None:
    x, p, _ = leaves()
    made = layer(
        cp.sum_squares(x - p) + cp.norm(x), (), [p], [x], solver="SCS", solver_args={"scale": 0.5, "eps_abs": 1e-7}
    )
    np.testing.assert_allclose(made.solve(np.zeros(3)).variables[0], 0, atol=1e-7)


def test_values_are_checked() -> None:
    x, p, r = leaves()
    made = layer(cp.sum_squares(x - p) + r * cp.norm1(x), (), [p, r], [x])
    good, one = np.ones(3), np.array(1.0)
    refused(lambda: made.solve(good), "A tensor must be provided for each CVXPY parameter", "p, r")
    refused(lambda: made.solve(np.ones(4), one), "Invalid parameter shape for parameter 0 (p)", "(3,)", "(4,)")
    refused(lambda: made.solve(np.ones((2, 4)), one), "Invalid parameter shape for parameter 0 (p)", "(batch_size, 3)")
    refused(lambda: made.solve(np.ones((2, 2, 3)), one), "Invalid parameter dimensionality for parameter 0 (p)")
    refused(lambda: made.solve(np.ones((2, 3)), np.ones(3)), "Inconsistent batch sizes", "p: 2", "r: 3")
    refused(lambda: made.solve(np.array([[1.0, 2, 3], [1, np.nan, 3]]), one), "parameter p at batch index 1", "NaN")
    refused(lambda: made.solve(np.array([np.inf, 2, 3]), one), "parameter p: got NaN or infinite")
    refused(lambda: made.solve(good, np.array(-1.0)), "parameter r: was declared nonneg=True")
    refused(lambda: made.solve(np.array(["a", "b", "c"]), one), "parameter 0 (p): got dtype", error=TypeError)
    refused(lambda: made.solve(good.astype(complex), one), "got dtype complex128", error=TypeError)
    refused(lambda: made.solve(good, one).vjp(np.ones(2)), "cotangent 0 (x): got shape (2,)")
    refused(lambda: made.solve(good, one).vjp(np.ones(3), np.ones(3)), "vjp: got 2 cotangents, expected 1")
    refused(lambda: made.solve(good, one).jvp(np.ones(3)), "jvp: got 1 tangents, expected 2")
    refused(lambda: made.solve(good, one).jvp(np.ones(2), None), "tangent 0 (p): got shape (2,)")


@pytest.mark.parametrize(
    ("attribute", "value", "phrase"),
    [
        ({"PSD": True}, -np.eye(2), "declared PSD=True; got an eigenvalue -1"),
        ({"NSD": True}, np.eye(2), "declared NSD=True"),
        ({"symmetric": True}, np.array([[0.0, 1.0], [0.0, 0.0]]), "must be symmetric"),
        ({"diag": True}, np.ones((2, 2)), "declared with diag=True"),
        ({"sparsity": [(0,), (1,)]}, np.ones((2, 2)), "a sparsity pattern"),
        ({"nonpos": True}, np.ones((2, 2)), "declared nonpos=True"),
        ({"bounds": [0, 1]}, 2 * np.ones((2, 2)), "declared with bounds"),
    ],
)
def test_values_that_break_an_attribute_are_named(attribute, value, phrase: str) -> None:
    X, S = cp.Variable((2, 2), name="X"), cp.Parameter((2, 2), name="S", **attribute)
    made = layer(cp.sum_squares(X - S), (), [S], [X])
    refused(lambda: made.solve(value), "parameter S", phrase)


def test_failures_are_statuses() -> None:
    x, p, _ = leaves()
    infeasible = layer(cp.sum_squares(x), [x >= p, x <= 0], [p], [x])
    unbounded = layer(p @ x, [x >= 0], [p], [x])
    for made, value, status in (
        (infeasible, np.ones(3), Status.PRIMAL_INFEASIBLE),
        (unbounded, -np.ones(3), Status.DUAL_INFEASIBLE),
    ):
        for method in ("CLARABEL", "SCS", "ECOS"):
            with pytest.raises(SolveError, match="1 of 2 instances") as caught:
                made.solve(np.stack([value, -value]), solver_args={"solve_method": method})
            assert caught.value.statuses[0] is status
            assert caught.value.indices == (0,)
            assert status.advice in str(caught.value)


@pytest.mark.parametrize("method", ["CLARABEL", "SCS", "ECOS"])
def test_iteration_limit_is_told(method: str) -> None:
    x, p, _ = leaves()
    made = layer(cp.norm(x - p) + cp.norm1(x), [cp.norm(x) <= 1], [p], [x])
    with pytest.raises(SolveError) as caught:
        made.solve(10 * np.ones(3), solver_args={"solve_method": method, "max_iters": 1})
    assert caught.value.statuses == (Status.ITERATION_LIMIT,)


def test_every_status_has_advice() -> None:
    assert all(status.advice for status in Status)


def test_conic_data_are_checked() -> None:
    eye, one = np.eye(2), np.ones(2)
    cones = Cones(nonneg=2)
    refused(lambda: solve_and_differentiate(eye, one, eye, one, Cones(nonneg=3)), "3 rows in total, expected 2")
    refused(
        lambda: solve_and_differentiate(np.triu(np.ones((2, 2))), one, eye, one, cones),
        "P: got a matrix that is not symmetric",
    )
    refused(lambda: solve_and_differentiate(eye, np.ones(3), eye, one, cones), "A: got shape (2, 2), expected (2, 3)")
    refused(lambda: solve_and_differentiate(eye, one * np.nan, eye, one, cones), "q: got NaN")
    refused(lambda: solve_and_differentiate(eye, eye, eye, one, cones), "q: got shape (2, 2)")
    refused(lambda: solve_and_differentiate(eye, one, "A", one, cones), "A: got str")
    refused(lambda: solve_and_differentiate(eye, one, eye, one, {"x": 2}), "got the key 'x'")
    refused(lambda: solve_and_differentiate(eye, one, eye, one, [2]), "cones: got list", error=TypeError)
    refused(
        lambda: solve_and_differentiate(eye, one, eye, one, cones, solver="ECOS"),
        "a quadratic objective",
        "CLARABEL, SCS",
    )
    with pytest.raises(SolveError, match="dual infeasible"):
        solve_and_differentiate(None, -one, -eye, np.zeros(2), cones)


def test_missed_accuracy_warns(monkeypatch) -> None:
    """Without Newton steps a loose solve stays loose: the residuals, not the backend's word, decide."""
    for steps in ("plain", "proximal"):
        monkeypatch.setattr(f"conelayers.numerics.newton._State.{steps}", lambda *_: None)
    x, p, _ = leaves()
    made = layer(cp.norm(x - p) + cp.norm1(x), [cp.norm(x) <= 1], [p], [x], solver="SCS", simplify=False)
    value = np.array([3.0, 2.0, 1.0])
    with pytest.warns(InaccurateSolutionWarning, match="residual of"):
        # Fewer are a failure, more are enough.
        solution = made.solve(value, solver_args={"max_iters": 40 if SCS_VERSION >= (3, 3) else 80})
    assert solution.status is Status.INACCURATE


@pytest.mark.parametrize("scale", [1e3, 1e6])
@pytest.mark.parametrize("batch", [1, 20])
def test_an_optimal_value_of_zero_is_reached_at_any_scale(scale: float, batch: int) -> None:
    """Fitting data exactly: what rounding makes of the duality gap, of the size of the data squared, is no failure."""
    x, a = cp.Variable(3), cp.Parameter(3)
    value = scale * np.random.default_rng(0).uniform(0.5, 1, (batch, 3))
    for constraints in ([], [x >= 0]):
        solution = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - a)), constraints), [a], [x]).solve(value)
        assert set(solution.status) == {Status.SOLVED}
        np.testing.assert_allclose(solution.variables[0], value, rtol=1e-12)
    X, S = cp.Variable((3, 3), symmetric=True), cp.Parameter((3, 3), symmetric=True)
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(X - S)), [X >> 0]), [S], [X])
    assert set(layer.solve(np.tile(scale * np.eye(3), (batch, 1, 1))).status) == {Status.SOLVED}


def test_programs_without_rows_and_empty_batches() -> None:
    """Neither equilibration nor presolve stumbles over arrays without entries."""
    solution = solve_and_differentiate(1e3 * np.eye(2), [1.0, 2.0], np.zeros((0, 2)), [], Cones())
    np.testing.assert_allclose(solution.x, [-1e-3, -2e-3])
    x, A, b = cp.Variable(3), cp.Parameter((4, 3)), cp.Parameter(4)
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x >= 0]), [A, b], [x])
    assert layer.solve(np.zeros((0, 4, 3)), np.zeros((0, 4))).variables[0].shape == (0, 3)


def test_what_cvxpy_stumbles_over_is_told_and_what_it_grumbles_about_is_not() -> None:
    """Its complex reduction loses a sign, and then finds the problem not to be DCP; and it builds a constant of a nested list itself."""
    z, p = cp.Variable(2, complex=True), cp.Parameter()
    bound = cp.norm(cp.hstack([cp.pos(-cp.harmonic_mean(cp.real(z) + p)), 1]))
    problem = cp.Problem(cp.Minimize(bound), [cp.norm(z) <= 1])
    assert problem.is_dcp()
    with pytest.raises(CanonicalizationError, match=r"cvxpy's own reduction .* failed with ValueError"):
        Layer(problem, [p], [z])
    X = cp.Variable((1, 1), hermitian=True)
    (value,) = Layer(cp.Problem(cp.Minimize(cp.sum_squares(X - p))), [p], [X]).solve(np.array(2.0)).variables
    np.testing.assert_allclose(value, [[2.0]])


# ------------------------------------------------------------------------------------------------ what migrants catch and write


def failure() -> SolveError:
    """One of a layer's."""
    x, p, _ = leaves()
    with pytest.raises(SolveError) as caught:
        layer(cp.sum_squares(x), [x >= p, x <= 0], [p], [x]).solve(np.ones(3))
    return caught.value


def test_a_solve_error_is_what_cvxpy_and_diffcp_raise() -> None:
    """``except`` clauses of migrants keep working; also after pickling and copying."""
    for error in (failure(), pickle.loads(pickle.dumps(failure())), copy.copy(failure()), copy.deepcopy(failure())):
        assert isinstance(error, cp.error.SolverError)
        assert isinstance(error, diffcp.SolverError)
        assert isinstance(error, SolveError)
        assert isinstance(error, RuntimeError)
        assert error.statuses == (Status.PRIMAL_INFEASIBLE,)
        assert "1 of 1 instances" in str(error)
        assert type(error) is type(failure()), "one class for all of them"
    for kind in (cp.error.SolverError, diffcp.SolverError, SolveError):
        with pytest.raises(kind):
            raise failure()


def test_it_is_one_where_diffcp_is_imported_when_it_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    travelled = pickle.dumps(failure())
    for absent in (None, ModuleType("diffcp")):  # not imported, and one without the name
        if absent is None:
            monkeypatch.delitem(sys.modules, "diffcp")
        else:
            monkeypatch.setitem(sys.modules, "diffcp", absent)
        for error in (failure(), pickle.loads(travelled)):
            assert type(error) is SolveError
            assert isinstance(error, cp.error.SolverError)
            assert error.indices == (0,)
    theirs = type("SolverError", (Exception,), {})
    module = ModuleType("diffcp")
    module.SolverError = theirs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "diffcp", module)
    assert isinstance(failure(), theirs)
    assert isinstance(pickle.loads(travelled), theirs)


def test_unnamed_parameters_are_told_by_place_and_shape() -> None:
    """cvxpy's param63 says nothing to who did not name it; names of the user's own stand alone."""
    x, named = cp.Variable(3), cp.Parameter(3, name="costs")
    weight, bound = cp.Parameter(nonneg=True), cp.Parameter((3,))
    made = layer(cp.sum_squares(x - named) + weight * cp.norm1(x), [x <= bound], [named, weight, bound], [x])
    module = ConeLayer(
        cp.Problem(cp.Minimize(cp.sum_squares(x - named) + weight * cp.norm1(x)), [x <= bound]),
        [named, weight, bound],
        [x],
    )
    one = np.ones(3)
    for call in (made.solve, lambda *v: module(*(torch.as_tensor(h) for h in v))):
        refused(
            lambda call=call: call(one, -1.0, one),
            f"parameter {weight.name()} (unnamed, position 1, shape ())",
            "nonneg=True",
        )
        refused(
            lambda call=call: call(one, 1.0, np.ones(4)),
            f"parameter 2 ({bound.name()}, unnamed, shape (3,))",
            "got (4,)",
        )
        refused(
            lambda call=call: call(one, 1.0), f"{weight.name()} (unnamed, position 1, shape ())", "received 2 tensors"
        )
        refused(lambda call=call: call(one * np.nan, 1.0, one), "parameter costs: got NaN")
    refused(
        lambda: made.solve(np.ones((2, 3)), 1.0, np.ones((3, 3))),
        "costs: 2",
        f"{bound.name()} (unnamed, position 2, shape (3,)): 3",
    )
    refused(
        lambda: layer(cp.sum_squares(x - named), [x <= bound], [named], [x]),
        f"missing: {bound.name()} (unnamed, number 1 of problem.parameters(), shape (3,))",
    )
    lifted = layer(cp.sum_squares(x - named) + cp.sqrt(weight) * cp.norm1(x), [], [named, weight], [x])
    refused(
        lambda: lifted.solve(one, -1.0), f"parameter {weight.name()} (unnamed, position 1, shape ())", "nonneg=True"
    )
    twin = pickle.loads(pickle.dumps(made))
    refused(lambda: twin.solve(one, -1.0, one), "(unnamed, position 1, shape ())")


@pytest.mark.parametrize(
    ("keyword", "phrase"),
    [
        ("constraints", "variables=[constraint.dual_variables[0]]"),
        ("custom_method", "solver='ECOS'"),
        ("solvers", "did you mean 'solver'?"),
        ("nonsense", "leave it out"),
    ],
)
def test_keywords_of_other_layers_say_what_to_write(keyword: str, phrase: str) -> None:
    x, p, _ = leaves()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0])
    for kind in (Layer, ConeLayer):
        refused(
            lambda kind=kind: kind(problem, [p], [x], **{keyword: []}),
            keyword,
            "unexpected keyword",
            phrase,
            error=TypeError,
        )


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.uint8])
def test_integer_tensors_are_taken(dtype: torch.dtype) -> None:
    """The outputs have the dtype of the other tensors, and the default one without others."""
    x, p, _ = leaves()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.sum(x) <= 10])
    module = ConeLayer(problem, [p], [x])
    value = torch.tensor([1, 2, 3], dtype=dtype)
    (solution,) = module(value)
    torch.testing.assert_close(solution, torch.tensor([1.0, 2.0, 3.0]))
    (batch,) = module(torch.stack([value, 2 * value]))
    torch.testing.assert_close(batch[0], solution)
    scale = cp.Parameter(nonneg=True, name="scale")
    both = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p) + scale * cp.sum_squares(x))), [p, scale], [x])
    for wide in (torch.float32, torch.float64):
        s = torch.tensor(1.0, dtype=wide, requires_grad=True)
        (solution,) = both(value, s)
        assert solution.dtype is wide
        solution.sum().backward()
        torch.testing.assert_close(s.grad, torch.tensor(-1.5, dtype=wide))
        torch.testing.assert_close(
            torch.func.grad(lambda t: both(value, t)[0].sum())(s.detach()), torch.tensor(-1.5, dtype=wide)
        )
    refused(lambda: module(value > 1), "got dtype torch.bool", error=TypeError)
