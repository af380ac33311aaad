"""A short run of what `make fuzz` does for an hour, always the same examples; and what has been found that way, kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz
import fuzzing
import numpy as np
import pytest
from fuzzing import Finding
from fuzzing_adapters import adapters, check_adapters
from fuzzing_bounds import BoundSpec, bounds, check_bounds
from fuzzing_geometric import GeometricSpec, geometric_programs
from fuzzing_penalties import PenaltySpec, check_penalties, penalties
from fuzzing_problems import ProblemSpec, check_problem, problems
from fuzzing_programs import KINDS, ProgramSpec, check_program, programs
from fuzzing_simplified import check_simplified, simplified_problems
from fuzzing_warm import WarmSpec, check_warm, warm_starts
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from unit_changes import Family, UnitSpec, check_units, unit_changes

from conelayers import Cones
from conelayers.numerics.cones import product_cone


def drawn(strategy: st.SearchStrategy[Any], check: Callable[[Any, Counter], None], examples: int) -> Counter:
    """What became of so many examples, the same ones in every run; nothing is written."""
    counts: Counter = Counter()

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
    )
    @given(strategy)
    def run(spec: Any) -> None:
        check(spec, counts)

    run()
    return counts


def test_programs() -> None:
    """Statuses, residuals, certificates and derivatives of random cone programs."""
    counts = sum((drawn(programs((kind,)), check_program, 8) for kind in KINDS), Counter())
    assert counts["primal infeasible: primal infeasible"] >= 3
    assert counts["dual infeasible: dual infeasible"] >= 3
    assert counts["differences: agree"] >= 5, counts


def test_problems() -> None:
    """The same of random cvxpy problems, and their values against cvxpy's."""
    counts = drawn(problems(), check_problem, 28)
    assert counts["cvxpy on feasible: optimal"] >= 10
    assert counts["differences: agree"] >= 5, counts


def test_simplified() -> None:
    """The same problems in cvxpy's own form have the same points, multipliers and gradients."""
    counts = drawn(simplified_problems(), check_simplified, 24)
    assert counts["smaller"] >= 10, counts
    assert counts["the same where classical"] >= 5, counts


def test_units() -> None:
    """Planted programs of any structure in other units; those of the suite's own structures are in test_units.py."""
    counts = drawn(unit_changes(), check_units, 40)
    assert counts["such programs are seldom well conditioned"] <= 10, counts


def test_bounds() -> None:
    """Bounds from 1e6 to infinity that do not bind change nothing."""
    counts = drawn(bounds(), check_bounds, 12)
    assert counts["gradients: agree"] >= 2, counts


def test_penalties() -> None:
    """Exact penalties of weights up to 1e8 leave the point and the gradients; squared ones have the point that follows from the hard program's."""
    linear, squared = (
        drawn(penalties().filter(lambda spec, form=form: spec.form == form), check_penalties, 8)
        for form in ("linear", "squared")
    )
    assert linear["gradients: agree"] >= 1, linear
    assert squared["differences: agree"] >= 1, squared


def test_geometric_programs() -> None:
    """What holds of problems holds of geometric programs."""
    counts = drawn(geometric_programs(), check_problem, 6)
    assert counts["differences: agree"] >= 3, counts


def test_warm_starts() -> None:
    """A layer that is called again answers as one that starts cold."""
    counts = drawn(warm_starts(), check_warm, 8)
    assert counts["the same point"] >= 8, counts


