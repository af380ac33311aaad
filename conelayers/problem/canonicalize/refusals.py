"""What cannot become a layer, refused by name: the argument, the expression, and the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cvxpy as cp
from cvxpy.atoms.affine.affine_atom import AffAtom
from cvxpy.atoms.elementwise.power import Power
from cvxpy.atoms.quad_form import QuadForm
from cvxpy.constraints import PowCone3D, PowConeND
from cvxpy.utilities import scopes

from conelayers.problem.canonicalize.data import is_unnamed
from conelayers.support.arguments import described
from conelayers.support.errors import CanonicalizationError

__all__ = ["check_arguments", "check_discipline", "known_backend"]

_BACKENDS = ("CPP", "SCIPY", "COO")
_IGNORED = ("RUST", "DIFFCP", "DIFFENGINE", "MOREAU", "MPAX", "CUCLARABEL")  # of other versions and packages


def known_backend(name: Any) -> str | None:
    """cvxpy's canonicalization backend of that name; None for its default and for names that mean nothing here.

    Raises ValueError for any other name.
    """
    upper = name.upper() if isinstance(name, str) else name
    if upper is None or upper in _IGNORED:
        return None
    if upper not in _BACKENDS:
        raise ValueError(f"canon_backend: got {name!r}, expected None or one of {', '.join(map(repr, _BACKENDS))}")
    return str(upper)


def check_arguments(problem: Any, parameters: Any, variables: Any) -> None:
    """Raises unless given a problem, all of its parameters, and variables of its own that are real and continuous."""
    if not isinstance(problem, cp.Problem):
        raise TypeError(f"problem: got {described(problem)}, expected a cvxpy.Problem")
    for name, given, kind in (("parameters", parameters, cp.Parameter), ("variables", variables, cp.Variable)):
        if not isinstance(given, (list, tuple)):
            fix = f"; write [{given.name()}]" if isinstance(given, kind) else ""
            raise ValueError(
                f"{name}: The layer's {name} must be provided as a list or tuple; got {described(given)}, expected a "
                "list of "
                f"cvxpy.{kind.__name__}s{fix}"
            )
        for i, item in enumerate(given):
            if not isinstance(item, kind):
                raise ValueError(
                    f"{name}[{i}]: got {described(item)}, expected a cvxpy.{kind.__name__}{_way_out(item, kind)}"
                )
    for constraint in problem.constraints:
        if isinstance(constraint, (PowCone3D, PowConeND)) and constraint.alpha.parameters():
            raise CanonicalizationError(
                f"problem: got the constraint {constraint}, expected a constant exponent: its exponent holds the "
                f"parameter {_named(constraint.alpha.parameters()[0])}, whose value "
                "cvxpy would fix at compilation; exponents must be constants"
            )
    own = {p.id: p for p in problem.parameters()}
    given_ids = [p.id for p in parameters]
    missing = [p for i, p in own.items() if i not in given_ids]
    foreign = [p for p in parameters if p.id not in own]
    repeated = [p for i, p in enumerate(parameters) if given_ids.index(p.id) == i and given_ids.count(p.id) > 1]
    if missing or foreign or repeated:
        details = [
            f"{what}: {', '.join(sorted(_called(p, place) for p in group))}"
            for what, group, place in (
                ("missing", missing, {p.id: f"number {i} of problem.parameters()" for i, p in enumerate(own.values())}),
                ("not in the problem", foreign, {p.id: f"position {i}" for i, p in enumerate(parameters)}),
                ("given twice", repeated, {p.id: f"first at position {given_ids.index(p.id)}" for p in parameters}),
            )
            if group
        ]
        alike = sorted({p.name() for p in missing} & {p.name() for p in foreign})
        fix = (
            f"; {', '.join(alike)}: two parameters with the same name are two parameters: pass the problem's own"
            if alike
            else ""
        )
        raise ValueError(
            f"parameters: got {', '.join(str(p.name()) for p in parameters) or 'none'}, expected each of the "
            "problem's once: The layer's parameters "
            f"must exactly match problem.parameters ({'; '.join(details)}){fix}"
        )
    if not problem.variables():
        raise ValueError("problem: got one with no variables, expected at least one; there is nothing to solve for")
    if not variables:
        raise ValueError("variables: got an empty list, expected at least one variable of the problem to return")
    known = {v.id for v in problem.variables()} | {d.id for c in problem.constraints for d in c.dual_variables}
    for v in variables:
        if v.id not in known:
            raise ValueError(
                f"variables: got {v.name()}, which is not the problem's, expected its own: {v.name()} must be a "
                "subset of problem.variables or a dual variable of one of its constraints"
            )
    for v in problem.variables():
        for attribute in ("boolean", "integer"):
            if v.attributes[attribute]:
                raise CanonicalizationError(
                    f"problem: got one whose variable {v.name()} is {attribute}, expected continuous variables: the "
                    "solution would be piecewise constant in the parameters; relax it to a continuous one"
                )


def _called(parameter: cp.Parameter, places: dict[int, str]) -> str:
    """A parameter's name, and for one of cvxpy's making also its place and shape."""
    name = str(parameter.name())
    return f"{name} (unnamed, {places[parameter.id]}, shape {parameter.shape})" if is_unnamed(parameter) else name


def _named(parameter: cp.Parameter) -> str:
    """The same where there is no list that it has a place in."""
    return _called(parameter, {parameter.id: "of the problem's"})


def _way_out(item: Any, kind: type) -> str:
    if isinstance(item, cp.constraints.constraint.Constraint) and kind is cp.Variable:
        return "; its multipliers are constraint.dual_variables"
    if kind is cp.Variable and isinstance(item, cp.Expression) and item.variables():
        return "; a layer returns whole variables: return the whole variable, and compute the expression from it"
    return ""


def _check_exponents(e: Any) -> None:
    if isinstance(e, Power) and e.variables() and isinstance(e.p, cp.Expression) and e.p.parameters():
        raise CanonicalizationError(
            f"problem: got `{e}`, expected a constant exponent: its exponent holds the parameter "
            f"{_named(e.p.parameters()[0])}, with whose value its curvature and its cones change: "
            "there is no derivative; exponents of variables must be constants"
        )
    for arg in e.args:
        _check_exponents(arg)


def _undeclared(problem: cp.Problem) -> str | None:
    """A matrix of parameters in a quadratic form that may be indefinite for all that is known."""
    waiting: list[Any] = [problem.objective, *problem.constraints]
    while waiting:
        e = waiting.pop()
        if isinstance(e, QuadForm) and e.args[1].parameters() and not (e.args[1].is_psd() or e.args[1].is_nsd()):
            return str(e.args[1])
        waiting += e.args
    return None


def check_discipline(problem: cp.Problem, gp: bool) -> None:
    """Raises CanonicalizationError for a problem that is not DCP (DGP), naming the smallest offending expressions."""
    if not gp:
        for root in (problem.objective, *problem.constraints):
            _check_exponents(root)
    kind = "DGP" if gp else "DCP"
    if not (problem.is_dgp() if gp else problem.is_dcp()):
        culprits = _offenders(problem, lambda e: e.is_dgp() if gp else e.is_dcp())
        if not gp and problem.is_dgp():
            hint = " It is DGP: pass gp=True."
        elif gp and problem.is_dcp():
            hint = " It is DCP: leave gp=False."
        elif gp:
            hint = (
                " Variables and parameters of a geometric program are declared pos=True "
                "(https://www.cvxpy.org/tutorial/dgp)."
            )
        elif undeclared := _undeclared(problem):
            hint = (
                f" Nothing is known of the definiteness of {undeclared}: declare it PSD=True (or NSD=True), or wrap "
                "it in cp.psd_wrap."
            )
        elif problem.is_dqcp():
            hint = (
                " It is DQCP: its solution comes from a bisection over the objective's level; make the level a "
                "Parameter, and its sublevel set a "
                "constraint of a problem that is DCP."
            )
        else:
            hint = (
                " Its solution may be one of several local ones; find a convex form of it (https://dcp.stanford.edu)."
            )
        raise CanonicalizationError(
            f"problem: got one that is not {kind}, expected one that is: Problem must be {kind}; {culprits}.{hint}"
        )


def check_parameters(problem: cp.Problem, gp: bool, quadratic: bool, *, original: cp.Problem, lifting: bool) -> None:
    """Raises CanonicalizationError, naming the user's expressions, where the data are not affine in the parameters."""
    scope = scopes.quad_form_dpp_scope if quadratic and not gp else None
    is_dpp: Any = problem.is_dpp  # its cached wrapper hides the signature from type checkers
    dpp = is_dpp("dgp") if gp else is_dpp(quad_form_dpp="qp" if quadratic else None)
    if not dpp or any(_escapes(e) for e in (problem.objective, *problem.constraints)):

        def complies(expression: Any) -> bool:
            with scopes.dpp_scope():
                return (expression.is_dgp() if gp else expression.is_dcp()) and not _escapes(expression)

        def objective_complies(expression: Any) -> bool:
            if scope is None:
                return complies(expression)
            with scope():
                return complies(expression)

        bounded = [v.name() for v in problem.variables() if _bounds_escape(v)]
        culprits = (
            f"the offending bounds are those of {', '.join(bounded)}: write them as constraints"
            if bounded
            else _offenders(original, complies, objective_complies)
        )
        raise CanonicalizationError(
            "problem: got one that is not DPP, expected one that is: Problem must be DPP, so that its data are "
            f"affine in the parameters; {culprits}. "
            + (
                "conelayers found no form of it that is; replace the part that holds only parameters by a new "
                "Parameter (with the sign or attribute "
                "that it has) and pass its value"
                if lifting
                else "Leave lift=True to have such parts replaced by new parameters, or replace them by hand"
            )
            + ". See https://www.cvxpy.org/tutorial/dpp/index.html"
        )


