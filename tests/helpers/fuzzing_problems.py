"""Random cvxpy problems for fuzzing, from a grammar of atoms, and what must hold of every one of them.

A problem is drawn as small trees of tuples, ("atom", arguments …), in which anything fits anywhere: what a tree is made into has the
shape that its place asks for, and constants that keep a planted point feasible and in the domain of every atom.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
from fuzzing import Finding, check_warnings, heard, require, within
from fuzzing_programs import Data, check_residuals
from hypothesis import strategies as st
from reference import direction_for

from conelayers import (
    CanonicalizationError,
    InaccurateSolutionWarning,
    Layer,
    SolveError,
    Status,
    Verdict,
    ZeroDerivativeWarning,
)
from conelayers.layer.solution import LayerSolution

__all__ = ["ProblemSpec", "check_problem", "problems"]

KINDS = ("feasible", "feasible", "feasible", "infeasible", "unbounded")
VARIABLES: dict[str, dict[str, Any]] = {
    "free": {}, "nonneg": {"nonneg": True}, "symmetric": {"symmetric": True}, "PSD": {"PSD": True}, "diag": {"diag": True},
    "complex": {"complex": True}, "hermitian": {"hermitian": True}, "bounds": {"bounds": [-2, 2]},
}  # fmt: skip
PARAMETERS: dict[str, dict[str, Any]] = {
    "any": {}, "pos": {"pos": True}, "nonneg": {"nonneg": True}, "symmetric": {"symmetric": True}, "PSD": {"PSD": True},
}  # fmt: skip
SQUARE = ("symmetric", "PSD", "diag", "hermitian")
_BOUND = 3.0


@dataclass(frozen=True)
class ProblemSpec:
    """A problem by the choices that make it, so that its repr is the example.

    variables, parameters: kinds and shapes. objective: convex trees, added up. constraints: trees with a slack at the planted point.
    """

    kind: str
    variables: tuple[tuple[str, tuple[int, ...]], ...]
    parameters: tuple[tuple[str, tuple[int, ...]], ...]
    objective: tuple[Any, ...]
    constraints: tuple[Any, ...]
    ridge: float
    maximize: bool
    duals: bool
    seed: int

    def build(self) -> Built:
        return Built(self)


class Built:
    """The problem, its parameters with values, and its outputs."""

    gp = False

    def __init__(self, spec: ProblemSpec) -> None:
        self.spec, self.rng = spec, np.random.default_rng(spec.seed)
        rng = self.rng
        self.variables = [cp.Variable(s, name=f"x{i}", **VARIABLES[k]) for i, (k, s) in enumerate(spec.variables)]
        self.parameters = [cp.Parameter(s, name=f"p{i}", **PARAMETERS[k]) for i, (k, s) in enumerate(spec.parameters)]
        for leaf, (kind, shape) in zip(self.variables, spec.variables, strict=True):
            leaf.save_value(value_of(rng, kind, shape, 0.8))
        for leaf, (kind, shape) in zip(self.parameters, spec.parameters, strict=True):
            leaf.save_value(value_of(rng, kind, shape, 1.0))
        objective = sum((self.convex(tree) for tree in spec.objective), cp.Constant(0.0))
        if spec.ridge:
            objective = objective + spec.ridge * sum(
                cp.sum_squares(self.real(i) - 0.1) for i in range(len(self.variables))
            )
        self.chosen = [self.constraint(tree, slack) for tree, slack in spec.constraints]
        constraints = [*self.chosen, *(cp.norm(cp.vec(v, order="F"), 2) <= _BOUND for v in self.variables)]
        first = self.real(0)
        if spec.kind == "infeasible":
            constraints.append(cp.sum(first) >= _BOUND * first.size + 1)
        if spec.kind == "unbounded":
            z = cp.Variable(name="z")
            z.save_value(np.array(10.0))
            constraints.append(z >= cp.sum(first))
            objective = objective - z
        self.problem = cp.Problem(cp.Maximize(-objective) if spec.maximize else cp.Minimize(objective), constraints)
        used = {p.id for p in self.problem.parameters()}
        self.parameters = [p for p in self.parameters if p.id in used]
        self.values = [np.array(p.value, dtype=float) for p in self.parameters]
        used = {v.id for v in self.problem.variables()}
        self.outputs = [v for v in self.variables if v.id in used]
        if spec.duals:
            self.outputs += [d for c in self.chosen for d in c.dual_variables]

    def redrawn(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Other values of the parameters; all between them and the own ones keep the attributes, too."""
        return [value_of(rng, *self.spec.parameters[int(p.name()[1:])], 1.0) for p in self.parameters]

    # Leaves, and what makes a shape of another

    def real(self, i: int) -> Any:
        v = self.variables[i % len(self.variables)]
        if v.attributes["diag"]:
            return v @ np.eye(v.shape[0])  # values of it are sparse
        return cp.hstack([cp.real(v).flatten(order="F"), cp.imag(v).flatten(order="F")]) if v.is_complex() else v

    def parameter(self, i: int) -> Any:
        return self.parameters[i % len(self.parameters)]

    def scalar(self, i: int) -> Any:
        return cp.sum(self.parameter(i)) / max(1, self.parameter(i).size)

    def positive(self, i: int) -> Any:
        """DPP where the parameter is nonnegative; else an expression for the layer to lift."""
        return self.scalar(i) if self.parameter(i).is_nonneg() else cp.exp(0.3 * self.scalar(i))

    def fitted(self, expression: Any, shape: tuple[int, ...]) -> Any:
        if expression.shape == shape:
            return expression
        size = int(np.prod(shape, dtype=int))
        if expression.size != size:
            map_ = np.round(self.rng.standard_normal((size, expression.size)), 2)
            expression = map_ @ cp.vec(expression, order="F")
        return cp.reshape(expression, shape, order="F")

    def vector(self, tree: Any, least: int = 1) -> Any:
        expression = self.affine(tree)
        size = max(least, min(expression.size, 6))
        return self.fitted(expression, (size,))

    def matrix(self, tree: Any) -> Any:
        expression = self.affine(tree)
        return expression if expression.ndim == 2 else self.fitted(expression, (2, 3))

    def symmetric(self, tree: Any) -> Any:
        expression = self.affine(tree)
        M = (
            expression
            if expression.ndim == 2 and expression.shape[0] == expression.shape[1]
            else self.fitted(expression, (3, 3))
        )
        return (M + M.T) / 2

    def shifted(self, expression: Any, least: float = 0.7) -> Any:
        """At least ``least`` at the planted point."""
        return expression + max(0.0, least - float(np.min(expression.value)))

    # Trees

    def affine(self, tree: Any) -> Any:
        op, *rest = tree
        if op == "x":
            return self.real(rest[0])
        inner = self.affine(rest[-1])
        if op == "add":
            return inner + self.fitted(self.affine(rest[0]), inner.shape)
        if op == "hstack":
            return cp.hstack([cp.vec(inner, order="F"), cp.vec(self.affine(rest[0]), order="F")])
        if op == "constant":
            return inner + np.round(self.rng.standard_normal(inner.shape), 2)
        if op == "map":
            return self.fitted(self.rng.standard_normal((3, inner.size)) @ cp.vec(inner, order="F"), (3,))
        if op == "multiply":
            return cp.multiply(np.round(self.rng.standard_normal(inner.shape), 2), inner)
        simple: dict[str, Callable[[Any], Any]] = {
            "sum": cp.sum, "neg": lambda e: -e, "transpose": lambda e: e.T, "cumsum": lambda e: cp.cumsum(cp.vec(e, order="F")),
            "index": lambda e: cp.vec(e, order="F")[::2], "last": lambda e: e[-1] if e.ndim else e,
            "row": lambda e: cp.sum(e, axis=0) if e.ndim else e, "trace": lambda e: cp.trace(e) if e.ndim == 2 and e.shape[0] == e.shape[1] else e,
            "flatten": lambda e: e.flatten(order="C"), "diag": lambda e: cp.diag(cp.vec(e, order="F")) if e.size <= 3 else e,
            "conv": lambda e: cp.convolve(np.array([1.0, -0.5]), cp.vec(e, order="F")), "mean": cp.mean,
            "diff": lambda e: cp.diff(cp.vec(e, order="F")) if e.size > 1 else e,
        }  # fmt: skip
        if op in simple:
            return simple[op](inner)
        if not self.parameters:
            return inner
        i = rest[0]
        if op == "plus p":
            return inner + self.fitted(self.parameter(i), inner.shape)
        if op == "p times":
            return self.scalar(i) * inner
        if op == "p multiply":
            return cp.multiply(self.fitted(self.parameter(i), inner.shape), inner)
        if op == "p matmul":
            return self.fitted(self.parameter(i), (2, inner.size)) @ cp.vec(inner, order="F")
        if op == "pp times":
            return self.scalar(i) * self.scalar(i + 1) * inner
        if op == "over p":
            return inner / (self.positive(i) + 0.1)
        if op == "exp p times":
            return cp.exp(0.3 * self.scalar(i)) * inner
        raise AssertionError(op)

    def convex(self, tree: Any) -> Any:
        op, *rest = tree
        if op == "w":
            return rest[0] * self.convex(rest[1])
        if op == "p weight":
            inner = self.convex(rest[1])
            return self.positive(rest[0]) * inner if self.parameters else inner
        if op == "max of":
            return cp.maximum(self.convex(rest[0]), self.convex(rest[1]))
        if op == "square of":
            return cp.square(cp.pos(self.convex(rest[0]))) / 4
        if op == "norm of":
            return cp.norm(cp.hstack([cp.pos(self.convex(rest[0])), cp.pos(self.convex(rest[1]))]))
        if op == "logistic of":
            return cp.logistic(0.3 * self.convex(rest[0]))
        if op == "exp of":
            inner = self.convex(rest[0])
            return cp.exp(0.1 * (inner - float(np.round(inner.value, 2))))
        if op == "linear":
            return cp.sum(self.vector(rest[0]))
        return ATOMS[op](self, *rest)

    def constraint(self, tree: Any, slack: float) -> Any:
        op, *rest = tree
        if op == "equal":
            a = self.fitted(self.affine(rest[0]), (1 + self.rng.integers(2),))
            return a == a.value
        if op == "at most":
            a = self.affine(rest[0])
            return a <= a.value + slack
        if op == "psd":
            M = self.symmetric(rest[0])
            level = float(np.linalg.eigvalsh(M.value)[0]) - slack
            return M - level * np.eye(M.shape[0]) >> 0
        if op == "soc":
            a = self.vector(rest[0], 2)
            t = self.fitted(self.affine(rest[1]), ())
            return cp.SOC(t + float(np.linalg.norm(a.value) - t.value) + slack, a)
        if op == "exp cone":
            a, y = (self.fitted(self.affine(t), ()) for t in rest)
            y = self.shifted(y)
            return cp.ExpCone(a, y, self.fitted(y, ()) + float(y.value * (np.exp(a.value / y.value) - 1)) + slack)
        if op == "power cone":
            a, z = (self.fitted(self.affine(t), ()) for t in rest)
            return cp.PowCone3D(self.shifted(a), self.shifted(a + z), z - float(z.value) + 0.5, 0.3)
        f = self.convex(rest[-1])
        if op == "p bound" and self.parameters:
            p = self.scalar(rest[0])
            return f <= p + (float(f.value) - float(p.value) + slack)
        return f <= float(f.value) + slack


