"""Options that cannot change the solution change nothing but who is asked; the user's own limits, and a wish for a backend's failure, hold."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from zoo import ZOO

from conelayers import Cones, Layer, SolveError, Status, solve_and_differentiate
from conelayers.solve.backends import SOLVERS, RawSolution, Settings, choose_solver
from conelayers.solve.order import StartingOrder
from conelayers.torch import ConeLayer, CvxpyLayer, solve_cone_program

Case = tuple[cp.Problem, list[cp.Parameter], list[cp.Variable], list[np.ndarray]]

ORDINARY: list[dict[str, Any]] = [
    {"eps": 1e-8},
    {"eps": 1e-3},
    {"tol": 1e-12},
    {"max_iters": 10000},
    {"max_iters": 150},
    {"acceleration_lookback": 0},
    {"acceleration_lookback": 0, "eps": 1e-8, "max_iters": 10000},
    {"mode": "lsqr", "verbose": False, "raise_on_error": True, "fallback": True, "eps": 1e-4},
]
NAMED = ["ECOS", "CLARABEL", "SCS"]


def quadratic(batch: int = 5) -> Case:
    """The kernel's."""
    x, c, b = cp.Variable(5, name="x"), cp.Parameter(5, name="c"), cp.Parameter(3, name="b")
    G = np.random.default_rng(1).standard_normal((3, 5))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) + c @ x), [G @ x <= b, x >= -1])
    rng = np.random.default_rng(0)
    return problem, [c, b], [x], [rng.standard_normal((batch, 5)), rng.uniform(0.1, 1, (batch, 3))]


def lasso(batch: int = 5) -> Case:
    """The operator splitting's, in larger batches."""
    x, b = cp.Variable(6, name="x"), cp.Parameter(9, name="b")
    A = np.random.default_rng(1).standard_normal((9, 6))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) + cp.norm1(x)))
    return problem, [b], [x], [np.random.default_rng(0).standard_normal((batch, 9))]


def cone(batch: int = 5) -> Case:
    x, a = cp.Variable(4, name="x"), cp.Parameter(4, name="a")
    problem = cp.Problem(cp.Minimize(cp.norm(x - a) + 0.5 * cp.norm1(x)), [cp.sum(x) == 1, cp.norm(x) <= 2])
    return problem, [a], [x], [np.random.default_rng(0).standard_normal((batch, 4))]


def linear(batch: int = 5) -> Case:
    x, c = cp.Variable(6, name="x"), cp.Parameter(6, name="c")
    A = np.random.default_rng(1).random((3, 6))
    return (
        cp.Problem(cp.Minimize(c @ x), [A @ x <= 1, x >= 0]),
        [c],
        [x],
        [np.random.default_rng(0).standard_normal((batch, 6))],
    )


def exponential(batch: int = 5) -> Case:
    x, c = cp.Variable(4, name="x"), cp.Parameter(4, name="c")
    problem = cp.Problem(cp.Minimize(c @ x - cp.sum(cp.entr(x))), [cp.sum(x) == 1])
    return problem, [c], [x], [np.random.default_rng(0).standard_normal((batch, 4))]


CASES = [quadratic, lasso, cone, linear, exponential]


