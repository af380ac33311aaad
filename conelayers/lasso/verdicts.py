"""Whether the derivative on the support is justified, by the condition on the *extended* support.

For the Lasso, every element of the generalized Jacobian belongs to a set between the support S and the extended support
E = {j : |x_jᵀ(y − Xw)|/n = λ}, and is invertible if X_E has full column rank (Bolte, Le, Pauwels, Silveti-Falls,
"Nonsmooth implicit differentiation for machine learning and optimization", 2021, section 3.2). One rank decides over
all of them: X_S' has full column rank for every S ⊆ S' ⊆ E if X_E has. With other losses and penalties, the Hessian of
the objective on E takes the place of X_EᵀX_E.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import NamedTuple, final

import numpy as np

from conelayers.derivatives.certificate import Verdict
from conelayers.lasso.linearization import Linearization

__all__ = ["Conditions", "Side", "Spectrum", "SupportCertificate", "certify"]

_SHOWN = 5  # names in one sentence


@final
class Side(Enum):
    """Which of the features at a kink count as active.

    - OWN: those that are active in the solution.
    - LOW: none of them.
    - HIGH: all of them.
    """

    OWN = "own"
    LOW = "low"
    HIGH = "high"


@final
class Spectrum(NamedTuple):
    """The extreme singular values of a system whose columns are scaled to length one.

    smallest, largest: the singular values.
    cutoff: the ratio of the two below which the system counts as singular.
    blamed: the columns that make it singular.
    """

    smallest: float
    largest: float
    cutoff: float
    blamed: tuple[int, ...]

    @property
    def regular(self) -> bool:
        """Whether the system is not singular."""
        return self.smallest > self.cutoff * self.largest


class Conditions(ABC):
    """The optimality conditions at a solution: the kinks, and the linearizations on both sides of them.

    item: what has a condition of its own, "feature", or "sample" for a support vector machine.
    repair: what the user can do about items that are linearly dependent.
    """

    item: str = "feature"
    repair: str = "remove one of them, or add a small ridge penalty (ElasticNet)"

    @property
    @abstractmethod
    def start(self) -> np.ndarray:
        """The coordinates from which a solve at a θ nearby may start."""

    @property
    @abstractmethod
    def support(self) -> np.ndarray:
        """The items on the support, (s,) int."""

    @property
    @abstractmethod
    def distances(self) -> np.ndarray:
        """The distances of the items from their kinks, in the units of λ."""

    @property
    @abstractmethod
    def tolerances(self) -> np.ndarray:
        """The distances up to which the items count as lying at a kink."""

    @cached_property
    def at_kinks(self) -> np.ndarray:
        """Which items lie at a kink, (items,) bool."""
        return self.distances <= self.tolerances

    @property
    def kinks(self) -> np.ndarray:
        """The items at a kink, (k,) int."""
        return np.flatnonzero(self.at_kinks)

    @property
    def margin(self) -> float:
        """The distance of the nearest kink; infinite if there is none."""
        return float(self.distances.min(initial=np.inf))

    @property
    def kink_tolerance(self) -> float:
        """The largest distance at which an item counts as lying at a kink."""
        return float(self.tolerances.max(initial=0.0))

    @abstractmethod
    def linearized(self, side: Side) -> Linearization:
        """The linearization in which ``side`` says which items at kinks are active."""

    @abstractmethod
    def spectrum(self, side: Side) -> Spectrum:
        """The singular values that decide whether the linearization is invertible."""

    @abstractmethod
    def split(self, z: np.ndarray) -> tuple[np.ndarray, float]:
        """(w, c) from the coordinates z, or a change of (w, c) from a change of z."""

    @abstractmethod
    def pull_back(self, coef_bar: np.ndarray, intercept_bar: float) -> np.ndarray:
        """The cotangent of the coordinates z for a cotangent of (w, c)."""


@final
@dataclass(frozen=True, eq=False)
class SupportCertificate:
    """What is known of the derivative of a Lasso-type solution in its hyperparameters.

    verdict: what can be said of the derivative (below).
    support: the indices of the features on the support, (s,); of samples for a support vector machine.
    extended: those of the extended support, (e,).
    kinks: those that lie at a kink.
    margin: the distance of the nearest kink in the units of λ: the least of λ − |x_jᵀr|/n off the support and of
    |w_j|·‖x_j‖²/n on it.
    kink_tolerance: the largest distance at which an item counts as lying at a kink: 100 times what a Newton step from
    the solution's own residual would change, plus 1e−12 of the scale of the data (the least λ at which w = 0).
    smallest_singular_value: that of X_E with columns of length one; with other losses that of its analogue, for a
    support vector machine that of the linear system.
    condition: the condition number of the same matrix.
    residual: the largest violation of the optimality conditions over all features, over the scale of the data.
    converged: whether the residual is rounding.
    blamed: the names of the items that are linearly dependent.
    kink_names: the names of the items at kinks.
    item, repair: as in ``Conditions``.

    The verdicts mean:

    - ``classical``: there is no kink, and the system on the support is invertible.
    - ``certified``: there are kinks, and every system between the support and the extended support is invertible.
    - ``uncertified``: the system on the support is invertible, but that on the extended support is not, or the point
      did not converge.
    - ``least_squares``: the system on the support is singular.
    """

    verdict: Verdict
    support: np.ndarray
    extended: np.ndarray
    kinks: np.ndarray
    margin: float
    kink_tolerance: float
    smallest_singular_value: float
    condition: float
    residual: float
    converged: bool
    blamed: tuple[str, ...]
    kink_names: tuple[str, ...]
    item: str
    repair: str

    @property
    def justified(self) -> bool:
        """Whether the theorem's hypothesis was found to hold."""
        return self.verdict.justified

    @property
    def advice(self) -> str:
        """What stands in the way of a derivative, and what the user can do about it; empty if nothing does."""
        said = []
        if not self.converged:
            said.append(
                "The point did not converge, and no derivative is certified at it: standardize the features, or raise "
                "the penalty."
            )
        if self.blamed:
            said.append(f"Linearly dependent on the extended support: {_some(self.blamed)}; {self.repair}.")
        return " ".join(said)

    def __str__(self) -> str:
        where = f": {_some(self.kink_names)}" if self.kink_names else ""
        lines = [
            f"{self.verdict.value}: {self.verdict.meaning}",
            f"  solve      KKT residual {self.residual:.1e}",
            f"  support    {self.support.size} {self.item}s, extended {self.extended.size}",
            f"  kinks      {self.kinks.size}, margin {self.margin:.1e}{where}",
            f"  system     smallest singular value {self.smallest_singular_value:.1e}, condition {self.condition:.1e}",
        ]
        return "\n".join([*lines, f"  {self.advice}"] if self.advice else lines)


