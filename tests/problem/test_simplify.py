"""One constraint becomes one program, however it is written, and all that can be read of it stays what it was."""

from __future__ import annotations

import pickle

import cvxpy as cp
import numpy as np
import pytest

from conelayers import Layer, SingularDerivativeWarning, SolveError
from conelayers.numerics.linearized_system import LinearizedSystem

P = np.array([1.5, -0.7, 0.2, 1.0])
INF = np.inf


def leaves():
    return cp.Variable(4, name="x"), cp.Parameter(4, name="p"), cp.Parameter(name="c", nonneg=True)


def size(layer: Layer) -> tuple[int, int]:
    """(n, m) without the variables and rows of the objective's squares, which are the same in all."""
    structure = layer._compiled.structure
    return structure.n - 4, structure.m - 4


def layers(write, **options):
    """The layer of minimize ‖x − p‖² subject to the constraint, returning x and the constraint's multiplier."""
    x, p, c = leaves()
    constraint = write(x, p, c)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [constraint])
    parameters = [h for h in (p, c) if any(h is q for q in problem.parameters())]
    return Layer(problem, parameters, [x, constraint.dual_variables[0]], **options), len(parameters)


# The constraint, and the columns and rows that it has beside x: none of the former.
EPIGRAPHS = {
    "norm": (lambda x, p, c: cp.norm(x) <= c, 5),
    "norm times 3": (lambda x, p, c: 3 * cp.norm(x) <= 3 * c, 5),
    "norm <= affine": (lambda x, p, c: cp.norm(x[:3]) <= c + x[3], 4),
    "norm_inf": (lambda x, p, c: cp.norm_inf(x) <= c, 8),
    "norm_inf >=": (lambda x, p, c: c - cp.norm_inf(x) >= 0, 8),
    "abs": (lambda x, p, c: cp.abs(x) <= c, 8),
    "abs <= affine": (lambda x, p, c: cp.abs(x - 0.1 * p) <= c + 0.1 * x[::-1], 8),
    "maximum": (lambda x, p, c: cp.maximum(x, -x) <= c, 8),
    "minimum": (lambda x, p, c: cp.minimum(x, -x) >= -c, 8),
    "max": (lambda x, p, c: cp.max(x) <= c, 4),
    "pos": (lambda x, p, c: cp.pos(x - 0.1) <= c, 8),
    "sum_squares": (lambda x, p, c: cp.sum_squares(x) <= c, 6),
    "square": (lambda x, p, c: cp.square(x) <= c, 12),
    "quad_form": (lambda x, p, c: cp.quad_form(x, np.eye(4) + 0.1) <= c, 6),
    "quad_over_lin": (lambda x, p, c: cp.quad_over_lin(x, 2.0) <= c, 6),
    "inv_pos": (lambda x, p, c: cp.inv_pos(x + 3) <= 0.4, 12),
    "lambda_max": (lambda x, p, c: cp.lambda_max(cp.bmat([[x[0], x[1]], [x[1], x[2]]])) <= c, 3),
    "sigma_max": (lambda x, p, c: cp.sigma_max(cp.reshape(x, (2, 2), order="F")) <= c, 10),
    "nested": (lambda x, p, c: cp.maximum(cp.norm(x[:2]), cp.abs(x[3])) <= c, 5),
}


@pytest.mark.parametrize("name", EPIGRAPHS)
def test_a_bounded_epigraph_leaves_no_variable_behind(name: str) -> None:
    """Solutions, multipliers by name and gradients are those of cvxpy's form, where the constraint is active and where not."""
    write, rows = EPIGRAPHS[name]
    (small, count), (large, _) = layers(write), layers(write, simplify=False)
    assert size(small)[0] < size(large)[0]
    if rows is not None:
        assert size(small) == (4, rows)
    for value in (P, 0.01 * P, 3 * P):
        values = [value, 0.7][:count]
        one, other = small.solve(*values), large.solve(*values)
        assert one.residuals.worst < 1e-9
        for a, b in zip(one.variables, other.variables, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-8)
        cotangents = np.array([1.0, 2.0, -1.0, 0.5]), np.ones_like(one.variables[1])
        for a, b in zip(one.vjp(*cotangents), other.vjp(*cotangents), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-7)
        np.testing.assert_allclose(one.value, other.value, atol=1e-9)
        assert one.certify()[0].verdict is other.certify()[0].verdict