@pytest.mark.parametrize("options", ORDINARY, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_ordinary_options_take_the_default_s_way(case: Callable[..., Case], options: dict[str, Any]) -> None:
    """At a call and in the constructor: the same method and the same bits."""
    *made, values = case(24)
    layer = Layer(*made)
    default = layer.solve(*values)
    for solution in (layer.solve(*values, solver_args=options), Layer(*made, solver_args=options).solve(*values)):
        assert solution.solver == default.solver
        if "acceleration_lookback" in options and "SCS" in default.solver:
            np.testing.assert_allclose(solution.variables[0], default.variables[0], atol=1e-9)
        else:
            np.testing.assert_array_equal(solution.variables[0], default.variables[0])


def methods_of(options: dict[str, Any], case: Callable[..., Case] = quadratic, solver: str | None = None) -> list[str]:
    """The names of the methods, in order."""
    *made, _ = case()
    layer = Layer(*made, solver=solver, solver_args=options)
    settings = layer._programs.settings_for(None)
    return [method.name for method in settings.order.methods(settings.compiled.structure, 5)]


def test_options_of_a_backend_s_own_do_not_close_our_own_methods() -> None:
    """They cannot change the solution: they are handed over where that backend is asked, and it is the first one to be asked."""
    default = methods_of({})
    assert default[0] == "ACTIVE SET"
    for options, backend in (
        ({"scale": 0.5}, "SCS"),
        ({"eps_abs": 1e-7, "eps_rel": 1e-7, "alpha": 1.2}, "SCS"),
        ({"tol_feas": 1e-7, "equilibrate_enable": False}, "CLARABEL"),
        ({"max_iter": 500}, "CLARABEL"),
    ):
        assert methods_of(options)[:2] == ["ACTIVE SET", backend]
        assert set(methods_of(options)) == set(default) | {"SCS"}


@pytest.mark.parametrize("options", [{"verbose": True}, {"log_csv_filename": "/dev/null"}], ids=str)
def test_who_wants_to_watch_a_backend_sees_it(options: dict[str, Any]) -> None:
    methods = methods_of(options)
    assert methods[0] == methods[1] == ("SCS" if "log_csv_filename" in options else "CLARABEL")
    assert set(methods) >= {"SCS", "CLARABEL"}, "nor does that close the fallbacks"


@pytest.mark.parametrize(
    ("options", "solver"),
    [
        ({"max_iters": 5}, None),
        ({"max_iters": 5}, "SCS"),
        ({"max_iters": 5}, "ECOS"),
        ({"max_iter": 7}, None),
        ({"time_limit": 1.0}, None),
        ({"time_limit_secs": 1.0}, "SCS"),
    ],
)
def test_limits_of_the_user_s_own_ask_the_backend_alone(options: dict[str, Any], solver: str | None) -> None:
    methods = methods_of(options, cone, solver)
    assert set(methods) == {solver or "CLARABEL"}
    x, a = cp.Variable(3), cp.Parameter(3)
    layer = Layer(cp.Problem(cp.Minimize(cp.norm(x - a) + cp.norm1(x)), [cp.norm(x) <= 1]), [a], [x], solver=solver)
    if "max_iters" in options:
        with pytest.raises(SolveError) as caught:
            layer.solve(10 * np.ones(3), solver_args=options | {"max_iters": 1})
        assert caught.value.statuses == (Status.ITERATION_LIMIT,)


def test_limits_that_bind_nobody() -> None:
    for name, seconds in (("CLARABEL", np.inf), ("SCS", 0.0)):
        solver = SOLVERS[name]
        assert solver.time_option is not None
        assert not solver.limited_by(Settings(native=((solver.time_option, seconds),)))
        assert solver.limited_by(Settings(native=((solver.time_option, 10.0),)))
    for solver in SOLVERS.values():
        assert not solver.limited_by(Settings())
        assert not solver.limited_by(Settings(max_iters=solver.usual_iterations))
        assert solver.limited_by(Settings(max_iters=solver.usual_iterations - 1))


# ------------------------------------------------------------------------------------------------ named backends


@pytest.mark.parametrize("how", ["solver", "solve_method", "constructor"])
@pytest.mark.parametrize(("case", "name"), [*itertools.product(CASES, NAMED), (linear, "HIGHS")])
def test_a_backend_that_is_named_makes_the_start(case: Callable[..., Case], name: str, how: str) -> None:
    """Its loose point and Newton's steps give the solution to some 1e−12, whatever eps it was given."""
    *made, values = case()
    expected = Layer(*made).solve(*values).variables[0]
    if how == "solver":
        solution = Layer(*made, solver=name, solver_args={"eps": 1e-4}).solve(*values)
    elif how == "solve_method":
        solution = Layer(*made).solve(*values, solver_args={"solve_method": name, "max_iters": 10000})
    else:
        solution = Layer(*made, solver_args={"solve_method": name, "eps": 1e-8}).solve(*values)
    assert set(solution.solver) == {name}
    np.testing.assert_allclose(solution.variables[0], expected, atol=1e-9)
    assert {a.solver for attempts in solution.info.attempts for a in attempts} == {name}


@pytest.mark.parametrize("name", [*NAMED, "HIGHS"])
def test_where_it_fails_the_others_are_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And ``last`` says who; ``fallback=False`` is for who wants the failure."""

    def broken(self: Any, instance: Any, settings: Any, start: Any) -> RawSolution:
        raise ArithmeticError("broken down")

    monkeypatch.setattr(type(SOLVERS[name]), "_solve", broken)
    for case in (linear,) if name == "HIGHS" else (quadratic, cone, linear):
        *made, values = case()
        layer = Layer(*made)
        expected = layer.solve(*values).variables[0]
        solution = layer.solve(*values, solver_args={"solve_method": name})
        np.testing.assert_allclose(solution.variables[0], expected, atol=1e-9)
        for attempts in layer.last.attempts:
            assert attempts[0].solver == name
            assert attempts[0].status is Status.FAILED
            assert attempts[-1].solver != name
        with pytest.raises(SolveError, match="broken down"):
            layer.solve(*values, solver_args={"solve_method": name, "fallback": False})
        assert {a.solver for a in layer.last.attempts[0]} == {name}
        alone = Layer(*made, solver=name, solver_args={"fallback": False})
        with pytest.raises(SolveError):
            alone.solve(*values)
        alone.solve(*values, solver_args={"fallback": True})


@pytest.mark.parametrize("name", [*NAMED, "HIGHS"])
def test_infeasibility_is_no_failure_of_the_backend(name: str) -> None:
    x, p = cp.Variable(2), cp.Parameter(2)
    size = cp.norm1(x) if name == "HIGHS" else cp.sum_squares(x)
    infeasible = Layer(cp.Problem(cp.Minimize(size), [x >= p, x <= 0]), [p], [x], solver=name)
    unbounded = Layer(cp.Problem(cp.Minimize(p @ x), [x >= 0]), [p], [x], solver=name)
    for layer, value, status in (
        (infeasible, np.ones(2), Status.PRIMAL_INFEASIBLE),
        (unbounded, -np.ones(2), Status.DUAL_INFEASIBLE),
    ):
        for options in ({}, {"fallback": False}, {"eps": 1e-8, "max_iters": 10000}):
            with pytest.raises(SolveError) as caught:
                layer.solve(value, solver_args=options)
            assert caught.value.statuses == (status,)


def test_options_are_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a backend's own, but for the tolerances of the loose solve; SCS's acceleration_lookback wherever SCS is asked."""
    seen: list[tuple[str, Settings]] = []
    for solver in SOLVERS.values():
        kind = type(solver)

        def spy(self: Any, instance: Any, settings: Settings, start: Any) -> RawSolution:
            seen.append((self.name, settings))
            raise ArithmeticError("broken down")

        monkeypatch.setattr(kind, "_solve", spy)
    *made, values = cone(1)
    layer = Layer(*made, on_failure="nan")
    layer.solve(*values, solver_args={"solve_method": "SCS", "eps_abs": 1e-7, "scale": 0.5, "max_iters": 9000})
    first, *later = [settings for name, settings in seen if name == "SCS"]
    assert dict(first.native) == {"scale": 0.5}
    assert first.tolerance == 1e-3
    assert all(dict(s.native) == {"scale": 0.5, "eps_abs": 1e-7} for s in later)
    assert all(s.max_iters == 9000 for s in later)
    assert all(not s.native for name, s in seen if name != "SCS")
    seen.clear()
    layer.solve(*values, solver_args={"acceleration_lookback": 0, "max_iters": 10000})
    assert {name for name, _ in seen} == {"SCS", "CLARABEL", "ECOS"}
    assert all(dict(s.native) == ({"acceleration_lookback": 0} if name == "SCS" else {}) for name, s in seen)
    assert all(s.max_iters != 10000 for _, s in seen)


def test_highs_takes_linear_programs_alone() -> None:
    """Neither a quadratic objective nor a curved cone is handed to it, and without its name it stays the last resort."""
    for case in (quadratic, cone, exponential):
        with pytest.raises(ValueError, match=r"got HIGHS, .* does not take"):
            Layer(*case()[:3], solver="HIGHS")
    *made, values = linear()
    layer = Layer(*made)
    layer.solve(*values)
    assert "HIGHS" not in {a.solver for attempts in layer.last.attempts for a in attempts}
    assert choose_solver(None, Cones(nonneg=3), False).name == "CLARABEL"


def test_highs_is_handed_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no tolerance below the smallest that it takes, which it would replace by its default."""
    seen: list[dict[str, Any]] = []

    def spy(*data: Any, options: dict[str, Any], **others: Any) -> Any:
        seen.append(options)
        return linprog(*data, options=options, **others)

    monkeypatch.setattr("conelayers.solve.backends.highs.linprog", spy)
    *made, values = linear(1)
    layer = Layer(*made, solver="HIGHS")
    both = ("primal_feasibility_tolerance", "dual_feasibility_tolerance")
    layer.solve(*values, solver_args={"fallback": False, "eps": 1e-14, "max_iters": 500, "time_limit": 60.0})
    assert seen == [{**dict.fromkeys(both, 1e-10), "disp": False, "maxiter": 500, "time_limit": 60.0}]
    seen.clear()
    layer.solve(*values, solver_args={"fallback": False, "presolve": False})
    assert seen[0] == {**dict.fromkeys(both, 1e-9), "disp": False, "presolve": False}


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("presolve", 1, "True or False"),
        ("time_limit", 0, "positive number of seconds"),
        ("time_limit", np.nan, "positive number of seconds"),
        ("dual_feasibility_tolerance", 1e-12, "at least 1e-10"),
        ("primal_feasibility_tolerance", "small", "at least 1e-10"),
    ],
)
def test_highs_refuses_options_by_name(option: str, value: Any, expected: str) -> None:
    """HiGHS itself would warn, and solve with its default."""
    *made, values = linear(1)
    with pytest.raises(ValueError, match=f"{option}: got .* HIGHS refused; expected .*{expected}"):
        Layer(*made, solver="HIGHS").solve(*values, solver_args={option: value})


def test_the_plans_of_one_backend_alone() -> None:
    *made, _ = linear()
    structure = Layer(*made).compiled_for().structure
    for solver in SOLVERS.values():
        alone = StartingOrder(solver, Settings(), True, fallback=False)
        assert {method.name for method in alone.methods(structure, 3)} == {solver.name}
        others = StartingOrder(solver, Settings(), True)
        assert {method.name for method in others.methods(structure, 3)} >= set(SOLVERS)


# ------------------------------------------------------------------------------------------------ what migrants pass


# The epigraph of 0.01·|w − prev| beside costs of 1e5: its rows are not always exact to 1e−9 of themselves.
@pytest.mark.filterwarnings("ignore::conelayers.InaccurateSolutionWarning")
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4, 1e5])
def test_the_arguments_of_public_notebooks_fail_nowhere(scale: float) -> None:
    """Objectives of mixed scales, which Clarabel alone, held to eps = 1e−8, left unsolved in 4 of 180 calls."""
    rng = np.random.default_rng(5)
    w, mu, S, prev = cp.Variable(20), cp.Parameter(20), cp.Parameter((20, 20)), cp.Parameter(20)
    risk = cp.sum_squares(S @ w)
    problem = cp.Problem(cp.Maximize(mu @ w - risk - 0.01 * cp.norm1(w - prev)), [cp.sum(w) == 1, w >= 0])
    layer = Layer(problem, [mu, S, prev], [w])
    for _ in range(4):
        values = [
            scale * rng.standard_normal((2, 20)),
            np.sqrt(scale) * rng.standard_normal((2, 20, 20)),
            np.full((2, 20), 0.05),
        ]
        expected = layer.solve(*values)
        for options in ({"acceleration_lookback": 0, "eps": 1e-8, "max_iters": 10000}, {"eps": 1e-8}):
            solution = layer.solve(*values, solver_args=options)
            assert all(status.usable for status in solution.status)
            np.testing.assert_allclose(solution.value, expected.value, rtol=1e-8)


@pytest.mark.parametrize("options", [*ORDINARY, {"solve_method": "ECOS"}, {"solve_method": "SCS"}], ids=str)
def test_torch_takes_them_too(options: dict[str, Any]) -> None:
    """With the same gradients."""
    *made, values = quadratic()
    gradients = []
    for layer, given in (
        (CvxpyLayer(*made), {}),
        (CvxpyLayer(*made), options),
        (CvxpyLayer(*made, solver_args=options), {}),
    ):
        tensors = [torch.tensor(v, requires_grad=True) for v in values]
        (x,) = layer(*tensors, solver_args=given)
        x.square().sum().backward()
        gradients.append([t.grad for t in tensors])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-8, atol=1e-10)


def test_raise_on_error() -> None:
    """diffcp's word: False returns, with NaN for what failed, unless the layer or the call says something else."""
    x, p = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= p, x <= 1])
    values = np.array([[0.5, 0.5], [2.0, 2.0]])
    layer = Layer(problem, [p], [x])
    for options in ({}, {"raise_on_error": True}):
        with pytest.raises(SolveError):
            layer.solve(values, solver_args=options)
    silent = layer.solve(values, solver_args={"raise_on_error": False})
    np.testing.assert_array_equal(np.isnan(silent.variables[0]).all(axis=1), [False, True])
    with pytest.raises(SolveError):
        layer.solve(values, solver_args={"raise_on_error": False}, on_failure="raise")
    made = Layer(problem, [p], [x], solver_args={"raise_on_error": False})
    assert np.isnan(made.solve(values).variables[0][1]).all()
    (tensor,) = ConeLayer(problem, [p], [x])(torch.tensor(values), solver_args={"raise_on_error": False})
    assert tensor.isnan().all(dim=1).tolist() == [False, True]
    A, b, cones = np.array([[1.0], [-1.0]]), np.array([-1.0, -1.0]), Cones(nonneg=2)
    assert (
        solve_and_differentiate(None, [1.0], A, b, cones, solver_args={"raise_on_error": False}).status
        is not Status.SOLVED
    )
    lost = solve_cone_program(
        None, *map(torch.tensor, (np.ones(1), A, b)), cones, solver_args={"raise_on_error": False}
    )
    assert lost.x.isnan().all()


