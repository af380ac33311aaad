"""What is measured: a model (a cvxpy problem with its parameters and variables), and a case of a family (its size, its batch)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

__all__ = ["Arrays", "Case", "Family", "Model", "QuadraticForm", "Solved", "sparse"]

Arrays = list[np.ndarray]
MOVE = 0.01  # consecutive values of a stream differ by this, relative


@final
@dataclass(frozen=True)
class Solved:
    """The variables of one instance, and the gradients of ⟨cotangents, variables⟩ with respect to its parameters.

    residual: how exactly. check: somebody's variables ↦ their KKT residual, relative, with the best multipliers.
    """

    variables: Arrays
    gradients: Arrays
    residual: float
    check: Callable[[Arrays], float]


@final
@dataclass(frozen=True)
class QuadraticForm:
    """minimize ½ xᵀPx + qᵀx subject to Ax = b, Gx ≤ h, for contenders that take nothing else.

    constants: those of P, q, A, b, G, h that no parameter enters, matrices sparse. parametric: (array module, *θ) ↦ the
    others, all of them and θ with a leading batch axis. outputs: for each variable, its slice of x and its shape.
    """

    n: int
    constants: Mapping[str, Any]
    parametric: Callable[..., dict[str, Any]]
    outputs: list[tuple[slice, tuple[int, ...]]]

    def recover(self, x: Any) -> list[Any]:
        """The variables (B, *shape) from x (B, n)."""
        return [x[:, part].reshape((x.shape[0], *shape)) for part, shape in self.outputs]

    @property
    def dense(self) -> bool:
        """Whether a matrix depends on the parameters; it is dense then."""
        return any(name not in self.constants for name in "PAG")


@final
@dataclass(frozen=True)
class Model:
    """A parametric problem as a user would write it.

    draw: parameter values of one instance. symmetric: names of the parameters whose values are symmetric matrices.
    exact: (values, cotangents) ↦ Solved, where the family has a more independent reference than the generic one.
    kkt: (values, variables at the solution) ↦ the reduced KKT matrix, where it is not that of the quadratic form.
    """

    problem: cp.Problem
    parameters: list[cp.Parameter]
    variables: list[cp.Variable]
    draw: Callable[[np.random.Generator], Arrays]
    quadratic: QuadraticForm | None = None
    exact: Callable[[Arrays, Arrays], Solved] | None = None
    kkt: Callable[[Arrays, Arrays], np.ndarray | sp.csc_array] | None = None
    symmetric: frozenset[str] = frozenset()


@final
@dataclass(frozen=True)
class Case:
    """One size and batch of a family. Values and cotangents depend on nothing else, so every process has the same."""

    family: Family = field(repr=False)
    size: int
    batch: int = 1

    @property
    def key(self) -> str:
        return f"{self.family.name}/{self.size}/{self.batch}"

    @property
    def label(self) -> str:
        return self.family.label(self.size)

    @property
    def batched(self) -> bool:
        """One instance is passed without a batch axis."""
        return self.batch > 1

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([zlib.crc32(self.key.encode()), *stream])

    def model(self) -> Model:
        """A fresh problem: cvxpy remembers what it compiled."""
        return self.family.make(self.size, np.random.default_rng([zlib.crc32(self.family.name.encode()), self.size]))

    def stream(self, model: Model) -> Callable[[int, int], Arrays]:
        """(step, stream) ↦ the parameters (B, *shape) at one step of a stream of small moves around the case's own point."""
        base = [
            np.stack(draws) for draws in zip(*(model.draw(self._rng(0, i)) for i in range(self.batch)), strict=True)
        ]

        def values(step: int, stream: int) -> Arrays:
            rng = self._rng(1, stream, step)
            moved = []
            for value, p in zip(base, model.parameters, strict=True):
                noise = rng.standard_normal(value.shape)
                if p.name() in model.symmetric:
                    noise = (noise + np.swapaxes(noise, -1, -2)) / np.sqrt(2)
                moved.append(value * (1 + MOVE / np.sqrt(2) * noise))
            return moved

        return values

    def values(self, model: Model, step: int, stream: int = 0) -> Arrays:
        """One step of a stream."""
        return self.stream(model)(step, stream)

    def cotangents(self, model: Model) -> Arrays:
        """What is propagated back, (B, *shape) for each variable; symmetric for a symmetric matrix."""
        rng = self._rng(2)
        drawn = []
        for v in model.variables:
            g = rng.standard_normal((self.batch, *v.shape))
            drawn.append((g + np.swapaxes(g, -1, -2)) / 2 if v.is_symmetric() and v.ndim == 2 else g)
        return drawn


@final
@dataclass(frozen=True)
class Family:
    """Problems of one kind. cases: (size, batch) of the full run, in growing order; quick: those of the quick one."""

    name: str
    make: Callable[[int, np.random.Generator], Model]
    sizes: list[tuple[int, int]]
    quick: list[tuple[int, int]]
    label: Callable[[int], str] = str

    def cases(self, quick: bool) -> list[Case]:
        return [Case(self, size, batch) for size, batch in (self.quick if quick else self.sizes)]


def sparse(matrix: Any) -> sp.csc_array:
    """A canonical CSC matrix."""
    out = sp.csc_array(matrix, dtype=np.float64)
    out.sum_duplicates()
    out.sort_indices()
    return out