KEPT = {
    "norm1: one bound for several": lambda x, p, c: cp.norm1(x) <= c,
    "a parameter as weight": lambda x, p, c: cp.norm(x[:3]) * c <= 1 + x[3],
    "exp: a cone whose rows cannot be brought to one size": lambda x, p, c: cp.exp(x) <= c + 1,
    "inv_pos: not void where c is infinite": lambda x, p, c: cp.inv_pos(x + 3) <= c,
    "sqrt is no monotone cone": lambda x, p, c: cp.sqrt(x + 3) >= 0.9,
}


@pytest.mark.parametrize("name", KEPT)
def test_what_cannot_be_replaced_stays(name: str) -> None:
    (small, count), (large, _) = layers(KEPT[name]), layers(KEPT[name], simplify=False)
    assert small._compiled.structure.n == large._compiled.structure.n
    values = [P, 0.7][:count]
    for a, b in zip(small.solve(*values).variables, large.solve(*values).variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)


def test_the_users_own_epigraph_variable_stays() -> None:
    """Its value may be read, and a certificate speaks of it."""
    x, t, p = cp.Variable(4, name="x"), cp.Variable(name="t"), cp.Parameter(4)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.norm(x) <= t, t <= 1])
    layer = Layer(problem, [p], [x])
    assert [name for name, _, _ in layer._compiled.names.variables] == ["x", "t"]
    assert layer._compiled.structure.n == 9  # x, t and the squares


def test_names_are_those_of_the_users_constraints() -> None:
    """A row that took the place of an auxiliary variable is the entry of the constraint that bounded it."""
    x, p = cp.Variable(3, name="x"), cp.Parameter(3, name="p")
    constraints = [cp.abs(x) <= np.array([1.0, 2.0, 3.0]), cp.norm(x) <= 9, x[0] + x[1] == 0]
    names = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), constraints), [p], [x])._compiled.names
    owners = [names.constraints[k].split(" (")[0] for k in names.row_constraint]
    assert owners.count("constraint 0") == 6
    assert owners.count("constraint 1") == 4
    abs_rows = names.row_constraint == names.constraints.index(names.constraints[0])
    assert sorted(names.row_entry[abs_rows]) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    "name", ["norm", "norm_inf", "sum_squares", "lambda_max", "sigma_max", "nested", "abs <= affine"]
)
def test_an_infinite_bound_in_the_place_of_an_epigraph_does_not_bound(name: str) -> None:
    """Each instance by itself, with gradients of zero; one that is infinite the other way has no solution."""
    layer, _ = layers(EPIGRAPHS[name][0])
    value = np.stack([P, P])
    both = layer.solve(value, [INF, 0.7])
    alone = layer.solve(P, 0.7)
    np.testing.assert_allclose(both.variables[0], [P, alone.variables[0]], atol=1e-9)
    g = np.array([1.0, 2.0, -1.0, 0.5])
    zero = np.zeros_like(both.variables[1])
    dp, dc = both.vjp(np.stack([g, g]), zero)
    np.testing.assert_allclose(dp[0], g, atol=1e-9)
    np.testing.assert_allclose([dc[0], dc[1]], [0.0, alone.vjp(g, zero[0])[1]], atol=1e-8)
    np.testing.assert_allclose(both.jvp(np.stack([g, g]), np.ones(2))[0][0], g, atol=1e-9)
    assert not np.any(both.variables[1][0])
    x, p, _ = leaves()
    unsigned = cp.Parameter(name="c")
    written = EPIGRAPHS[name][0](x, p, unsigned)
    with pytest.raises(SolveError, match="infeasible"):
        Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [written]), [p, unsigned], [x]).solve(P, -INF)


@pytest.mark.parametrize(
    "name", ["norm", "norm times 3", "sum_squares", "lambda_max", "sigma_max", "nested", "quad_form"]
)
@pytest.mark.parametrize("level", [1e4, 1e8, 1e14])
def test_a_bound_that_is_there_for_forms_sake_does_not_look_like_all_there_is(name: str, level: float) -> None:
    """In a curved cone too: beside it the rest is not rounding."""
    x, p, c = leaves()
    constraint = EPIGRAPHS[name][0](x, p, c)
    # Kinks at zero: a quadratic program would be solved without a constraint in any units.
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - p) + 0.5 * cp.norm1(x)), [constraint])
    layer = Layer(problem, [p, c], [x])
    truth = np.sign(P) * np.maximum(np.abs(P) - 0.5, 0)
    solution = layer.solve(np.stack([P, P, 10 * P]), np.array([level, np.inf, 0.7]))
    np.testing.assert_allclose(solution.variables[0][:2], [truth, truth], atol=1e-9)
    np.testing.assert_allclose(solution.vjp(np.ones((3, 4)))[0][:2], [truth != 0] * 2, atol=1e-7)
    np.testing.assert_allclose(solution.variables[0][2], layer.solve(10 * P, 0.7).variables[0], atol=1e-9)


