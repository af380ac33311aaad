"""Is the derivative on the support justified? The condition on the *extended* support, and what stands in the way.

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
    """Which of a kink's features count as active: as the solution has them, none of them, all of them."""

    OWN = "own"
    LOW = "low"
    HIGH = "high"


@final
class Spectrum(NamedTuple):
    """Extreme singular values of a system with columns of length one, and when it counts as singular.

    cutoff: the ratio of the two at which it does. blamed: the columns that cause it.
    """

    smallest: float
    largest: float
    cutoff: float
    blamed: tuple[int, ...]

    @property
    def regular(self) -> bool:
        """Whether it is not singular."""
        return self.smallest > self.cutoff * self.largest


class Conditions(ABC):
    """The optimality conditions at a solution: the kinks, and the linearizations on both sides of them.

    Items are what the conditions are counted by: the features, or the samples of a support vector machine.
    """

    item: str = "feature"
    repair: str = "remove one of them, or add a small ridge penalty (ElasticNet)"

    @property
    @abstractmethod
    def start(self) -> np.ndarray:
        """What a neighbouring solve may start from."""

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
        """The distance from the nearest kink, infinite without one."""
        return float(self.distances.min(initial=np.inf))

    @property
    def kink_tolerance(self) -> float:
        """The largest distance at which an item counts as being at one."""
        return float(self.tolerances.max(initial=0.0))

    @abstractmethod
    def linearized(self, side: Side) -> Linearization:
        """The linearization that counts kinks as that side says."""

    @abstractmethod
    def spectrum(self, side: Side) -> Spectrum:
        """The singular values that say whether it is invertible."""

    @abstractmethod
    def split(self, z: np.ndarray) -> tuple[np.ndarray, float]:
        """(w, c) of the coordinates, or a change of them."""

    @abstractmethod
    def pull_back(self, coef_bar: np.ndarray, intercept_bar: float) -> np.ndarray:
        """The cotangent of the coordinates."""


@final
@dataclass(frozen=True, eq=False)
class SupportCertificate:
    """What is known of the derivative of a Lasso-type solution in its hyperparameters.

    verdict: ``classical``: no kink, the extended support is the support, and the system on it is invertible;
    ``certified``: kinks, and every system between is; ``uncertified``: that of the support is, that of the extended
    support is not, or the point did not converge; ``least_squares``: that of the support is singular.

    support, extended (s,), (e,): indices of features (of samples, for a support vector machine). kinks: those whose
    place is undecided. margin: the distance from the nearest kink in the units of λ, λ − |x_jᵀr|/n off the support and
    |w_j|·‖x_j‖²/n on it, whichever is least. An item is at a kink where that is below kink_tolerance: 100 times what a
    Newton step from the solution's own residual would change, and 1e−12 of the scale of the data (the least λ at which
    w = 0).

    smallest_singular_value, condition: of X_E with columns of length one (its analogue with other losses; for a support
    vector machine, of the linear system). residual: the largest violation of the optimality conditions over all
    features, in that scale. blamed: the names of what is linearly dependent.
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
        """What stands in the way and what to do about it; empty where nothing does."""
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
    """The certificate of a solution; names: of the features (or samples), for the messages."""
    own = conditions.spectrum(Side.OWN)
    kinks = conditions.kinks
    # With kinks, the two extremes decide over everything between them; without, they are the system itself.
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
