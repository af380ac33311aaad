"""Functions that torch.compile leaves out of its graphs, as ``torch.compiler.disable`` does.

``torch.compiler.disable`` loads the compiler, for a second and 70 MB; here that waits until something is compiled.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

__all__ = ["outside_graphs"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_COMPILER = "torch._dynamo"


def outside_graphs(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """The function, at which a compiled graph breaks, and into which the compiler does not look."""
    disabled: list[Callable[_Arguments, _Result]] = []

    @functools.wraps(function)
    def called(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if _COMPILER not in sys.modules:  # nothing is compiled in this process so far
            return function(*args, **kwargs)
        if not disabled:
            disabled.append(torch.compiler.disable(function))
        return disabled[0](*args, **kwargs)

    marked: Any = called
    marked._torchdynamo_disable = True  # what the compiler looks for, in functions and in forward() of autograd's
    marked._torchdynamo_disable_msg = "the solver works outside of torch's graphs"
    return called
