"""How smooth attention is: products with its Jacobian, and the spectral norm of it for real layers at real lengths."""

from ._bounds import closed_form_bound, l2_bound, schur_bound, softmax_norm
from ._contraction import (
    Contraction,
    FixedPoint,
    Substitution,
    contraction,
    fixed_point,
    invert_residual,
    substitution,
)
from ._layers import LayerConstant, layer_table, lipschitz
from ._linearize import Linearized, linearize
from ._ops import Gradients, jtj, jvp, vjp
from ._particles import particle_flow, transport_bound
from ._search import SingularValues
from ._sensitivities import sensitivities
from ._sigma import op_sigma, sigma

__all__ = [
    "Contraction",
    "FixedPoint",
    "Gradients",
    "LayerConstant",
    "Linearized",
    "SingularValues",
    "Substitution",
    "closed_form_bound",
    "contraction",
    "fixed_point",
    "invert_residual",
    "jtj",
    "jvp",
    "l2_bound",
    "layer_table",
    "linearize",
    "lipschitz",
    "op_sigma",
    "particle_flow",
    "schur_bound",
    "sensitivities",
    "sigma",
    "softmax_norm",
    "substitution",
    "transport_bound",
    "vjp",
]
