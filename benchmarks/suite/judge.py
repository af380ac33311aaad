"""Who compares answers with the reference: residual, distance and gradient error of the first instances of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np

from benchmarks.suite import reference
from benchmarks.suite.case import Arrays, Case, Model, Solved
from benchmarks.suite.conic_form import ConicForm

__all__ = ["CHECKED", "Accuracy", "Judge"]

CHECKED = 4  # instances of a batch


@final
@dataclass(frozen=True)
class Accuracy:
    """Worst over the checked instances. gradient: ‖g − g*‖ / max(1, ‖g*‖) over all parameters, None without gradients."""

    residual: float
    distance: float
    gradient: float | None


@final
@dataclass(frozen=True)
class Judge:
    """The references of one case, each computed once."""

    case: Case
    model: Model
    form: ConicForm | None
    known: dict[tuple[int, int], list[Solved]] = field(default_factory=dict)

    @classmethod
    def of(cls, case: Case) -> Judge:
        model = case.model()
        return cls(case, model, ConicForm.compile(model) if model.exact is None else None)

    def references(self, step: int, stream: int) -> list[Solved]:
        if (step, stream) not in self.known:
            values, cotangents = self.case.values(self.model, step, stream), self.case.cotangents(self.model)
            self.known[step, stream] = [
                reference.for_model(self.model, [v[i] for v in values], [g[i] for g in cotangents], self.form)
                for i in range(min(self.case.batch, CHECKED))
            ]
        return self.known[step, stream]

    def accuracy(self, step: int, stream: int, variables: Arrays, gradients: Arrays | None) -> Accuracy:
        """Arrays with the batch axis, of the checked instances at least."""
        residual = distance = gradient = 0.0
        for i, solved in enumerate(self.references(step, stream)):
            found = [v[i] for v in variables]
            if not all(np.isfinite(v).all() for v in found):
                return Accuracy(np.inf, np.inf, np.inf)
            residual = max(residual, solved.check(found))
            distance = max(distance, _relative(found, solved.variables))
            if gradients is not None:
                gradient = max(gradient, _relative([g[i] for g in gradients], solved.gradients))
        return Accuracy(residual, distance, gradient if gradients is not None else None)


def _relative(found: Arrays, exact: Arrays) -> float:
    def norm(arrays: Arrays) -> float:
        return float(np.sqrt(sum(np.sum(a**2) for a in arrays)))

    gap = norm([a - b for a, b in zip(found, exact, strict=True)])
    return gap / max(1.0, norm(exact)) if np.isfinite(gap) else np.inf