def _spd(rng: np.random.Generator, n: int) -> np.ndarray:
    G = rng.standard_normal((n, n))
    return G @ G.T / n + 0.1 * np.eye(n)


def _quad_form(b: Built, tree: Any, i: int) -> Any:
    found = [p for p in b.parameters if p.is_psd()]
    if not found:
        v = b.vector(tree)
        return cp.quad_form(v, cp.psd_wrap(_spd(b.rng, v.size)))
    P = found[i % len(found)]
    return cp.quad_form(b.fitted(b.affine(tree), (P.shape[0],)), P)


ATOMS: dict[str, Callable[..., Any]] = {
    "abs": lambda b, t, i: cp.sum(cp.abs(b.vector(t))),
    "norm1": lambda b, t, i: cp.norm1(b.affine(t)),
    "norm2": lambda b, t, i: cp.norm(b.vector(t), 2),
    "norm inf": lambda b, t, i: cp.norm_inf(b.affine(t)),
    "pnorm": lambda b, t, i: cp.pnorm(b.vector(t, 2), (3, 1.5, 4)[i % 3], approx=bool(i % 2)),
    "fro": lambda b, t, i: cp.norm(b.matrix(t), "fro"),
    "sum squares": lambda b, t, i: cp.sum_squares(b.affine(t)),
    "quad form": _quad_form,
    "huber": lambda b, t, i: cp.sum(cp.huber(b.vector(t), 0.5)),
    "maximum": lambda b, t, i: cp.sum(cp.maximum(b.vector(t), 0.1, -b.vector(t))),
    "max": lambda b, t, i: cp.max(b.affine(t)),
    "pos": lambda b, t, i: cp.sum(cp.pos(b.vector(t))),
    "sum largest": lambda b, t, i: cp.sum_largest(b.vector(t, 2), (1, 1.5)[i % 2]),
    "tv": lambda b, t, i: cp.tv(b.vector(t, 3)),
    "exp": lambda b, t, i: cp.sum(cp.exp(0.5 * b.vector(t))),
    "logistic": lambda b, t, i: cp.sum(cp.logistic(b.vector(t))),
    "log sum exp": lambda b, t, i: cp.log_sum_exp(b.vector(t, 2)),
    "log": lambda b, t, i: -cp.sum(cp.log(b.shifted(b.vector(t)))),
    "entr": lambda b, t, i: -cp.sum(cp.entr(b.shifted(b.vector(t)))),
    "kl": lambda b, t, i: cp.sum(cp.kl_div(b.shifted(b.vector(t)), b.shifted(b.fitted(b.real(i), ()), 1.0))),
    "rel entr": lambda b, t, i: cp.sum(cp.rel_entr(b.shifted(b.vector(t)), 0.9)),
    "sqrt": lambda b, t, i: -cp.sum(cp.sqrt(b.shifted(b.vector(t)))),
    "inv pos": lambda b, t, i: cp.sum(cp.inv_pos(b.shifted(b.vector(t)))),
    "power": lambda b, t, i: cp.sum(cp.power(b.shifted(b.vector(t)), (1.5, 3, 2.5)[i % 3], approx=bool(i % 2))),
    "geo mean": lambda b, t, i: -cp.geo_mean(b.shifted(b.vector(t, 2))),
    "harmonic mean": lambda b, t, i: -cp.harmonic_mean(b.shifted(b.vector(t, 2))),
    "quad over lin": lambda b, t, i: cp.quad_over_lin(b.vector(t), b.shifted(b.fitted(b.real(i), ()))),
    "lambda max": lambda b, t, i: cp.lambda_max(b.symmetric(t)),
    "lambda sum": lambda b, t, i: cp.lambda_sum_largest(b.symmetric(t), 2),
    "sigma max": lambda b, t, i: cp.sigma_max(b.matrix(t)),
    "nuclear": lambda b, t, i: cp.normNuc(b.matrix(t)),
    "log det": lambda b, t, i: -cp.log_det(_definite(b, t)),
    "tr inv": lambda b, t, i: cp.tr_inv(_definite(b, t)),
    "matrix frac": lambda b, t, i: cp.matrix_frac(b.fitted(b.real(i), (3,)), _definite(b, t, (3, 3))),
    "complex abs": lambda b, t, i: cp.sum(cp.abs(b.variables[i % len(b.variables)])),
    "complex norm": lambda b, t, i: cp.norm(cp.vec(b.variables[i % len(b.variables)], order="F") - 0.2),
}  # fmt: skip


