"""Between what the user passes and gets back, and the real parameters and outputs of the cone program.

Most layers need nothing of it: their parameters are the program's. Elsewhere a program's parameter is the real or the imaginary part of
one of the user's, those of its entries that may differ from zero, or the value of an expression of them (canonicalize/lift.py), and a
complex variable is made of two outputs. All of it is computed by the layer's framework, which differentiates it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple, Protocol, final

import numpy as np

from conelayers.expressions import Arithmetic, Evaluation, Expression, positions_in
from conelayers.parameters import ParameterSpec, batch_sizes, check_values

__all__ = ["Interface", "Replacement", "Source", "Values"]


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
@dataclass(frozen=True)
class Source:
    """Where a parameter of the program comes from: the user's parameter ``position``, or the expression ``node`` of all of them.

    entries: of those at the parameter's positions only. part: "real" or "imag" of complex values.
    """

    position: int | None = None
    node: Expression | None = None
    entries: bool = False
    part: str | None = None


@final
@dataclass(frozen=True)
class Interface:
    """The user's ``parameters``, the ``sources`` of the program's, and of which of the program's outputs each variable is made.

    outputs: (position,), or (position of the real part, of the imaginary part).
    """

    parameters: tuple[ParameterSpec, ...]
    sources: tuple[Source, ...]
    outputs: tuple[tuple[int, ...], ...]
    replacements: tuple[Replacement, ...] = ()

    @classmethod
    def identity(cls, parameters: tuple[ParameterSpec, ...], outputs: int) -> Interface:
        """Of a program whose parameters and outputs are the user's."""
        return cls(parameters, tuple(Source(i) for i in range(len(parameters))), tuple((i,) for i in range(outputs)))

    @cached_property
    def trivial(self) -> bool:
        """Whether the user's parameters and variables are the program's."""
        same = Interface.identity(self.parameters, len(self.outputs))
        return self.sources == same.sources and self.outputs == same.outputs

    @cached_property
    def nodes(self) -> tuple[Expression, ...]:
        """The expressions whose values are computed."""
        found = {id(source.node): source.node for source in self.sources if source.node is not None}
        return tuple(found.values())

    @cached_property
    def _used(self) -> dict[int, frozenset[int]]:
        """The positions of the parameters in each expression, by its identity."""
        return {id(node): positions_in(node) for node in self.nodes}

    def evaluation(self, values: Values) -> Evaluation:
        """That of all expressions, prepared once for each framework."""
        prepared: dict[int, Evaluation] = self.__dict__.setdefault("_prepared", {})
        if id(values) not in prepared:
            prepared[id(values)] = Evaluation(self.nodes, values.arithmetic)
        return prepared[id(values)]

    def __getstate__(self) -> dict[str, Any]:
        # What is found again is bound to this process.
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def batched(self, node: Expression, given: Sequence[Any]) -> bool:
        """Whether the expression's value has a batch axis."""
        return any(given[i].ndim > len(self.parameters[i].shape) for i in self._used[id(node)])

    def concerned(self, wanted: Sequence[bool]) -> tuple[bool, ...]:
        """Which of the program's parameters depend on the ``wanted`` ones of the user's."""
        return tuple(
            any(wanted[i] for i in self._used[id(source.node)])
            if source.node is not None
            else wanted[source.position or 0]
            for source in self.sources
        )

    def arrays(self, given: Sequence[Any]) -> list[Any]:
        """NumPy's arrays of the given values; TypeError for complex values of a real parameter."""
        arrays = [value if hasattr(value, "tocsc") else np.asarray(value) for value in given]
        for i, (value, spec) in enumerate(zip(arrays, self.parameters, strict=False)):
            if (np.iscomplexobj(value) and not spec.is_complex) or not np.issubdtype(value.dtype, np.number):
                raise TypeError(
                    f"parameter {i} ({spec.name}): got dtype {value.dtype}, expected real floating-point values"
                )
        return arrays

    @cached_property
    def _unseen(self) -> tuple[int, ...]:
        """The user's parameters that are not, as they are, parameters of the program, which checks its own."""
        seen = {source.position for source in self.sources if source.part is None and not source.entries}
        return tuple(i for i in range(len(self.parameters)) if i not in seen)

    def inner(self, given: Sequence[Any], values: Values, *, validate: bool = True) -> list[Any]:
        """The values of the program's parameters for the user's, each with a leading batch axis or without one.

        Raises ValueError for a wrong number, shape or batch size, and for values that break an attribute, naming the parameter.
        """
        sizes = batch_sizes(self.parameters, [tuple(v.shape) for v in given])
        for i in self._unseen:
            self._check(i, given[i], sizes[i] is not None, values, validate)
        found = dict(zip(map(id, self.nodes), self._evaluated(given, values), strict=True))
        result = []
        for source in self.sources:
            if source.node is not None:
                value = found[id(source.node)]
            elif source.entries:
                assert source.position is not None
                value = values.entries(given[source.position], self.parameters[source.position])
            else:
                assert source.position is not None
                value = values.dense(given[source.position])
            result.append(value if source.part is None else getattr(values.arithmetic, source.part)(value))
        return result

    def _check(self, i: int, value: Any, batched: bool, values: Values, validate: bool) -> None:
        spec = self.parameters[i]
        array = values.concrete(value) if spec.constrained and validate else None
        if array is not None:
            check_values(spec, array if batched else array[None], batched)

    def _evaluated(self, given: Sequence[Any], values: Values) -> list[Any]:
        if not self.nodes:
            return []
        used = frozenset().union(*self._used.values())
        leading = [
            self._leading(values.wide(v), spec) if i in used else None
            for i, (v, spec) in enumerate(zip(given, self.parameters, strict=True))
        ]
        results = [values.narrow(r, given) for r in self.evaluation(values)(leading)]
        return [r if self.batched(node, given) else r[0] for node, r in zip(self.nodes, results, strict=True)]

    @staticmethod
    def _leading(value: Any, spec: ParameterSpec) -> Any:
        return value if value.ndim > len(spec.shape) else value[None]
