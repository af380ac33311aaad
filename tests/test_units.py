"""A change of units changes nothing but the units: verdicts, blame, warnings, solutions and gradients of planted programs; and known breaches."""

from __future__ import annotations

import numpy as np
import pytest
from unit_changes import AT_KINKS, CHANGES, FAMILIES, INFEASIBLE, PLANTS, Units, UnitSpec, plant, run, told

from conelayers.cones import Selection

BATCH = 30
PLANTED = [(family, what) for family in FAMILIES for what in (*PLANTS, *INFEASIBLE) if FAMILIES[family].takes(what)]


def test_at_least_two_thousand_programs_are_drawn() -> None:
    assert BATCH * len(PLANTED) >= 2000


@pytest.mark.parametrize(("family", "what"), PLANTED)
def test_units_change_nothing_but_the_units(family: str, what: str) -> None:
    """A tolerance that is absolute, or relative to the largest number of the instance, makes another verdict, other names, a derivative of the
    wrong element, or a point where Newton stopped too early out of the same program in other units.
    """
    halves = ("low", "high") if what in AT_KINKS else ("default",)
    wrong = [
        fault
        for seed, selection in enumerate(halves)
        for fault in UnitSpec(FAMILIES[family], what, CHANGES, selection, BATCH // len(halves), seed).faults()
    ]
    assert not told(wrong), told(wrong)


@pytest.mark.parametrize("family", [family for family, what in PLANTED if what == "kinked"])
def test_the_default_element_at_a_kink_is_the_one_that_is_documented(family: str) -> None:
    """If the sign of a rounding error chose the element, another choice of units would have another gradient."""
    wrong = UnitSpec(FAMILIES[family], "kinked", CHANGES, "default", BATCH, 2).faults()
    assert not told(wrong), told(wrong)


@pytest.mark.parametrize("family", [family for family, what in PLANTED if what == "kinked"])
def test_the_mean_element_does_not_depend_on_the_units(family: str) -> None:
    """Halfway between D_min and D_max is another point in other units, unless the units are the program's own."""
    cones, n, rng = FAMILIES[family].cones, FAMILIES[family].n, np.random.default_rng(3)
    planted = plant(FAMILIES[family], "kinked", BATCH, rng)
    g = planted.cotangents(Selection.LOW, rng)
    gradients = []
    for changes in (("none",), CHANGES[1:]):
        units = Units.draw([changes[i % len(changes)] for i in range(BATCH)], cones, n, rng)
        C, R, omega = units.columns, units.rows, units.objective
        out = run(units.changed(planted), cones, (C * g[0], R * g[1] / omega, g[2] / R), Selection.MID)
        gradients.append(np.concatenate([omega * C * out.lam, R * out.mu], axis=1))
    error = np.abs(gradients[1] - gradients[0]).max(axis=1) / np.abs(gradients[0]).max(axis=1)
    assert (error <= 1e-9).all(), f"{(~(error <= 1e-9)).sum()} of {BATCH} differ"