def _definite(b: Built, tree: Any, shape: tuple[int, int] | None = None) -> Any:
    M = b.symmetric(tree)
    if shape is not None and M.shape != shape:
        M = b.fitted(M, shape)
        M = (M + M.T) / 2
    return M + max(0.0, 0.5 - float(np.linalg.eigvalsh(M.value)[0])) * np.eye(M.shape[0])


def value_of(rng: np.random.Generator, kind: str, shape: tuple[int, ...], size: float) -> np.ndarray:
    """A value that keeps the attributes, well within the bound for a variable."""
    h = rng.uniform(-1, 1, shape) * size / max(1.0, np.sqrt(np.prod(shape, dtype=int)) / 2)
    if kind in ("complex", "hermitian"):
        h = h + 1j * rng.uniform(-0.5, 0.5, shape)
    if kind in ("nonneg", "pos"):
        return np.abs(h) + 0.2
    if kind == "diag":
        return np.diag(np.diag(h))
    if kind in ("symmetric", "hermitian"):
        return (h + np.conj(h.T)) / 2
    return h @ h.T + 0.1 * np.eye(shape[0]) if kind == "PSD" else h


def problems(kinds: tuple[str, ...] = KINDS) -> st.SearchStrategy[ProblemSpec]:
    """Problems of one to three variables and up to three parameters."""
    index = st.integers(0, 2)
    leaf = st.tuples(st.just("x"), index)

    def larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        unary = (
            "sum", "neg", "transpose", "cumsum", "index", "last", "row", "trace", "flatten", "diag", "conv", "mean", "diff",
            "constant", "map", "multiply",
        )  # fmt: skip
        dpp = ("plus p", "plus p", "p times", "p multiply", "p matmul")
        return st.one_of(
            st.tuples(st.sampled_from(dpp), index, inner),
            st.tuples(st.sampled_from(unary), inner),
            st.tuples(st.sampled_from(("add", "hstack")), inner, inner),
            st.tuples(st.sampled_from(("pp times", "over p", "exp p times")), index, inner),
        )

    affine = st.recursive(leaf, larger, max_leaves=4)
    atom = st.tuples(st.sampled_from(sorted(ATOMS)), affine, index)

    def composed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.one_of(
            st.tuples(st.just("w"), st.sampled_from((0.5, 2.0)), inner),
            st.tuples(st.just("p weight"), index, inner),
            st.tuples(st.sampled_from(("max of", "norm of")), inner, inner),
            st.tuples(st.sampled_from(("square of", "logistic of", "exp of")), inner),
        )

    convex = st.recursive(atom | st.tuples(st.just("linear"), affine), composed, max_leaves=2)
    constraint = st.one_of(
        st.tuples(st.sampled_from(("equal", "at most", "psd")), affine),
        st.tuples(st.sampled_from(("soc", "exp cone", "power cone")), affine, affine),
        st.tuples(st.just("convex"), convex),
        st.tuples(st.just("p bound"), index, convex),
    )
    order = st.integers(1, 3)
    shape = st.one_of(st.tuples(st.integers(1, 4)), st.just(()), st.tuples(order, order))
    square = st.builds(lambda n: (n, n), order)
    variable = st.tuples(st.sampled_from(("free", "free", "nonneg", "bounds", "complex")), shape) | st.tuples(
        st.sampled_from(SQUARE), square
    )
    parameter = st.tuples(st.sampled_from(("any", "any", "pos", "nonneg")), shape) | st.tuples(
        st.sampled_from(("symmetric", "PSD")), square
    )
    return st.builds(
        ProblemSpec,
        kind=st.sampled_from(kinds),
        variables=st.lists(variable, min_size=1, max_size=3).map(tuple),
        parameters=st.lists(parameter, min_size=1, max_size=3).map(tuple),
        objective=st.lists(convex, min_size=1, max_size=2).map(tuple),
        constraints=st.lists(st.tuples(constraint, st.sampled_from((0.5, 0.1, 0.0))), max_size=2).map(tuple),
        ridge=st.sampled_from((0.5, 0.5, 0.0)),
        maximize=st.booleans(),
        duals=st.booleans(),
        seed=st.integers(0, 2**31 - 1),
    )