@pytest.mark.parametrize("name", ["norm", "sigma_max", "lambda_max"])
def test_a_large_bound_that_binds_is_put_back(name: str) -> None:
    """Set aside at first, it is violated by what the rest leads to."""
    (small, _), (large, _) = layers(EPIGRAPHS[name][0]), layers(EPIGRAPHS[name][0], simplify=False)
    far = np.array([1e9, 1.0, 1e9, 1.0])
    one, other = small.solve(far, 1e8), large.solve(far, 1e8)
    np.testing.assert_allclose(one.variables[0], other.variables[0], atol=1e-8 * 1e8)


def test_the_option() -> None:
    """`problem_data` shows the program that is solved; layers travel with it."""
    (small, _), (large, _) = (layers(EPIGRAPHS["norm_inf"][0], simplify=h) for h in (True, False))
    assert small.problem_data(P, 1.0).A.shape == (12, 8)
    assert large.problem_data(P, 1.0).A.shape == (13, 9)
    clone = pickle.loads(pickle.dumps(small))
    np.testing.assert_array_equal(clone.solve(P, 0.7).variables[0], small.solve(P, 0.7).variables[0])
    assert "simplify" in (Layer.__doc__ or "")
    with pytest.raises(ValueError, match=r"simplify: got .no., expected True or False"):
        layers(EPIGRAPHS["norm"][0], simplify="no")


def test_definitions_are_eliminated() -> None:
    """Huber's x = n + s: s goes, n stays with its square; without its weight in the objective nothing is lost either."""
    x, p = cp.Variable(4, name="x"), cp.Parameter(4, name="p")
    problem = cp.Problem(cp.Minimize(cp.sum(cp.huber(x - p, 0.5)) + 0.1 * cp.sum_squares(x)), [cp.sum(x) == 1])
    small, large = (Layer(problem, [p], [x], simplify=h) for h in (True, False))
    assert small._compiled.structure.n == large._compiled.structure.n - 4
    assert small._compiled.structure.cones.zero == large._compiled.structure.cones.zero - 4
    one, other = small.solve(P), large.solve(P)
    np.testing.assert_allclose(one.variables[0], other.variables[0], atol=1e-9)
    np.testing.assert_allclose(one.vjp(np.arange(4.0))[0], other.vjp(np.arange(4.0))[0], atol=1e-8)
    np.testing.assert_allclose(one.value, other.value)


def rows_of(constraints, variables, **options) -> int:
    x, p = variables
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + cp.sum(x)), constraints)
    return Layer(problem, [p], [x], **options)._compiled.structure.m - 4


def test_superfluous_rows_are_gone() -> None:
    """What cvxpy's rewriting repeats, a tighter constraint implies, or always holds, is not there twice. What the user repeats
    stays, for certificates to name.
    """
    x, p = variables = cp.Variable(4, name="x"), cp.Parameter(4, name="p")
    assert rows_of([cp.max(x) <= 1, x <= 1], variables) == 4
    assert rows_of([cp.abs(x) <= p, cp.maximum(2 * x, -2 * x) <= 2 * p], variables) == 8
    assert rows_of([x <= 1, x <= 1], variables) == 8
    assert rows_of([x <= 1, x <= 2], variables) == 4
    assert rows_of([x <= p, x - p <= 1], variables) == 4
    assert rows_of([x <= p, 2 * cp.pos(x) <= 2 * p], variables) == 8
    assert rows_of([cp.norm_inf(x) <= 1, x <= 1, x >= -1], variables) == 8
    assert rows_of([x <= np.array([1, INF, INF, 2.0])], variables) == 2
    assert rows_of([x <= 1, cp.Constant(2) >= 1], variables) == 4
    assert rows_of([x <= p, x <= 1], variables) == 8
    assert rows_of([x <= p, x <= 1.5 * p], variables) == 8
    assert rows_of([x <= 1, x >= 1], variables) == 8


