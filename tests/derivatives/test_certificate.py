"""Certificates: the two rank tests against enumeration, kinks found at solved points, names, texts, batches and failures."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from dataclasses import replace

import cvxpy as cp
import jax
import numpy as np
import pytest
import torch
from double_precision import double_precision
from enumerated import SINGULAR, planted_program

import conelayers.derivatives.regularity
import conelayers.jax
import conelayers.torch
from conelayers import (
    LPGD,
    Certificate,
    Cones,
    Layer,
    SingularDerivativeError,
    SingularDerivativeWarning,
    Status,
    Verdict,
    solve_and_differentiate,
)
from conelayers.derivatives.regularity import certify
from conelayers.numerics.kkt import factorize, null_space
from conelayers.numerics.residual import evaluate
from conelayers.program.names import Names

BORDERLINE = 1e3  # ratios within this factor of the cutoff are counted, not compared


def compare(seeds: range, *, nonsymmetric: bool) -> tuple[Counter, list[int], dict[int, float], int]:
    """Verdicts, the seeds where enumeration disagrees, the borderline cases with their ratios, and how many problems have kinks."""
    counts: Counter = Counter()
    wrong, borderline, kinked = [], {}, 0
    for seed in seeds:
        planted = planted_program(seed, nonsymmetric=nonsymmetric)
        linearization, solution = planted.linearized()
        certificate = certify(linearization, solution, Names.of_rows(planted.q.size, planted.b.size))[0]
        ratio = planted.smallest_ratio(np.random.default_rng(seed), 40)
        assert int(certificate.kinks.sum()) == planted.kinks, seed
        kinked += planted.kinks > 0
        counts[certificate.verdict] += 1
        if SINGULAR / BORDERLINE < ratio < SINGULAR * BORDERLINE:
            borderline[seed] = ratio
        elif (ratio > SINGULAR) != certificate.verdict.justified:
            wrong.append(seed)
    return counts, wrong, borderline, kinked


@pytest.mark.parametrize(
    ("nonsymmetric", "count"),
    [
        (False, 1000),
        (True, 400),
        pytest.param(False, 10_000, marks=pytest.mark.slow),
        pytest.param(True, 4000, marks=pytest.mark.slow),
    ],
)
def test_rank_tests_agree_with_enumeration(nonsymmetric: bool, count: int) -> None:
    """All Clarke elements are invertible exactly where J(D_min) and J(D_max) are; elements, products and hulls are enumerated."""
    counts, wrong, borderline, kinked = compare(range(count), nonsymmetric=nonsymmetric)
    verdicts = ", ".join(f"{k} {v.value}" for v, k in counts.most_common())
    print(
        f"\n{count} problems, {kinked} with kinks: {verdicts}; {len(wrong)} disagree; borderline: {borderline or 'none'}"
    )
    assert wrong == []
    assert len(borderline) <= count // 1000
    assert kinked > count // 2
    for verdict in (Verdict.CLASSICAL, Verdict.CERTIFIED, Verdict.UNCERTIFIED, Verdict.LEAST_SQUARES):
        assert counts[verdict] >= count // 25, counts


@pytest.mark.parametrize("nonsymmetric", [False, True])
def test_kinks_are_found_at_solved_points(nonsymmetric: bool) -> None:
    """The solver is off by rounding: the same blocks lie on kinks, and the verdict is that of the exact point."""
    compared: Counter = Counter()
    for seed in range(200):
        planted = planted_program(seed, nonsymmetric=nonsymmetric)
        linearization, exact = planted.linearized()
        expected = certify(linearization, exact, Names.of_rows(planted.q.size, planted.b.size))[0]
        if expected.verdict.justified:  # else the solution is not unique
            P = planted.P if planted.P.any() else None
            found = solve_and_differentiate(P, planted.q, planted.A, planted.b, planted.cones).certify()[0]
            assert found.verdict is expected.verdict, seed
            np.testing.assert_array_equal(found.kinks, expected.kinks)
            compared[found.verdict] += 1
    assert min(compared[Verdict.CLASSICAL], compared[Verdict.CERTIFIED]) >= 10


def test_figures_are_those_of_the_jacobian() -> None:
    P, q = np.diag([2.0, 1.0]), np.array([-1.0, 1.0])
    A, b = np.array([[-1.0, 0.0], [0.0, -1.0]]), np.zeros(2)
    (certificate,) = solve_and_differentiate(P, q, A, b, Cones(nonneg=2)).certify()
    # x = (½, 0), v = y − s = (−½, 1), D = diag(0, 1).
    D = np.diag([0.0, 1.0])
    J = np.block([[P, A.T @ D], [-A, np.eye(2) - D]])
    values = np.linalg.svd(J, compute_uv=False)
    assert certificate.verdict is Verdict.CLASSICAL
    np.testing.assert_allclose(certificate.margins, [0.5, 1.0], rtol=1e-12)
    assert certificate.margin == pytest.approx(0.5)
    assert certificate.smallest_singular_value == pytest.approx(values[-1])
    assert certificate.condition == pytest.approx(values[0] / values[-1])
    assert certificate.nullity == 0
    assert certificate.linear_residual < 1e-14
    assert certificate.converged
    assert certificate.determined
    with pytest.raises(AttributeError):
        certificate.verdict = Verdict.CERTIFIED


def box_layer() -> Layer:
    x, t = cp.Variable(3, name="x"), cp.Parameter(3, name="t")
    return Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x >= 0, cp.sum(x) <= 1]), [t], [x])


def test_the_margin_is_the_distance_to_where_the_active_set_changes() -> None:
    layer = box_layer()
    for gap in (1e-2, 1e-5, 1e-8):
        (certificate,) = layer.certify(np.array([0.2, 0.3, gap]))
        assert certificate.verdict is Verdict.CLASSICAL
        assert certificate.margin == pytest.approx(gap, rel=1e-6)
    (certificate,) = layer.certify(np.array([0.2, 0.3, 0.0]))
    assert certificate.verdict is Verdict.CERTIFIED
    assert certificate.kink_constraints == ("constraint 0 (0.0 <= x) at [2]",)
    assert certificate.tolerances[certificate.kinks].max() < 1e-9


def test_a_point_that_did_not_converge_is_not_certified() -> None:
    planted = next(
        p for p in map(planted_program, range(100)) if p.kinks == 0 and np.linalg.matrix_rank(p.P) == p.q.size
    )
    linearization, solution = planted.linearized()
    names = Names.of_rows(planted.q.size, planted.b.size)
    assert certify(linearization, solution, names)[0].verdict is Verdict.CLASSICAL
    (certificate,) = certify(linearization, replace(solution, status=(Status.INACCURATE,)), names)
    assert certificate.verdict is Verdict.UNCERTIFIED
    assert "did not converge" in certificate.advice


def test_a_solution_that_is_off_is_at_every_kink_that_it_may_be_at() -> None:
    """With an error of a twentieth of the distance from a kink: the tolerance grows with the residual."""
    solution = solve_and_differentiate(np.eye(1), np.array([-1.0]), -np.eye(1), np.zeros(1), Cones(nonneg=1))
    assert solution.certify()[0].verdict is Verdict.CLASSICAL
    exact = solution._linearization
    point = evaluate(exact.program, exact.point.x, 0.95 * exact.point.v)
    off = certify(replace(exact, point=point, parts=()), solution._solution, Names.of_rows(1, 1))[0]
    assert off.kinks.all()
    assert off.tolerances[0] == pytest.approx(5.0 / 0.95)


def test_blame_is_laid_on_the_users_own_names() -> None:
    x, c = cp.Variable(3, name="x"), cp.Parameter(3, name="c")
    simplex = Layer(cp.Problem(cp.Minimize(c @ x), [x >= 0, cp.sum(x) == 1]), [c], [x])
    (certificate,) = simplex.certify(np.array([1.0, 1.0, 2.0]))
    assert certificate.verdict is Verdict.LEAST_SQUARES
    assert certificate.variables == ("x at [0], [1]",)
    assert certificate.constraints == ()
    assert certificate.second_order is False
    assert certificate.nondegenerate is True
    assert not certificate.determined
    assert "not unique along x at [0], [1]" in str(certificate)
    assert "small quadratic term" in certificate.advice

    budget = (cp.sum(x) <= 1).set_label("budget")
    twice = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [budget, 2 * cp.sum(x) <= 2]), [c], [x])
    (certificate,) = twice.certify(np.ones(3))
    assert certificate.verdict in (Verdict.UNCERTIFIED, Verdict.LEAST_SQUARES)  # as the multiplier is shared, or not
    assert certificate.constraints[0] == "constraint 0 (budget)"
    assert certificate.constraints[1].startswith("constraint 1 (")
    assert certificate.variables == ()
    assert certificate.determined
    assert "linearly dependent" in str(certificate)


def test_variables_that_cvxpy_introduced_do_not_spoil_the_verdict() -> None:
    x, t = cp.Variable(3, name="x"), cp.Parameter(3, name="t")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [cp.norm(x) <= 1])
    for simplify, nullity in ((False, 1), (True, 0)):
        layer = Layer(problem, [t], [x], simplify=simplify)
        (inactive,) = layer.certify(np.full(3, 0.1))
        assert inactive.verdict is Verdict.CLASSICAL
        assert inactive.nullity == nullity
        assert ("cvxpy introduced" in inactive.advice) is (nullity > 0)
        assert layer.certify(np.array([0.6, 0.8, 0.0]))[0].verdict is Verdict.CERTIFIED
        assert layer.certify(np.array([1.6, 0.8, 0.0]))[0].verdict is Verdict.CLASSICAL


def test_rows_of_rewritten_constraints_are_theirs() -> None:
    x, Y, z, t = (
        cp.Variable(3, name="x"),
        cp.Variable((2, 2), PSD=True, name="Y"),
        cp.Variable(nonneg=True, name="z"),
        cp.Parameter(3),
    )
    constraints = [cp.norm(x) <= 1, cp.sum(x) == 1, Y >> np.eye(2), cp.log_sum_exp(x) <= 3, cp.geo_mean(x + 4) >= 1]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - t) + cp.norm1(x) + cp.trace(Y) + z), constraints)
    for simplify, rows in ((False, 5), (True, 4)):
        names = Layer(problem, [t], [x], simplify=simplify)._compiled.names
        owners = Counter(names.constraints[k].split(" (")[0] for k in names.row_constraint)
        assert set(owners) == {
            *(f"constraint {i}" for i in range(5)),
            "the objective",
            "the attributes of Y",
            "the attributes of z",
        }
        assert owners["constraint 0"] == rows  # t ≤ 1, and the cone (t, x); or the cone (1, x)
        assert names.rows(names.row_constraint == 2) == (
            "constraint 2 (Y + -[[1.00 0.00] [0.00 1.00]] >> 0) at [0, 0], [0, 1], [1, 1]",
        )


def test_a_batch_has_a_table_and_failures_have_certificates() -> None:
    x, t = cp.Variable(2, name="x"), cp.Parameter(2, name="t")
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x >= 0, cp.sum(x) <= t[0]]), [t], [x])
    values = np.array([[1.0, 0.2], [-1.0, 0.5], [1.0, 0.0], [3.0, 2.0]])
    certificates = layer.certify(values)
    assert len(certificates) == 4
    assert [c.status.usable for c in certificates] == [True, False, True, True]
    assert certificates[1].verdict is Verdict.UNCERTIFIED
    assert certificates[1].status is Status.PRIMAL_INFEASIBLE
    assert np.isnan(certificates[1].margin)
    for i in (0, 2, 3):
        (alone,) = layer.certify(values[i])
        assert alone.verdict is certificates[i].verdict
        assert alone.smallest_singular_value == pytest.approx(certificates[i].smallest_singular_value)
    text = str(certificates)
    assert text.startswith("4 instances: ")
    assert "instance 1: " in text
    assert len(certificates[1:]) == 3
    assert "primal" not in repr(certificates)


@pytest.mark.parametrize("order", [40, 700])
def test_large_sparse_systems_give_the_same_verdicts(order: int) -> None:
    """By inverse iteration where the eigendecomposition would be too large: regular, with a kink, and with a twin constraint."""
    rng = np.random.default_rng(0)
    x, t = cp.Variable(order, name="x"), cp.Parameter(order, name="t")
    chain = [x[1:] - x[:-1] <= 0.5, x <= 1]
    value = rng.standard_normal(order)
    objective = cp.Minimize(cp.sum_squares(x - t) + cp.sum_squares(x[1:] - x[:-1]))
    (regular,) = Layer(cp.Problem(objective, chain), [t], [x]).certify(value)
    assert regular.verdict is Verdict.CLASSICAL
    (twin,) = Layer(cp.Problem(objective, [*chain, 2 * x <= 2]), [t], [x]).certify(np.full(order, 3.0))
    assert not twin.verdict.justified
    assert twin.nondegenerate is False
    assert {name.split(" (")[0] for name in twin.constraints} == {"constraint 1", "constraint 2"}
    free = cp.Problem(cp.Minimize(cp.sum_squares(x[1:] - t[1:])), [x[0] <= 2, x[0] >= -2, x[1:] <= 1])
    (loose,) = Layer(free, [t], [x]).certify(value)
    assert loose.variables == ("x[0]",)


def test_adapters_take_what_their_calls_take() -> None:
    x, t = cp.Variable(3, name="x"), cp.Parameter(3, name="t")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x >= 0, cp.sum(x) <= 1])
    value = np.array([[0.2, 0.3, 0.1], [0.2, 0.8, 0.0]])
    expected = Layer(problem, [t], [x]).certify(value).verdicts
    layer = conelayers.torch.ConeLayer(problem, [t], [x])
    tensor = torch.tensor(value, requires_grad=True)
    assert layer.certify(tensor).verdicts == expected
    assert layer.certify(t=tensor).verdicts == expected
    assert tensor.grad is None
    twin = conelayers.jax.ConeLayer(problem, [t], [x])
    with double_precision():
        assert twin.certify(jax.numpy.asarray(value)).verdicts == expected
    with pytest.raises(TypeError, match="certify: got traced arrays"):
        jax.jit(lambda v: twin.certify(v)[0].margin)(value)
    assert all(isinstance(c, Certificate) for c in layer.certify(tensor[0]))
    with pytest.raises(ValueError, match="parameter 0"):
        layer.certify(torch.zeros(4))


def test_it_never_runs_unless_asked(monkeypatch) -> None:
    for name in ("null_space", "_certificate"):
        monkeypatch.setattr(
            f"conelayers.derivatives.regularity.{name}", lambda *_: pytest.fail("a certificate was made")
        )
    solution = box_layer().solve(np.array([0.2, 0.3, 0.0]))
    solution.vjp(np.ones(3))
    solution.jvp(np.ones(3))


@pytest.mark.usefixtures("without_core")
@pytest.mark.parametrize(("value", "tests"), [([0.2, 0.3, 0.0], 2), ([0.2, 0.3, 0.1], 0)])
def test_at_most_three_factorizations(value, tests: int, monkeypatch) -> None:
    """The derivative's own, kept if it is at hand, and one each for D_min and D_max where there are kinks."""
    ranks, factors = [], []
    monkeypatch.setattr("conelayers.derivatives.regularity.null_space", lambda *a: ranks.append(1) or null_space(*a))
    monkeypatch.setattr(
        "conelayers.numerics.linearized_system.factorize", lambda *a: factors.append(1) or factorize(*a)
    )
    box_layer().certify(np.array(value))
    assert len(ranks) == tests
    assert len(factors) <= 1


