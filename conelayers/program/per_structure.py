"""Memory for what is found out about a program's structure: kept as long as the structure lives."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

from conelayers.program.cone_program import Structure

__all__ = ["once_per_structure"]

_Found = TypeVar("_Found")


def once_per_structure(find: Callable[[Structure], _Found]) -> Callable[[Structure], _Found]:
    """A decorator that calls ``find`` once for each structure.

    Threads that call it at the same time may call ``find`` twice.
    """
    known: WeakKeyDictionary[Structure, _Found] = WeakKeyDictionary()

    @functools.wraps(find)
    def remembered(structure: Structure) -> _Found:
        if structure not in known:
            known[structure] = find(structure)
        return known[structure]

    return remembered