def _bounds_escape(variable: cp.Variable) -> bool:
    """Whether a bound of the variable is not affine in its parameters."""
    bounds: Any = variable.attributes["bounds"]
    with scopes.dpp_scope():
        return any(isinstance(b, cp.Expression) and bool(b.parameters()) and not b.is_affine() for b in bounds or ())


def _escapes(e: Any, affine: bool = True) -> bool:
    """Whether e breaks what cvxpy's own check of DPP does not see.

    A quadratic form's coefficients may vary only where nothing but affine atoms stands over it; Huber's threshold must
    be affine in the parameters.
    """
    if isinstance(e, QuadForm) and e.args[1].parameters() and not affine:
        return True
    if isinstance(e, cp.huber):
        with scopes.dpp_scope():
            if not e.M.is_affine():
                return True
    return any(_escapes(arg, affine and isinstance(e, (AffAtom, cp.Minimize, cp.Maximize))) for arg in e.args)


def _offenders(
    problem: cp.Problem, complies: Callable[[Any], bool], objective_complies: Callable[[Any], bool] | None = None
) -> str:
    """The smallest subexpressions that break the rules, as the user wrote them."""
    found: list[str] = []

    def descend(node: Any, rule: Callable[[Any], bool]) -> None:
        bad = [arg for arg in node.args if not rule(arg)]
        for arg in bad:
            descend(arg, rule)
        if not bad:
            text = str(node)
            if text not in found:
                found.append(text)

    rule = objective_complies or complies
    if not rule(problem.objective):
        descend(problem.objective, rule)
    for constraint in problem.constraints:
        if not complies(constraint):
            descend(constraint, complies)
    if not found:
        return "a variable's bounds do not comply: write them as constraints"
    shown = "; ".join(f"`{text if len(text) <= 200 else text[:200] + '…'}`" for text in found[:3])
    return f"the offending expression{'s are' if len(found) > 1 else ' is'} {shown}"