def check_problem(spec: ProblemSpec, counts: Counter | None = None) -> None:
    """Every invariant of one problem; a Finding for the first that does not hold."""
    counts = Counter() if counts is None else counts
    with within():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cvxpy's own
            built = spec.build()
            ruled = built.problem.is_dgp() if built.gp else built.problem.is_dcp()
            require(ruled, "grammar", lambda: f"not {'DGP' if built.gp else 'DCP'}: {built.problem}")
        try:
            with heard():
                layer = Layer(built.problem, built.parameters, built.outputs, gp=built.gp)
        except CanonicalizationError as error:
            require("cvxpy's own reduction" in str(error) and _fails(built), "refused", str(error))
            counts["cvxpy's own reduction fails"] += 1
            return
        counts["lifted"] += bool(layer.lifted)
        try:
            with heard() as warned:
                solution = layer.solve(*built.values)
        except SolveError as error:
            (status,) = error.statuses
            counts[f"{spec.kind}: {status.value}"] += 1
            _check_failure(spec, built, status, str(error), counts)
            if spec.seed % 4 == 0:
                (certificate,) = layer.certify(*built.values)
                told = certificate.status is status and certificate.verdict is Verdict.UNCERTIFIED
                require(told, "certificate", f"of a failure: {certificate}")
            return
        status = solution.status
        counts[f"{spec.kind}: {status.value}"] += 1
        require(status.usable, "status", f"returned, but {status}")
        require(
            any(isinstance(w, InaccurateSolutionWarning) for w in warned) == (status is Status.INACCURATE),
            "warning",
            f"{status}: {warned}",
        )
        require(spec.kind == "feasible", "status", f"an {spec.kind} problem was {status.value}")
        _check_point(built, layer, solution)
        _check_value(built, solution, counts)
        _check_derivative(spec, built, layer, solution, counts)


