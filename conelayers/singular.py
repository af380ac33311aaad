"""What is done where the derivative's linear system is singular and what was asked for feels it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, final

import numpy as np

from conelayers.certificate import Certificate
from conelayers.certify import certify
from conelayers.derivative import Linearization, Trouble
from conelayers.errors import SingularDerivativeError, SingularDerivativeWarning
from conelayers.names import Names
from conelayers.program import Residuals, Solution

__all__ = ["Singular", "Watch", "as_singular"]


@final
class Singular(Enum):
    """WARN once for each cause, with the certificate; RAISE a SingularDerivativeError; or silently the LEAST_SQUARES solution."""

    WARN = "warn"
    RAISE = "raise"
    LEAST_SQUARES = "least_squares"


def as_singular(value: Singular | str) -> Singular:
    """A Singular from itself or its string. Raises ValueError naming the strings."""
    try:
        return Singular(value)
    except ValueError:
        names = ", ".join(repr(s.value) for s in Singular)
        raise ValueError(f"singular: got {value!r}, expected one of {names}") from None


@final
@dataclass(frozen=True)
class Watch:
    """The policy of a layer, and the causes that it has warned of already."""

    policy: Singular
    names: Names
    seen: set[Any] = field(default_factory=set)

    def over(self, linearization: Linearization, solution: Solution | None) -> Linearization:
        """The linearization with this policy; ``solution`` is what it was made at, if that is known."""

        def on_trouble(own: Linearization, trouble: Trouble) -> None:
            self._tell(own, trouble, solution)

        return replace(linearization, on_trouble=on_trouble)

    def _tell(self, linearization: Linearization, trouble: Trouble, solution: Solution | None) -> None:
        if self.policy is Singular.LEAST_SQUARES:
            return
        i = min(trouble.ambiguous + trouble.inconsistent)
        cause = self._cause(linearization, trouble, i)
        if self.policy is Singular.WARN and cause in self.seen:
            return
        self.seen.add(cause)
        certificate = self._certificate(linearization.take([i]), solution, i)
        message = trouble.message if certificate is None else f"{trouble.message}\nAt batch index {i}: {certificate}"
        if self.policy is Singular.RAISE:
            raise SingularDerivativeError(message, certificate)
        warnings.warn(message, SingularDerivativeWarning, stacklevel=8)

    def _cause(self, linearization: Linearization, trouble: Trouble, i: int) -> Any:
        """What makes two warnings say the same: the kind of trouble, and whom it is about."""
        kind = trouble.consequence, bool(trouble.ambiguous), bool(trouble.inconsistent)
        null = linearization.factorization.null_vectors(i)
        if null is None:
            return kind
        dx, dy = (np.max(np.abs(h), axis=0, initial=0.0) for h in null)
        return kind, self.names.columns(dx), self.names.rows(dy)

    def _certificate(self, linearization: Linearization, solution: Solution | None, i: int) -> Certificate | None:
        if solution is None:
            return None
        r = solution.residuals
        alone = Solution(
            solution.x[[i]],
            solution.y[[i]],
            solution.s[[i]],
            (solution.status[i],),
            Residuals(r.primal[[i]], r.dual[[i]], r.gap[[i]], r.cone[[i]]),
            solution.judged[[i]],
            (solution.solver[i],),
            (solution.message[i],),
        )
        return certify(linearization, alone, self.names)[0]