def twin_rows(**policies):
    data = None, [1.0, 1.0], [[-1.0, -1.0], [-1.0, -1.0]], [-1.0, -1.0], Cones(zero=2)
    return solve_and_differentiate(*data, **policies)


def test_a_warning_or_an_error_makes_no_certificate(monkeypatch) -> None:
    """The whole certificate costs far more than the derivative: it is made when it is read, once."""
    found = []
    for name in ("_singular_values", "_chosen_null_space"):
        inner = getattr(conelayers.derivatives.regularity, name)
        monkeypatch.setattr(conelayers.derivatives.regularity, name, lambda h, f=inner: found.append(1) or f(h))
    solution = twin_rows()
    with pytest.warns(SingularDerivativeWarning, match=r"linearly dependent, those of rows 0, 1 of A(.|\n)*`certify`"):
        solution.vjp([1.0, 0.0])
    with pytest.raises(SingularDerivativeError, match="linearly dependent, those of rows 0, 1 of A") as caught:
        twin_rows(singular="raise").vjp([1.0, 0.0])
    assert not found
    assert solution.certify()[0].verdict is Verdict.LEAST_SQUARES
    assert len(found) == 2
    certificate = caught.value.certificate
    assert certificate.verdict is Verdict.LEAST_SQUARES
    assert certificate.constraints == ("rows 0, 1 of A",)
    assert caught.value.certificate is certificate
    assert len(found) == 4


