"""Tangent kernels: the Gram matrices of the parameter gradients of a network, and what is read off them."""

from gramian._lanczos import Eigenpairs

from ._alignment import (
    alignment,
    center,
    effective_rank,
    label_alignment,
    label_energy,
    label_kernel,
    spectrum,
    trace_ratio,
)
from ._empirical import empirical_ntk
from ._linear_gram import LayerCost, layer_cost, linear_gram
from ._matrix_free import ntk_diagonal, ntk_top, ntk_trace, ntk_vp
from ._recorder import AlignmentRecord, AlignmentRecorder
from ._streamed import streamed_label_alignment

__all__ = [
    "AlignmentRecord",
    "AlignmentRecorder",
    "Eigenpairs",
    "LayerCost",
    "alignment",
    "center",
    "effective_rank",
    "empirical_ntk",
    "label_alignment",
    "label_energy",
    "label_kernel",
    "layer_cost",
    "linear_gram",
    "ntk_diagonal",
    "ntk_top",
    "ntk_trace",
    "ntk_vp",
    "spectrum",
    "streamed_label_alignment",
    "trace_ratio",
]
