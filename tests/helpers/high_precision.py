"""Projections onto the exponential and power cones in 60 digits, by plain bisection: the reference for the fast ones."""

from __future__ import annotations

import mpmath as mp
import numpy as np

mp.mp.dps = 60

Vector = list[mp.mpf]


def exponential(v: Vector) -> tuple[Vector, str]:
    """Π_K(v) and its region, K = cl{y e^{x/y} ≤ z, y > 0}."""
    x, y, z = v
    zero = mp.mpf(0)
    if x <= 0 and y <= 0:
        return [x, zero, max(z, zero)], "corner"
    if y > 0 and y * mp.exp(x / y) <= z:
        return [x, y, z], "inside"
    if x > 0 and x * mp.exp(y / x) <= -mp.e * z:
        return [zero] * 3, "polar"
    low, high = -(mp.mpf(10) ** 40), mp.mpf(10) ** 40
    low = max(low, 1 - y / x) if x > 0 else low
    high = min(high, 1 - y / x) if x < 0 else high
    high = min(high, x / y) if y > 0 else high
    low = max(low, x / y) if y < 0 else low

    def third_row(r: mp.mpf) -> mp.mpf:
        phi = r * r - r + 1
        primal, dual = ((r - 1) * x + y) / phi, (x - r * y) / phi
        if r >= 0:
            return primal - z * mp.exp(-r) - dual * mp.exp(-2 * r)
        return primal * mp.exp(2 * r) - z * mp.exp(r) - dual

    for _ in range(420):
        middle = mp.sinh((mp.asinh(low) + mp.asinh(high)) / 2) if high - low > 1 else (low + high) / 2
        low, high = (middle, high) if third_row(middle) < 0 else (low, middle)
    r = (low + high) / 2
    shrink = mp.exp(-abs(r))
    ray = [r * shrink, shrink, mp.mpf(1)] if r >= 0 else [r, mp.mpf(1), shrink]
    length = sum(a * b for a, b in zip(v, ray, strict=True)) / sum(a * a for a in ray)
    return [length * a for a in ray], "curved"


def power(v: Vector, exponent: float) -> tuple[Vector, str]:
    """Π_K(v) and its region, K = {x^α y^{1−α} ≥ |z|, x, y ≥ 0}."""
    x, y, z = v
    a, zero = mp.mpf(exponent), mp.mpf(0)
    b, height = 1 - a, abs(z)

    def positive_power(t: mp.mpf, e: mp.mpf) -> mp.mpf:
        return t**e if t > 0 else zero

    if x >= 0 and y >= 0 and positive_power(x, a) * positive_power(y, b) >= height:
        return [x, y, z], "inside"
    if x <= 0 and y <= 0 and positive_power(-x / a, a) * positive_power(-y / b, b) >= height:
        return [zero] * 3, "polar"
    if height == 0:
        return [max(x, zero), max(y, zero), zero], "flat"

    def half(t: mp.mpf, c: mp.mpf) -> mp.mpf:
        root = mp.sqrt(t * t + 4 * c)
        return (t + root) / 2 if t >= 0 else 2 * c / (root - t)

    low, high = mp.mpf(-2000), mp.mpf(2000)
    for _ in range(230):
        omega = (low + high) / 2
        r, delta = height / (1 + mp.exp(-omega)), height / (1 + mp.exp(omega))
        above = a * mp.log(half(x, a * r * delta) / r) + b * mp.log(half(y, b * r * delta) / r) > 0
        low, high = (omega, high) if above else (low, omega)
    return [half(x, a * r * delta), half(y, b * r * delta), (1 if z > 0 else -1) * r], "curved"


def vector(v: np.ndarray) -> Vector:
    return [mp.mpf(float(h)) for h in v]


def distance(p: np.ndarray, reference: Vector) -> float:
    return float(mp.sqrt(sum((mp.mpf(float(a)) - b) ** 2 for a, b in zip(p, reference, strict=True))))
