"""Coordinate-wise kinks: are all I − D W invertible, D diagonal with slopes in given intervals?

For z = σ(v(z, θ)), σ coordinate by coordinate (ReLU, soft-thresholding, a box), W = ∂v/∂z, the Jacobian of z − σ(v) is
I − D W, where D runs over a box of diagonal matrices: the slopes are known off the kinks, and at a kink run from one
side's to the other's.

det(I − D W) is affine in each entry of D by itself, so its extremes over a box are at vertices, and

    I − D W is invertible for every D of the box  ⟺  the determinants at all vertices have one sign.

For the box 0 ⪯ D ⪯ I the determinant at the vertex that takes the rows S is the principal minor of I − W on S (the
other rows are the identity's), and it is 1 at D = 0: all I − D W are invertible iff I − W is a P-matrix, all of whose
principal minors are positive. Any box low ≤ d ≤ high comes down to that: with L = I − diag(low) W invertible, and K the
coordinates where low < high,

    det(I − D W) = det L · det(I − δ C),  C = diag(high − low)·(W L⁻¹)  on K × K,  δ ∈ [0, 1]^K,

so that only as many coordinates as there are kinks count: I − C is to be a P-matrix. That takes 2^k minors; a
sufficient condition for any size is that I − C has a positive definite symmetric part, as for the box [0, 1]ⁿ where ½(W
+ Wᵀ) ⪯ (1 − m)I, m > 0 (strong monotonicity: Winston, Kolter, "Monotone operator equilibrium networks", 2020): every
principal submatrix inherits it, and a real matrix with one has a positive determinant. P-matrices: Fiedler, Pták
(1962); Gale, Nikaido (1965).
"""

from __future__ import annotations

import itertools
import math
import numbers
from dataclasses import dataclass
from enum import Enum
from typing import Any, final

import numpy as np
from scipy.linalg import matrix_balance

__all__ = ["Invertibility", "PiecewiseLinear", "SeparableTest", "check_separable", "least_principal_minor"]

_MINORS_UP_TO = 14  # kinks, which have 16383 minors
_SAMPLES = 256  # vertices that are tested if neither condition decides
_POSITIVE = 1e-12  # times the product of the rows' lengths: smaller minors count as zero
_RANK = 1e-9  # σ_min/σ_max, below which a matrix counts as singular


