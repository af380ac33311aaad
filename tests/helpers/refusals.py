"""How a misuse is checked: what it raises, and that docs/bad_input.md quotes it."""

from __future__ import annotations

import pkgutil
from pathlib import Path

import pytest
from bad_input import Allowed, Refused

DOCS = Path(__file__).parents[2] / "docs" / "bad_input.md"

AFTER_A_SOLVE = ("SolveError", "SingularDerivativeError", "NotImplementedError")

SOLVES = (
    "conelayers.layer.solve_and_linearize.solve_batch",
    "conelayers.layer.conic.solve_batch",
    "conelayers.lasso.problem.first_guess",
    "conelayers.lasso.svm._Machine._guess",
)


@pytest.fixture
def solves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every solve of a cone program or a Lasso-type model."""
    seen: list[str] = []

    def counted(where: str):
        own = pkgutil.resolve_name(where)

        def solve(*args, **options):
            seen.append(where)
            return own(*args, **options)

        return solve

    for where in SOLVES:
        monkeypatch.setattr(where, counted(where))
    return seen


def check_refused(case: Refused, solves: list[str]) -> None:
    case.group.names()
    solves.clear()
    kind, text = case.outcome()
    assert kind == case.error, f"{case.code}: {kind or 'nothing'}: {text}"
    missing = [phrase for phrase in case.phrases if phrase not in text]
    assert not missing, f"{case.code}: {text}"
    if kind not in AFTER_A_SOLVE:
        assert not solves, f"{case.code}: refused only after a solve"


def name(case: Refused | Allowed) -> str:
    return case.code[:60]
