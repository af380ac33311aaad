from typing import Any
import numpy as np
class Node: parameters: tuple = ()
class Arithmetic: pass
class NUMPY:
    real=staticmethod(np.real); imag=staticmethod(np.imag)
def evaluate(*a): raise NotImplementedError
pullback=pushforward=evaluate
