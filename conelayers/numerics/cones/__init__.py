"""Cones: the projection onto each dual cone and a Clarke element of its Jacobian, batched, in spectral form."""

from conelayers.numerics.cones.arrays import Array
from conelayers.numerics.cones.cone import Cone, Element, IdentityBasisElement, ReducedElement
from conelayers.numerics.cones.exponential import Exponential, ExponentialDual
from conelayers.numerics.cones.orthant import Orthant
from conelayers.numerics.cones.power import Power, PowerDual
from conelayers.numerics.cones.product import ProductCone, ProductElement, product_cone
from conelayers.numerics.cones.psd import (
    HermitianPositiveSemidefinite,
    PositiveSemidefinite,
    hermitian_to_svec,
    matrix_to_svec,
    svec_to_hermitian,
    svec_to_matrix,
)
from conelayers.numerics.cones.real_form import embedding, real_form
from conelayers.numerics.cones.selection import Selection, as_selection
from conelayers.numerics.cones.soc import SecondOrder

__all__ = [
    "Array",
    "Cone",
    "Element",
    "Exponential",
    "ExponentialDual",
    "HermitianPositiveSemidefinite",
    "IdentityBasisElement",
    "Orthant",
    "PositiveSemidefinite",
    "Power",
    "PowerDual",
    "ProductCone",
    "ProductElement",
    "ReducedElement",
    "SecondOrder",
    "Selection",
    "as_selection",
    "embedding",
    "hermitian_to_svec",
    "matrix_to_svec",
    "product_cone",
    "real_form",
    "svec_to_hermitian",
    "svec_to_matrix",
]
