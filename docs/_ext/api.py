"""The API reference: a page for each public module, from its ``__all__``, and the docstrings as reST."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import re
from enum import Enum
from pathlib import Path
from typing import Any

from prose import as_rest

__all__ = ["process_docstring", "skip_member", "write_pages"]

MODULES = {
    "conelayers": "The engine over NumPy arrays, cone programs, certificates, policies, errors.",
    "conelayers.torch": "Layers for PyTorch.",
    "conelayers.jax": "Layers for JAX.",
    "conelayers.implicit": "Solvers, linear solvers, certificates of roots and fixed points: what both frameworks share.",
    "conelayers.implicit.torch": "Roots, fixed points and projections in PyTorch.",
    "conelayers.implicit.jax": "Roots, fixed points and projections in JAX.",
    "conelayers.equilibrium": "Monotone equilibrium networks.",
    "conelayers.lasso": "Lasso-type models and their hyperparameters.",
    "conelayers.numerics.cones": "Cones: projections and their Clarke elements. For those who add one.",
    "conelayers.solve.backends": "Solver backends. For those who add one.",
}
_KINDS = (
    ("Classes", lambda o: isinstance(o, type) and not _is(o, BaseException)),
    ("Functions", inspect.isfunction),
    ("Errors and warnings", lambda o: _is(o, BaseException)),
)
_FIRST = ("Layer", "ConeLayer", "EquilibriumLayer")  # of their pages


def _is(thing: Any, kind: type) -> bool:
    return isinstance(thing, type) and issubclass(thing, kind)


def write_pages(folder: Path) -> None:
    """One reST file a module, and their index."""
    folder.mkdir(exist_ok=True)
    known: set[int] = set()  # what an earlier page has
    pages = {f"{name}.rst": _page(name, known) for name in MODULES}
    rows = "".join(f"   * - :doc:`{name}`\n     - {text}\n" for name, text in MODULES.items())
    entries = "".join(f"   {name}\n" for name in MODULES)
    pages["index.rst"] = (
        "API reference\n=============\n\nWritten from the docstrings. What is not listed here may change without notice.\n\n"
        f".. list-table::\n   :widths: 30 70\n\n{rows}\n.. toctree::\n   :hidden:\n\n{entries}"
    )
    for path in folder.iterdir():
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _page(name: str, known: set[int]) -> str:
    module = importlib.import_module(name)
    text = f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n\n"
    left = {key: getattr(module, key) for key in module.__all__ if id(getattr(module, key)) not in known}
    known |= {id(thing) for thing in left.values()}
    for title, belongs in _KINDS:
        chosen = {key: thing for key, thing in left.items() if belongs(thing)}
        left = {key: thing for key, thing in left.items() if key not in chosen}
        if title == "Classes":  # names for one and the same thing come once
            chosen = {k: t for k, t in chosen.items() if t.__name__ == k or t.__name__ not in chosen}
        if chosen:
            text += f"{title}\n{'-' * len(title)}\n\n" + "".join(
                _entry(name, k, t) for k, t in sorted(chosen.items(), key=_place)
            )
    if left:
        text += "Types\n-----\n\n" + "".join(
            f"``{key}``\n   ``{_escaped(thing)}``\n\n" for key, thing in sorted(left.items())
        )
    return text


def _place(entry: tuple[str, Any]) -> tuple[bool, str]:
    return entry[0] not in _FIRST, entry[0].lower()


def _escaped(thing: Any) -> str:
    return re.sub(r"\w+\.(?=\w)", "", str(thing)).replace("`", "")


def _entry(module: str, name: str, thing: Any) -> str:
    if inspect.isfunction(thing):
        return f".. autofunction:: {module}.{name}\n\n"
    directive = "autoexception" if _is(thing, BaseException) else "autoclass"
    options = "   :members:\n"
    if _is(thing, Enum):
        options += "   :undoc-members:\n"
    elif not _is(thing, Exception):
        options += (
            "   :special-members: __call__\n" if "__call__" in vars(thing) and vars(thing)["__call__"].__doc__ else ""
        )
    if len([b for b in thing.__bases__ if b is not object and b.__module__.startswith("conelayers")]):
        options += "   :show-inheritance:\n"
    return f".. {directive}:: {module}.{name}\n{options}\n"


def _names(kind: str, thing: Any) -> list[str]:
    """Arguments that a docstring may describe as "name: text"."""
    names: list[str] = []
    with contextlib.suppress(TypeError, ValueError):
        names = [p for p in inspect.signature(thing).parameters if p != "self"]
    if dataclasses.is_dataclass(thing):
        names += [f.name for f in dataclasses.fields(thing)]
    if isinstance(thing, type):  # a dict of the class's own attributes, annotated or properties
        names += [n for n in getattr(thing, "__annotations__", {}) if not n.startswith("_")]
    return list(dict.fromkeys(names))


def process_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """autodoc's hook."""
    lines[:] = as_rest(lines, _names(what, obj))


def skip_member(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """No methods that scikit-learn makes (their docstrings are its own), and no fields of named tuples that say nothing."""
    empty = (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")
    return True if empty or re.fullmatch(r"set_\w+_request", name) else None
