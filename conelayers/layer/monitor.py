"""Watch a training run: does the layer move as its derivative says?

That the derivative exists at every iterate assures nothing: between two iterates the solution map may jump, and then
gradient descent follows slopes that have nothing to do with where it goes. A step from θ to θ + Δ shows whether it did.
Where the solution map is differentiable, S(θ + Δ) − S(θ) is DΔ up to second order. Across a kink it lies between the
predictions from both sides. Across a jump it is neither.
"""

from __future__ import annotations

import numbers
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, final

import numpy as np

from conelayers.derivatives.regularity import kink_margins
from conelayers.layer.layer import Layer
from conelayers.layer.solution import LayerSolution
from conelayers.support.arguments import described

__all__ = ["Monitor", "Step"]

_ROUNDING = 1e-7  # times 1 + ‖S‖: a movement up to this size counts as none


@final
@dataclass(frozen=True)
class Step:
    """One step of training. Norms are Euclidean, over the whole batch.

    index: the number of the call among those of its batch size and thread, repetitions not counted.
    size: ‖Δ‖.
    seen: ‖S(θ + Δ) − S(θ)‖.
    predicted: ‖DΔ‖ with the derivative at θ.
    error: ‖S(θ + Δ) − S(θ) − DΔ‖/max(seen, predicted), or 0 if both are rounding errors.
    jumps: how many instances of the batch jumped.
    margin: the smallest distance from a kink at θ + Δ, over the batch and the blocks of the cone.
    """

    index: int
    size: float
    seen: float
    predicted: float
    error: float
    jumps: int
    margin: float


@final
class _Run(NamedTuple):
    """The last call of its batch size in its thread."""

    number: int
    theta: np.ndarray
    solution: LayerSolution


