"""The extension module of this processor's instruction set."""

from __future__ import annotations

import importlib
import os
from functools import cache
from types import ModuleType

__all__ = ["available", "load"]

_PREFIX = "conelayers.core."
# From the fastest to the one that runs everywhere in a family; a processor of a level runs those after it.
_LEVELS = ("v4", "v3", "v2", "base")


@cache
def load(level: str | None = None) -> ModuleType:
    """The module built for ``level``; by default the fastest that is built and that this processor can run.

    The environment variable CONELAYERS_CORE names a level for those who want another one. Raises ImportError where
    none is built.
    """
    level = level or os.environ.get("CONELAYERS_CORE")
    if level is not None:
        if level not in _LEVELS:
            raise ImportError(f"conelayers.core: level: got {level!r}, expected one of {', '.join(_LEVELS)}")
        return importlib.import_module(f"{_PREFIX}_core_{level}")
    fastest = importlib.import_module(f"{_PREFIX}_cpu").level()
    for candidate in _LEVELS[_LEVELS.index(fastest) :]:
        try:
            return importlib.import_module(f"{_PREFIX}_core_{candidate}")
        except ModuleNotFoundError:
            continue
    raise ImportError(
        f"conelayers.core: no module for this processor ({fastest}) is there; install the package again: "
        "`pip install .` builds it with a C++20 compiler"
    )


def available() -> bool:
    """Whether a module for this processor is built."""
    try:
        load()
    except ImportError:
        return False
    return True
