"""What a call takes on many ranks: time, bytes on the wire and memory, as pure functions of sizes and rates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ._neighbors import pieces_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Cost", "Link", "kmeans_cost", "knn_cost", "links", "most_ranks", "ntk_cost"]


class Link(NamedTuple):
    """What connects two ranks: bytes a second in each direction, and seconds before the first byte arrives."""

    rate: float
    latency: float


# Nominal rates; the latencies are those of a message over TCP, over RDMA, and between two GPUs of a machine.
links = {
    "1 Gb/s": Link(0.125e9, 50e-6),
    "10 Gb/s": Link(1.25e9, 30e-6),
    "100 Gb/s": Link(12.5e9, 5e-6),
    "NVLink": Link(450e9, 2e-6),
}


class Cost(NamedTuple):
    """What the slowest rank takes.

    Attributes:
        seconds: from begin to end, with what is sent while it computes.
        compute: seconds of arithmetic.
        communication: seconds of the link, if nothing were done meanwhile.
        sent: bytes that it sends.
        memory: bytes of its rows, what it receives, and its results.
    """

    seconds: float
    compute: float
    communication: float
    sent: float
    memory: float


def _ring(
    rows: float,
    ranks: int,
    pair_flops: float,
    row_bytes: float,
    back: Callable[[float, float], float],
    rate: float,
    link: Link,
    pieces: int,
) -> tuple[float, float, float, float]:
    """Seconds, compute, communication and bytes of a symmetric ring of equal shards.

    Each shard meets itself, at half price, then half of the others, a piece of each and then the next. While it computes, the next piece is on
    its way; ``back`` says how many bytes of results go home after a meeting of so many own rows with so many of another.
    """
    own, meetings = rows / ranks, ranks // 2
    piece = own / pieces
    compute = own * own / 2 * pair_flops / rate
    hop = link.latency + piece * row_bytes / link.rate
    seconds, communication, sent = max(compute, hop) if meetings else compute, 0.0, 0.0
    for step in range(1, meetings + 1):
        mine = own / 2 if 2 * step == ranks else own  # opposite ranks share their meeting
        work = mine * piece * pair_flops / rate
        home = link.latency + back(mine, piece) / link.rate
        last = step == meetings
        seconds += pieces * (max(work, hop) + home) - (max(work, hop) - work if last else 0)
        compute += pieces * work
        communication += pieces * (hop + home)
        sent += own * row_bytes + pieces * back(mine, piece)
    return seconds, compute, communication, sent


def _shards_held(ranks: int, pieces: int) -> float:
    """Shards in memory: the own one, and two pieces of others'."""
    return 1 + (2 / pieces if ranks > 1 else 0)


