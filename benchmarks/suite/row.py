"""One line of the results: a contender on a case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, final

import numpy as np

from benchmarks.suite.judge import Accuracy

__all__ = ["WRONG_GRADIENT", "WRONG_RESIDUAL", "Quartiles", "Row"]

# An answer further off than this is wrong, and its time is no competition.
WRONG_RESIDUAL, WRONG_GRADIENT = 1e-4, 1e-2


@final
@dataclass(frozen=True)
class Quartiles:
    """Seconds; of the turns' medians."""

    low: float
    median: float
    high: float
    samples: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Quartiles | None:
        if not samples:
            return None
        low, median, high = np.quantile(samples, [0.25, 0.5, 0.75])
        return cls(float(low), float(median), float(high), len(samples))


@final
@dataclass
class Row:
    """Times in seconds, memory in bytes. refusal: why the contender was not asked. warm: with the previous solution.

    elapsed: seconds of the benchmark itself that the row took.
    """

    family: str
    size: int
    label: str
    batch: int
    contender: str
    refusal: str | None = None
    build: float | None = None
    first: float | None = None
    forward: Quartiles | None = None
    backward: Quartiles | None = None
    warm_forward: Quartiles | None = None
    warm_backward: Quartiles | None = None
    memory: int | None = None
    accuracy: Accuracy | None = None
    warm_accuracy: Accuracy | None = None
    failures: list[str] = field(default_factory=list)
    elapsed: float = 0.0

    @property
    def case(self) -> tuple[str, int, int]:
        return self.family, self.size, self.batch

    @property
    def total(self) -> float | None:
        """Forward and backward, medians, cold."""
        return None if self.forward is None or self.backward is None else self.forward.median + self.backward.median

    @property
    def warm_total(self) -> float | None:
        if self.warm_forward is None or self.warm_backward is None:
            return None
        return self.warm_forward.median + self.warm_backward.median

    @property
    def wrong(self) -> bool:
        a = self.accuracy
        if a is None:
            return False
        return a.residual > WRONG_RESIDUAL or (a.gradient is not None and a.gradient > WRONG_GRADIENT)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