def _fails(built: Built) -> bool:
    """Whether cvxpy cannot reduce the problem by itself either, its parameters being constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            built.problem.get_problem_data(cp.SCS, gp=built.gp, ignore_dpp=True)
        except Exception:
            return True
    return False


def _reference(built: Built) -> tuple[str, float]:
    """cvxpy's own status and value; the name of its exception where it gives up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for parameter, value in zip(built.parameters, built.values, strict=True):
            parameter.value = value
        try:
            built.problem.solve(solver=cp.CLARABEL, gp=built.gp)
        except Exception as error:
            return type(error).__name__, np.nan
    return built.problem.status, float(built.problem.value)


def _check_failure(spec: ProblemSpec, built: Built, status: Status, message: str, counts: Counter) -> None:
    expected = {"infeasible": Status.PRIMAL_INFEASIBLE, "unbounded": Status.DUAL_INFEASIBLE}.get(spec.kind)
    if status is expected:
        said, _ = _reference(built)
        counts[f"cvxpy on {spec.kind}: {said}"] += 1
        return
    raise Finding("status", f"{spec.kind}, but {status.value} (cvxpy: {_reference(built)[0]}): {message}")


def _check_point(built: Built, layer: Layer, solution: LayerSolution) -> None:
    require(all(np.isfinite(v).all() for v in solution.variables), "no NaN", "in a variable that was returned")
    P, q, A, b, cones = layer.problem_data(*built.values)
    data = Data(P.toarray(), q, A.toarray(), b)
    check_residuals(cones, data, (solution.x, solution.y, solution.s), solution.residuals, solution.status)


