"""How smooth attention is: products with its Jacobian, and the spectral norm of it for real layers at real lengths."""

from ._ops import Gradients, jtj, jvp, vjp

__all__ = ["Gradients", "jtj", "jvp", "vjp"]
