"""From DCP to DPP: what holds only parameters becomes a new parameter, what mixes them with variables a new variable.

A problem is DCP for every value of its parameters, but not DPP, where parameters meet parameters (p·q, P Q x), or enter
nonlinearly (1/p, exp(p), ‖p‖, quad_form(x, P) in a constraint). It is rewritten, at construction:

- a maximal subexpression of parameters alone that is not affine in them becomes a new parameter, with its shape, sign,
  symmetry and definiteness; its value is computed in every call, by the layer's own framework;
- e / p becomes (1/p)·e;
- p·e, e affine in the variables and with parameters of its own, becomes p·z with a new variable z = e;
- c·f(e), f convex or concave, becomes c·f(z) likewise; c·quad_form(x, P) becomes quad_form(x, cP); where parameters
  remain in f's own terms, f(e) becomes a variable t with f(e) ≤ t, or ≥ t, as the rules of DCP allow where c·f(e) is
  DCP;
- convolutions and Kronecker products become products of matrices, and of entries, which cvxpy's rules take parameters
  in;
- quad_form(x, P) where P's coefficients may not vary (in constraints, for solvers without a quadratic objective, and
  complex ones) becomes ‖Lᴴx‖² with the parameter L, P = LLᴴ: Cholesky's, or Mᵀ where P was written MᵀM; c P with a
  scalar c becomes c ‖z‖², z = Lᴴx.

The constraints keep their identity, so that their dual variables are those of the user's problem.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, final

import cvxpy as cp
from cvxpy.atoms.affine.add_expr import AddExpression
from cvxpy.atoms.affine.affine_atom import AffAtom
from cvxpy.atoms.affine.binary_operators import DivExpression
from cvxpy.atoms.affine.promote import Promote
from cvxpy.atoms.affine.unary_operators import NegExpression
from cvxpy.atoms.quad_form import QuadForm
from cvxpy.utilities import scopes

from conelayers.problem.dpp.complex_expressions import complex_form, has_complex_form
from conelayers.problem.dpp.cvxpy_expressions import (
    convolution,
    definite,
    gram_root,
    is_convolution,
    is_product,
    is_quadratic_over_parameter,
    kronecker,
    scaled_core,
    text,
    with_args,
)
from conelayers.problem.dpp.replacements import Additions, Factor
from conelayers.problem.input_map import Replacement

__all__ = ["Factor", "Lifted", "as_it_is", "lift"]


@final
@dataclass(frozen=True)
class Lifted:
    """A problem in DPP form, the ``definitions`` of its new parameters (each knows those before it), and a report.

    Its last constraints are new ones; ``origins`` says what each was added for, the number of a constraint of the
    user's or the name of a part of the objective.
    """

    problem: cp.Problem
    definitions: tuple[tuple[cp.Parameter, cp.Expression | Factor], ...]  # some may serve others only
    auxiliary: frozenset[int]  # identifiers of the new variables
    report: tuple[Replacement, ...]
    origins: tuple[int | str, ...] = ()


def lift(problem: cp.Problem, *, gp: bool, quadratic: bool) -> Lifted:
    """The problem in DPP form as far as the rules go, which the caller has to check. ``quadratic``: P may vary."""
    complex_values = not gp and any(leaf.is_complex() for leaf in _leaves(problem))
    rewriter = _Rewriter(gp, quadratic and not gp, complex_values)
    for term in _terms(problem.objective.args[0]):
        rewriter.new.origin = f"the objective's term {text(term)}"
        rewriter.rewrite(term, objective=True)
    rewriter.new.origin = "the objective"
    expression = rewriter.rewrite(problem.objective.args[0], objective=True)
    constraints = [rewriter.constraint(c, i) for i, c in enumerate(problem.constraints)]
    if not rewriter.new.reports and not rewriter.changed:
        return as_it_is(problem)
    lifted = cp.Problem(type(problem.objective)(expression), [*constraints, *rewriter.new.added])
    used = {leaf.id for leaf in (*lifted.parameters(), *lifted.variables())}
    return Lifted(
        lifted,
        tuple(rewriter.new.definitions.values()),
        frozenset(rewriter.new.auxiliary),
        tuple(said for ident, said in rewriter.new.reports.items() if ident in used or said.by == "sum of squares"),
        tuple(rewriter.new.origins),
    )


def _terms(e: Any) -> list[Any]:
    """The terms of a sum."""
    return [term for arg in e.args for term in _terms(arg)] if isinstance(e, AddExpression) else [e]


def as_it_is(problem: cp.Problem) -> Lifted:
    """Nothing replaced."""
    return Lifted(problem, (), frozenset(), ())


def _leaves(problem: cp.Problem) -> list[Any]:
    return [*problem.variables(), *problem.parameters(), *problem.constants()]


@final
class _Rewriter:
    def __init__(self, gp: bool, quadratic: bool, complex_values: bool) -> None:
        self.gp, self.quadratic, self._complex = gp, quadratic, complex_values
        self.changed, self.new = False, Additions(gp)
        self._rewritten: dict[tuple[int, bool], Any] = {}  # by the expression's identity, in the objective or not
        self._freed: dict[int, Any] = {}  # by the expression's identity
        self._kept: list[Any] = []  # so that no identity is given twice

    # What the rules say

    def _complies(self, e: Any, objective: bool) -> bool:
        with scopes.dpp_scope(), scopes.quad_form_dpp_scope() if objective and self.quadratic else nullcontext():
            return bool(e.is_dgp() if self.gp else e.is_dcp())

    # The passes

    def constraint(self, constraint: cp.Constraint, number: int) -> cp.Constraint:
        """The constraint with its arguments rewritten; identity, dual variables and label stay."""
        self.new.origin = number
        args = [self.rewrite(a, objective=False) for a in constraint.args]
        if all(new is old for new, old in zip(args, constraint.args, strict=True)):
            return constraint
        new = constraint.copy(args)
        new.dual_variables = constraint.dual_variables
        if constraint.label is not None:
            new.set_label(constraint.label)
        return new

    def rewrite(self, e: Any, *, objective: bool) -> Any:
        """e in a form affine in the parameters, where the rules give one; the same object for the same e."""
        key = (id(e), objective)
        if key not in self._rewritten:
            new = self._rewrite(e, objective)
            if new.shape != e.shape:  # (1,) for (), and the like
                new = cp.reshape(new, e.shape, order="F")
            self.changed = self.changed or new is not e
            self._kept += [e, new]
            self._rewritten[key] = new
            self._rewritten.setdefault((id(new), objective), new)
        return self._rewritten[key]

    def _rewrite(self, e: Any, objective: bool) -> Any:
        broken = self._complex and has_complex_form(e)
        if not e.parameters() and not broken:
            return e
        if not e.parameters() and not e.variables():
            return cp.Constant(e.value)
        if not e.variables():
            return self.new.as_parameter(e)
        if broken:
            e = complex_form(e)
        if isinstance(e, DivExpression) and not self.gp and e.args[1].parameters():
            denominator = e.args[1]
            while isinstance(denominator, Promote):
                denominator = denominator.args[0]
            if denominator.is_scalar() and denominator.shape:
                denominator = cp.sum(denominator)
            e = cp.multiply(self.new.as_parameter(1 / denominator), e.args[0])
        if (
            objective and self.quadratic and is_quadratic_over_parameter(e)
        ):  # which stays in P, where cvxpy writes a cone
            e = cp.multiply(self.new.as_parameter(1 / e.args[1]), cp.sum_squares(e.args[0]))
        # cvxpy keeps quadratic forms as such where nothing but affine atoms stands over them.
        objective = objective and isinstance(e, (AffAtom, QuadForm))
        e = with_args(e, [self.rewrite(a, objective=objective) for a in e.args])
        if isinstance(e, cp.huber) and e.M.parameters():
            e = cp.huber(e.args[0], self.rewrite(e.M, objective=False))
        if not e.parameters():
            return e
        if isinstance(e, QuadForm) and not self._keeps(e, objective):
            return self._quadratic_form(e, objective)
        if not self.gp and (is_convolution(e) or isinstance(e, cp.kron)) and not self._complies(e, objective):
            return self.rewrite(convolution(e) if is_convolution(e) else kronecker(e), objective=objective)
        if self.gp or self._complies(e, objective):
            return e
        if is_product(e):
            return self._times(e, objective)
        inner = self._without_parameters(e)
        return inner if inner.is_dcp() else e

    def _times(self, e: Any, objective: bool) -> Any:
        """A product of an expression of parameters and one with variables and parameters."""
        first = not e.args[0].variables()
        factor, other = e.args if first else reversed(e.args)
        if factor.variables():
            return e  # both have variables: not DCP
        if not other.is_affine() and factor.is_scalar():
            return self._scaled(factor, other, objective)
        inner = self._without_parameters(other)
        return e.copy([factor, inner] if first else [inner, factor])

    def _scaled(self, factor: Any, e: Any, objective: bool) -> Any:
        """factor·e for a scalar factor, pushed into sums, products and quadratic forms."""
        if not e.parameters():
            return cp.multiply(factor, e)
        if isinstance(e, AddExpression):
            return sum(self._scaled(factor, a, objective) for a in e.args)
        if isinstance(e, NegExpression):
            return -self._scaled(factor, e.args[0], objective)
        if is_product(e):
            for own, other in (e.args, e.args[::-1]):
                if own.is_scalar() and not own.variables():
                    return self._scaled(self.new.as_parameter(cp.multiply(factor, own)), other, objective)
        if isinstance(e, QuadForm) and self._varies(e, objective):
            return QuadForm(self._without_parameters(e.args[0]), self.new.as_parameter(definite(factor, e.args[1])))
        return cp.multiply(factor, self._without_parameters(e))

    def _varies(self, e: Any, objective: bool) -> bool:
        """Whether the coefficients of a quadratic form may: in a quadratic objective, if they are real."""
        return objective and self.quadratic and not e.args[1].is_complex()

    def _keeps(self, e: Any, objective: bool) -> bool:
        """Whether a quadratic form is affine in its parameters as it is."""
        x, P = e.args
        return not P.parameters() or (self._varies(e, objective) and not x.parameters())

    def _quadratic_form(self, e: Any, objective: bool) -> Any:
        x, P = self._without_parameters(e.args[0]), e.args[1]
        if not P.parameters() or self._varies(e, objective):
            return QuadForm(x, P)
        if not (P.is_psd() or P.is_nsd()):
            return e
        scale, core = scaled_core(P, self.new.definition)
        inner = self._root(core, P.is_psd()) @ x
        if scale is None:
            square = cp.sum_squares(inner)
        else:
            square = cp.multiply(self.new.as_parameter(scale), cp.sum_squares(self._without_parameters(inner)))
        self._kept.append(e)
        self.new.reports[id(e)] = Replacement(text(e), "sum of squares", (), "")
        return square if P.is_psd() else -square

    def _root(self, P: Any, positive: bool) -> Any:
        """R with P = RᴴR, or −RᴴR: M where P was written MᵀM."""
        root = gram_root(P, self.new.definition) if positive else None
        if root is not None:
            return self.new.as_parameter(root)
        factor = cp.Parameter(P.shape, complex=P.is_complex(), name=f"factor of {text(P)}")
        self.new.define(factor, Factor(P, 1 if positive else -1), f"factor of {text(P)}")
        return factor.H if P.is_complex() else factor.T

    def _without_parameters(self, e: Any) -> Any:
        """e with its parameters moved into equations of new variables."""
        if not e.parameters():
            return e
        if id(e) not in self._freed:
            self._kept.append(e)
            self._freed[id(e)] = e  # where the rules lead back to e they do not help
            self._freed[id(e)] = self._free(e)
        return self._freed[id(e)]

    def _free(self, e: Any) -> Any:
        if e.is_affine():
            return self.new.as_variable(self.rewrite(e, objective=False))
        if isinstance(e, QuadForm) and e.args[1].parameters():
            return self._without_parameters(self._quadratic_form(e, objective=False))
        if not is_product(e):
            freed = with_args(e, [self._without_parameters(a) for a in e.args])
            if freed.is_dcp() and not freed.parameters():
                return freed
        return self.new.as_bound(self.rewrite(e, objective=False))
