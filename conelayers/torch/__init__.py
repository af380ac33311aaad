"""The layer for PyTorch."""

from conelayers.torch.cone_program import ConeProgramSolution, solve_cone_program
from conelayers.torch.layer import ConeLayer, CvxpyLayer

__all__ = ["ConeLayer", "ConeProgramSolution", "CvxpyLayer", "solve_cone_program"]
