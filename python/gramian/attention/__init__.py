"""How smooth attention is: products with its Jacobian, and the spectral norm of it for real layers at real lengths."""

from ._layers import LayerConstant, closed_form_bound, lipschitz
from ._ops import Gradients, jtj, jvp, vjp
from ._particles import particle_flow, transport_bound
from ._sigma import SingularValues, op_sigma, sigma

__all__ = [
    "Gradients",
    "LayerConstant",
    "SingularValues",
    "closed_form_bound",
    "jtj",
    "jvp",
    "lipschitz",
    "op_sigma",
    "particle_flow",
    "sigma",
    "transport_bound",
    "vjp",
]
