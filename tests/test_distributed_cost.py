"""The cost model against a simulation of every rank, and what must hold of it whatever the sizes."""

import pytest

from gramian.distributed import Link, kmeans_cost, knn_cost, links, most_ranks, ntk_cost
from gramian.distributed._neighbors import pieces_of
from tests.reference.distributed import simulate_ring

SLOW = Link(1e6, 1e-2)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7, 8, 64])
@pytest.mark.parametrize("link", [*links.values(), SLOW])
def test_knn_cost_is_that_of_a_simulated_ring(ranks, link):
    rows, d, k, rate, pieces = 20_000.0 * ranks, 128, 10, 1e11, pieces_of([20_000])
    cost = knn_cost(rows, d, k, ranks, link=link, rate=rate)
    clock = simulate_ring([rows / ranks] * ranks, 2 * d, 4 * d, lambda _, theirs: theirs * k * 12, rate, link, pieces)
    assert cost.seconds == pytest.approx(max(clock), rel=1e-9)  # the same sums in another order
    assert max(cost.compute, cost.communication if ranks > 1 else 0) <= cost.seconds * (1 + 1e-9) or link is SLOW
    assert cost.seconds <= (cost.compute + cost.communication) * (1 + 1e-9)


@pytest.mark.parametrize("ranks", [1, 2, 5, 16])
def test_ntk_cost_is_that_of_a_simulated_ring(ranks):
    rows, rate, link = 100.0 * ranks, 1e11, links["1 Gb/s"]
    cost = ntk_cost(rows, 3072, 10, ranks, pair_flops=1e7, link=link, rate=rate)
    clock = simulate_ring([rows / ranks] * ranks, 1e7, 3072, lambda mine, theirs: mine * theirs * 400, rate, link, 2)
    assert cost.seconds == pytest.approx(max(clock), rel=1e-9)  # the same sums in another order


def test_uneven_shards_take_as_long_as_the_largest_makes_them():
    link, back = links["10 Gb/s"], lambda _, theirs: theirs * 120
    even = max(simulate_ring([5000] * 4, 256, 512, back, 1e11, link, 2))
    uneven = max(simulate_ring([2000, 8000, 5000, 5000], 256, 512, back, 1e11, link, 2))
    assert 1.2 * even < uneven < 3 * even


def test_work_is_shared_and_memory_falls_as_the_number_of_ranks():
    for ranks in (2, 4, 32, 1024):
        one, many = (knn_cost(1e6, 128, 10, r, link=links["100 Gb/s"], rate=1e11) for r in (1, ranks))
        assert many.compute == pytest.approx(one.compute / ranks)  # each pair once, and evenly
        assert many.memory < 2.1 * one.memory / ranks
        assert many.sent == pytest.approx((1e6 / ranks) * (ranks // 2) * (512 + 120))


def test_a_slower_link_never_helps_and_one_rank_needs_none():
    fastest_first = sorted(links.values(), key=lambda link: -link.rate)
    for ranks in (2, 64, 1024):
        costs = [kmeans_cost(1e6, 128, 100, 50, ranks, link=link, rate=1e11).seconds for link in fastest_first]
        assert costs == sorted(costs)
    for cost in (knn_cost(1e5, 8, 5, 1, link=SLOW, rate=1e9), kmeans_cost(1e5, 8, 5, 9, 1, link=SLOW, rate=1e9)):
        assert cost.sent == cost.communication == 0
        assert cost.seconds == cost.compute


def test_most_ranks_is_where_communication_takes_over():
    def cost(ranks):
        return kmeans_cost(1e6, 128, 100, 50, ranks, link=links["1 Gb/s"], rate=1e11)

    ranks = most_ranks(cost)
    assert cost(ranks).communication <= cost(ranks).compute
    assert cost(2 * ranks).communication > cost(2 * ranks).compute
    assert most_ranks(cost, limit=4) == 4
