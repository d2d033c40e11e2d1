"""The same functions over ranks: rows that are spread over the processes of a torch.distributed group."""

from ._clid import clid
from ._clusters import kmeans
from ._cost import Cost, Link, kmeans_cost, knn_cost, links, most_ranks, ntk_cost
from ._kernels import empirical_ntk, ntk_top, streamed_label_alignment
from ._neighbors import knn
from ._ranks import RankError
from ._sums import kernel_sum, merge, ndft

__all__ = [
    "Cost",
    "Link",
    "RankError",
    "clid",
    "empirical_ntk",
    "kernel_sum",
    "kmeans",
    "kmeans_cost",
    "knn",
    "knn_cost",
    "links",
    "merge",
    "most_ranks",
    "ndft",
    "ntk_cost",
    "ntk_top",
    "streamed_label_alignment",
]
