"""Every misuse gets an error at once that names the argument, what was got, what was expected and the fix; docs/bad_input.md lists them."""

from __future__ import annotations

import difflib

import bad_input
import pytest
from bad_input import HEAD, Allowed, Refused, of_numpy_and_torch, rendered
from refusals import DOCS, check_refused, name
from refusals import solves as solves

GROUPS = of_numpy_and_torch()


@pytest.mark.parametrize("case", [case for group in GROUPS for case in group.refused], ids=name)
def test_misuses_are_refused(case: Refused, solves: list[str]) -> None:
    check_refused(case, solves)


@pytest.mark.parametrize("case", [case for group in GROUPS for case in group.allowed], ids=name)
def test_what_only_looks_like_a_misuse_works(case: Allowed) -> None:
    case.check()


def test_every_misuse_says_what_was_got_and_expected() -> None:
    """But for Python's own words about keywords, and for solves."""
    for case in (case for group in GROUPS for case in group.refused):
        text = case.outcome()[1]
        if (
            case.error in ("ValueError", "TypeError", "CanonicalizationError")
            and "keyword argument" not in text
            and "required positional" not in text
        ):
            assert any(word in text for word in ("got", "received", "returned")), f"{case.code}: {text}"
            assert "xpected" in text, f"{case.code}: {text}"
        assert case.phrases, case.code


def test_the_page_is_what_happens() -> None:
    """Run ``python tests/helpers/bad_input.py docs/bad_input.md`` where this fails; the part on JAX is test_bad_input_jax.py's."""
    made = f"{HEAD}\n{rendered(GROUPS)}"
    page = DOCS.read_text(encoding="utf-8")
    assert page.startswith(made), "\n".join(
        difflib.unified_diff(page.splitlines(), made.splitlines(), lineterm="", n=0)
    )


def test_cases_are_distinct() -> None:
    seen = [(group.title, case.code) for group in bad_input.GROUPS for case in group.refused]
    assert len(seen) == len(set(seen))
