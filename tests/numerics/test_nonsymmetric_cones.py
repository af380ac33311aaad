"""Exponential and power cones against 60-digit references, in every region and next to every boundary; all kinks."""

from __future__ import annotations

import itertools
import warnings

import mpmath as mp
import numpy as np
import pytest
from high_precision import distance, exponential, power, vector
from listed_elements import exponential_elements, opposite, power_elements

from conelayers.numerics.cones import ProductCone as Cones
from conelayers.numerics.cones.exponential import project_exponential
from conelayers.numerics.cones.power import power_extremes, project_power

MAGNITUDES = sorted({s * m for m in (0.0, 1e-8, 1e-3, 1.0, 30.0, 1e4, 1e8) for s in (1, -1)})
NUDGES = (0.0, 1e-12, -1e-12)


def grid(count: int, seed: int) -> list[tuple[float, ...]]:
    every = list(itertools.product(MAGNITUDES, repeat=3))
    return [every[i] for i in np.random.default_rng(seed).permutation(len(every))[:count]]


def exponential_points(count: int, near: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = grid(count, seed)
    for nudge in NUDGES:
        for _ in range(near):
            r, y, lam = rng.uniform(-30, 15), 10 ** rng.uniform(-3, 3), 10 ** rng.uniform(-4, 3)
            E = np.exp(r)
            points.append((r * y, y, y * E * (1 + nudge)))  # the smooth boundary
            points.append((lam * E, lam * (1 - r) * E, -lam * (1 + nudge)))  # the polar's
            points.append((-(10 ** rng.uniform(-8, 8)), nudge, rng.standard_normal()))  # the edges of {x ≤ 0, y ≤ 0}
            points.append((nudge, -(10 ** rng.uniform(-8, 8)), rng.standard_normal()))
            points.append((nudge, -nudge, rng.standard_normal()))
    return np.array([*points, (1e-3, -1.0, 1.0)], dtype=float)


def power_points(count: int, near: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    points = grid(count, seed)
    exponents = list(rng.choice([0.5, 0.3, 0.9, 0.05, 0.999], count))
    for nudge in NUDGES:
        for _ in range(near):
            a = float(rng.choice([0.5, 0.3, 0.9, 0.05]))
            x, y = 10 ** rng.uniform(-5, 5, 2)
            z = x**a * y ** (1 - a)
            normal = np.array([-a * z / x, -(1 - a) * z / y, 1]) * 10 ** rng.uniform(-3, 2)
            points += [(x, y, z * (1 + nudge)), tuple(normal * [1, 1, 1 + nudge]), (x, -y, nudge), (nudge, y, nudge)]
            exponents += [a] * 4
    return np.array(points, dtype=float), np.array(exponents)


def check_projection(points: np.ndarray, projections: np.ndarray, references) -> set[str]:
    regions = set()
    for v, p, (reference, region) in zip(points, projections, references, strict=True):
        assert distance(p, reference) <= 1e-14 * max(1.0, float(np.linalg.norm(v))), (v, region)
        regions.add(region)
    return regions


def test_exponential_projection_is_exact() -> None:
    points = exponential_points(120, 6)
    references = [exponential(vector(v)) for v in points]
    assert check_projection(points, project_exponential(points)[0], references) == {
        "corner",
        "inside",
        "polar",
        "curved",
    }


def test_power_projection_is_exact() -> None:
    points, exponents = power_points(120, 8)
    references = [power(vector(v), a) for v, a in zip(points, exponents, strict=True)]
    assert check_projection(points, project_power(points, exponents)[0], references) == {
        "inside",
        "polar",
        "flat",
        "curved",
    }


@pytest.mark.slow
def test_projections_are_exact_on_the_whole_grid() -> None:
    points = exponential_points(len(MAGNITUDES) ** 3, 300, seed=1)
    check_projection(points, project_exponential(points)[0], [exponential(vector(v)) for v in points])
    points, exponents = power_points(len(MAGNITUDES) ** 3, 200, seed=1)
    references = [power(vector(v), a) for v, a in zip(points, exponents, strict=True)]
    check_projection(points, project_power(points, exponents)[0], references)


def check_derivative(points: np.ndarray, element, project) -> int:
    """D against differences in 60 digits, of a step so small that only points on a kink are left out."""
    h = mp.mpf(10) ** -20
    checked = 0
    for i, v in enumerate(points):
        single = element.take(i)
        columns = []
        regions = set()
        for k in range(3):
            ends = []
            for sign in (1, -1):
                moved = vector(v)
                moved[k] += sign * h * max(1, abs(moved[k]))
                p, region = project(moved, i)
                ends.append(p)
                regions.add(region)
            width = 2 * h * max(1, abs(mp.mpf(float(v[k]))))
            columns.append([float((a - b) / width) for a, b in zip(*ends, strict=True)])
        if len(regions) == 1:
            difference = np.array(columns).T
            D = np.stack([single.apply(e) for e in np.eye(3)], axis=-1)
            np.testing.assert_allclose(D, difference, atol=1e-10, err_msg=str(v))
            checked += 1
    return checked


def test_exponential_derivative_is_exact() -> None:
    """The trap (1e−3, −1, 1) included, where it is diag(0, 0, 1) to many digits."""
    points = exponential_points(60, 2, seed=3)
    points = points[(np.abs(points).max(axis=1) <= 1e4) & (points != 0).all(axis=1)]
    _, element = project_exponential(points)
    assert check_derivative(points, element, lambda v, _: exponential(v)) >= 30
    trap = project_exponential(np.array([[1e-3, -1.0, 1.0]]))[1]
    np.testing.assert_allclose(np.stack([trap.apply(e) for e in np.eye(3)])[:, 0], np.diag([0.0, 0.0, 1.0]), atol=1e-12)


def test_power_derivative_is_exact() -> None:
    points, exponents = power_points(60, 3, seed=3)
    # Rounding decides on which side a point of the boundary itself lies.
    keep = (np.abs(points).max(axis=1) <= 1e4) & (np.arange(len(points)) < 60)
    points, exponents = points[keep], exponents[keep]
    _, element = project_power(points, exponents)
    assert check_derivative(points, element, lambda v, i: power(v, exponents[i])) >= 30


KINKS = {
    "exp": {
        (-1, 0, 1): ([1, 0, 1], [1, 1, 1]),
        (-1, -1, 0): ([1, 0, 0], [1, 0, 1]),
        (-1, 0, -1): ([1, 0, 0], [1, 1, 0]),
        (-1, 0, 0): ([1, 0, 0], [1, 1, 1]),
        (0, -1, 1): ([0, 0, 1], [1, 0, 1]),
        (0, -1, -1): ([0, 0, 0], [1, 0, 0]),
        (0, -1, 0): ([0, 0, 0], [1, 0, 1]),
        (0, 0, 1): ([0, 0, 1], [1, 1, 1]),
        (0, 0, -1): ([0, 0, 0], [1, 1, 0]),
        (0, 0, 0): ([0, 0, 0], [1, 1, 1]),
    },
    "power": {
        (1, 0, 0): ([1, 0, 1], [1, 1, 1]),
        (0, 1, 0): ([0, 1, 1], [1, 1, 1]),
        (-1, 0, 0): ([0, 0, 0], [0, 1, 0]),
        (0, -1, 0): ([0, 0, 0], [1, 0, 0]),
        (0, 0, 0): ([0, 0, 0], [1, 1, 1]),
    },
}


def project(kind: str, v, selection: str):
    """Π_K itself, through the dual of the dual."""
    cones = Cones(exp_dual=1) if kind == "exp" else Cones(power=(-0.5,))
    p, element = cones.project_dual(np.array([v], dtype=float), selection)
    return p[0], np.stack([element.take(0).apply(e) for e in np.eye(3)], axis=-1)


@pytest.mark.parametrize(("kind", "v"), [(kind, v) for kind, table in KINKS.items() for v in table])
def test_extremes_at_the_kinks(kind: str, v) -> None:
    low, high = (np.diag(np.array(h, dtype=float)) for h in KINKS[kind][v])
    for selection, expected in (("low", low), ("high", high), ("mid", (low + high) / 2)):
        p, D = project(kind, v, selection)
        np.testing.assert_array_equal(D, expected)
        np.testing.assert_allclose(D @ np.array(v, dtype=float), p, atol=1e-15)  # Euler


EVERYWHERE = [
    *itertools.product((-1.0, 0.0, 1.0), repeat=3),
    (1.0, 1.0, -1.0),
    (1.0, 4.0, 2.0),
    (-1.0, -1.0, 2.0),
    (0.3, -0.2, 0.7),
]


@pytest.mark.parametrize("kind", ["exp", "power"])
@pytest.mark.parametrize("v", EVERYWHERE)
def test_listed_elements(kind: str, v) -> None:
    """Each has a spectrum in [0, 1], obeys Euler's identity, lies between the extremes, and the default is their hull's."""
    v = np.array(v)
    elements = exponential_elements(v) if kind == "exp" else power_elements(v, 0.5)
    p, default = project(kind, v, "default")
    low, high = project(kind, v, "low")[1], project(kind, v, "high")[1]
    count = len(elements.values)
    D = np.stack([elements.apply(np.broadcast_to(e, (count, 3))) for e in np.eye(3)], axis=-1)
    np.testing.assert_allclose(D, np.swapaxes(D, 1, 2), atol=1e-13)
    np.testing.assert_allclose(D @ v, np.broadcast_to(p, (count, 3)), atol=1e-13)
    for one in D:
        assert np.linalg.eigvalsh(one - low).min() >= -1e-12
        assert np.linalg.eigvalsh(high - one).min() >= -1e-12
    listed = [np.abs(one - default).max() for one in D]
    assert min(listed) < 1e-12
    assert (count > 1) == (np.abs(high - low).max() > 1e-12)
    flipped = opposite(elements)
    np.testing.assert_allclose(flipped.values, 1 - elements.values)


@pytest.mark.parametrize(
    ("kind", "v", "polar"),
    [
        ("exp", (0, 1, 1), False),
        ("exp", (1, 1, -1), True),  # x e^{y/x} = −e z
        ("power", (1, 4, 2), False),
        ("power", (4, 1, -2), False),
        ("power", (-1, -1, 2), True),
    ],
)
def test_extremes_on_the_smooth_boundaries(kind: str, v, polar: bool) -> None:
    """I − n̂n̂ᵀ and I on the cone's, 0 and m̂m̂ᵀ on the polar's: rank one apart, Euler's identity for both."""
    v = np.array(v, dtype=float)
    p, low = project(kind, v, "low")
    high = project(kind, v, "high")[1]
    gap = high - low
    assert np.linalg.matrix_rank(gap, tol=1e-12) == 1
    assert np.trace(gap) == pytest.approx(1)
    np.testing.assert_allclose(low if polar else np.eye(3) - high, 0, atol=1e-14)
    for D in (low, high):
        np.testing.assert_allclose(D @ v, p, atol=1e-14)
    # The rank-one direction is the limit of the derivative from outside.
    outward = gap @ np.ones(3)
    side = v + 1e-7 * outward
    shifted = [project(kind, side, "default")[1], project(kind, 2 * v - side, "default")[1]]
    nearest = [min(np.abs(D - low).max(), np.abs(D - high).max()) for D in shifted]
    assert max(nearest) < 1e-5
    assert {int(np.abs(D - low).max() < np.abs(D - high).max()) for D in shifted} == {0, 1}


@pytest.mark.parametrize("alpha", [0.2, 0.4, 0.5, 0.6, 0.9])
def test_extremes_at_the_edges_of_the_power_cone(alpha: float) -> None:
    """Every derivative on the way to (1, 0, 0) ends between the extremes, and comes near the smallest: power.py's derivation."""
    rng = np.random.default_rng(0)
    lowest = -60 if alpha < 0.5 else -16  # the smallest is approached slowly
    y, delta = 10 ** rng.uniform(lowest, -3, 50_000), 10 ** rng.uniform(lowest, -3, 50_000)
    r = y ** (1 - alpha)
    outside = np.stack([1 - alpha * r * delta, y - (1 - alpha) * r * delta / y, r + delta], axis=-1)
    near = np.abs(outside - [1, 0, 0]).max(axis=1) < (1e-4 if alpha < 0.5 else 1e-6)
    points = np.concatenate([outside[near], [1, 0, 0] + 1e-6 * rng.standard_normal((2000, 3))])
    _, element = project_power(points, np.full(len(points), alpha))
    across = np.stack([element.apply(np.broadcast_to(e, points.shape)) for e in np.eye(3)], axis=-1)[:, 2, 2]
    low, high, distance = power_extremes(np.array([[1.0, 0.0, 0.0]]), np.array([alpha]), np.zeros(1))
    assert distance[0] == 0
    np.testing.assert_array_equal(low.values[0], [1, 0, 0 if alpha < 0.5 else 1])
    np.testing.assert_array_equal(high.values[0], [1, 1, 1])
    assert across.min() < 0.05 if alpha < 0.5 else across.min() > 0.9


@pytest.mark.parametrize("kind", ["exp", "power"])
def test_distance_to_the_nearest_kink(kind: str) -> None:
    """Nothing nearer than the distance changes the derivative by a jump, and points pushed off a kink by h are about h away."""
    rng = np.random.default_rng(1)
    kinks = [np.array(v, dtype=float) for v in KINKS[kind]]
    kinks += [
        np.array(v, dtype=float) for v in ([(0, 1, 1), (1, 1, -1)] if kind == "exp" else [(1, 4, 2), (-1, -1, 2)])
    ]
    cones = Cones(exp_dual=1) if kind == "exp" else Cones(power=(-0.5,))
    for v in kinks:
        for h in (1e-3, 1e-6):
            pushed = v + h * rng.uniform(-1, 1, (20, 3))
            low, high, distance = cones.extremes(pushed, np.zeros_like(pushed))
            assert np.all(distance <= 2 * h)
            np.testing.assert_array_equal(low.values, high.values)
            assert np.all(cones.extremes(pushed, np.full_like(pushed, 2 * h))[2] == distance)
            low, high, _ = cones.extremes(pushed, np.full_like(pushed, 2 * h))
            assert np.all(high.values.sum(axis=-1) > low.values.sum(axis=-1))
    far = np.array([(0.3, -0.2, 0.7), (-3.0, 2.0, 9.0), (1.0, 2.0, -30.0)])
    distance = cones.extremes(far, np.zeros_like(far))[2][:, 0]
    D = lambda v: np.stack([cones.project_dual(v)[1].apply(np.broadcast_to(e, v.shape)) for e in np.eye(3)], axis=-1)  # noqa: E731
    for _ in range(50):
        step = rng.standard_normal(far.shape)
        step *= 0.3 * distance[:, None] / np.linalg.norm(step, axis=1, keepdims=True)
        changes = [np.abs(D(far + t * step) - D(far + (t + 1e-4) * step)).max() for t in np.linspace(0, 1, 20)]
        assert max(changes) < 1e-2


@pytest.mark.parametrize("cones", [Cones(exp=1), Cones(exp_dual=1), Cones(power=(0.3,)), Cones(soc=(3,))])
def test_no_warning_at_the_ends_of_the_range_of_floats(cones: Cones) -> None:
    """Overflow in a case that does not count was a RuntimeWarning, which is an error in many programs."""
    rng = np.random.default_rng(0)
    size = 10.0 ** rng.choice([-300, -160, -16, 0, 0, 100], (100, 3))
    v, a, c = rng.standard_normal((100, 3)) * size, *rng.standard_normal((2, 100, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y, s, _ = cones.decompose(v)
        cones.extremes(v, 1e-9 * np.abs(v))
        cones.second_derivative(v, a, c)
        cones.distances(y, s)