def _check_value(built: Built, solution: LayerSolution, counts: Counter) -> None:
    """The value that is told is that of the variables, they are feasible, and no better value is known to cvxpy."""
    scale = 1 + abs(float(solution.value))
    told, sign = float(solution.value), 1 if isinstance(built.problem.objective, cp.Minimize) else -1
    said, best = _reference(built)
    loose = 1e-6 if solution.status is Status.SOLVED else 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for variable, value in zip(built.outputs, solution.variables, strict=False):
            variable.save_value(value)
        if any(v.value is None for v in built.problem.variables()):
            return
        own = float(built.problem.objective.value)
        violations = [float(np.max(c.violation(), initial=0)) for c in built.problem.constraints]
        moved = _moved_value(built)
    if not np.isfinite([own, moved, *violations]).all() or abs(own - moved) > loose * scale:
        counts["on the edge of a domain"] += 1  # of a logarithm, say, where rounding decides
    else:
        require(abs(own - told) <= 10 * loose * scale, "value", f"told {told!r}, at the variables {own!r}")
        require(max(violations, default=0.0) <= 10 * loose * scale, "feasible", f"violated by {max(violations):.1e}")
    counts[f"cvxpy on feasible: {said}"] += 1
    if said in ("optimal", "optimal_inaccurate"):
        worse = sign * (told - best)
        require(worse <= (1e-5 if said == "optimal" else 1e-2) * scale, "value", f"{told!r}, cvxpy found {best!r}")
        counts["cvxpy's value is worse"] += worse < -1e-5 * scale


def _moved_value(built: Built) -> float:
    """The objective at a point so near that it should be the same."""
    rng = np.random.default_rng(0)
    for v in built.problem.variables():
        h = v.value.toarray() if hasattr(v.value, "toarray") else v.value
        v.save_value(h * (1 + 1e-11 * rng.standard_normal(h.shape)))
    return float(built.problem.objective.value)


