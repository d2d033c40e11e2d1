"""A ring of ranks, event by event: what the closed formula of the cost model is held against."""


def simulate_ring(shards, pair_flops, row_bytes, back, rate, link, pieces):
    """Seconds that each rank takes; ``shards`` are its rows, ``back(mine, theirs)`` the bytes of what goes home.

    Every rank has a clock, and a link in each direction that carries one message at a time.
    """
    ranks = len(shards)
    clock = [0.0] * ranks
    sending = [0.0] * ranks  # until when its link is busy

    def send(source, size):
        sending[source] = max(clock[source], sending[source]) + link.latency + size / link.rate
        return sending[source]

    def hop(step):
        """Every rank sends the one before a piece of the shard that it meets next; return when each has it."""
        arrived = [0.0] * ranks
        for rank in range(ranks):
            to = (rank - 1) % ranks
            arrived[to] = send(rank, shards[(to + step) % ranks] / pieces * row_bytes)
        return arrived

    steps = [step for _ in range(pieces) for step in range(1, ranks // 2 + 1)]
    coming = hop(1) if steps else clock
    for rank in range(ranks):
        clock[rank] += shards[rank] ** 2 / 2 * pair_flops / rate
    for at, step in enumerate(steps):
        clock = [max(c, a) for c, a in zip(clock, coming, strict=True)]
        coming = hop(steps[at + 1]) if at + 1 < len(steps) else clock
        results = []
        for rank in range(ranks):
            owner = (rank + step) % ranks
            mine = shards[rank] / 2 if 2 * step == ranks else shards[rank]
            theirs = shards[owner] / pieces
            clock[rank] += mine * theirs * pair_flops / rate
            results.append((rank, owner, back(mine, theirs)))
        arrived = list(clock)
        for source, to, size in results:
            there = send(source, size)
            arrived[source], arrived[to] = max(arrived[source], there), max(arrived[to], there)
        clock = arrived
    return clock
