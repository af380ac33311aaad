"""Derivatives of expressions over NumPy's arrays, in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from autograd import make_jvp, make_vjp
from autograd.builtins import tuple as traced_tuple

from conelayers.problem.expressions.evaluation import Evaluation
from conelayers.problem.expressions.nodes import Expression
from conelayers.problem.expressions.numpy_arithmetic import NumpyArithmetic

__all__ = ["pullback", "pushforward"]


def pullback(
    nodes: Sequence[Expression] | Evaluation, values: Sequence[np.ndarray], cotangents: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """For each value the gradient of Σ Re⟨cotangent, result⟩, in its own shape: summed over the batch for a shared one.

    A complex value's gradient is ∂/∂Re + i ∂/∂Im, and so are the cotangents: a loss changes by Re(conj(g)·dz).
    """
    evaluation, values = _prepared(nodes, values)
    if not evaluation.parameters:
        return [np.zeros_like(v) for v in values]
    with np.errstate(all="ignore"):
        apply, results = make_vjp(_traced(evaluation))(traced_tuple(values))
        # autograd's gradients are ∂/∂Re − i ∂/∂Im.
        conjugates = [_like(np.conj(c), r) for c, r in zip(cotangents, results, strict=True)]
        gradients = apply(traced_tuple(conjugates))
    return [_like(np.conj(g), v) for g, v in zip(gradients, values, strict=True)]


def pushforward(
    nodes: Sequence[Expression] | Evaluation, values: Sequence[np.ndarray], tangents: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The results' derivatives along tangents of the values' own shapes."""
    evaluation, values = _prepared(nodes, values)
    if not evaluation.parameters:
        return [np.zeros_like(r) for r in evaluation(values)]
    along = traced_tuple([_like(t, v) for t, v in zip(tangents, values, strict=True)])
    with np.errstate(all="ignore"):
        results, derivatives = make_jvp(_traced(evaluation))(traced_tuple(values))(along)
    return [_like(np.broadcast_to(d, np.shape(r)), r) for d, r in zip(derivatives, results, strict=True)]


def _prepared(
    nodes: Sequence[Expression] | Evaluation, values: Sequence[np.ndarray]
) -> tuple[Evaluation, list[np.ndarray]]:
    evaluation = nodes if isinstance(nodes, Evaluation) else Evaluation(nodes, NumpyArithmetic())
    return evaluation, [_floating(v) for v in values]


def _traced(evaluation: Evaluation) -> Any:
    return lambda values: traced_tuple(evaluation(values))


def _floating(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, dtype=np.complex128 if np.iscomplexobj(array) else np.float64)


def _like(array: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Real where the other one is."""
    return np.asarray(array if np.iscomplexobj(other) else np.real(array), dtype=np.asarray(other).dtype)