def _check_derivative(spec: ProblemSpec, built: Built, layer: Layer, solution: LayerSolution, counts: Counter) -> None:
    (certificate,) = solution.certify()
    verdict = certificate.verdict
    counts[f"verdict: {verdict.value}"] += 1
    require(isinstance(verdict, Verdict) and verdict.value in str(certificate), "verdict", str(certificate))
    require(not np.isnan(certificate.margins).any(), "no NaN", "margins of a solved problem")
    require(solution.status is Status.SOLVED or not verdict.justified, "verdict", "justified at an inaccurate point")
    rng = np.random.default_rng(spec.seed + 1)
    specs = layer.parameters
    directions = [direction_for(s.attributes, s.positions, s.shape, rng) for s in specs]
    g = [_cotangent(rng, v) for v in solution.variables]
    with heard() as warned:
        gradients, tangents = solution.vjp(*g), solution.jvp(*directions)
    require(all(np.isfinite(h).all() for h in (*gradients, *tangents)), "no NaN", "in a derivative")
    check_warnings(warned, certificate)
    if any(isinstance(w, ZeroDerivativeWarning) for w in warned):
        counts["told that the gradient is zero"] += 1
        largest = max(float(np.abs(h).max(initial=0)) for h in gradients)
        values = sum(float(np.sum(np.abs(a) * np.abs(h))) for a, h in zip(g, solution.variables, strict=True))
        require(largest <= 1e-9 * (1 + values), "zero", f"told to be zero, and a gradient is {largest:.1e}")
    if not verdict.justified:
        return
    terms = [np.real(np.conj(a) * d).ravel() for a, d in zip(gradients, directions, strict=True)]
    forward = [np.real(np.conj(a) * d).ravel() for a, d in zip(g, tangents, strict=True)]
    adjoint, along = sum(float(t.sum()) for t in terms), sum(float(t.sum()) for t in forward)
    size = sum(float(np.abs(t).sum()) for t in (*terms, *forward))
    # Where J is singular in what nothing depends on, its condition says nothing of the rest.
    condition = certificate.condition if certificate.nullity == 0 else 1e4
    exact = max(1e-8, 1e-13 * condition)
    require(abs(adjoint - along) <= exact * size + 1e-12, "adjointness", f"{adjoint!r} and {along!r}, size {size:.1e}")
    if spec.seed % 4 == 0:
        _check_batch(built, layer, solution, condition)
    if verdict is Verdict.CLASSICAL:
        _check_differences(built, layer, solution, certificate.margins, condition, directions, g, adjoint, size, counts)


def _cotangent(rng: np.random.Generator, value: np.ndarray) -> np.ndarray:
    g = rng.standard_normal(value.shape)
    return g + 1j * rng.standard_normal(value.shape) if np.iscomplexobj(value) else g


def _check_batch(built: Built, layer: Layer, solution: LayerSolution, condition: float) -> None:
    with heard():
        batch = layer.solve(*(np.stack([v, v]) for v in built.values)) if built.values else solution
    for one, many in zip(solution.variables, batch.variables, strict=True):
        tolerance = max(1e-7, 1e-11 * condition) * (1 + float(np.abs(one).max(initial=0)))
        require(
            not built.values or np.abs(many[1] - one).max(initial=0) <= tolerance,
            "batch",
            "an instance differs in a batch",
        )


def _check_differences(
    built: Built,
    layer: Layer,
    solution: LayerSolution,
    margins: np.ndarray,
    condition: float,
    directions: list[np.ndarray],
    g: list[np.ndarray],
    adjoint: float,
    size: float,
    counts: Counter,
) -> None:
    """Central differences between points that have not moved to the next kink; the best of them must agree."""
    v = solution.y - solution.s
    margins = np.repeat(margins, solution.cones.block_sizes)
    values = sum(float(np.sum(np.abs(a) * np.abs(h))) for a, h in zip(g, solution.variables, strict=True))
    scale = max(size, 0.1 * (1 + values))
    errors, step = [], 1e-4
    while 1e-15 * condition * (1 + values) < 3e-5 * scale * step and len(errors) < 4:
        ends = []
        for t in (step, -step):
            try:
                with heard():
                    moved = layer.solve(*(h + t * d for h, d in zip(built.values, directions, strict=True)))
            except SolveError as error:
                # The step leads too far where derivatives are that large; elsewhere there are solutions nearby.
                require(
                    step * size > 1e-3 * (1 + values),
                    "differences",
                    f"no solution at a distance of {step:.0e}: {error}",
                )
                break
            if not np.all(np.abs(moved.y - moved.s - v) <= 0.3 * margins + 1e-300):
                break
            ends.append(sum(float(np.sum(np.real(np.conj(a) * h))) for a, h in zip(g, moved.variables, strict=True)))
        if len(ends) == 2:
            errors.append(abs((ends[0] - ends[1]) / (2 * step) - adjoint) / scale)
            if errors[-1] <= 1e-4:
                counts["differences: agree"] += 1
                return
        step /= 8
    require(not errors, "differences", f"relative errors {', '.join(f'{e:.1e}' for e in errors)}")
    counts["differences: " + ("too near a kink" if step < 1e-4 else "too ill-conditioned")] += 1
