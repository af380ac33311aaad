"""Misuses, what each of them is told, and what only looks like one: the cases of test_bad_input.py and the tables of docs/bad_input.md.

    python tests/helpers/bad_input.py docs/bad_input.md

A case is the code that a user would write, run after its group's prelude. What is said of it has to hold the argument's name, what was
got, what was expected and the fix, where there is one: the phrases after the code.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Group:
    """Cases that share a prelude, run once; ``bad`` and ``good`` add one."""

    title: str
    prelude: str
    refused: list[Refused] = field(default_factory=list)
    allowed: list[Allowed] = field(default_factory=list)

    def bad(self, code: str, *phrases: str, error: str = "ValueError") -> None:
        self.refused.append(Refused(self, code, phrases, error))

    def good(self, code: str, expected: str, note: str, *, rtol: float = 1e-9, atol: float = 0.0) -> None:
        self.allowed.append(Allowed(self, code, expected, note, rtol, atol))

    def names(self) -> dict[str, Any]:
        """What the prelude defines; a copy for each case."""
        return dict(_prepared(self))


@cache
def _prepared(group: Group) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(group.prelude, names)
    return names


def _run(code: str, names: dict[str, Any]) -> Any:
    """The value of the last expression."""
    *before, last = code.split("; ")
    exec("; ".join(before), names)
    try:
        compiled = compile(last, "<case>", "eval")
    except SyntaxError:
        exec(last, names)
        return None
    return eval(compiled, names)


@dataclass(frozen=True, eq=False)
class Refused:
    group: Group
    code: str
    phrases: tuple[str, ...]
    error: str

    @cache  # noqa: B019  (as long as the module)
    def outcome(self) -> tuple[str, str]:
        """The name of the error's type and its text; ("", "") where there was none."""
        names = self.group.names()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.filterwarnings("ignore", ".*torch.jit.script.* is deprecated")  # torch's own
                _run(self.code, names)
        except Exception as error:
            text = str(error)
            text = text[: text.find("\n--------------------\n")] if "\n--------------------\n" in text else text
            return type(error).__name__, _NUMBERED.sub("var…", " ".join(text.split()))
        return "", ""


@dataclass(frozen=True, eq=False)
class Allowed:
    group: Group
    code: str
    expected: str
    note: str
    rtol: float
    atol: float

    def check(self) -> None:
        """Raises where the value is not the expected one."""
        names = self.group.names()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", ".*torch.jit.script.* is deprecated")  # torch's own
            value = _run(self.code, names)
        expected = eval(self.expected, names)
        if isinstance(expected, (str, tuple, bool)) or expected is None:
            assert value == expected, f"{value!r} ≠ {expected!r}"
        else:
            np.testing.assert_allclose(np.asarray(value, dtype=float), expected, rtol=self.rtol, atol=self.atol)


_NUMBERED = re.compile(r"\bvar\d+\b")  # names that cvxpy gives, one after the other


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _code(text: str) -> str:
    return f"`{_cell(text)}`"


def rendered(groups: Sequence[Group]) -> str:
    """The tables."""
    parts = []
    for group in groups:
        parts.append(f"## {group.title}\n\n```python\n{group.prelude.strip()}\n```\n")
        if group.refused:
            rows = []
            for case in group.refused:
                kind, text = case.outcome()
                rows.append(f"| {_code(case.code)} | {kind}: {_cell(text)} |")
            parts.append("| refused | with |\n| --- | --- |\n" + "\n".join(rows) + "\n")
        if group.allowed:
            rows = [f"| {_code(case.code)} | {_code(case.expected)} | {_cell(case.note)} |" for case in group.allowed]
            parts.append("| allowed | gives | |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


HEAD = """# Bad input

Every misuse below gets an error at once, before any cone program or model is solved: it names the argument, what was got, what was expected and, where there is one, the
fix. What only looks like a misuse, and works, is in the second table of each section: empty batches and sizes of zero, integers, strides, read-only
arrays, half precision, scales of 1e12 and 1e−12, NaN.

The tables are what `python tests/helpers/bad_input.py docs/bad_input.md` prints, and are tested (`tests/layer/test_bad_input.py`). Each line runs by itself after the code
at the head of its section. Errors that can only come after a solve: `SolveError` (no solution), `SingularDerivativeError`, `ConvergenceError`
and `LinearSolveError` (an equation that was not solved), `NotImplementedError` (a derivative that there is not).
"""

GROUPS: list[Group] = []


def group(title: str, prelude: str) -> Group:
    GROUPS.append(Group(title, prelude))
    return GROUPS[-1]


def of_numpy_and_torch() -> list[Group]:
    """All that start no JAX."""
    for part in ("layers", "torch", "beyond"):
        import_module(f"bad_input_{part}")
    return list(import_module("bad_input").GROUPS)  # this file may be running as __main__


def page() -> str:
    """docs/bad_input.md."""
    import bad_input_jax

    groups = of_numpy_and_torch()
    return "\n".join((HEAD, rendered(groups), rendered(bad_input_jax.GROUPS)))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
