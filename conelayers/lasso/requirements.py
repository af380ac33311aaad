"""The one home of packages that may not be installed: scikit-learn is needed; tqdm, celer and skglm are optional."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError("conelayers.lasso needs scikit-learn 1.7 or newer: pip install 'scikit-learn>=1.7'") from error

__all__ = ["optional", "progress_bar"]


def optional(name: str, argument: str) -> ModuleType:
    """The module of that name. Raises ImportError naming the argument that needs it, and the fix."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{argument} needs {name}, which is not installed: pip install {name} ({error})") from error


def progress_bar(wanted: bool, total: int, description: str) -> Any:
    """A tqdm bar of ``total`` steps, or None if it is not wanted. Raises ImportError without tqdm."""
    if not wanted:
        return None
    return optional("tqdm", "progress=True").tqdm(total=total, desc=description)
