"""Worst errors of the projections onto the exponential and power cones and of their derivatives, by region.

The reference is a projection by bisection in 60 digits (tests/helpers/high_precision.py); derivatives are compared with its
differences in steps of 1e−20. Points: a grid of magnitudes 1e−8 … 1e8, and random points within 1e−12 of every boundary.
Projection errors are over max(1, ‖v‖). Run ``python benchmarks/cone_accuracy.py``; it takes some minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import mpmath as mp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "numerics"))

from high_precision import Vector, distance, exponential, power, vector
from test_nonsymmetric_cones import MAGNITUDES, exponential_points, power_points

from conelayers.numerics.cones import Element
from conelayers.numerics.cones.exponential import project_exponential
from conelayers.numerics.cones.power import project_power

Reference = Callable[[Vector], tuple[Vector, str]]


def derivative_error(v: np.ndarray, D: np.ndarray, reference: Reference) -> float | None:
    """The largest error of D; None within rounding (1e−14, relative) of a kink, where either side's element is right."""

    def column(k: int, step: mp.mpf) -> list[mp.mpf]:
        ends = []
        for sign in (1, -1):
            moved = vector(v)
            moved[k] += sign * step
            p, region = reference(moved)
            ends.append(p)
            regions.add((region, *(m > 0 for m in moved)) if region in ("corner", "flat") else region)
        return [(a - b) / (2 * step) for a, b in zip(*ends, strict=True)]

    regions: set[object] = set()
    size = mp.mpf(float(np.abs(v).max()) or 1.0)
    for k in range(3):
        column(k, size * mp.mpf(10) ** -14)
    if len(regions) > 1:
        return None
    columns = [column(k, size * mp.mpf(10) ** -20) for k in range(3)]
    return max(abs(float(columns[k][i]) - D[i, k]) for i in range(3) for k in range(3))


def table(
    name: str,
    points: np.ndarray,
    p: np.ndarray,
    element: Element,
    reference: Callable[[int], Reference],
    differences: int,
) -> None:
    projection, derivative, count = defaultdict(float), defaultdict(float), defaultdict(int)
    D = np.stack([element.apply(np.broadcast_to(e, points.shape)) for e in np.eye(3)], axis=-1)
    for i, v in enumerate(points):
        expected, region = reference(i)(vector(v))
        count[region] += 1
        projection[region] = max(projection[region], distance(p[i], expected) / max(1.0, float(np.linalg.norm(v))))
        if i % max(1, len(points) // differences) == 0:
            error = derivative_error(v, D[i], reference(i))
            if error is not None:
                derivative[region] = max(derivative[region], error)
    for region in sorted(count):
        print(f"{name:14}{region:10}{count[region]:8}{projection[region]:14.1e}{derivative[region]:14.1e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", type=int, default=1000, help=f"points of the grid, at most {len(MAGNITUDES) ** 3}")
    parser.add_argument("--near", type=int, default=40, help="random points for each boundary")
    parser.add_argument("--differences", type=int, default=200, help="points at which the derivative is checked")
    arguments = parser.parse_args()
    print(f"{'cone':14}{'region':10}{'points':>8}{'projection':>14}{'derivative':>14}")
    points = exponential_points(arguments.grid, arguments.near)
    table("exponential", points, *project_exponential(points), lambda i: exponential, arguments.differences)
    points, exponents = power_points(arguments.grid, arguments.near)
    p, element = project_power(points, exponents)
    table("power", points, p, element, lambda i: lambda v: power(v, exponents[i]), arguments.differences)


if __name__ == "__main__":
    main()