def knn_cost(
    rows: float,
    d: int,
    k: int,
    ranks: int,
    *,
    link: Link,
    rate: float,
    number_bytes: int = 4,
) -> Cost:
    """Cost of `knn` of rows among themselves on so many ranks with equal shards.

    Args:
        rows: of all ranks.
        d: features.
        k: neighbours.
        ranks: how many.
        link: between any two.
        rate: flops a second that a rank does; of one rank ``rows² d / seconds``, measured, is the best to take.
        number_bytes: of a feature.

    Returns:
        `Cost`, in seconds and bytes.

    Raises:
        Nothing: any sizes have a cost.

    Cost:
        Half as many steps as ranks.

    Accuracy:
        A model: equal ranks, a link that nobody shares, no time for merging lists, for which it waits after each piece. docs/how-it-works/distributed.md compares it with what was
        measured.

    A pure function of its arguments.

    References:
        Section "cost model" of docs/how-it-works/distributed.md.

    Example:
        >>> one, two = (knn_cost(50_000, 128, 10, ranks, link=links["10 Gb/s"], rate=1e11) for ranks in (1, 2))
        >>> round(one.seconds / two.seconds, 2), two.sent / 1e6
        (2.0, 15.8)
    """
    pair, list_bytes = 2.0 * d, k * (number_bytes + 8.0)
    own = rows / ranks
    pieces = pieces_of([math.ceil(own)])
    seconds, compute, communication, sent = _ring(
        rows, ranks, pair, d * number_bytes, lambda _, theirs: theirs * list_bytes, rate, link, pieces
    )
    # A search keeps candidates of each row, which become lists; in a meeting those of half of the rows or all, and of a piece.
    searched = own * (1 if ranks == 1 else (0.5 if ranks == 2 else 1) + 1 / pieces)
    candidates = -(-(k + max(k, 16)) // 16) * 16 * (number_bytes + 4.0)
    results = own * list_bytes if ranks == 1 else (own + searched + 2 * own / pieces) * list_bytes
    memory = own * _shards_held(ranks, pieces) * d * number_bytes + searched * candidates + results
    return Cost(seconds, compute, communication, sent, memory)


def ntk_cost(
    rows: float,
    sample_bytes: float,
    outputs: int,
    ranks: int,
    *,
    pair_flops: float,
    link: Link,
    rate: float,
    number_bytes: int = 4,
) -> Cost:
    """Cost of `empirical_ntk` of samples on so many ranks with equal shards.

    Args:
        rows: samples of all ranks.
        sample_bytes: of one input.
        outputs: of the kernel, C: 1 for ``"trace"``, ``"sum"`` and one output.
        ranks: how many.
        link: between any two.
        rate: flops a second that a rank does.
        pair_flops: of one pair of samples; `gramian.ntk.layer_cost` of each layer over ``rows²``, added up.
        number_bytes: of an entry of the kernel.

    Returns:
        `Cost`, in seconds and bytes.

    Raises:
        Nothing: any sizes have a cost.

    Cost:
        Half as many steps as ranks.

    Accuracy:
        A model, as `knn_cost`; factors of samples are made again for each block, which is not counted.

    A pure function of its arguments.

    References:
        Section "cost model" of docs/how-it-works/distributed.md.

    Example:
        >>> cost = ntk_cost(50_000, 3072, 1, 64, pair_flops=1e6, link=links["10 Gb/s"], rate=1e12)
        >>> cost.communication < cost.compute
        True
    """
    entry = float(outputs * outputs * number_bytes)
    own = rows / ranks
    seconds, compute, communication, sent = _ring(
        rows, ranks, pair_flops, sample_bytes, lambda mine, theirs: mine * theirs * entry, rate, link, 2
    )
    blocks = 2 if ranks > 1 else 1
    memory = own * (_shards_held(ranks, 2) * sample_bytes + rows * entry + blocks * own * entry)
    return Cost(seconds, compute, communication, sent, memory)


def kmeans_cost(
    rows: float,
    d: int,
    n_clusters: int,
    rounds: int,
    ranks: int,
    *,
    link: Link,
    rate: float,
    number_bytes: int = 4,
) -> Cost:
    """Cost of rounds of `kmeans` on so many ranks with equal shards.

    Args:
        rows: points of all ranks.
        d: features.
        n_clusters: centres.
        rounds: of assignment.
        ranks: how many.
        link: between any two.
        rate: flops a second that a rank does, where a round counts ``2 n k d``; bounds make it higher than the processor's.
        number_bytes: of a feature.

    Returns:
        `Cost`, in seconds and bytes.

    Raises:
        Nothing: any sizes have a cost.

    Cost:
        Constant.

    Accuracy:
        A model, as `knn_cost`; without the start.

    A pure function of its arguments.

    References:
        Section "cost model" of docs/how-it-works/distributed.md.

    Example:
        >>> cost = kmeans_cost(1e6, 512, 1000, 50, 64, link=links["10 Gb/s"], rate=1e11)
        >>> round(cost.communication / cost.compute, 2)
        0.06
    """
    own = rows / ranks
    compute = rounds * 2.0 * own * n_clusters * d / rate
    numbers = n_clusters * (d + 2) * 8.0  # sums, weights and counts, in float64
    others = ranks - 1
    # A sum a round: parts to everyone, sums to everyone.
    communication = rounds * 2 * (others * link.latency + numbers * others / ranks / link.rate)
    sent = rounds * 2 * numbers * others / ranks
    memory = own * (2 * d * number_bytes + 16) + n_clusters * d * (3 * number_bytes + 32.0)
    return Cost(compute + communication, compute, communication, sent, memory)


def most_ranks(cost: Callable[[int], Cost], limit: int = 1024) -> int:
    """Return the largest power of two of ranks at which communication takes no longer than the arithmetic.

    Args:
        cost: from ranks to their `Cost`, such as ``lambda ranks: knn_cost(1e6, 512, 10, ranks, link=link, rate=rate)``.
        limit: ranks to go up to.

    Returns:
        The number of ranks; 1 if two are too many already.

    Raises:
        Nothing.

    Cost:
        One call for each power of two.

    Accuracy:
        That of the model.

    A pure function of its arguments.

    References:
        Section "cost model" of docs/how-it-works/distributed.md.

    Example:
        >>> [most_ranks(lambda r: knn_cost(1e5, 128, 10, r, link=link, rate=1e12)) for link in links.values()]
        [4, 32, 128, 512]
    """
    ranks = 1
    while 2 * ranks <= limit and cost(2 * ranks).communication <= cost(2 * ranks).compute:
        ranks *= 2
    return ranks
