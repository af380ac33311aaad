"""The misuses of the layers for JAX; see test_bad_input.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bad_input import Allowed, Refused, rendered
from bad_input_jax import GROUPS
from double_precision import double_precision
from refusals import DOCS, check_refused, name
from refusals import solves as solves


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with double_precision():
        yield


@pytest.mark.parametrize("case", [case for group in GROUPS for case in group.refused], ids=name)
def test_misuses_are_refused(case: Refused, solves: list[str]) -> None:
    check_refused(case, solves)


@pytest.mark.parametrize("case", [case for group in GROUPS for case in group.allowed], ids=name)
def test_what_only_looks_like_a_misuse_works(case: Allowed) -> None:
    case.check()


def test_the_page_is_what_happens() -> None:
    """Run ``python tests/helpers/bad_input.py docs/bad_input.md`` where this fails."""
    assert DOCS.read_text(encoding="utf-8").endswith(rendered(GROUPS))