@final
@dataclass(frozen=True)
class PiecewiseLinear:
    """σ of one coordinate: ``slopes[i]`` between ``breakpoints[i − 1]`` and ``breakpoints[i]``, which increase.

    Breakpoints are numbers, or arrays that broadcast with v, as for thresholds that differ. Raises ValueError where the
    lengths do not fit.
    """

    breakpoints: tuple[Any, ...]
    slopes: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, given in (("breakpoints", self.breakpoints), ("slopes", self.slopes)):
            if not isinstance(given, (tuple, list)):
                raise TypeError(f"PiecewiseLinear.{name}: got {given!r}, expected a tuple of them; write ({given!r},)")
        if not all(isinstance(slope, numbers.Real) and math.isfinite(slope) for slope in self.slopes):
            raise ValueError(f"PiecewiseLinear.slopes: got {tuple(self.slopes)!r}, expected finite numbers")
        if len(self.slopes) != len(self.breakpoints) + 1:
            raise ValueError(
                f"PiecewiseLinear.slopes: got {len(self.slopes)} slopes for {len(self.breakpoints)} breakpoints, "
                "expected one more slope than breakpoints"
            )
        points = tuple(point if point.ndim else float(point) for point in map(_array, self.breakpoints))
        object.__setattr__(self, "breakpoints", points)
        object.__setattr__(self, "slopes", tuple(self.slopes))
        if any(np.isnan(point).any() for point in points):
            raise ValueError("PiecewiseLinear.breakpoints: got NaN, expected numbers, infinite ones included")
        if not all(np.all(left <= right) for left, right in itertools.pairwise(points)):
            raise ValueError(
                "PiecewiseLinear.breakpoints: got ones that decrease, expected b₁ ≤ b₂ ≤ …: a threshold ≥ 0, lower ≤ "
                "upper"
            )

    @classmethod
    def relu(cls, negative_slope: float = 0.0) -> PiecewiseLinear:
        """max(v, 0), or with ``negative_slope`` the leaky ReLU."""
        return cls((0.0,), (negative_slope, 1.0))

    @classmethod
    def soft_threshold(cls, threshold: Any) -> PiecewiseLinear:
        """sign(v)·max(|v| − threshold, 0)."""
        t = _array(threshold)
        return cls((-t, t), (1.0, 0.0, 1.0))

    @classmethod
    def box(cls, lower: Any, upper: Any) -> PiecewiseLinear:
        """min(max(v, lower), upper)."""
        return cls((lower, upper), (0.0, 1.0, 0.0))

    def of_instances(self, shape: tuple[int, ...], count: int) -> list[PiecewiseLinear]:
        """σ of the coordinates (n,) of each of the ``count`` instances that lie along the first axis of v's ``shape``.

        Raises ValueError for breakpoints that do not broadcast with v.
        """
        try:
            points = [np.broadcast_to(point, shape).reshape(count, -1 if count else 0) for point in self.breakpoints]
        except ValueError as error:
            shapes = ", ".join(str(np.shape(point)) for point in self.breakpoints)
            raise ValueError(
                f"separable: activation: got breakpoints of shape {shapes}, expected numbers, or arrays that broadcast "
                f"to v's {shape}"
            ) from error
        return [PiecewiseLinear(tuple(point[i] for point in points), self.slopes) for i in range(count)]

    def slopes_at(
        self, v: np.ndarray, tolerance: np.ndarray | float = 0.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The least and the largest slope at v (n,), and the distance from the nearest breakpoint.

        Within ``tolerance`` of a breakpoint the slopes of both sides count.
        """
        low, high = np.full(v.shape, np.inf), np.full(v.shape, -np.inf)
        distance = np.full(v.shape, np.inf)
        ends = [-np.inf, *self.breakpoints, np.inf]
        for left, right, slope in zip(ends[:-1], ends[1:], self.slopes, strict=True):
            here = (v >= left - tolerance) & (v <= right + tolerance)
            low, high = np.where(here, np.minimum(low, slope), low), np.where(here, np.maximum(high, slope), high)
        for point, before, after in zip(self.breakpoints, self.slopes[:-1], self.slopes[1:], strict=True):
            if before != after:
                distance = np.minimum(distance, np.abs(v - point))
        return low, high, distance


@final
class Invertibility(Enum):
    """What is known of the matrices I − D W.

    - EVERY: every one is invertible.
    - SAMPLED: those that were sampled are invertible.
    - SOME_SINGULAR: some one is singular.
    """

    EVERY = "every"
    SAMPLED = "sampled"
    SOME_SINGULAR = "some singular"


@final
@dataclass(frozen=True)
class SeparableTest:
    """What a test of the matrices I − D W found.

    invertibility: what is known of them.
    method: how that was found.
    elements: how many determinants were computed.
    least_minor: the least principal minor of I − C, scaled, over the product of its rows' lengths; None if the minors
    were not computed.
    monotonicity: m, the least eigenvalue of the symmetric part of I − C (of I − W if every slope runs from 0 to 1);
    None if it was not computed.
    """

    invertibility: Invertibility
    method: str
    elements: int
    least_minor: float | None
    monotonicity: float | None


def check_separable(W: Any, low: Any = 0.0, high: Any = 1.0) -> SeparableTest:
    """Whether I − D W is invertible for every diagonal D with low ≤ d ≤ high; W (n, n), low and high (n,) or numbers.

    The test is exact for up to 14 coordinates with low < high, and for any number of them if the monotonicity condition
    holds; but a determinant within rounding of 0 counts as 0. Otherwise vertices are sampled. Raises ValueError for a W
    that is not square and finite, or low > high.
    """
    W = _array(W)
    if W.ndim != 2 or W.shape[0] != W.shape[1]:
        raise ValueError(f"W: got the shape {W.shape}, expected a square matrix (n, n)")
    if not np.isfinite(W).all():
        raise ValueError("W: got entries that are not finite, expected numbers")
    n = W.shape[0]
    given = [_array(h) for h in (low, high)]
    if any(h.shape not in ((), (n,)) for h in given):
        raise ValueError(f"low, high: got the shapes {given[0].shape} and {given[1].shape}, expected numbers or ({n},)")
    low, high = (np.broadcast_to(h, (n,)) for h in given)
    if not (low <= high).all():
        raise ValueError("low, high: got low > high in some coordinate, expected low ≤ high; exchange them there")
    L = np.eye(n) - low[:, None] * W
    if _singular(L):
        return SeparableTest(Invertibility.SOME_SINGULAR, "the element of least slopes is singular", 1, None, None)
    K = np.flatnonzero(low < high)
    if not K.size:
        return SeparableTest(Invertibility.EVERY, "one element", 1, None, None)
    right = np.linalg.solve(L.T, W[K].T).T[:, K]
    M = np.eye(K.size) - (high - low)[K, None] * right
    m = float(np.linalg.eigvalsh((M + M.T) / 2)[0])
    if K.size <= _MINORS_UP_TO:
        least, count = least_principal_minor(M)
        found = Invertibility.EVERY if least > _POSITIVE else Invertibility.SOME_SINGULAR
        return SeparableTest(found, "principal minors", count, least, m)
    if m > 1e-9 * max(1.0, float(np.abs(M).sum(1).max())):
        return SeparableTest(Invertibility.EVERY, "strong monotonicity", 1, None, m)
    if (low >= 0).all() and (high <= 1).all():  # the box lies in [0, 1]ⁿ, for which I − W itself may do
        whole = float(np.linalg.eigvalsh(np.eye(n) - (W + W.T) / 2)[0])
        if whole > 1e-9 * (1 + float(np.abs(W).sum(1).max())):
            return SeparableTest(Invertibility.EVERY, "strong monotonicity", 1, None, whole)
    generator = np.random.default_rng(0)
    delta = (generator.random((_SAMPLES, K.size)) < 0.5).astype(float)
    delta[0] = 1.0
    matrices = np.eye(K.size) + delta[:, :, None] * (M - np.eye(K.size))
    signs, _ = np.linalg.slogdet(matrices)
    found = Invertibility.SAMPLED if (signs > 0).all() else Invertibility.SOME_SINGULAR
    return SeparableTest(found, "sampled vertices", _SAMPLES, None, m)


def least_principal_minor(M: np.ndarray) -> tuple[float, int]:
    """The least principal minor of the scaled M (k, k), relative to its rows' lengths, and the number of minors."""
    k = M.shape[0]
    diagonal = np.diagonal(M)
    if (diagonal <= 0).any():
        return float(np.min(diagonal)), k
    # Rows scaled by positive numbers leave the minors their signs, and DMD⁻¹ their values.
    M, _ = matrix_balance(M / diagonal[:, None], permute=False)
    least = np.inf
    for size in range(1, k + 1):
        S = np.array(list(itertools.combinations(range(k), size)))
        least = min(least, float(np.min(_relative_determinant(M[S[:, :, None], S[:, None, :]]))))
    return least, 2**k - 1


def _relative_determinant(matrices: np.ndarray) -> np.ndarray:
    """det over the product of the rows' lengths, which bounds it (Hadamard), of (k, n, n); 0 if a row is zero."""
    lengths = np.linalg.norm(matrices, axis=2, keepdims=True)
    return np.linalg.det(matrices / np.where(lengths > 0, lengths, 1.0)) * (lengths > 0).all(axis=(1, 2))


def _array(h: Any) -> np.ndarray:
    """A float64 array of numbers, arrays, or tensors of either framework."""
    return np.asarray(h.detach().cpu() if hasattr(h, "detach") else h, dtype=np.float64)


def _singular(matrix: np.ndarray) -> bool:
    values = np.linalg.svd(matrix, compute_uv=False)
    return bool(values.size and not values[-1] > _RANK * values[0])
