"""What is compared: a contender builds a layer for a case, or says why it cannot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

from benchmarks.suite.case import Arrays, Case, Model

__all__ = ["DENSE_ORDER", "Contender", "Layer", "Limit", "no_dense", "quadratic_only"]

DENSE_ORDER = 2500  # a dense contender is not asked for more variables than this


class Layer(ABC):
    """One contender's layer for one case. Only ``forward`` and ``backward`` are timed.

    Arrays carry the batch axis only if the case is batched. warm_starts: whether ``forward`` uses the solution of the
    call before when it is asked to; differentiates: whether ``backward`` exists.
    """

    warm_starts: ClassVar[bool] = False
    differentiates: ClassVar[bool] = True

    @abstractmethod
    def inputs(self, arrays: Arrays) -> Any:
        """Parameter values or cotangents in the framework's own form."""

    @abstractmethod
    def forward(self, inputs: Any, warm: bool) -> Any:
        """The variables, in the framework's own form. Raises whatever the contender raises."""

    @abstractmethod
    def backward(self, cotangents: Any) -> Any:
        """The gradients at the last ``forward``."""

    @abstractmethod
    def arrays(self, outputs: Any) -> Arrays:
        """What ``forward`` or ``backward`` returned as arrays."""


class Limit(Layer):
    """Something that no layer can be faster than, on NumPy data and without a backward pass."""

    differentiates = False

    @final
    def backward(self, cotangents: Any) -> Any:
        raise NotImplementedError("a limit has no backward pass")


@final
@dataclass(frozen=True)
class Contender:
    """distribution: what is installed, for its version. refuses: (model, case) ↦ the reason why not, or None."""

    distribution: str
    build: Callable[[Model, Case], Layer]
    refuses: Callable[[Model, Case], str | None] = lambda model, case: None


def quadratic_only(model: Model, case: Case) -> str | None:
    """For contenders that take QPs alone."""
    return None if model.quadratic is not None else "takes quadratic programs only"


def no_dense(model: Model, case: Case) -> str | None:
    """For contenders that take dense QPs alone."""
    if model.quadratic is not None and model.quadratic.n > DENSE_ORDER:
        return f"takes dense matrices only (n = {model.quadratic.n})"
    return quadratic_only(model, case)
