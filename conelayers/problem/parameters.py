"""The user's parameters: their shapes, structure and attributes, and the values of a call side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np

from conelayers.problem.attributes import MOVED, moved_onto
from conelayers.problem.expressions import Arithmetic, NumpyArithmetic

__all__ = [
    "Batch",
    "ParameterSpec",
    "flatten",
    "moved_array",
    "moved_values",
    "structured",
    "unflatten",
    "with_attributes",
    "with_batch_axis",
]

_NUMPY = NumpyArithmetic()


@final
@dataclass(frozen=True)
class ParameterSpec:
    """One cvxpy parameter as the layer sees it: ``offset`` of its entries (column-major) in θ, and its attributes."""

    name: str
    shape: tuple[int, ...]
    offset: int
    attributes: frozenset[str] = frozenset()
    positions: tuple[int, ...] | None = None  # entries (column-major) that may differ from zero: diag, sparsity
    bounds: tuple[object, object] | None = None
    position: int | None = None  # among the user's parameters, of one that the user gave no name

    @property
    def label(self) -> str:
        """The name, and for cvxpy's own names, which tell the user nothing, the place and the shape."""
        return (
            self.name
            if self.position is None
            else f"{self.name} (unnamed, position {self.position}, shape {self.shape})"
        )

    def numbered(self, i: int) -> str:
        """What messages call the parameter in place i."""
        return f"parameter {i} ({self.name}{'' if self.position is None else f', unnamed, shape {self.shape}'})"

    @cached_property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    @cached_property
    def is_complex(self) -> bool:
        """Whether values may be complex."""
        return bool(self.attributes & {"complex", "imag", "hermitian"})

    @cached_property
    def constrained(self) -> bool:
        """Whether there is more to check of its values than that they are finite."""
        return bool(self.attributes) or self.positions is not None or self.bounds is not None

    @cached_property
    def moved(self) -> bool:
        """Whether values may have to be moved onto its attributes."""
        return bool(self.attributes & MOVED) or self.bounds is not None

    @cached_property
    def columns(self) -> slice:
        """Where the entries lie in θ."""
        return slice(self.offset, self.offset + self.size)


@final
class Batch:
    """The checked values of one call, as the user passed them or as θ; each of the two is made of the other when it is
    needed.

    size: B, 1 for an unbatched call. batched: whether the call was batched. batched_parameters: which parameters were.
    finite: whether no value is infinite.
    """

    def __init__(
        self,
        specs: Sequence[ParameterSpec],
        batched_parameters: tuple[bool, ...],
        size: int,
        *,
        values: Sequence[np.ndarray] | None = None,
        theta: np.ndarray | None = None,
        finite: bool = True,
    ) -> None:
        self.finite = finite
        self._specs, self.batched_parameters, self.size = specs, batched_parameters, size
        self.batched = any(batched_parameters)
        self._values, self._theta = values, theta

    @property
    def values(self) -> Sequence[np.ndarray]:
        """Contiguous float64 arrays of the call's own, (*shape) or, of batched parameters, (B, *shape)."""
        if self._values is None:
            theta = self.theta
            self._values = [
                np.ascontiguousarray(
                    unflatten(theta[:, spec.columns] if batched else theta[:1, spec.columns], spec.shape)
                )
                for spec, batched in zip(self._specs, self.batched_parameters, strict=True)
            ]
        return self._values

    @property
    def theta(self) -> np.ndarray:
        """θ (B, p): the entries of all parameters side by side, those of each column by column."""
        if self._theta is None:
            theta = np.empty((self.size, sum(spec.size for spec in self._specs)))
            for spec, value, batched in zip(self._specs, self.values, self.batched_parameters, strict=True):
                theta[:, spec.columns] = flatten(value if batched else value[None])
            self._theta = theta
        return self._theta

    def without_values(self) -> Batch:
        """The same call without its values, for those who need its sizes only: θ is (B, 0)."""
        return Batch((), self.batched_parameters, self.size, values=(), theta=np.empty((self.size, 0)))


def moved_values(xp: Arithmetic, spec: ParameterSpec, value: Any) -> Any:
    """The value (B, *shape), moved onto the parameter's attributes where it misses them by rounding."""
    return moved_onto(xp, value, spec.attributes, spec.bounds) if spec.moved else value


def moved_array(spec: ParameterSpec, value: np.ndarray) -> np.ndarray:
    """The same for an array of real numbers; for definite matrices without their eigenvalues."""
    for name, sign in (("PSD", 1.0), ("NSD", -1.0)):
        if name in spec.attributes:
            try:
                np.linalg.cholesky(sign * value)
            except np.linalg.LinAlgError:
                break
            return value
    with np.errstate(invalid="ignore"):  # inf − inf, which is not taken
        return np.asarray(moved_values(_NUMPY, spec, value))


def flatten(values: np.ndarray) -> np.ndarray:
    """(B, *shape) to (B, size), column-major within an instance, as cvxpy orders entries."""
    if values.ndim > 2:
        values = values.transpose(0, *range(values.ndim - 1, 0, -1))
    return values.reshape(values.shape[0], math.prod(values.shape[1:]))


def unflatten(flat: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of ``flatten``."""
    if len(shape) < 2:
        return flat.reshape(flat.shape[0], *shape)
    return flat.reshape(flat.shape[0], *reversed(shape)).transpose(0, *range(len(shape), 0, -1))


def with_batch_axis(value: Any, spec: ParameterSpec) -> Any:
    """With a batch axis in front, of length 1 for an unbatched value."""
    return value if value.ndim > len(spec.shape) else value[None]


def with_attributes(xp: Arithmetic, spec: ParameterSpec, value: Any) -> Any:
    """The nearest value with the parameter's structure and attributes, which (B, *shape) misses by rounding."""
    return moved_values(xp, spec, structured(xp, spec, value))


def structured(xp: Arithmetic, spec: ParameterSpec, value: Any) -> Any:
    """The nearest value with the parameter's structure, for a value (B, *shape).

    A value that has it stays as it is; of a gradient it is the part along such values.
    """
    attributes = spec.attributes
    if attributes & {"symmetric", "PSD", "NSD", "hermitian"}:
        rank = len(spec.shape)
        mirrored = xp.permute(value, (*range(rank - 1), rank, rank - 1))
        value = (value + (xp.conjugate(mirrored) if "hermitian" in attributes else mirrored)) / 2
    if "imag" in attributes and spec.is_complex:
        value = (value - xp.conjugate(value)) / 2
    if spec.positions is not None:
        mask = np.zeros(spec.size, dtype=bool)
        mask[list(spec.positions)] = True
        value = xp.where(xp.constant(np.reshape(mask, spec.shape, order="F")), value, 0.0)
    return value