@pytest.mark.parametrize("nonsymmetric", [False, True])
def test_inverse_iteration_agrees_too(nonsymmetric: bool, monkeypatch) -> None:
    """What large systems get, on the small ones that can be enumerated."""
    monkeypatch.setattr("conelayers.numerics.kkt.rank._DENSE_UP_TO", 0)
    counts, wrong, borderline, _ = compare(range(500), nonsymmetric=nonsymmetric)
    assert wrong == []
    assert not borderline
    assert len(counts) == 4


def test_rows_that_are_zero_count() -> None:
    """A weakly active row without entries has a dependent gradient; and a matrix that differs by such a row only is another one."""
    (padded,) = solve_and_differentiate([[1.0]], [-7.0], [[2.0], [0.0]], [2.0, 0.0], Cones(nonneg=2)).certify()
    assert padded.verdict is Verdict.UNCERTIFIED
    assert padded.constraints == ("row 1 of A",)
    (alone,) = solve_and_differentiate([[1.0]], [-1.0], [[0.0]], [0.0], Cones(nonneg=1)).certify()
    assert alone.verdict is Verdict.UNCERTIFIED
    x, p = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.sum(p) >= 2])
    assert not Layer(problem, [p], [x]).certify(np.ones(2))[0].verdict.justified


def test_a_kink_hit_up_to_rounding_is_one() -> None:
    """Where every row is weakly active, v itself is rounding: the tolerance is that of what v is computed from."""
    x, p = cp.Variable(2), cp.Parameter(2)
    objective = 0.5 * cp.quad_form(x, np.array([[5.0, 6], [6, 8]])) + p @ x
    layer = Layer(cp.Problem(cp.Minimize(objective), [-2 * x[0] + x[1] <= 4]), [p], [x])
    (certificate,) = layer.certify(np.array([10.0, 12.0]))
    assert certificate.verdict is Verdict.CERTIFIED
    z, r = cp.Variable(), cp.Parameter()
    slopes = {}
    for selection in ("low", "high", "mid"):
        single = Layer(cp.Problem(cp.Minimize(cp.square(z - r)), [3 * z - 0.3 >= 0]), [r], [z], selection=selection)
        slopes[selection] = float(single.solve(np.array(0.1)).jacobian()[0][0])
    assert slopes == {"low": pytest.approx(1), "high": pytest.approx(0), "mid": pytest.approx(2 / 11)}  # 2/(2 + 3²)