def test_contradictions_stay() -> None:
    x, p = cp.Variable(4, name="x"), cp.Parameter(4, name="p")
    for constraints in ([cp.sum(x) == 1, cp.sum(x) == 2], [x <= 1, cp.Constant(-1) >= 0]):
        with pytest.raises(SolveError, match="infeasible"):
            Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), constraints), [p], [x]).solve(P)


def test_a_multiplier_that_is_asked_for_is_not_taken_away() -> None:
    """Which part of it each of two equal constraints has is not determined: both stay. A looser one never has any."""
    x, p = cp.Variable(4, name="x"), cp.Parameter(4, name="p")
    first, second, looser = cp.max(x) <= 1, x <= 1, x <= 2
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [first, second, looser])
    layer = Layer(problem, [p], [x, second.dual_variables[0], looser.dual_variables[0]])
    assert layer._compiled.structure.m == 12
    solution = layer.solve(P)
    np.testing.assert_array_equal(solution.variables[2], 0.0)
    alone = Layer(problem, [p], [x, looser.dual_variables[0]])
    assert alone._compiled.structure.m == 8
    np.testing.assert_allclose(alone.solve(P).vjp(np.ones(4), None)[0], [0.0, 1.0, 1.0, 1.0], atol=1e-9)


FREE = {  # constraints that keep an epigraph variable, which is free where they are inactive
    "norm1": lambda x, p, c: cp.norm1(x) <= 9 * c,
    "two norms": lambda x, p, c: cp.norm(x[:2]) + cp.norm(x[2:]) <= 9 * c,
    "log": lambda x, p, c: cp.log(x + 9) >= c,
    "nuclear norm": lambda x, p, c: cp.normNuc(cp.reshape(x, (2, 2), order="F")) <= 9 * c,
    "a parameter as weight": lambda x, p, c: c * cp.norm(x) <= 9 + x[0],
}


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize("batch", [1, 32])
def test_auxiliary_null_directions_are_known_from_construction(name: str, batch: int, monkeypatch) -> None:
    """J is singular there, and no null vector is computed to see that nothing depends on it."""
    looked_at = []
    monkeypatch.setattr(LinearizedSystem, "null_sample", lambda self, i, f=None: looked_at.append(i))
    layer, _ = layers(FREE[name])
    solution = layer.solve(np.tile(0.3 * P, (batch, 1)), 0.7)
    factorization = solution.linearization.take(np.arange(len(solution.points[0]))).factorization
    assert factorization.singular.all()
    free = factorization.free_columns()
    for i in range(batch):  # what is told of them is what the null vectors are
        null, _ = factorization.null_vectors(i)
        assert len(null) == free[i].sum()
        np.testing.assert_array_equal((null != 0).any(axis=0), free[i])
    g = np.tile([1.0, 2.0, -1.0, 0.5], (batch, 1))
    np.testing.assert_allclose(solution.vjp(g, np.zeros_like(solution.variables[1]))[0], g, atol=1e-9)
    np.testing.assert_allclose(solution.jvp(g, np.zeros(()))[0], g, atol=1e-9)
    assert not looked_at


def test_large_sparse_programs_know_them_too(monkeypatch) -> None:
    looked_at = []
    monkeypatch.setattr(LinearizedSystem, "null_sample", lambda self, i, f=None: looked_at.append(i))
    x, p = cp.Variable(300, name="x"), cp.Parameter(300, name="p")
    smooth = cp.sum_squares(x[1:] - x[:-1])
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - p) + smooth), [cp.norm1(x) <= 1e3]), [p], [x])
    solution = layer.solve(np.linspace(-1, 1, 300))
    assert solution.linearization.take(np.arange(len(solution.points[0]))).factorization.singular.all()
    solution.vjp(np.ones(300))
    assert not looked_at


def test_a_gradient_that_depends_on_a_free_epigraph_is_told() -> None:
    """x₀ + r‖x‖ ≤ c is active, r = 0: t may be anything above ‖x‖, and the gradient of r is −y·t."""
    x, p, r = cp.Variable(4, name="x"), cp.Parameter(4, name="p"), cp.Parameter(name="r", nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x[0] + r * cp.norm(x) <= 0.5])
    solution = Layer(problem, [p, r], [x]).solve(P, 0.0)
    with pytest.warns(SingularDerivativeWarning):
        solution.vjp(np.ones(4))
    np.testing.assert_allclose(solution.vjp(np.ones(4), needed=[True, False])[0], [0.0, 1.0, 1.0, 1.0], atol=1e-9)
