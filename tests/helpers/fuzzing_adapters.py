"""Both adapters: torch and JAX layers have the points and the gradients of the host's layer."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from fuzzing import heard, require, within
from fuzzing_geometric import GeometricSpec, geometric_programs
from fuzzing_problems import Built, ProblemSpec, problems
from hypothesis import strategies as st

from conelayers import CanonicalizationError, Layer, SolveError, Status

__all__ = ["AdapterSpec", "adapters", "check_adapters"]


@dataclass(frozen=True)
class AdapterSpec:
    """A problem, whether it is solved for a batch of two, and whether JAX compiles it, so that its repr is the example."""

    problem: ProblemSpec | GeometricSpec
    batch: bool
    jit: bool


def adapters() -> st.SearchStrategy[AdapterSpec]:
    """Problems with parameters, of either kind, most with solutions that are unique."""
    mostly = ("feasible",) * 7 + ("infeasible",)
    strict = problems(mostly).map(lambda problem: replace(problem, ridge=0.5, duals=False))
    problem = st.one_of(geometric_programs(mostly), strict, problems(("feasible",)))
    return st.builds(AdapterSpec, problem=problem, batch=st.booleans(), jit=st.booleans())


def check_adapters(spec: AdapterSpec, counts: Counter | None = None) -> None:
    """A Finding where an adapter fails on what the host's layer solves, or solves what it does not, or where numbers
    differ by more than rounding.
    """
    counts = Counter() if counts is None else counts
    with within():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cvxpy's own
            built = spec.problem.build()
        if not built.values:
            counts["no parameters are left"] += 1
            return
        try:
            with heard():
                layer = Layer(built.problem, built.parameters, built.outputs, gp=built.gp)
        except CanonicalizationError:
            counts["cvxpy's own reduction fails"] += 1
            return
        values = built.values
        if spec.batch:
            near = built.redrawn(np.random.default_rng(spec.problem.seed + 2))
            values = [np.stack([v, 0.9 * v + 0.1 * w]) for v, w in zip(values, near, strict=True)]
        with heard():
            try:
                solution = layer.solve(*values)
            except SolveError as error:
                for through in (_torch, _jax):
                    _check_refusal(through, built, values, spec, error)
                counts["refused"] += 1
                return
            rng = np.random.default_rng(spec.problem.seed + 3)
            g = [_cotangent(rng, h) for h in solution.variables]
            gradients, certificates = solution.vjp(*g), solution.certify()
        # One call is an engine's: the same numbers come out of the same numbers. Parameters become the numbers of the
        # program by sums in
        # another order, though, and what rounding of the program does to the point and to its derivative is their
        # conditions' times it.
        solved = all(s is Status.SOLVED for s in np.atleast_1d(np.array(solution.status, dtype=object)))
        regular = solved and all(c.verdict.justified and c.nullity == 0 for c in certificates)
        condition = max(c.condition for c in certificates) if regular else 1.0
        margin = min(float(c.margins.min(initial=np.inf)) for c in certificates)
        for name, through in (("torch", _torch), ("jax", _jax)):
            with heard():
                points, slopes = through(built, values, g, spec)
            if not regular:
                counts["not unique"] += 1
                continue
            for h, k in zip(points, solution.variables, strict=True):
                _check_near(h, k, max(1e-9, 1e-13 * condition), f"{name}: point")
            if margin >= 1e-5 and condition <= 1e8:
                size = max(float(np.abs(k).max(initial=0)) for k in gradients)
                for h, k in zip(slopes, gradients, strict=True):
                    _check_near(h, k, max(1e-8, 1e-12 * condition) * (1 + size), f"{name}: gradient")
                counts[f"{name}: gradients agree"] += 1
            counts[f"{name}: points agree"] += 1


def _cotangent(rng: np.random.Generator, value: np.ndarray) -> np.ndarray:
    g = rng.standard_normal(value.shape)
    return g + 1j * rng.standard_normal(value.shape) if np.iscomplexobj(value) else g


def _check_near(ours: np.ndarray, theirs: np.ndarray, tolerance: float, what: str) -> None:
    require(ours.shape == theirs.shape, "shape", f"{what}: {ours.shape}, not {theirs.shape}")
    error, size = float(np.abs(ours - theirs).max(initial=0)), 1 + float(np.abs(theirs).max(initial=0))
    require(error <= tolerance * size, "adapter", f"{what} off by {error:.1e}, size {size:.1e}")


def _check_refusal(through: Any, built: Built, values: list[np.ndarray], spec: AdapterSpec, error: SolveError) -> None:
    try:
        through(built, values, None, spec)
    except Exception as other:  # JAX wraps it
        (told, *_) = (s.value for s in error.statuses if not s.usable)
        require(told in str(other), "refusal", f"{type(other).__name__}: {other}")
        return
    require(False, "refusal", f"{through.__name__} solved what the host's layer could not: {error}")


def _torch(
    built: Built, values: list[np.ndarray], g: Any, spec: AdapterSpec
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    import torch

    from conelayers.torch import ConeLayer

    layer = ConeLayer(built.problem, built.parameters, built.outputs, gp=built.gp)
    tensors = [torch.tensor(v, requires_grad=True) for v in values]
    points = layer(*tensors)
    if g is None:
        return [], []
    slopes = torch.autograd.grad(points, tensors, [torch.tensor(h) for h in g], allow_unused=True)
    zeros = [np.zeros(v.shape) for v in values]
    return [p.detach().numpy() for p in points], [
        z if h is None else h.numpy() for h, z in zip(slopes, zeros, strict=True)
    ]


def _jax(
    built: Built, values: list[np.ndarray], g: Any, spec: AdapterSpec
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    import jax

    from conelayers.jax import ConeLayer

    layer = ConeLayer(built.problem, built.parameters, built.outputs, gp=built.gp)
    with _quiet_double_precision():
        call = jax.jit(lambda *v: tuple(layer(*v))) if spec.jit else lambda *v: tuple(layer(*v))
        points, pull = jax.vjp(call, *map(jax.numpy.asarray, values))
        if g is None:
            return [np.asarray(p) for p in points], []
        # Cotangents of complex numbers are not conjugated there.
        slopes = pull(tuple(jax.numpy.asarray(np.conj(h)) for h in g))
        return [np.asarray(p) for p in points], [np.asarray(h) for h in slopes]


@contextmanager
def _quiet_double_precision() -> Iterator[None]:
    """Numbers of 64 bits for JAX; failures are not logged besides being raised."""
    from double_precision import double_precision

    logging.disable(logging.CRITICAL)
    try:
        with double_precision():
            yield
    finally:
        logging.disable(logging.NOTSET)
