"""Random cone programs with a known solution, for tests beneath the layer."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from conelayers.numerics.cones import product_cone
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.cones import Cones
from conelayers.program.patterns import Pattern


def random_program(
    cones: Cones, n: int, batch: int, seed: int, *, quadratic: bool = True
) -> tuple[ConeProgram, np.ndarray, np.ndarray]:
    """A dense-pattern program and a solution (x, v): (y, s) are the parts of a random v, q and b follow from them."""
    rng = np.random.default_rng(seed)
    m = cones.dimension
    A = rng.standard_normal((batch, m, n))
    G = rng.standard_normal((batch, n, n)) / np.sqrt(n)
    P = G @ np.swapaxes(G, 1, 2) if quadratic else np.zeros((batch, n, n))
    x, v = rng.standard_normal((batch, n)), rng.standard_normal((batch, m))
    y = product_cone(cones).project_dual(v)[0]
    s = y - v
    q = -np.einsum("bij,bj->bi", P, x) - np.einsum("bij,bi->bj", A, y)
    b = np.einsum("bij,bj->bi", A, x) + s
    patterns = [Pattern.of(sp.csc_array(np.ones(shape))) for shape in ((n, n), (m, n))]
    structure = Structure(patterns[0], patterns[1], cones)
    columns = [np.swapaxes(h, 1, 2).reshape(batch, -1) for h in (P, A)]
    return ConeProgram(structure, columns[0], q, columns[1], b), x, v
