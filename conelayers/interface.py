"""Between what the user passes and gets back, and the real parameters and outputs of the cone program.

Most layers need nothing of it: their parameters are the program's. Elsewhere a program's parameter is the real or the imaginary part of
one of the user's, those of its entries that may differ from zero, or the value of an expression of them (canonicalize/lift.py), and a
complex variable is made of two outputs. All of it is computed by the layer's framework, which differentiates it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, final

import numpy as np

from conelayers.expressions import Arithmetic, Evaluation, Expression, positions_in
from conelayers.parameters import ParameterSpec, batch_sizes, check_values, given_arrays, moved_values

__all__ = ["Interface", "Replacement", "Source", "Values", "leading", "settled", "structured"]


class Values(Protocol):
    """What an adapter knows of the arrays that it is given."""

    arithmetic: Arithmetic

    def wide(self, value: Any) -> Any:
        """A dense array in double precision, where the arithmetic works, for a dense or sparse one."""

    def narrow(self, value: Any, given: Sequence[Any]) -> Any:
        """A computed value in the precision, and on the device, of those that were given."""

    def dense(self, value: Any) -> Any:
        """A dense array for a sparse one."""

    def entries(self, value: Any, spec: ParameterSpec) -> Any:
        """(B, k) or (k,): the entries at ``spec.positions`` of a dense or sparse value."""

    def concrete(self, value: Any) -> np.ndarray | None:
        """The value as a dense NumPy array; None where it is traced, or sparse, of which ``entries`` checks the pattern."""


@final
class Replacement(NamedTuple):
    """What a layer put in the place of an ``expression`` of the user's, so that the problem's data are affine in its parameters.

    by: "parameter", computed in every call, "variable", equal to it, "upper bound" or "lower bound", a variable, or "sum of squares".
    attributes: what is known of a parameter.
    """

    expression: str
    by: str
    shape: tuple[int, ...]
    attributes: str


@final
class Source(NamedTuple):
    """Where a parameter of the program comes from: the user's parameter ``position``, or the ``expression`` of that number.

    entries: of those at the parameter's positions only. part: "real" or "imag" of complex values.
    """

    position: int | None = None
    expression: int | None = None
    entries: bool = False
    part: str | None = None


@final
class Interface:
    """The user's ``parameters``, the ``sources`` of the program's, and of which of the program's outputs each variable is made.

    outputs: (position,), or (position of the real part, of the imaginary part). expressions: of the user's parameters, whose values are
    computed in every call. replacements: what is to be told of them. infinite: for each of the user's parameters which of its entries,
    column-major, may be ±inf; none by default.
    """

    # Plain attributes, all found here: torch.compile reads them, and does not follow cached properties.
    def __init__(
        self,
        parameters: tuple[ParameterSpec, ...],
        sources: tuple[Source, ...],
        outputs: tuple[tuple[int, ...], ...],
        expressions: tuple[Expression, ...] = (),
        replacements: tuple[Replacement, ...] = (),
        infinite: tuple[np.ndarray, ...] | None = None,
    ) -> None:
        self.parameters, self.sources, self.outputs = parameters, sources, outputs
        self.expressions, self.replacements = expressions, replacements
        self.infinite = infinite or tuple(np.zeros(spec.size, dtype=bool) for spec in parameters)
        same = tuple(Source(i) for i in range(len(parameters)))
        self.trivial = sources == same and outputs == tuple((i,) for i in range(len(outputs)))
        self.used = tuple(positions_in(e) for e in expressions)  # the user's parameters in each expression
        # Those that are not, as they are, parameters of the program, which checks its own.
        seen = {source.position for source in sources if source.part is None and not source.entries}
        self._unseen = tuple(i for i, spec in enumerate(parameters) if i not in seen and spec.constrained)
        self._prepared: dict[int, Evaluation] = {}

    @classmethod
    def identity(cls, parameters: tuple[ParameterSpec, ...], outputs: int) -> Interface:
        """Of a program whose parameters and outputs are the user's."""
        return cls(parameters, tuple(Source(i) for i in range(len(parameters))), tuple((i,) for i in range(outputs)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Interface, (
            self.parameters,
            self.sources,
            self.outputs,
            self.expressions,
            self.replacements,
            self.infinite,
        )

    def evaluation(self, values: Values) -> Evaluation:
        """That of all expressions, prepared once for each framework."""
        if id(values) not in self._prepared:
            self._prepared[id(values)] = Evaluation(self.expressions, values.arithmetic)
        return self._prepared[id(values)]

    def batched(self, k: int, given: Sequence[Any]) -> bool:
        """Whether the value of expression k has a batch axis."""
        return any(given[i].ndim > len(self.parameters[i].shape) for i in self.used[k])

    def concerned(self, wanted: Sequence[bool]) -> tuple[bool, ...]:
        """Which of the program's parameters depend on the ``wanted`` ones of the user's."""
        return tuple(
            any(wanted[i] for i in self.used[source.expression])
            if source.expression is not None
            else wanted[source.position or 0]
            for source in self.sources
        )

    def arrays(self, given: Sequence[Any]) -> list[Any]:
        """NumPy's arrays, or SciPy's sparse ones, of the given values; TypeError for complex values of a real parameter."""
        return given_arrays(self.parameters, given, sparse=True)

    def inner(self, given: Sequence[Any], values: Values, *, validate: bool = True) -> list[Any]:
        """The values of the program's parameters for the user's, each with a leading batch axis or without one.

        Raises ValueError for a wrong number, shape or batch size, and for values that break an attribute, naming the parameter.
        """
        sizes = batch_sizes(self.parameters, [tuple(v.shape) for v in given])
        for i in self._unseen if validate else ():
            array = values.concrete(given[i])
            if array is not None:
                self._check(i, array, sizes[i] is not None)
        computed = self._computed(given, values) if self.expressions else []
        result = []
        for source in self.sources:
            if source.expression is not None:
                value = computed[source.expression]
            else:
                assert source.position is not None
                value = given[source.position]
                value = (
                    values.entries(value, self.parameters[source.position]) if source.entries else values.dense(value)
                )
            result.append(value if source.part is None else getattr(values.arithmetic, source.part)(value))
        return result

    def check_finite(self, given: Sequence[Any], values: Values) -> None:
        """Raises ValueError, naming the user's parameter, for NaN and for infinities that are no bounds, in values that are not traced or sparse."""
        for i, (spec, value) in enumerate(zip(self.parameters, given, strict=False)):
            array = values.concrete(value)
            if array is not None and array.ndim - len(spec.shape) in (0, 1) and not np.isfinite(array).all():
                self._check(i, array, array.ndim > len(spec.shape), attributes=False)

    def _check(self, i: int, array: np.ndarray, batched: bool, *, attributes: bool = True) -> None:
        """Raises ValueError for values of the user's parameter i that are not finite, or break one of its attributes."""
        array = array if batched else array[None]
        check_values(self.parameters[i], array, batched, attributes=attributes, infinite=self.infinite[i])

    def _computed(self, given: Sequence[Any], values: Values) -> list[Any]:
        used = frozenset().union(*self.used)
        fronted = [
            settled(values.arithmetic, leading(values.wide(v), spec), spec) if i in used else None
            for i, (v, spec) in enumerate(zip(given, self.parameters, strict=True))
        ]
        results = [values.narrow(r, given) for r in self.evaluation(values)(fronted)]
        return [r if self.batched(k, given) else r[0] for k, r in enumerate(results)]


def leading(value: Any, spec: ParameterSpec) -> Any:
    """With a batch axis in front, of length 1 for an unbatched value."""
    return value if value.ndim > len(spec.shape) else value[None]


def settled(xp: Arithmetic, value: Any, spec: ParameterSpec) -> Any:
    """The nearest value with the parameter's structure and attributes, for a value (B, *shape) that misses these by rounding."""
    return moved_values(xp, spec, structured(xp, value, spec))


def structured(xp: Arithmetic, value: Any, spec: ParameterSpec) -> Any:
    """The nearest value with the parameter's structure, for a value (B, *shape): itself for one that has it, and a gradient's part that has it."""
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