@final
class Monitor:
    """Compares every step of training with what the derivative predicts: ``with Monitor(layer) as monitor: train()``.

    layer: a Layer, or the ConeLayer of an adapter.
    every: compare one call out of so many.
    jump: an instance jumps if it moves so many times farther than the derivatives at both ends of the step predict.

    A call is compared with the one before it that has the same batch size and thread. Δ is the change of all parameter
    values, so the instances should be the same ones from step to step. Calls that change nothing do not count, nor do
    calls of which some instances have no solution. A comparison costs a solve with the factorization that the gradient
    needs too, and a projection. ``steps`` holds what was seen, ``plot()`` draws it.
    """

    def __init__(self, layer: Any, *, every: int = 1, jump: float = 10.0) -> None:
        engine = getattr(layer, "engine", layer)
        if not isinstance(engine, Layer):
            raise TypeError(f"layer: got {described(layer)}, expected a Layer or a ConeLayer")
        _check(every, jump)
        self._engine, self._every, self._jump = engine, int(every), float(jump)
        self._steps: list[Step] = []
        self._runs: dict[tuple[int, int], _Run] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Monitor:
        self._runs = {}
        self._engine.observe(self._see)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.forget(self._see)
        self._runs = {}

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps seen so far."""
        return tuple(self._steps)

    @property
    def jumps(self) -> int:
        """How many instances jumped, in all steps together."""
        return sum(step.jumps for step in self._steps)

    @property
    def smallest_margin(self) -> float:
        """The smallest distance from a kink at the end of any step; infinite before the first."""
        return min((step.margin for step in self._steps), default=np.inf)

    @property
    def worst_error(self) -> float:
        """The largest relative difference between a step and its prediction; 0 before the first."""
        return max((step.error for step in self._steps), default=0.0)

    def __str__(self) -> str:
        return (
            f"{len(self._steps)} steps, {self.jumps} jumps, smallest margin to a kink {self.smallest_margin:.1e}, "
            f"largest error of a prediction {self.worst_error:.1e}"
        )

    def _see(self, theta: np.ndarray, solution: LayerSolution) -> None:
        with self._lock:
            key = threading.get_ident(), len(theta)
            before = self._runs.get(key)
            if before is not None and np.array_equal(before.theta, theta):
                return  # the same point again, as in the second solve of a gradient
            index = 1 if before is None else before.number + 1
            if before is not None and index % self._every == 0:
                self._steps.append(self._compare(before, index, theta, solution))
            self._runs[key] = _Run(index, theta.copy(), solution)

    def _compare(self, before: _Run, index: int, theta: np.ndarray, solution: LayerSolution) -> Step:
        delta = np.subtract(theta, before.theta, out=np.zeros_like(theta), where=theta != before.theta)  # inf stays inf
        # A bound that comes from infinity meets nothing on its way there: it is left out of the prediction.
        finite = np.where(np.isinf(delta), 0.0, delta)
        old, new = before.solution.flat_variables(), solution.flat_variables()
        seen = new - old
        ahead = before.solution.predict(finite)
        lengths, floor = _norms(seen), _ROUNDING * (1 + _norms(old))
        jumped = lengths > self._jump * _norms(ahead) + floor
        if jumped.any():  # across a kink the derivative at the other end may predict the step
            jumped &= lengths > self._jump * _norms(solution.predict(finite)) + floor
        _, y, s = solution.points
        moved, predicted = float(np.linalg.norm(seen)), float(np.linalg.norm(ahead))
        size = max(moved, predicted)
        return Step(
            index=index,
            size=float(np.linalg.norm(delta)),
            seen=moved,
            predicted=predicted,
            error=float(np.linalg.norm(seen - ahead)) / size if size > float(np.linalg.norm(floor)) else 0.0,
            jumps=int(jumped.sum()),
            margin=float(np.min(kink_margins(solution.cones, y - s), initial=np.inf)),
        )

    def plot(self, path: str | None = None) -> Any:
        """A matplotlib Figure of the steps seen and predicted, of jumps and margins; saved to ``path`` if given.

        Raises ImportError without matplotlib, ValueError before the first step.
        """
        if not self._steps:
            raise ValueError(
                "plot: got no step, expected at least one: no step was seen yet; run the training inside of `with "
                "Monitor(layer) as monitor:`"
            )
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("Monitor.plot needs matplotlib: pip install matplotlib") from error
        figure = Figure(figsize=(8, 5), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True)
        index = [step.index for step in self._steps]
        jumps = [step for step in self._steps if step.jumps]
        _curve(top, index, [step.seen for step in self._steps], label="seen: ‖S(θ+Δ) − S(θ)‖", linewidth=1.2)
        _curve(top, index, [step.predicted for step in self._steps], label="predicted: ‖DΔ‖", linewidth=0.8)
        if jumps:
            top.scatter(
                [s.index for s in jumps],
                [s.seen for s in jumps],
                s=14,
                color="C3",
                label=f"jumps ({self.jumps})",
                zorder=3,
            )
        top.set_ylabel("step of the solution")
        top.legend(fontsize="small")
        _curve(bottom, index, [step.margin for step in self._steps], color="C2", linewidth=0.8)
        bottom.set_ylabel("distance from the nearest kink")
        bottom.set_xlabel("call")
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure


def _check(every: Any, jump: Any) -> None:
    if isinstance(every, bool) or not isinstance(every, numbers.Integral) or every < 1:
        raise ValueError(f"every: got {every!r}, expected a positive integer")
    if isinstance(jump, bool) or not isinstance(jump, numbers.Real) or not float(jump) > 1:
        raise ValueError(f"jump: got {jump!r}, expected a number above 1")


def _curve(axes: Any, x: Sequence[int], y: Sequence[float], **style: Any) -> None:
    """Draw y over x on a logarithmic scale that is linear, down to zero, below the smallest positive value."""
    values = np.array(y, dtype=float)
    values[~np.isfinite(values)] = np.nan
    axes.plot(x, values, **style)
    positive = values[values > 0]
    if positive.size:
        axes.set_yscale("symlog", linthresh=max(float(positive.min()), 1e-9 * float(positive.max())))
    axes.set_ylim(bottom=0)


def _norms(rows: np.ndarray) -> np.ndarray:
    return np.linalg.norm(rows, axis=1)
