"""The contenders by name: where each is defined, as module and attribute, so that one that does not install costs nothing."""

from __future__ import annotations

import importlib

from benchmarks.suite.contenders.contender import Contender

__all__ = ["CONTENDERS", "DEFAULT_CONTENDERS", "LIMITS", "OPTIONAL", "find"]

LIMITS = {
    "limit: bare Clarabel": ("limits", "CLARABEL"),
    "limit: bare SCS": ("limits", "SCS"),
    "limit: one factorization": ("limits", "FACTORIZATION"),
}
OPTIONAL = {"cvxpylayers 1e-9 dense": ("cvxpylayers", "EXACT")}
CONTENDERS = {
    "conelayers": ("own", "AUTO"),
    "conelayers Clarabel": ("own", "CLARABEL"),
    "conelayers SCS": ("own", "SCS"),
    "conelayers ECOS": ("own", "ECOS"),
    "cvxpylayers": ("cvxpylayers", "DEFAULT"),
    "cvxpylayers dense": ("cvxpylayers", "DENSE"),
    **OPTIONAL,
    "Moreau interior point": ("moreau", "INTERIOR_POINT"),
    "Moreau active set": ("moreau", "ACTIVE_SET"),
    "QPLayer": ("qplayer", "QPLAYER"),
    "osqp": ("osqp", "OSQP_LAYER"),
    "qpax": ("qpax", "QPAX"),
    **LIMITS,
}
DEFAULT_CONTENDERS = [name for name in CONTENDERS if name not in OPTIONAL]


def find(name: str) -> Contender:
    """The contender of that name. Raises ImportError where its package is missing."""
    module, attribute = CONTENDERS[name]
    return getattr(importlib.import_module(f"benchmarks.suite.contenders.{module}"), attribute)
