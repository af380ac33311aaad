"""What replaces expressions in a problem: new parameters, variables and constraints, and the report of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import cvxpy as cp
import numpy as np
from cvxpy.atoms.affine.promote import Promote
from cvxpy.atoms.affine.wraps import nonneg_wrap, nonpos_wrap
from cvxpy.utilities import scopes

from conelayers.problem.dpp.complex_expressions import has_complex_form
from conelayers.problem.dpp.cvxpy_expressions import attributes, said, text, wrapped
from conelayers.problem.input_map import Replacement

__all__ = ["Additions", "Factor"]


@final
@dataclass(frozen=True)
class Factor:
    """L with P = L Lᵀ, for a positive definite P; ``sign`` −1 for P = −L Lᵀ."""

    P: cp.Expression
    sign: int


@final
class Additions:
    """``definitions`` of new parameters, ``added`` constraints, ``auxiliary`` variables' identifiers, ``reports``.

    origins: for each added constraint what it was added for, the number of a constraint of the user's, or the name of a
    part of the objective; ``origin`` is what is being rewritten.
    """

    def __init__(self, gp: bool) -> None:
        self.gp = gp
        self.definitions: dict[int, tuple[cp.Parameter, cp.Expression | Factor]] = {}
        self.added: list[cp.Constraint] = []
        self.origins: list[int | str] = []
        self.origin: int | str = "the objective"
        self.auxiliary: set[int] = set()
        self.reports: dict[int, Replacement] = {}
        self._lifted: dict[int, Any] = {}  # by the expression's number
        self._numbers = _Numbers()

    def _affine_in_parameters(self, e: cp.Expression) -> bool:
        with scopes.dpp_scope():
            return bool(e.is_log_log_affine() if self.gp else e.is_affine())

    def as_parameter(self, e: Any) -> Any:
        """An expression of parameters alone: a new parameter, if it is not affine in them."""
        if self._affine_in_parameters(e) and not has_complex_form(e):
            return e
        if isinstance(e, Promote):
            return Promote(self.as_parameter(e.args[0]), e.shape)
        number = self._numbers(e)
        if number in self._lifted:
            return self._lifted[number]
        line = text(e)
        parameter = cp.Parameter(e.shape, name=f"({line})", **({"pos": True} if self.gp else attributes(e)))
        self.define(parameter, e, line)
        self._lifted[number] = wrapped(parameter, e)
        return self._lifted[number]

    def define(self, parameter: cp.Parameter, definition: Any, line: str) -> None:
        """A new parameter that stands for an expression of the user's."""
        self.definitions[parameter.id] = (parameter, definition)
        self.reports[parameter.id] = Replacement(line, "parameter", tuple(parameter.shape), said(parameter))

    def definition(self, e: Any) -> Any:
        """What a new parameter stands for."""
        return self.definitions[e.id][1] if isinstance(e, cp.Parameter) and e.id in self.definitions else e

    def as_variable(self, e: Any) -> Any:
        """A new variable equal to e."""
        if e.is_complex() and e.ndim == 2 and e.size > 1 and e.is_hermitian():  # all entries would be equal twice
            z = cp.Variable(e.shape, hermitian=True, name=f"({text(e)})")
            self.added += [cp.diag(cp.real(z)) == cp.diag(cp.real(e))]
            self.added += [cp.upper_tri(part(z)) == cp.upper_tri(part(e)) for part in (cp.real, cp.imag)]
        else:
            z = cp.Variable(e.shape, complex=e.is_complex(), name=f"({text(e)})")
            self.added.append(z == e)
        return self._introduced(z, e, "variable")

    def as_bound(self, e: Any) -> Any:
        """A new variable above a convex e, below a concave one: as good as e where the rules of DCP allow e."""
        if not (e.is_convex() or e.is_concave()):
            return e
        t = cp.Variable(e.shape, name=f"({text(e)})")
        self.added.append(e <= t if e.is_convex() else e >= t)
        return self._introduced(t, e, "upper bound" if e.is_convex() else "lower bound")

    def _introduced(self, z: cp.Variable, e: Any, kind: str) -> Any:
        self.auxiliary.add(z.id)
        self.origins += [self.origin] * (len(self.added) - len(self.origins))
        self.reports[z.id] = Replacement(text(e), kind, tuple(e.shape), "")
        if e.is_nonneg():
            return nonneg_wrap(z)
        return nonpos_wrap(z) if e.is_nonpos() else z


class _Numbers:
    """Numbers of expressions, the same for those that are written the same way."""

    def __init__(self) -> None:
        self._known: dict[Any, int] = {}
        self._own: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no identity is given twice

    def __call__(self, e: Any) -> int:
        if id(e) not in self._own:
            self._kept.append(e)
            self._own[id(e)] = self._known.setdefault(self._key(e), len(self._known))
        return self._own[id(e)]

    def _key(self, e: Any) -> Any:
        if isinstance(e, cp.Constant) and e.size == 1 and isinstance(e.value, np.ndarray):
            return "constant", tuple(e.shape), repr(complex(e.value.item()))
        data = (e.get_data() or []) if e.args else [e]
        if not e.args or not all(isinstance(h, cp.Expression) or _is_plain(h) for h in data):
            return "itself", id(e)
        further = tuple(self(h) if isinstance(h, cp.Expression) else repr(h) for h in data)
        return type(e), further, tuple(self(a) for a in e.args)


def _is_plain(h: Any) -> bool:
    """Whether repr says all of h."""
    return all(map(_is_plain, h)) if isinstance(h, (tuple, list)) else h is None or isinstance(h, (int, float, str))
