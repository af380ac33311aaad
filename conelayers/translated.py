"""A solution in the user's own terms, where these are not the cone program's: complex values, parameters in expressions, sparse ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, final

import numpy as np
import scipy.sparse as sp

from conelayers.arguments import as_array, as_flags, check_count
from conelayers.expressions import Arithmetic, NumpyArithmetic, pullback, pushforward
from conelayers.interface import Interface, Source, leading, settled, structured
from conelayers.layer_solution import LayerSolution
from conelayers.parameters import ParameterSpec, flatten, unflatten

__all__ = ["ARRAYS", "TranslatedSolution", "inner_arrays", "translated"]


@final
class _Arrays:
    """NumPy's arrays, and SciPy's sparse ones."""

    arithmetic: Arithmetic = NumpyArithmetic()

    def wide(self, value: Any) -> Any:
        return np.asarray(self.dense(value), dtype=np.complex128 if np.iscomplexobj(value) else np.float64)

    def narrow(self, value: Any, given: Sequence[Any]) -> Any:
        return value

    def dense(self, value: Any) -> Any:
        return value.toarray() if sp.issparse(value) else value

    def entries(self, value: Any, spec: ParameterSpec) -> Any:
        positions = np.asarray(spec.positions or (), dtype=np.int64)
        if sp.issparse(value):
            return _sparse_entries(value, positions, spec)
        batched = value.ndim > len(spec.shape)
        flat = flatten(value if batched else value[None])[:, positions]
        return flat if batched else flat[0]

    def concrete(self, value: Any) -> np.ndarray | None:
        return None if sp.issparse(value) else value


def _sparse_entries(value: Any, positions: np.ndarray, spec: ParameterSpec) -> np.ndarray:
    stored = sp.coo_array(value)
    order = np.argsort(positions)
    wanted, place = positions[order], stored.row + spec.shape[0] * stored.col.astype(np.int64)
    found = np.minimum(np.searchsorted(wanted, place), max(wanted.size - 1, 0))
    inside = wanted[found] == place if wanted.size else np.zeros(place.size, dtype=bool)
    if stored.data[~inside].any():
        raise ValueError(
            f"parameter {spec.label}: was declared with a sparsity pattern; got entries outside it that are not zero, expected zeros there"
        )
    entries = np.zeros(positions.size)
    np.add.at(entries, order[found[inside]], stored.data[inside])
    return entries


ARRAYS = _Arrays()


@final
@dataclass(frozen=True, repr=False)
class TranslatedSolution(LayerSolution):
    """A LayerSolution whose variables, tangents and gradients are the user's, by the chain rule through an Interface.

    Gradients of complex parameters are ∂/∂Re + i ∂/∂Im, cotangents of complex variables likewise.
    """

    _interface: Interface | None = None
    _given: tuple[np.ndarray, ...] = ()

    def _names(self) -> list[str]:
        inner = [o.name for o in self._compiled.outputs]
        return [inner[positions[0]] for positions in self.interface.outputs]

    def jvp(self, *dtheta: Any) -> tuple[np.ndarray, ...]:
        """The tangents of the variables along dθ, one array (or None for zero) of the parameter's value's shape each."""
        interface = self.interface
        check_count("jvp", "tangents", dtheta, len(interface.parameters), "parameter")
        tangents = [
            np.zeros(value.shape)
            if d is None
            else _shaped(f"jvp: tangent {i} ({spec.label})", d, value.shape, spec.is_complex)
            for i, (d, value, spec) in enumerate(zip(dtheta, self._given, interface.parameters, strict=True))
        ]
        return _joined(interface, super().jvp(*_pushed(interface, self._given, tangents)))

    def vjp(self, *cotangents: Any, needed: Sequence[bool] | None = None) -> tuple[np.ndarray | None, ...]:
        """The gradients with respect to the parameters for cotangents of the variables (None for zero)."""
        interface = self.interface
        check_count("vjp", "cotangents", cotangents, len(interface.outputs), "variable")
        wanted = as_flags("vjp: needed", needed, len(interface.parameters), "parameter")
        parts: list[Any] = [None] * sum(map(len, interface.outputs))
        for i, (g, positions, value) in enumerate(zip(cotangents, interface.outputs, self.variables, strict=True)):
            if g is not None:
                g = _shaped(f"vjp: cotangent {i}", g, value.shape, len(positions) > 1)
                for position, part in zip(positions, (np.real, np.imag), strict=False):
                    parts[position] = part(g)
        inner = super().vjp(*parts, needed=interface.concerned(wanted))
        gradients = _pulled(interface, self._given, inner)
        return tuple(g if want else None for g, want in zip(gradients, wanted, strict=True))

    def jacobian(self) -> tuple[tuple[np.ndarray, ...], ...]:
        """∂variable/∂parameter for each variable and each real parameter, (*variable.shape, *parameter.shape), with B in front in a batch."""
        interface = self.interface
        for spec in interface.parameters:
            if spec.is_complex:
                raise NotImplementedError(
                    f"jacobian: parameter {spec.label} is complex; use jvp and vjp, or a real parameter for each of its parts"
                )
        batched = self._batch.batched
        count = self._batch.theta.shape[0]
        given = [
            value if value.ndim > len(spec.shape) else np.repeat(value[None], count, axis=0)
            for value, spec in zip(map(ARRAYS.dense, self._given), interface.parameters, strict=True)
        ]
        rows = [self._row_blocks(blocks, given, batched) for blocks in super().jacobian()]
        return tuple(
            tuple(np.asarray(h) for h in _joined_row([rows[k] for k in positions])) for positions in interface.outputs
        )

    def _row_blocks(self, blocks: Sequence[np.ndarray], given: Sequence[np.ndarray], batched: bool) -> list[np.ndarray]:
        """One output's blocks for the program's parameters turned into those for the user's."""
        specs = self._compiled.parameters
        count = len(given[0]) if given else 1
        outer = blocks[0].shape[batched : blocks[0].ndim - len(specs[0].shape)] if blocks else ()
        flat = [
            (b if batched else b[None]).reshape(count, -1, *spec.shape) for b, spec in zip(blocks, specs, strict=True)
        ]
        entries = [
            _pulled(self.interface, given, [f[:, r] for f in flat]) for r in range(flat[0].shape[1] if flat else 0)
        ]
        found = [
            np.stack([e[i] for e in entries], axis=1).reshape(count, *outer, *spec.shape)
            for i, spec in enumerate(self.interface.parameters)
        ]
        return [f if batched else f[0] for f in found]

    @property
    def interface(self) -> Interface:
        """Between the user's values and the program's."""
        assert self._interface is not None
        return self._interface


