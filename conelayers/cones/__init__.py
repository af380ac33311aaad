"""Cones: the projection onto each dual cone and a Clarke element of its Jacobian, batched, in spectral form."""

from conelayers.cones.arrays import Array
from conelayers.cones.cone import Cone, Element, IdentityBasisElement, ReducedElement
from conelayers.cones.enumeration import exponential_elements, power_elements
from conelayers.cones.exponential import Exponential, ExponentialDual
from conelayers.cones.orthant import Orthant
from conelayers.cones.power import Power, PowerDual
from conelayers.cones.product import Cones, ProductElement
from conelayers.cones.psd import PositiveSemidefinite, matrix_to_svec, svec_to_matrix
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
    "exponential_elements",
    "matrix_to_svec",
    "power_elements",
    "svec_to_matrix",
]