def certify(
    conditions: Conditions, residual: float, converged: bool, names: Sequence[str] | None = None
) -> SupportCertificate:
    """The certificate of a solution; names: the names of the features (or samples), for messages."""
    own = conditions.spectrum(Side.OWN)
    kinks = conditions.kinks
    # With kinks the two extremes decide over all systems between them; without kinks both are the system itself.
    extremes = [conditions.spectrum(side) for side in (Side.LOW, Side.HIGH)] if kinks.size else [own]
    worst = min(extremes, key=lambda s: s.smallest / max(s.largest, 1e-300))
    if not own.regular:
        verdict, worst = Verdict.LEAST_SQUARES, own
    elif not converged or not worst.regular:
        verdict = Verdict.UNCERTIFIED
    else:
        verdict = Verdict.CERTIFIED if kinks.size else Verdict.CLASSICAL

    def named(items: Sequence[int]) -> tuple[str, ...]:
        return tuple(str(names[i]) if names is not None else f"{conditions.item} {i}" for i in items)

    return SupportCertificate(
        verdict=verdict,
        support=conditions.support,
        extended=np.union1d(conditions.support, kinks),
        kinks=kinks,
        margin=conditions.margin,
        kink_tolerance=conditions.kink_tolerance,
        smallest_singular_value=worst.smallest,
        condition=worst.largest / worst.smallest if worst.smallest > 0 else np.inf,
        residual=residual,
        converged=converged,
        blamed=() if worst.regular else named(worst.blamed),
        kink_names=named(kinks.tolist()),
        item=conditions.item,
        repair=conditions.repair,
    )


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
