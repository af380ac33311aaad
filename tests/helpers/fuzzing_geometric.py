"""Random geometric programs for fuzzing: log-log convex trees of positive variables; what must hold of them is what
must of all problems.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
from hypothesis import strategies as st

__all__ = ["GeometricSpec", "geometric_programs"]

KINDS = ("feasible", "feasible", "feasible", "infeasible")
_LEAST, _LARGEST = 0.02, 50.0  # of the variables, which keeps every program bounded


@dataclass(frozen=True)
class GeometricSpec:
    """A geometric program by the choices that make it, so that its repr is the example.

    variables, parameters: sizes, of which 0 is a scalar. exponent: whether the exponent of one monomial is a parameter
    as well. objective: trees, added up. constraints: trees with a slack, relative to their values at the planted point;
    None is an equality of monomials.
    """

    kind: str
    variables: tuple[int, ...]
    parameters: tuple[int, ...]
    exponent: bool
    objective: tuple[Any, ...]
    constraints: tuple[tuple[Any, float | None], ...]
    maximize: bool
    seed: int

    def build(self) -> BuiltGeometric:
        return BuiltGeometric(self)


class BuiltGeometric:
    """The problem, its parameters with values, and its outputs; the planted point is feasible."""

    gp = True

    def __init__(self, spec: GeometricSpec) -> None:
        self.rng = rng = np.random.default_rng(spec.seed)
        self.variables = [cp.Variable((n,) if n else (), pos=True, name=f"x{i}") for i, n in enumerate(spec.variables)]
        self.parameters = [
            cp.Parameter((n,) if n else (), pos=True, name=f"p{i}") for i, n in enumerate(spec.parameters)
        ]
        for variable in self.variables:
            variable.value = np.exp(rng.uniform(-1, 1, variable.shape))
        for parameter in self.parameters:
            parameter.value = rng.uniform(0.5, 2, parameter.shape)
        self.exponent = cp.Parameter(name="alpha", value=float(rng.uniform(0.5, 2))) if spec.exponent else None
        self.powers = 0
        objective = sum((self.tree(tree) for tree in spec.objective[1:]), self.tree(spec.objective[0]))
        # One term that grows in every variable and one that falls in each, or minima are at the bounds alone.
        whole = cp.hstack([cp.vec(x, order="F") for x in self.variables])
        objective = objective + 0.1 * cp.sum(whole) + 0.1 * cp.sum(whole**-1)
        constraints = [whole <= _LARGEST, whole >= _LEAST]
        for tree, slack in spec.constraints:
            if slack is None:
                left = self.monomial()
                constraints.append(left == float(left.value))
            else:
                f = self.tree(tree)
                constraints.append(f <= float(f.value) * (1 + slack) * self.monomial(1.0))
        if spec.kind == "infeasible":
            left = self.monomial()
            constraints += [left <= float(left.value), left >= 10 * float(left.value)]
        self.problem = cp.Problem(cp.Maximize(objective**-1) if spec.maximize else cp.Minimize(objective), constraints)
        used = {p.id for p in self.problem.parameters()}
        self.parameters = [p for p in self.leaves if p.id in used]
        self.values = [np.array(p.value, dtype=float) for p in self.parameters]
        self.outputs = list(self.variables)

    @property
    def leaves(self) -> list[cp.Parameter]:
        return self.parameters + ([self.exponent] if self.exponent is not None else [])

    def redrawn(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Other values of the parameters."""
        return [rng.uniform(0.5, 2, p.shape) for p in self.parameters]

    def coefficient(self) -> Any:
        """An entry of a parameter."""
        parameter = self.parameters[self.rng.integers(len(self.parameters))]
        return parameter[int(self.rng.integers(parameter.size))] if parameter.ndim else parameter

    def monomial(self, value: float | None = None) -> Any:
        """A coefficient and one to three powers of variables; with a ``value``, scaled to have it at the planted point."""
        rng = self.rng
        made = self.coefficient() if rng.random() < 0.7 else cp.Constant(float(rng.uniform(0.5, 2)))
        for _ in range(int(rng.integers(1, 4))):
            variable = self.variables[rng.integers(len(self.variables))]
            entry = variable[int(rng.integers(variable.size))] if variable.ndim else variable
            if self.exponent is not None and not self.powers:
                self.powers += 1
                made = made * entry**self.exponent
            else:
                made = made * entry ** float(rng.choice([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 1 / 3]))
        return made if value is None else made * (value / float(made.value))

    def tree(self, tree: Any) -> Any:
        op, *inner = tree
        if op == "monomial":
            return self.monomial()
        return ATOMS[op](*map(self.tree, inner))


def _at_most(f: Any, value: float) -> Any:
    """Scaled to ``value`` at the planted point."""
    return f * (value / float(f.value))


ATOMS: dict[str, Callable[..., Any]] = {
    "sum": lambda f, g: f + g,
    "product": lambda f, g: f * g,
    "power": lambda f: f**1.5,
    "max": lambda f, g: cp.maximum(f, g),
    "norm": lambda f, g: cp.norm(cp.hstack([f, g])),
    "geo mean": lambda f, g: cp.geo_mean(cp.hstack([f, g])),
    "exp": lambda f: cp.exp(_at_most(f, 0.5)),
    "one minus": lambda f: 1 / cp.one_minus_pos(_at_most(f, 0.3)),
    "perron": lambda f, g: cp.pf_eigenvalue(cp.bmat([[f, g], [g, f]])),
    "trace": lambda f, g: cp.trace(cp.diag(cp.hstack([f, g]))),
}


def geometric_programs(kinds: tuple[str, ...] = KINDS) -> st.SearchStrategy[GeometricSpec]:
    """One to three variables of up to three entries, one or two parameters."""
    leaf = st.just(("monomial",))

    def larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.one_of(
            st.tuples(st.sampled_from(("sum", "sum", "product", "max", "norm", "geo mean", "perron")), inner, inner),
            st.tuples(st.sampled_from(("power", "exp", "one minus")), inner),
        )

    tree = st.recursive(leaf, larger, max_leaves=4)
    slack = st.sampled_from((0.5, 0.1, 0.0, None))
    return st.builds(
        GeometricSpec,
        kind=st.sampled_from(kinds),
        variables=st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple),
        parameters=st.lists(st.integers(0, 3), min_size=1, max_size=2).map(tuple),
        exponent=st.booleans(),
        objective=st.lists(tree, min_size=1, max_size=3).map(tuple),
        constraints=st.lists(st.tuples(tree, slack), max_size=2).map(tuple),
        maximize=st.booleans(),
        seed=st.integers(0, 2**31 - 1),
    )