@pytest.mark.parametrize("name", ["fallback", "raise_on_error"])
@pytest.mark.parametrize("bad", [1, 0, "no", None, [True]])
def test_flags_are_flags(name: str, bad: object) -> None:
    *made, values = quadratic()
    with pytest.raises(ValueError, match=f"solver_args: {name}: got .*, expected True or False"):
        Layer(*made).solve(*values, solver_args={name: bad})


@pytest.mark.parametrize("bad", [0.5, "many", None, True])
def test_acceleration_lookback_is_a_whole_number(bad: object) -> None:
    *made, values = quadratic()
    with pytest.raises(
        ValueError, match=r"solver_args: acceleration_lookback: got .*, which SCS refused; expected an integer"
    ):
        Layer(*made).solve(*values, solver_args={"acceleration_lookback": bad})


def test_a_batch_s_matrices_are_those_of_its_instances() -> None:
    """What a backend is handed for a batch, where the patterns are looked at once, is what it makes of each instance."""
    rng = np.random.default_rng(3)
    for name in ("lasso", "sdp_lmi", "socp_group_lasso", "mpc"):
        case = ZOO[name]()
        layer = Layer(case.problem, case.parameters, case.variables)
        compiled = layer.compiled_for()
        theta = np.concatenate([np.ravel(v, order="F") for v in case.draw(rng)])[None]
        program = compiled.program(theta)
        structure = program.structure
        P, A = structure.P.matrix(program.P[0]), structure.A.matrix(program.A[0])
        for solver in SOLVERS.values():
            layout = solver.layout(P, A, structure.cones)
            if layout is None:
                continue
            inner, rows, native = layout.matrices(program.P[0], program.A[0])
            for ours, theirs in zip((inner, rows, *native), (P, A, *solver.native(P, A, structure.cones)), strict=True):
                assert (ours is None) == (theirs is None)
                if ours is not None:
                    assert abs(ours - theirs).sum() == 0
                    assert ours.indices.dtype == theirs.indices.dtype
