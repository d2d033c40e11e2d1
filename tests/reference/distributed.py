"""A ring of ranks, event by event: what the closed formula of the cost model is held against."""


def simulate_ring(shards, pair_flops, row_bytes, back, rate, link):
    """Seconds that each rank takes; ``shards`` are its rows, ``back(mine, theirs)`` the bytes of what goes home.

    Every rank has a clock, and a link in each direction that carries one message at a time.
    """
    ranks = len(shards)
    clock = [0.0] * ranks
    arrived = [0.0] * ranks  # when the shard that a rank meets next is there
    sending = [0.0] * ranks  # until when its link is busy

    def send(source, ready, size):
        begin = max(ready, sending[source])
        sending[source] = begin + link.latency + size / link.rate
        return sending[source]

    held = list(range(ranks))
    for step in range(ranks // 2 + 1):
        start = list(clock)
        if step < ranks // 2:  # what is held goes on while it is used
            coming = [0.0] * ranks
            for rank in range(ranks):
                coming[(rank - 1) % ranks] = send(rank, start[rank], shards[held[rank]] * row_bytes)
        results = []
        for rank in range(ranks):
            mine, theirs = shards[rank], shards[held[rank]]
            if step == 0:
                clock[rank] += mine * mine / 2 * pair_flops / rate
                continue
            if 2 * step == ranks:
                mine, theirs = (mine / 2, theirs) if rank < held[rank] else (mine, theirs / 2)
            clock[rank] += mine * theirs * pair_flops / rate
            results.append((rank, held[rank], back(mine, theirs)))
        for source, to, size in results:
            there = send(source, clock[source], size)
            arrived[source], arrived[to] = max(arrived[source], there), max(arrived[to], there)
        for rank in range(ranks):
            clock[rank] = max(clock[rank], arrived[rank])
        if step < ranks // 2:
            held = [held[(rank + 1) % ranks] for rank in range(ranks)]
            clock = [max(c, a) for c, a in zip(clock, coming, strict=True)]
    return clock
