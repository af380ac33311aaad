"""The compiled core: linear and quadratic programs from parameters to solutions and derivatives, a batch in one call.

Parameters go in where their framework keeps them, arrays come out; what the core does not settle is flagged.
"""

from conelayers.core.core import Core, Flags, Outcome, Selection, Solutions
from conelayers.core.extension import available, load
from conelayers.core.model import Affine, Model, Output, Parameter

__all__ = [
    "Affine",
    "Core",
    "Flags",
    "Model",
    "Outcome",
    "Output",
    "Parameter",
    "Selection",
    "Solutions",
    "available",
    "load",
]
