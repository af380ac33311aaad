"""Cones from the dictionaries that SCS and diffcp use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from conelayers.program.cones import Cones
from conelayers.support.arguments import described

__all__ = ["as_cones"]

_DICT_KEYS = {
    "z": "zero",
    "f": "zero",
    "l": "nonneg",
    "q": "soc",
    "s": "psd",
    "cs": "hermitian",
    "ep": "exp",
    "ed": "exp_dual",
    "p": "power",
}


def as_cones(cones: Cones | Mapping[str, Any]) -> Cones:
    """A Cones from a Cones or from a dict with SCS's keys z (or f), l, q, s, cs, ep, ed, p.

    The rows of cs have Cones' order.

    Raises ValueError naming an unknown key, TypeError for anything that is neither.
    """
    if isinstance(cones, Cones):
        return cones
    if not isinstance(cones, Mapping):
        raise TypeError(f"cones: got {described(cones)}, expected conelayers.Cones or a dict with SCS's keys")
    settings: dict[str, Any] = {}
    for key, value in cones.items():
        if key not in _DICT_KEYS:
            raise ValueError(f"cones: got the key {key!r}, expected one of {', '.join(_DICT_KEYS)}")
        if value is None:
            continue
        field = _DICT_KEYS[key]
        if field in settings:
            raise ValueError(f"cones: got the keys 'z' and 'f', expected one of them: both give {field}; keep one")
        if field in ("soc", "psd", "hermitian", "power") and isinstance(value, (int, float, np.number)):
            value = (value,)
        several = (
            field in ("soc", "psd", "hermitian", "power") and isinstance(value, Iterable) and not isinstance(value, str)
        )
        settings[field] = tuple(value) if several else value
    return Cones(**settings)
