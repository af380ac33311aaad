"""The solves and linear systems of one program on the host, over NumPy arrays: what the callbacks of a compiled function call."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, final

import jax
import numpy as np

from conelayers.errors import SolveError, Status
from conelayers.formulas import Formulas
from conelayers.layer import Layer
from conelayers.layer_solution import LayerSolution
from conelayers.linearization import Linearization, NullTest

__all__ = ["STATUSES", "HostProgram"]

STATUSES = tuple(Status)  # a status array holds positions in it
_MOST_KEPT = 256  # enough for the steps of a scan
_MOST_NUMBERS = 2**24  # that the factors of the solutions kept may hold, roughly
_SAME = 1e-5  # relative distance up to which a float32 v is that of the solution kept


@final
class _Kept(NamedTuple):
    """The solution of the instances that have one (``good``), and the point of all of them, NaN for the others."""

    good: np.ndarray
    solution: LayerSolution | None
    x: np.ndarray
    y: np.ndarray
    s: np.ndarray
    status: np.ndarray
    residual: np.ndarray


@final
class HostProgram:
    """A layer with the options of a call. JAX compares it by identity.

    The last solutions are kept with their factors: a gradient finds them by the parameters' values.
    """

    def __init__(self, layer: Layer, formulas: Formulas, options: Mapping[str, Any], *, nan: bool) -> None:
        self.layer, self.formulas, self.options, self.nan = layer, formulas, dict(options), nan
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._lock = threading.Lock()
        self._jitted: dict[Callable[..., Any], Callable[..., Any]] = {}

    def jitted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function of the formulas and of arrays, compiled: outside of jit its operations would be sent off one by one."""
        known = self._jitted.get(function)
        return known or self._jitted.setdefault(function, jax.jit(partial(function, self.formulas)))

    def solve(self, phi: np.ndarray) -> tuple[np.ndarray, ...]:
        """x (B, n), y (B, m), s (B, m), the position of the Status (B,) and the worst residual (B,)."""
        kept = self._solve(self._theta(phi))
        dtype = phi.dtype
        floats = [h.astype(dtype) for h in (kept.x, kept.y, kept.s)]
        return (*floats, kept.status, kept.residual.astype(dtype))

    def linear(
        self, phi: np.ndarray, v: np.ndarray, r1: np.ndarray, r2: np.ndarray, transposed: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """J⁻¹ or J⁻ᵀ times r₁ (K, B, n), r₂ (K, B, m); NaN for instances without a solution."""
        t1, t2 = np.full_like(r1, np.nan), np.full_like(r2, np.nan)
        good, linearization, gradients_move, outputs_move = self._linearization(self._theta(phi), v)
        if not good.any():
            return t1, t2
        for k in range(r1.shape[0]):
            a1, a2 = (h[k, good].astype(np.float64) for h in (r1, r2))
            if transposed:
                # Any r₂ is D gy + (D − I) gs with gy = r₂, gs = −r₂.
                t1[k, good], t2[k, good] = linearization.adjoint(a1, a2, -a2, gradients_move)
            else:
                t1[k, good], dy, ds = linearization.tangent(a1, a2, outputs_move)
                t2[k, good] = dy - ds
        return t1, t2

    def derivative(self, v: np.ndarray, h: np.ndarray) -> np.ndarray:
        """D(v)h for v, h (..., m)."""
        return self._where_finite(lambda v, h: self.formulas.element(v).apply(h), v, h)

    def adjoint(self, phi: np.ndarray, *cotangents: np.ndarray) -> tuple[np.ndarray, ...]:
        """x̄, ȳ, λ, μ of smoothing.Adjoint for gx (B, n), gy (B, m), gs (B, m); NaN for instances without a solution."""
        theta = self._theta(phi)
        with self._lock:
            kept = self._kept.get(_digest(theta))
        kept = kept or self._solve(theta)
        gx, gy = cotangents[:2]
        parts = tuple(np.full_like(g, np.nan) for g in (gx, gy, gx, gy))
        if kept.solution is not None:
            gx, gy, gs = (g[kept.good].astype(np.float64) for g in cotangents)
            found = kept.solution.adjoint(gx, gy, gs, nan=self.nan)
            for part, value in zip(parts, found, strict=True):
                part[kept.good] = value
        return parts

    def second(self, v: np.ndarray, a: np.ndarray, c: np.ndarray) -> np.ndarray:
        """D²Π(v)[a, c] for v, a, c (..., m)."""
        return self._where_finite(self.formulas.cones.second_derivative, v, a, c)

    def _where_finite(self, function: Any, v: np.ndarray, *others: np.ndarray) -> np.ndarray:
        flat = [h.reshape(-1, h.shape[-1]).astype(np.float64) for h in (v, *others)]
        finite = np.isfinite(flat[0]).all(axis=1)
        out = np.full_like(flat[0], np.nan)
        if finite.any():
            out[finite] = function(*(h[finite] for h in flat))
        return out.reshape(v.shape).astype(v.dtype)

    def _theta(self, phi: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(phi[:, : self.formulas.size], dtype=np.float64)

    def _solve(self, theta: np.ndarray) -> _Kept:
        good = np.isfinite(theta).all(axis=1) if self.nan else np.ones(len(theta), dtype=bool)
        status = np.full(len(theta), STATUSES.index(Status.FAILED), dtype=np.int32)
        solution = None
        if good.any() or not good.size:
            try:
                solution = self.layer.solve_flat(theta[good], **self.options, watched=bool(good.all()))
            except SolveError as error:
                if not self.nan:
                    raise
                usable = np.array([s.usable for s in error.statuses])
                status[good] = [STATUSES.index(s) for s in error.statuses]
                good[good] = usable
                # A part of the batch only: not what a monitor compares with other calls.
                solution = self.layer.solve_flat(theta[good], **self.options, watched=False) if usable.any() else None
        structure = self.formulas.compiled.structure
        n, m = structure.A.shape[1], structure.A.shape[0]
        x, y, s = (np.full((len(theta), size), np.nan) for size in (n, m, m))
        residual = np.full(len(theta), np.nan)
        if solution is not None:
            x[good], y[good], s[good] = solution.points
            assert isinstance(solution.status, tuple)
            status[good] = [STATUSES.index(one) for one in solution.status]
            residual[good] = solution.residuals.worst
        kept = _Kept(good, solution, x, y, s, status, residual)
        with self._lock:
            self._kept[_digest(theta)] = kept
            self._kept.move_to_end(_digest(theta))
            numbers = max(1, len(theta) * (n + m) * min(n + m, 100))
            while len(self._kept) > max(2, min(_MOST_KEPT, _MOST_NUMBERS // numbers)):
                self._kept.popitem(last=False)
        return kept

    def _linearization(self, theta: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, Linearization, NullTest, NullTest]:
        with self._lock:
            kept = self._kept.get(_digest(theta))
        if kept is None and v.dtype != np.float64:
            kept = self._solve(theta)  # v alone has too few digits
        if kept is not None:
            tolerance = 0.0 if v.dtype == np.float64 else _SAME
            own = kept.y - kept.s
            size = np.abs(own).max(axis=1, initial=0.0, keepdims=True)
            if (np.abs(own - v) <= tolerance * size)[kept.good].all():
                if kept.solution is None:
                    return kept.good, None, _always, _always  # type: ignore[return-value]
                solution = kept.solution
                return kept.good, solution.linearization, solution.gradients_move(), solution.outputs_move()
        good = np.isfinite(v).all(axis=1)
        made = self.layer.linearize(self.formulas.compiled, theta[good], v[good].astype(np.float64))
        return good, made, _always, _always


def _always(i: int, a: np.ndarray, b: np.ndarray) -> bool:
    return True


def _digest(theta: np.ndarray) -> bytes:
    return hashlib.blake2b(theta.tobytes() + str(theta.shape).encode(), digest_size=16).digest()
