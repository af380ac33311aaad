"""A layer's policies for its derivative: the Clarke element at kinks, and what happens where J is singular."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any, final

import numpy as np

from conelayers.derivatives.certificate import Certificate
from conelayers.derivatives.linearization import Linearization, SolutionMap
from conelayers.derivatives.null_directions import NullDirections, listed
from conelayers.derivatives.regularity import certify, snapped
from conelayers.numerics.cones import Selection
from conelayers.numerics.trouble import Trouble
from conelayers.program.names import NEGLIGIBLE, Naming
from conelayers.program.solution import Solution
from conelayers.support.errors import (
    SingularDerivativeError,
    SingularDerivativeWarning,
    ZeroDerivativeWarning,
    as_member,
)

__all__ = ["Policies", "Singular", "as_singular"]

_OUTSIDE = (
    "what is singular are variables that cvxpy introduced and that nothing holds there (the epigraph of a norm with "
    "the weight 0), or multipliers, and what was asked for depends on these: the gradient of such a weight."
)
_HOW_TO_KNOW_MORE = (
    "`certify` of the layer, with the same parameter values, or of the solution makes the whole certificate."
)


@final
class Singular(Enum):
    """What happens where the derivative's linear system is singular.

    - WARN: a SingularDerivativeWarning, once for each cause, that names it.
    - RAISE: a SingularDerivativeError.
    - LEAST_SQUARES: the least-squares solution is returned without a warning.
    """

    WARN = "warn"
    RAISE = "raise"
    LEAST_SQUARES = "least_squares"


def as_singular(value: Singular | str) -> Singular:
    """A Singular from itself or its string. Raises ValueError naming the strings."""
    return as_member(Singular, "singular", value)


@final
@dataclass(frozen=True)
class Policies:
    """The policies of a layer, and what its user was told so far.

    seen: the causes that the layer has warned of already.
    counts: how often there was "trouble".
    """

    policy: Singular
    selection: Selection
    naming: Naming
    seen: set[Any] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    def apply(self, solution: Solution, linearization: Linearization) -> tuple[Solution, Linearization]:
        """The solution and its linearization with the selected element, and with the reaction to trouble."""
        solution, linearization = snapped(solution, linearization, self.selection)
        return solution, replace(linearization, on_trouble=self.on_trouble(solution))

    def apply_at_point(self, linearization: Linearization) -> Linearization:
        """The selected element and the reaction to trouble for a linearization at a point that another solver found."""
        return replace(linearization.select(self.selection), on_trouble=self.on_trouble(None))

    def on_trouble(self, solution: Solution | None) -> Callable[[SolutionMap, Trouble], None]:
        """The function that reacts to trouble with the derivative at these solutions."""
        return partial(self._tell, solution)

    def asks_for_zeros(self, smoothing: object) -> bool:
        """Whether the user is to be warned of a gradient that is zero in every parameter.

        smoothing: what stands in for the derivative. Each kind of it warns once.
        """
        return self.policy is not Singular.LEAST_SQUARES and (ZeroDerivativeWarning, smoothing) not in self.seen

    def tell_zero(self, smoothing: object, message: str) -> None:
        """Warn of a gradient that is zero in every parameter, and not again."""
        self.seen.add((ZeroDerivativeWarning, smoothing))
        warnings.warn(message, ZeroDerivativeWarning, stacklevel=6)

    def _tell(self, solution: Solution | None, linearization: SolutionMap, trouble: Trouble) -> None:
        self.counts["trouble"] += 1
        if trouble.unfinished and self.policy is not Singular.RAISE:
            # Each time, since some of the results are NaN.
            warnings.warn(trouble.message, SingularDerivativeWarning, stacklevel=8)
            return
        if self.policy is Singular.LEAST_SQUARES:
            return
        troubled = trouble.instances
        i = troubled[0]
        if self.policy is Singular.WARN:
            new: dict[Any, int] = {}
            for k in troubled:
                cause = self._cause(linearization, trouble, k)
                if cause not in self.seen:
                    new.setdefault(cause, k)
            if not new:
                return
            self.seen.update(new)
            i = min(new.values())
        message = trouble.message
        if i not in trouble.unfinished:
            message = f"{message}\nAt batch index {i}: {self._finding(linearization, i)}"
        if self.policy is Singular.RAISE:
            certificate = None if solution is None else partial(self._certificate, linearization.take([i]), solution, i)
            raise SingularDerivativeError(message, certificate)
        warnings.warn(message, SingularDerivativeWarning, stacklevel=8)

    def _finding(self, linearization: SolutionMap, i: int) -> str:
        """The variables and constraints that make J singular, as far as the null vectors at hand show them."""
        one, names = linearization.take([i]), self.naming.names
        null, units = one.null_sample(0), one.scaling.d[0]
        if null is None:
            return f"the null space is not known. {_HOW_TO_KNOW_MORE}"
        directions, said = NullDirections.of(*null, names, units), []
        if not directions.second_order:
            said.append(f"the minimizer is not unique along {listed(directions.variables(names, units))}.")
        if not directions.nondegenerate:
            which = listed(directions.constraints(names)) or "the active constraints"
            said.append(f"the gradients of active constraints are linearly dependent, those of {which}.")
        return " ".join([*(said or [_OUTSIDE]), _HOW_TO_KNOW_MORE])

    @staticmethod
    def _cause(linearization: SolutionMap, trouble: Trouble, i: int) -> Any:
        """A key that is the same for two warnings that say the same: the kind of trouble, its variables and rows."""
        kind = trouble.consequence, i in trouble.ambiguous, i in trouble.inconsistent
        null = linearization.take([i]).factorization.null_sample(0)
        if null is None:
            return kind
        supports = (np.max(np.abs(h), axis=0, initial=0.0) > NEGLIGIBLE for h in null)
        return kind, *(np.packbits(s).tobytes() for s in supports)

    def _certificate(self, linearization: Linearization, solution: Solution, i: int) -> Certificate:
        return certify(linearization, solution.take([i]), self.naming.names)[0]