def inner_arrays(interface: Interface, given: Sequence[Any], validate: bool) -> list[np.ndarray]:
    """The values of the program's own parameters. Raises ValueError naming a parameter of the user's that is NaN, or infinite where it may not be."""
    interface.check_finite(given, ARRAYS)
    with np.errstate(all="ignore"):
        return interface.inner(given, ARRAYS, validate=validate)


def translated(interface: Interface, given: Sequence[np.ndarray], solution: LayerSolution) -> TranslatedSolution:
    """The solution of a program's own parameters as one for the user's values."""
    state = {f.name: getattr(solution, f.name) for f in fields(LayerSolution)}
    state["variables"] = _joined(interface, solution.variables)
    return TranslatedSolution(**state, _interface=interface, _given=tuple(given))


def _shaped(what: str, value: Any, shape: tuple[int, ...], is_complex: bool) -> np.ndarray:
    value = as_array(what, value, complex_too=is_complex)
    if value.shape != shape:
        raise ValueError(f"{what}: got shape {value.shape}, expected {shape}")
    return value


def _joined(interface: Interface, parts: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    return tuple(parts[p[0]] if len(p) == 1 else parts[p[0]] + 1j * parts[p[1]] for p in interface.outputs)


def _joined_row(rows: Sequence[list[np.ndarray]]) -> list[np.ndarray]:
    return rows[0] if len(rows) == 1 else [a + 1j * b for a, b in zip(*rows, strict=True)]


def _settled(interface: Interface, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Dense, with a batch axis, and with the structure and the attributes of their parameters."""
    return [
        settled(ARRAYS.arithmetic, leading(ARRAYS.wide(v), spec), spec)
        for v, spec in zip(values, interface.parameters, strict=True)
    ]


def _leading(interface: Interface, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Dense, with a batch axis, and with the structure of their parameters."""
    return [
        structured(ARRAYS.arithmetic, leading(ARRAYS.wide(v), spec), spec)
        for v, spec in zip(values, interface.parameters, strict=True)
    ]


def _pushed(interface: Interface, given: Sequence[np.ndarray], tangents: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The tangents of the program's parameters."""
    moved: list[np.ndarray] = []
    if interface.expressions:
        found = pushforward(interface.evaluation(ARRAYS), _settled(interface, given), _leading(interface, tangents))
        moved = [m if interface.batched(k, given) else m[0] for k, m in enumerate(found)]
    result = []
    for source in interface.sources:
        value = moved[source.expression] if source.expression is not None else _taken(interface, source, tangents)
        result.append(value if source.part is None else getattr(np, source.part)(value))
    return result


def _taken(interface: Interface, source: Source, values: Sequence[np.ndarray]) -> np.ndarray:
    assert source.position is not None
    value = values[source.position]
    return ARRAYS.entries(value, interface.parameters[source.position]) if source.entries else value


def _pulled(interface: Interface, given: Sequence[Any], inner: Sequence[np.ndarray | None]) -> list[Any]:
    """The gradients of the user's parameters for those of the program's; sparse for sparse values."""
    specs = interface.parameters
    gradients: list[Any] = [
        sp.csr_array(v.shape) if sp.issparse(v) else np.zeros(v.shape, np.complex128 if spec.is_complex else np.float64)
        for v, spec in zip(given, specs, strict=True)
    ]
    of_expressions: dict[int, np.ndarray] = {}
    for source, g in zip(interface.sources, inner, strict=True):
        if g is None:
            continue
        g = 1j * g if source.part == "imag" else g
        if source.expression is not None:
            k = source.expression
            of_expressions[k] = of_expressions.get(k, 0) + (g if interface.batched(k, given) else g[None])
            continue
        position = source.position
        assert position is not None
        gradients[position] += _spread(g, specs[position], gradients[position]) if source.entries else np.asarray(g)
    if of_expressions:
        values = _settled(interface, given)
        batch = max(v.shape[0] for v in values)
        cotangents = [
            np.zeros((batch if interface.batched(k, given) else 1, *e.shape), complex) + of_expressions.get(k, 0)
            for k, e in enumerate(interface.expressions)
        ]
        found = pullback(interface.evaluation(ARRAYS), values, cotangents)
        for i, (spec, g) in enumerate(zip(specs, found, strict=True)):
            g = structured(ARRAYS.arithmetic, g if spec.is_complex else np.real(g), spec)
            g = g if gradients[i].ndim > len(spec.shape) else g[0]
            gradients[i] += sp.csr_array(g) if sp.issparse(gradients[i]) else g
    return gradients


def _spread(entries: np.ndarray, spec: ParameterSpec, like: Any) -> Any:
    """Entries at the parameter's positions, as a sparse or dense array."""
    positions = np.asarray(spec.positions or (), dtype=np.int64)
    if sp.issparse(like):
        return sp.csr_array((entries, (positions % spec.shape[0], positions // spec.shape[0])), shape=spec.shape)
    batched = entries.ndim > 1
    flat = np.zeros((len(entries) if batched else 1, spec.size))
    flat[:, positions] = entries
    return unflatten(flat, spec.shape) if batched else unflatten(flat, spec.shape)[0]
