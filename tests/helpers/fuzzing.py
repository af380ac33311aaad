"""What fuzzing needs whatever it builds: findings, time limits, warnings that are expected, and membership in cones decided by its own code."""

from __future__ import annotations

import math
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import high_precision
import numpy as np

from conelayers import Certificate, InaccurateSolutionWarning, SingularDerivativeWarning, ZeroDerivativeWarning
from conelayers.numerics.cones import svec_to_hermitian, svec_to_matrix
from conelayers.program.cones import Cones

LIMIT = 40.0  # seconds of CPU time an example may take, so that other work on the machine is no finding


class Finding(AssertionError):
    """An invariant that does not hold; ``rule`` names it."""

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(f"{rule}: {what}")
        self.rule = rule


def require(holds: Any, rule: str, what: str | Callable[[], str] = "") -> None:
    """A Finding unless ``holds``."""
    if not holds:
        raise Finding(rule, what if isinstance(what, str) else what())


@contextmanager
def within(seconds: float = LIMIT) -> Iterator[None]:
    """A Finding where the block computes for longer. Code that never returns to Python, or waits, is for the parent
    process to stop (fuzz.py).
    """

    def late(*_: Any) -> None:
        raise Finding("no hang", f"an example took more than {seconds:g} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def heard() -> Iterator[list[Warning]]:
    """Those of the package's warnings of solutions and derivatives that were issued; any other warning is an error."""
    issued: list[Warning] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        for expected in (InaccurateSolutionWarning, SingularDerivativeWarning, ZeroDerivativeWarning):
            warnings.simplefilter("always", expected)
        yield issued
        issued.extend(w.message for w in caught if isinstance(w.message, Warning))


def check_warnings(warned: list[Warning], certificate: Certificate) -> None:
    """No derivative that is justified is called singular.

    But where J is singular in directions that nothing depends on, and ill-conditioned besides, a residual of rounding cannot be told
    from a system without a solution: up to 1e−7 it counts as solved where J is regular, and is warned of there.
    """
    if not certificate.verdict.justified:
        return
    for warning in warned:
        residual = re.search(r"relative residual up to ([^)]*)\)", str(warning))
        rounding = certificate.nullity > 0 and residual is not None and float(residual[1]) <= 1e-7
        require(rounding or not isinstance(warning, SingularDerivativeWarning), "verdict", f"justified, and: {warning}")


def blocks(cones: Cones) -> Iterator[tuple[str, float, slice]]:
    """The kind of each block, its order, size or exponent, and its rows."""
    sizes: list[tuple[str, float, int]] = [("zero", 0, 1)] * cones.zero + [("nonneg", 0, 1)] * cones.nonneg
    sizes += [("soc", d, d) for d in cones.soc] + [("psd", k, k * (k + 1) // 2) for k in cones.psd]
    sizes += [("hermitian", k, k * k) for k in cones.hermitian]
    sizes += [("exp", 0, 3)] * cones.exp + [("exp_dual", 0, 3)] * cones.exp_dual
    sizes += [("power" if a > 0 else "power_dual", abs(a), 3) for a in cones.power]
    start = 0
    for kind, detail, size in sizes:
        yield kind, detail, slice(start, start + size)
        start += size


def outside(cones: Cones, h: np.ndarray, *, dual: bool) -> float:
    """The largest distance of a block of h from K, or from K*: its own formulas, and 60 digits where those are bounds only."""
    return max((_outside(kind, detail, h[rows], dual) for kind, detail, rows in blocks(cones)), default=0.0)


def _outside(kind: str, detail: float, h: np.ndarray, dual: bool) -> float:
    if kind == "zero":
        return 0.0 if dual else abs(float(h[0]))
    if kind == "nonneg":
        return max(0.0, -float(h[0]))
    if kind == "soc":
        t, u = float(h[0]), float(np.linalg.norm(h[1:]))
        return 0.0 if u <= t else min((u - t) / math.sqrt(2), math.hypot(t, u))
    if kind in ("psd", "hermitian"):
        read = svec_to_matrix if kind == "psd" else svec_to_hermitian
        return float(np.linalg.norm(np.minimum(np.linalg.eigvalsh(read(h, int(detail))), 0)))
    dual ^= kind.endswith("_dual")
    power = kind.startswith("power")
    near = _power_bound(h, detail, dual) if power else _exponential_bound(h, dual)
    if near <= 1e-13 * max(1.0, float(np.abs(h).max())):
        return near
    # Moreau: the distance from K* is the length of the projection of −h onto K.
    point = high_precision.vector(-h if dual else h)
    projected = high_precision.power(point, detail)[0] if power else high_precision.exponential(point)[0]
    return high_precision.distance(np.zeros(3) if dual else h, projected)


def _exponential_bound(h: np.ndarray, dual: bool) -> float:
    """How far the last entry has to move; for dual = {u < 0, −u e^{v/u} ≤ e w}, as for K = {y > 0, y e^{x/y} ≤ z}."""
    x, y, z = (float(a) for a in h)
    scale, exponent = (-x, y / x - 1 if x else math.inf) if dual else (y, x / y if y else math.inf)
    return max(0.0, scale * math.exp(exponent) - z) if scale > 0 and exponent < 600 else math.inf


def _power_bound(h: np.ndarray, alpha: float, dual: bool) -> float:
    """How far the last entry has to move; the dual cone is {(u/α)^α (v/(1−α))^{1−α} ≥ |w|}."""
    x, y, z = (float(a) for a in h)
    if dual:
        x, y = x / alpha, y / (1 - alpha)
    return max(0.0, abs(z) - x**alpha * y ** (1 - alpha)) if x >= 0 and y >= 0 else math.inf
