"""Between what the user passes and gets back, and the real parameters and outputs of the cone program.

Most layers have the identity here: their parameters are the program's. Elsewhere a program's parameter is the real or
the imaginary part of one of the user's, those of its entries that may differ from zero, or the value of an expression
of them (canonicalize/lift.py), and a complex variable is made of two outputs. The layer's framework computes values,
and differentiates what it computes; over NumPy's arrays tangents are pushed and gradients are pulled here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, final

import numpy as np
import scipy.sparse as sp

from conelayers.problem.expressions import Evaluation, Expression, positions_in, pullback, pushforward
from conelayers.problem.numpy_values import ARRAYS
from conelayers.problem.parameter_checks import batch_sizes, check_values, given_arrays
from conelayers.problem.parameters import ParameterSpec, structured, unflatten, with_attributes, with_batch_axis
from conelayers.problem.user_values import Values

__all__ = ["InputMap", "Replacement", "Source"]


@final
class Replacement(NamedTuple):
    """What a layer put in the place of an ``expression``, so that the problem's data are affine in its parameters.

    by: "parameter", computed in every call, "variable", equal to it, "upper bound" or "lower bound", a variable, or
    "sum of squares".
    attributes: what is known of a parameter.
    """

    expression: str
    by: str
    shape: tuple[int, ...]
    attributes: str


@final
class Source(NamedTuple):
    """Where a program's parameter comes from: the user's parameter ``position``, or the ``expression`` of that number.

    entries: only the entries at the parameter's positions.
    part: "real" or "imag" of complex values.
    """

    position: int | None = None
    expression: int | None = None
    entries: bool = False
    part: str | None = None


@final
class InputMap:
    """From the user's parameters to the program's, and from the program's outputs to the user's variables.

    parameters: the user's.
    sources: where each of the program's parameters comes from.
    outputs: for each variable the position of its output, or those of its real and its imaginary part.
    expressions: those of the user's parameters whose values are computed in every call.
    replacements: what the layer reports of them.
    infinite: for each of the user's parameters which of its entries, column-major, may be ±inf; none by default.
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
        self.is_identity = sources == same and outputs == tuple((i,) for i in range(len(outputs)))
        self.used = tuple(positions_in(e) for e in expressions)  # the user's parameters in each expression
        # The program checks the values of its own parameters; those of the user's that are none of them are checked
        # here.
        passed_on = {source.position for source in sources if source.part is None and not source.entries}
        self._checked_here = tuple(i for i, spec in enumerate(parameters) if i not in passed_on and spec.constrained)
        self._prepared: dict[int, Evaluation] = {}

    @classmethod
    def identity(cls, parameters: tuple[ParameterSpec, ...], outputs: int) -> InputMap:
        """The map of a program whose parameters and outputs are the user's."""
        return cls(parameters, tuple(Source(i) for i in range(len(parameters))), tuple((i,) for i in range(outputs)))

    def __reduce__(self) -> tuple[Any, ...]:
        return InputMap, (
            self.parameters,
            self.sources,
            self.outputs,
            self.expressions,
            self.replacements,
            self.infinite,
        )

    def _evaluation(self, values: Values) -> Evaluation:
        """The evaluation of all expressions, prepared once for each framework."""
        if id(values) not in self._prepared:
            self._prepared[id(values)] = Evaluation(self.expressions, values.arithmetic)
        return self._prepared[id(values)]

    def _has_batch_axis(self, k: int, given: Sequence[Any]) -> bool:
        """Whether the value of expression k has a batch axis."""
        return any(given[i].ndim > len(self.parameters[i].shape) for i in self.used[k])

    def needed(self, wanted: tuple[bool, ...]) -> tuple[bool, ...]:
        """Which of the program's parameters depend on the ``wanted`` ones of the user's."""
        if self.is_identity:
            return wanted
        return tuple(
            any(wanted[i] for i in self.used[source.expression])
            if source.expression is not None
            else wanted[source.position or 0]
            for source in self.sources
        )

    def arrays(self, given: Sequence[Any]) -> list[Any]:
        """The values as arrays of NumPy, or sparse ones of SciPy; TypeError for complex values of a real parameter."""
        return given_arrays(self.parameters, given, sparse=True)

    def push(self, given: Sequence[Any], values: Values, *, validate: bool = True) -> Sequence[Any]:
        """The values of the program's parameters for the user's, each with a leading batch axis or without one.

        Raises ValueError for a wrong number, shape or batch size, and for values that break an attribute, naming the
        parameter; the identity leaves these checks to the program.
        """
        if self.is_identity:
            return given
        given = [values.array(v) for v in given]
        sizes = batch_sizes(self.parameters, [tuple(v.shape) for v in given])
        for i in self._checked_here if validate else ():
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
        """Raises ValueError, naming the user's parameter, for NaN and for infinities that are no bounds.

        Traced and sparse values are not looked at; the identity leaves the check to the program.
        """
        if self.is_identity:
            return
        for i, (spec, value) in enumerate(zip(self.parameters, given, strict=False)):
            array = values.concrete(value)
            if array is not None and array.ndim - len(spec.shape) in (0, 1) and not np.isfinite(array).all():
                self._check(i, array, array.ndim > len(spec.shape), attributes=False)

    def _check(self, i: int, array: np.ndarray, batched: bool, *, attributes: bool = True) -> None:
        """Raises ValueError where values of the user's parameter i are not finite or break one of its attributes."""
        array = array if batched else array[None]
        check_values(self.parameters[i], array, batched, attributes=attributes, infinite=self.infinite[i])

    def _computed(self, given: Sequence[Any], values: Values) -> list[Any]:
        """The values of the expressions."""
        used = frozenset().union(*self.used)
        settled = [self._settled(i, v, values) if i in used else None for i, v in enumerate(given)]
        results = [values.narrow(r, given) for r in self._evaluation(values)(settled)]
        return [r if self._has_batch_axis(k, given) else r[0] for k, r in enumerate(results)]

    def _settled(self, i: int, value: Any, values: Values) -> Any:
        """The value of the user's parameter i, dense, with a batch axis, its structure and its attributes."""
        spec = self.parameters[i]
        return with_attributes(values.arithmetic, spec, with_batch_axis(values.wide(value), spec))

    def recover(self, outputs: Sequence[Any], values: Values) -> tuple[Any, ...]:
        """The user's variables from the program's outputs, complex ones from their parts."""
        if self.is_identity:
            return tuple(outputs)
        return tuple(
            outputs[p[0]] if len(p) == 1 else values.joined(outputs[p[0]], outputs[p[1]]) for p in self.outputs
        )

    # Over NumPy's arrays

    def split(self, cotangents: Sequence[np.ndarray | None]) -> Sequence[np.ndarray | None]:
        """The cotangents of the program's outputs for those of the user's variables."""
        if self.is_identity:
            return cotangents
        parts: list[np.ndarray | None] = [None] * sum(map(len, self.outputs))
        for g, positions in zip(cotangents, self.outputs, strict=True):
            if g is not None:
                for position, part in zip(positions, (np.real, np.imag), strict=False):
                    parts[position] = part(g)
        return parts

    def push_tangents(self, given: Sequence[Any], tangents: Sequence[np.ndarray | None]) -> Sequence[np.ndarray | None]:
        """The tangents of the program's parameters for those of the user's (None for zero) at the values given."""
        if self.is_identity:
            return tangents
        dense = [np.zeros(v.shape) if t is None else t for v, t in zip(given, tangents, strict=True)]
        moved: list[np.ndarray] = []
        if self.expressions:
            found = pushforward(
                self._evaluation(ARRAYS),
                [self._settled(i, v, ARRAYS) for i, v in enumerate(given)],
                [
                    structured(ARRAYS.arithmetic, spec, with_batch_axis(ARRAYS.wide(t), spec))
                    for t, spec in zip(dense, self.parameters, strict=True)
                ],
            )
            moved = [m if self._has_batch_axis(k, given) else m[0] for k, m in enumerate(found)]
        result = []
        for source in self.sources:
            if source.expression is not None:
                tangent = moved[source.expression]
            else:
                assert source.position is not None
                tangent = dense[source.position]
                tangent = ARRAYS.entries(tangent, self.parameters[source.position]) if source.entries else tangent
            result.append(tangent if source.part is None else getattr(np, source.part)(tangent))
        return result

    def pull(self, given: Sequence[Any], gradients: Sequence[np.ndarray | None]) -> Sequence[Any]:
        """The gradients of the user's parameters for those of the program's (None for zero), at the values given.

        They are sparse for sparse values, and ∂/∂Re + i ∂/∂Im for complex parameters.
        """
        if self.is_identity:
            return gradients
        found: list[Any] = [
            sp.csr_array(v.shape)
            if sp.issparse(v)
            else np.zeros(v.shape, np.complex128 if spec.is_complex else np.float64)
            for v, spec in zip(given, self.parameters, strict=True)
        ]
        of_expressions: dict[int, np.ndarray] = {}
        for source, g in zip(self.sources, gradients, strict=True):
            if g is None:
                continue
            g = 1j * g if source.part == "imag" else g
            if source.expression is not None:
                k = source.expression
                g = g if self._has_batch_axis(k, given) else g[None]
                of_expressions[k] = of_expressions.get(k, 0) + g
                continue
            i = source.position
            assert i is not None
            found[i] += _at_positions(g, self.parameters[i], found[i]) if source.entries else np.asarray(g)
        if of_expressions:
            self._pull_expressions(given, of_expressions, found)
        return found

    def _pull_expressions(self, given: Sequence[Any], gradients: dict[int, np.ndarray], found: list[Any]) -> None:
        """Add to ``found`` what comes from the expressions' gradients."""
        values = [self._settled(i, v, ARRAYS) for i, v in enumerate(given)]
        batch = max(v.shape[0] for v in values)
        cotangents = [
            np.zeros((batch if self._has_batch_axis(k, given) else 1, *e.shape), complex) + gradients.get(k, 0)
            for k, e in enumerate(self.expressions)
        ]
        pulled = pullback(self._evaluation(ARRAYS), values, cotangents)
        for i, (spec, g) in enumerate(zip(self.parameters, pulled, strict=True)):
            g = structured(ARRAYS.arithmetic, spec, g if spec.is_complex else np.real(g))
            g = g if found[i].ndim > len(spec.shape) else g[0]
            found[i] += sp.csr_array(g) if sp.issparse(found[i]) else g

    def pull_jacobian(
        self,
        given: Sequence[Any],
        batch: int,
        inner: Sequence[ParameterSpec],
        blocks: Sequence[Sequence[np.ndarray]],
    ) -> list[list[np.ndarray]]:
        """For each variable its derivatives by the user's parameters, (B, *variable.shape, *parameter.shape).

        blocks: for each output those by the program's parameters ``inner``, with B in front.
        """
        dense = [
            value if value.ndim > len(spec.shape) else np.repeat(value[None], batch, axis=0)
            for value, spec in zip(map(ARRAYS.dense, given), self.parameters, strict=True)
        ]
        rows = [self._pull_blocks(dense, batch, inner, of_output) for of_output in blocks]
        return [
            rows[p[0]] if len(p) == 1 else [a + 1j * b for a, b in zip(rows[p[0]], rows[p[1]], strict=True)]
            for p in self.outputs
        ]

    def _pull_blocks(
        self, dense: Sequence[np.ndarray], batch: int, inner: Sequence[ParameterSpec], blocks: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """The same for one output."""
        outer = blocks[0].shape[1 : blocks[0].ndim - len(inner[0].shape)] if blocks else ()
        flat = [b.reshape(batch, -1, *spec.shape) for b, spec in zip(blocks, inner, strict=True)]
        entries = [self.pull(dense, [f[:, r] for f in flat]) for r in range(flat[0].shape[1] if flat else 0)]
        return [
            np.stack([e[i] for e in entries], axis=1).reshape(batch, *outer, *spec.shape)
            for i, spec in enumerate(self.parameters)
        ]


def _at_positions(entries: np.ndarray, spec: ParameterSpec, like: Any) -> Any:
    """Entries at the parameter's positions, as a sparse or dense array."""
    positions = np.asarray(spec.positions or (), dtype=np.int64)
    if sp.issparse(like):
        return sp.csr_array((entries, (positions % spec.shape[0], positions // spec.shape[0])), shape=spec.shape)
    batched = entries.ndim > 1
    flat = np.zeros((len(entries) if batched else 1, spec.size))
    flat[:, positions] = entries
    return unflatten(flat, spec.shape) if batched else unflatten(flat, spec.shape)[0]
