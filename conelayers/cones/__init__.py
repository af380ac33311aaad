"""Cones: the projection onto each dual cone and a Clarke element of its Jacobian, batched, in spectral form."""

from conelayers.cones.arrays import Array
from conelayers.cones.cone import Cone, Element, IdentityBasisElement, ReducedElement
from conelayers.cones.enumeration import exponential_elements, power_elements
from conelayers.cones.exponential import Exponential, ExponentialDual
from conelayers.cones.orthant import Orthant
from conelayers.cones.power import Power, PowerDual
from conelayers.cones.product import Cones, ProductElement
from conelayers.cones.psd import (
    HermitianPositiveSemidefinite,
    PositiveSemidefinite,
    hermitian_to_svec,
    matrix_to_svec,
    svec_to_hermitian,
    svec_to_matrix,
)
from conelayers.cones.real_form import embedding, real_form
from conelayers.cones.scs import as_cones
from conelayers.cones.selection import Selection, as_selection
from conelayers.cones.soc import SecondOrder

__all__ = [
    "Array",
    "Cone",
    "Cones",
    "Element",
    "Exponential",
    "ExponentialDual",
    "HermitianPositiveSemidefinite",
    "IdentityBasisElement",
    "Orthant",
    "PositiveSemidefinite",
    "Power",
    "PowerDual",
    "ProductElement",
    "ReducedElement",
    "SecondOrder",
    "Selection",
    "as_cones",
    "as_selection",
    "embedding",
    "exponential_elements",
    "hermitian_to_svec",
    "matrix_to_svec",
    "power_elements",
    "real_form",
    "svec_to_hermitian",
    "svec_to_matrix",
]
