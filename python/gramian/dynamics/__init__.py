"""How networks learn: linearised and rescaled networks, the closed-form flow of a kernel, progress by groups, laziness."""

from ._flow import diagonal_flow, flow
from ._laziness import representation_alignment, sign_similarity
from ._lazy import Linearized, Scaled, linearize, scale_output
from ._progress import GroupProgress, at_progress, cscore
from ._supernat import SuperNat

__all__ = [
    "GroupProgress",
    "Linearized",
    "Scaled",
    "SuperNat",
    "at_progress",
    "cscore",
    "diagonal_flow",
    "flow",
    "linearize",
    "representation_alignment",
    "scale_output",
    "sign_similarity",
]