def test_random_halfspaces_hit_exactly() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        G, a = rng.standard_normal((4, 4)), rng.standard_normal(4)
        P = G @ G.T + 0.01 * np.eye(4)
        x, p = cp.Variable(4), cp.Parameter(4)
        value = rng.standard_normal(4)
        b = float(a @ -np.linalg.solve(P, value))
        layer = Layer(cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, cp.psd_wrap(P)) + p @ x), [a @ x <= b]), [p], [x])
        assert layer.certify(value)[0].verdict is Verdict.CERTIFIED


def test_ill_conditioned_problems_that_are_solved_are_classical() -> None:
    t = np.linspace(0, 1, 30)
    V = np.vander(t, 8)
    c, y = cp.Variable(8, name="c"), cp.Parameter(30, name="y")
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(V @ c - y))), [y], [c])
    (certificate,) = layer.certify(np.sin(3 * t))
    assert certificate.verdict is Verdict.CLASSICAL
    assert certificate.advice == ""


def test_what_cvxpys_rewriting_makes_redundant_is_not_the_users_fault() -> None:
    """‖x‖₁ with x ≥ 0 has three constraints on two variables where x is zero: the solution and its derivative are fine."""
    rng = np.random.default_rng(0)
    A, value = rng.standard_normal((8, 5)), rng.standard_normal(8)
    x, p = cp.Variable(5, name="x"), cp.Parameter(8, name="p")
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(A @ x - p) + 2 * cp.norm1(x)), [x >= 0]), [p], [x])
    solution = layer.solve(value)
    assert (solution.variables[0] < 1e-9).any()
    (certificate,) = solution.certify()
    assert certificate.verdict.justified
    dual = Layer(
        cp.Problem(cp.Minimize(cp.sum_squares(A @ x - p) + 2 * cp.norm1(x)), [bound := x >= 0]),
        [p],
        [bound.dual_variables[0]],
    )
    assert not dual.certify(value)[0].verdict.justified  # the multipliers themselves are not unique
    twice = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - p[:5])), [cp.sum(x) == 1, 2 * cp.sum(x) == 2]), [p], [x])
    (redundant,) = twice.certify(value)
    assert redundant.verdict is Verdict.LEAST_SQUARES
    assert redundant.determined
    assert "multipliers only" in str(redundant)


