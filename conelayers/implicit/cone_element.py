"""A product cone's projection and its derivatives, with a selection at kinks, over NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from conelayers.numerics.cones import ProductElement, Selection, as_selection, product_cone
from conelayers.program.cone_dictionaries import as_cones
from conelayers.program.cones import Cones

__all__ = ["ConeElement"]


@final
@dataclass(frozen=True)
class ConeElement:
    """Π_{K*} with the element that ``selection`` asks for.

    It is what the adapters' rules for D(v)h and D²Π(v)[a, c] ask for (layer/projection_derivatives.py).
    """

    cones: Cones
    selection: Selection

    @classmethod
    def of(cls, cones: Cones | Mapping[str, Any], selection: Selection | str, dual: bool) -> ConeElement:
        """The element for Π_{K*} if ``dual``, else for Π_K.

        By Moreau Π_K(v) = v + Π_{K*}(−v) and D_K = I − D_{K*}: "low" for the one is "high" for the other.
        """
        chosen = as_selection(selection)
        return cls(as_cones(cones), chosen if dual else chosen.opposite)

    @property
    def curved(self) -> bool:
        """Whether a cone curves, so that D²Π is not zero."""
        return self.cones.curved

    def project(self, v: np.ndarray) -> np.ndarray:
        """Π_{K*}(v) for v (..., m)."""
        return self._where_finite(lambda h: product_cone(self.cones).project_dual(h)[0], v)

    def element(self, v: np.ndarray) -> ProductElement:
        """D ∈ ∂Π_{K*}(v)."""
        return product_cone(self.cones).element(v, self.selection)

    def derivative(self, v: np.ndarray, h: np.ndarray) -> np.ndarray:
        """D(v)h for v, h (..., m)."""
        return self._where_finite(lambda v, h: self.element(v).apply(h), v, h)

    def second_derivative(self, v: np.ndarray, a: np.ndarray, c: np.ndarray) -> np.ndarray:
        """D²Π_{K*}(v)[a, c] for v, a, c (..., m)."""
        return self._where_finite(product_cone(self.cones).second_derivative, v, a, c)

    def _where_finite(self, function: Any, v: np.ndarray, *others: np.ndarray) -> np.ndarray:
        """The function's values, computed in double precision, in v's dtype; NaN at points that are not finite."""
        flat = [h.reshape(-1, h.shape[-1]).astype(np.float64) for h in (v, *others)]
        finite = np.isfinite(flat[0]).all(axis=1)
        out = np.full_like(flat[0], np.nan)
        if finite.any():
            out[finite] = function(*(h[finite] for h in flat))
        return out.reshape(v.shape).astype(v.dtype)