def test_adapters() -> None:
    """Points and gradients of the torch and the JAX layer are the host's."""
    counts = drawn(adapters(), check_adapters, 5)
    assert counts["torch: gradients agree"] >= 1, counts
    assert counts["jax: gradients agree"] >= 1, counts


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_an_example_can_be_repeated_from_its_text(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a finding prints is evaluated to the same example."""
    seen: list[Any] = []

    def check(spec: Any, counts: Counter) -> None:
        seen.append(spec)

    monkeypatch.setitem(fuzz.KINDS, kind, fuzz.KINDS[kind]._replace(check=check))
    drawn(fuzz.KINDS[kind].strategy(), check, 3)
    for spec in tuple(seen):
        fuzz.one_example(repr(spec))
        assert seen[-1] == spec


FOUND: dict[str, tuple[Callable[[Any], None], Any]] = {
    "a bound of 1e14 on a variable of its own excuses all other rows": (
        check_bounds,
        BoundSpec(
            program=ProgramSpec(
                kind="regular",
                cones=Cones(zero=2, nonneg=2, soc=(2, 5), exp=1, exp_dual=1),
                n=12,
                rank=1.0,
                integers=False,
                density=1.0,
                flaws=("zero column", "zero row"),
                spread=0,
                seed=2276342,
            ),
            bounds=((11, 1, 1e6), (1, 1, 1e8), (10, 1, 1e14), (4, -1, 1e14)),
        ),
    ),
    "rounding in a block of the exponential cone is a certificate": (
        check_penalties,
        PenaltySpec(
            program=ProgramSpec(
                kind="nearly kinked",
                cones=Cones(zero=3, nonneg=1, exp=1, exp_dual=1),
                n=3,
                rank=0.5,
                integers=False,
                density=0.4,
                flaws=(),
                spread=3,
                seed=1,
            ),
            form="linear",
            weight=1000.0,
        ),
    ),
    "ECOS without entries": (
        check_program,
        ProgramSpec(
            kind="kinked",
            cones=Cones(zero=2, nonneg=4),
            n=1,
            rank=0.0,
            integers=True,
            density=0.4,
            flaws=("zero column",),
            spread=0,
            seed=1,
        ),
    ),
    "ECOS calls unbounded what is infeasible": (
        check_program,
        ProgramSpec(
            kind="primal infeasible",
            cones=Cones(zero=2, nonneg=4),
            n=3,
            rank=0.0,
            integers=True,
            density=0.4,
            flaws=(),
            spread=0,
            seed=3,
        ),
    ),
    "Clarabel stops short of an infeasible program": (
        check_program,
        ProgramSpec(
            kind="primal infeasible",
            cones=Cones(zero=3, nonneg=3, soc=(2, 3), psd=(1, 3), hermitian=(2,), exp=1),
            n=1,
            rank=0.0,
            integers=False,
            density=1.0,
            flaws=(),
            spread=0,
            seed=1,
        ),
    ),
    "a ray taken for an inaccurate point": (
        check_program,
        ProgramSpec(
            kind="dual infeasible",
            cones=Cones(zero=2, nonneg=4, exp_dual=1),
            n=4,
            rank=0.5,
            integers=False,
            density=0.4,
            flaws=(),
            spread=1,
            seed=297,
        ),
    ),
    "a null space of no consequence, and a multiplier of 324": (
        check_problem,
        ProblemSpec(
            kind="feasible",
            variables=(("symmetric", (2, 2)),),
            parameters=(("symmetric", (3, 3)), ("symmetric", (3, 3))),
            objective=(("w", 2.0, ("linear", ("p times", 2, ("pp times", 2, ("x", 1))))),),
            constraints=(
                (("exp cone", ("p times", 2, ("x", 2)), ("p times", 2, ("pp times", 2, ("x", 1)))), 0.0),
                (("convex", ("logistic of", ("pos", ("add", ("x", 1), ("x", 0)), 0))), 0.5),
            ),
            ridge=0.5,
            maximize=True,
            duals=True,
            seed=324913,
        ),
    ),
    "multipliers off by 1e-8 excused by penalised slacks that are next to zero": (
        check_penalties,
        PenaltySpec(
            program=ProgramSpec(
                kind="nearly kinked",
                cones=Cones(zero=2, nonneg=4, psd=(1,)),
                n=12,
                rank=0.0,
                integers=True,
                density=1.0,
                flaws=(),
                spread=3,
                seed=1245,
            ),
            form="squared",
            weight=1000.0,
        ),
    ),
    "the factors of the other side of a kink used for the derivative": (
        check_penalties,
        PenaltySpec(
            program=ProgramSpec(
                kind="kinked",
                cones=Cones(zero=2, hermitian=(1,)),
                n=6,
                rank=1.0,
                integers=False,
                density=0.4,
                flaws=(),
                spread=0,
                seed=0,
            ),
            form="squared",
            weight=1000000.0,
        ),
    ),
    "a multiplier of rounding, taken for a slack that is certain": (
        check_penalties,
        PenaltySpec(
            program=ProgramSpec(
                kind="kinked",
                cones=Cones(zero=1, nonneg=2),
                n=1,
                rank=1.0,
                integers=False,
                density=1.0,
                flaws=(),
                spread=0,
                seed=1304203630,
            ),
            form="squared",
            weight=1000.0,
        ),
    ),
    "a derivative of 1e9, whose rounding is taken for a system without a solution": (
        check_penalties,
        PenaltySpec(
            program=ProgramSpec(
                kind="regular",
                cones=Cones(nonneg=4, hermitian=(1,)),
                n=1,
                rank=1.0,
                integers=False,
                density=1.0,
                flaws=(),
                spread=0,
                seed=2782,
            ),
            form="squared",
            weight=100000000.0,
        ),
    ),
    "a block in units of its own excuses the columns that it is in": (
        check_program,
        ProgramSpec(
            kind="kinked",
            cones=Cones(soc=(3,), psd=(3,)),
            n=1,
            rank=0.0,
            integers=False,
            density=1.0,
            flaws=(),
            spread=0,
            seed=1525702924,
        ),
    ),
    "the same in a gap": (
        check_program,
        ProgramSpec(
            kind="nearly kinked",
            cones=Cones(psd=(4, 4)),
            n=1,
            rank=1.0,
            integers=False,
            density=0.4,
            flaws=(),
            spread=0,
            seed=0,
        ),
    ),
    "the same in other units": (
        check_units,
        UnitSpec(
            family=Family(cones=Cones(zero=2, nonneg=2, psd=(3, 2)), n=6, rank=6),
            plant="weak and free",
            changes=("everything",),
            selection="low",
            batch=1,
            seed=1,
        ),
    ),
    "a gradient that is zero, and said to be": (
        check_problem,
        ProblemSpec(
            kind="feasible",
            variables=(("free", ()),),
            parameters=(("any", ()),),
            objective=(("p weight", 0, ("linear", ("x", 0))),),
            constraints=(),
            ridge=0.0,
            maximize=False,
            duals=False,
            seed=0,
        ),
    ),
    "a distance of rounding from a power cone taken for a large one": (
        check_program,
        ProgramSpec(
            kind="dual infeasible",
            cones=Cones(power=(0.9,)),
            n=2,
            rank=1.0,
            integers=False,
            density=1.0,
            flaws=(),
            spread=0,
            seed=0,
        ),
    ),
    "a bound that is alone in its part of the program": (
        check_bounds,
        BoundSpec(
            program=ProgramSpec(
                kind="regular",
                cones=Cones(nonneg=6),
                n=12,
                rank=0.0,
                integers=False,
                density=0.4,
                flaws=(),
                spread=0,
                seed=107,
            ),
            bounds=((5, 1, 1e14),),
        ),
    ),
    "a bound of 1e6 that a first-order method fails with": (
        check_bounds,
        BoundSpec(
            program=ProgramSpec(
                kind="regular",
                cones=Cones(exp_dual=1),
                n=1,
                rank=0.0,
                integers=False,
                density=1.0,
                flaws=(),
                spread=0,
                seed=0,
            ),
            bounds=((0, 1, 1e6),),
        ),
    ),
    "a point of 1e13 that hides the objective": (
        check_bounds,
        BoundSpec(
            program=ProgramSpec(
                kind="dual infeasible",
                cones=Cones(zero=3, nonneg=5, soc=(2,)),
                n=5,
                rank=1.0,
                integers=True,
                density=1.0,
                flaws=(),
                spread=0,
                seed=403,
            ),
            bounds=((0, 1, 1e6),),
        ),
    ),
    "rounding in P": (
        check_bounds,
        BoundSpec(
            program=ProgramSpec(
                kind="regular",
                cones=Cones(nonneg=5),
                n=5,
                rank=0.5,
                integers=True,
                density=1.0,
                flaws=(),
                spread=0,
                seed=3,
            ),
            bounds=((0, 1, 1e8),),
        ),
    ),
    "a monomial whose exponents cancel": (
        check_problem,
        GeometricSpec(
            kind="feasible",
            variables=(3,),
            parameters=(3,),
            exponent=True,
            objective=(("sum", ("monomial",), ("monomial",)),),
            constraints=((("sum", ("monomial",), ("monomial",)), 0.5), (("monomial",), None)),
            maximize=False,
            seed=3726,
        ),
    ),
    "slacks of rounding, and an x that they move from zero": (
        check_program,
        ProgramSpec(
            kind="kinked",
            cones=Cones(zero=2, nonneg=5, soc=(1,), hermitian=(3,)),
            n=2,
            rank=0.0,
            integers=True,
            density=1.0,
            flaws=("zero column", "opposite row"),
            spread=0,
            seed=64197,
        ),
    ),
    "a ray of 1e14 taken for a solution": (
        check_program,
        ProgramSpec(
            kind="dual infeasible",
            cones=Cones(nonneg=5, soc=(3, 4), psd=(3, 4), exp_dual=1),
            n=6,
            rank=1.0,
            integers=True,
            density=0.4,
            flaws=(),
            spread=0,
            seed=53,
        ),
    ),
    "a ray at several kinks at once, where full steps first leave more than they found": (
        check_program,
        ProgramSpec(
            kind="dual infeasible",
            cones=Cones(zero=3, nonneg=6, soc=(1, 3), psd=(3, 2)),
            n=8,
            rank=0.0,
            integers=False,
            density=0.4,
            flaws=(),
            spread=3,
            seed=8055,
        ),
    ),
    "another solve of what was certified, since its bounds are infinite": (
        check_bounds,
        BoundSpec(
            program=ProgramSpec(
                kind="dual infeasible",
                cones=Cones(zero=3, soc=(2, 3), hermitian=(3,), exp=1, power=(0.9,)),
                n=5,
                rank=0.5,
                integers=True,
                density=0.4,
                flaws=("opposite row", "zero row"),
                spread=3,
                seed=3200,
            ),
            bounds=((11, 1, 1e14),),
        ),
    ),
    "a cost that is small beside others, whose multipliers counted as rounding of those": (
        check_warm,
        WarmSpec(
            problem=ProblemSpec(
                kind="feasible",
                variables=(("bounds", (4,)),),
                parameters=(("symmetric", (3, 3)),),
                objective=(("logistic of", ("max", ("pp times", 1, ("pp times", 1, ("x", 1))), 2)),),
                constraints=(
                    (("at most", ("over p", 2, ("pp times", 1, ("x", 2)))), 0.5),
                    (("convex", ("w", 0.5, ("linear", ("x", 2)))), 0.5),
                ),
                ridge=0.5,
                maximize=True,
                duals=True,
                seed=264,
            ),
            steps=(1.0, 0.0),
            batch=0,
        ),
    ),
    "x = 0, found to 1e-12 and called no solution, since that is all of x": (
        check_program,
        ProgramSpec(
            kind="nearly kinked",
            cones=Cones(zero=1, nonneg=4, soc=(1, 1), hermitian=(3,), exp=2),
            n=1,
            rank=1.0,
            integers=True,
            density=1.0,
            flaws=("opposite row",),
            spread=3,
            seed=84703,
        ),
    ),
    "the same where penalties hold x at zero": (
        check_penalties,
        PenaltySpec(
            program=ProgramSpec(
                kind="nearly kinked",
                cones=Cones(zero=3, nonneg=3, soc=(2, 1), psd=(4,)),
                n=1,
                rank=1.0,
                integers=True,
                density=1.0,
                flaws=("duplicate row",),
                spread=0,
                seed=507,
            ),
            form="linear",
            weight=1e4,
        ),
    ),
    "bounds of 1e6, 1e8 and 1e14, of which none lay 1e6 above the next": (
        check_bounds,
        BoundSpec(
            program=ProgramSpec(
                kind="regular",
                cones=Cones(zero=3, nonneg=3, soc=(4,), hermitian=(3,), exp=2),
                n=4,
                rank=0.0,
                integers=True,
                density=0.4,
                flaws=(),
                spread=0,
                seed=1768,
            ),
            bounds=((11, 1, 1e6), (9, -1, 1e14), (1, -1, 1e8), (11, -1, 1e8)),
        ),
    ),
    "digits lost by the elimination of squared penalties of 1e8": (
        check_penalties,
        PenaltySpec(
            program=ProgramSpec(
                kind="kinked",
                cones=Cones(zero=3, nonneg=5),
                n=5,
                rank=0.0,
                integers=False,
                density=1.0,
                flaws=(),
                spread=0,
                seed=599,
            ),
            form="squared",
            weight=1e8,
        ),
    ),
    "a multiplier of 2e-12 that counts as zero, and a solution far away for which it does not": (
        check_bounds,
        BoundSpec(
            program=ProgramSpec(
                kind="nearly kinked",
                cones=Cones(nonneg=7),
                n=7,
                rank=0.0,
                integers=False,
                density=1.0,
                flaws=(),
                spread=0,
                seed=0,
            ),
            bounds=((0, 1, 1e6),),
        ),
    ),
}


# Open on some processors: which point Clarabel ends at decides whether the largest row of a block hides the smallest.
OPEN = pytest.mark.xfail(raises=Finding, reason="primal 2e-11 is said to be 3e-15", strict=False)
UNSETTLED = {"the same in a gap"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=OPEN if n in UNSETTLED else ()) for n in FOUND])
def test_what_was_found_stays_mended(name: str) -> None:
    check, spec = FOUND[name]
    check(spec)


def test_an_example_that_takes_too_long_is_a_finding() -> None:
    def endless() -> None:
        with fuzzing.within(0.05):
            while True:
                pass

    with pytest.raises(Finding, match="no hang"):
        endless()


def test_a_round_tells_the_smallest_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(spec: ProgramSpec, counts: Counter) -> None:
        fuzzing.require(spec.n < 3, "a rule", "broken")

    monkeypatch.setitem(fuzz.KINDS, "programs", fuzz.KINDS["programs"]._replace(check=check))
    fuzz.one_round("programs", 1, 30, True, tmp_path)
    failed = json.loads((tmp_path / "result").read_text())["failed"]
    assert failed["error"] == "a rule: broken"
    spec = eval(failed["spec"], {"ProgramSpec": ProgramSpec, "Cones": Cones})
    assert (spec.n, spec.cones) == (3, Cones())


def test_membership_is_decided_for_every_cone() -> None:
    """The fuzzer's own distances agree with the package's projections, whose digits it judges."""
    cones = Cones(zero=1, nonneg=1, soc=(3,), psd=(2,), hermitian=(2,), exp=1, exp_dual=1, power=(0.3, -0.3))
    rng = np.random.default_rng(0)
    for _ in range(20):
        y, s, _ = product_cone(cones).decompose(rng.standard_normal(cones.dimension))
        assert max(fuzzing.outside(cones, y, dual=True), fuzzing.outside(cones, s, dual=False)) <= 1e-14
    for kind, _, rows in fuzzing.blocks(cones):
        for dual in (False, True):
            away = np.zeros(cones.dimension)
            away[rows] = -1.0
            free = kind == "zero" and dual
            assert (fuzzing.outside(cones, away, dual=dual) > 0.5) != free