def test_solutions_and_layers_travel_with_their_names() -> None:
    x, t = cp.Variable(3, name="x"), cp.Parameter(3, name="t")
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x >= 0]), [t], [x], smoothing=LPGD(tau=1.0))
    value = np.array([0.2, 0.0, -1.0])
    for travelled in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert travelled.certify(value)[0].kink_constraints == layer.certify(value)[0].kink_constraints
    solution = pickle.loads(pickle.dumps(layer.solve(value)))
    assert solution.certify()[0].verdict is Verdict.CERTIFIED
    np.testing.assert_allclose(solution.vjp(np.ones(3))[0], layer.solve(value).vjp(np.ones(3))[0])
    conic = solve_and_differentiate(np.eye(1), [1.0], [[-1.0]], [0.0], Cones(nonneg=1))
    assert pickle.loads(pickle.dumps(conic)).certify()[0].verdict is Verdict.CLASSICAL


def test_names_are_found_when_asked_for_only(monkeypatch) -> None:
    monkeypatch.setattr(
        "conelayers.problem.canonicalize.compile.names_of", lambda *_, **__: pytest.fail("names were looked for")
    )
    solution = box_layer().solve(np.array([0.2, 0.3, 0.0]))
    solution.vjp(np.ones(3))
    with pytest.raises(pytest.fail.Exception):
        solution.certify()
