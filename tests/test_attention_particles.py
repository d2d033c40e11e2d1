"""Attention as a map of measures: weights are multiplicities, permutations, the transport bound against measured distances."""

import pytest
import torch

from gramian import attention
from tests.checks import refuses


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_particle_flow_reads_weights_as_multiplicities_and_is_equivariant():
    x, a, v = draw(4, 3), draw(3, 3, seed=1), draw(3, 3, seed=2)
    counts = torch.tensor([1, 2, 1, 3])
    options = {"steps": 3, "step_size": 0.2}
    weighted = attention.particle_flow(x, a, v, weights=counts.double(), **options)
    repeated = attention.particle_flow(x.repeat_interleave(counts, 0), a, v, **options)
    torch.testing.assert_close(weighted.repeat_interleave(counts, 1), repeated)
    plain = attention.particle_flow(x, a, v, **options)
    torch.testing.assert_close(attention.particle_flow(x.flip(0), a, v, **options), plain.flip(1))
    step = torch.nn.functional.scaled_dot_product_attention(x @ a, x, x @ v.mT, scale=1.0)
    torch.testing.assert_close(plain[1], x + 0.2 * step)


def test_transport_bound_holds_for_measures_of_equal_size():
    optimize = pytest.importorskip("scipy.optimize")

    def distance(p, q):
        cost = torch.cdist(p, q).numpy()
        return cost[optimize.linear_sum_assignment(cost)].mean()  # W1 of as many points: an assignment

    for seed in range(30):
        a, v = 0.3 * draw(3, 3, seed=seed), draw(3, 3, seed=seed + 100)
        x, y = draw(8, 3, seed=seed + 200), draw(8, 3, seed=seed + 300)
        y = x + 0.1 * y if seed % 2 else y
        radius = max(x.norm(dim=1).max().item(), y.norm(dim=1).max().item())
        moved = [attention.particle_flow(z, a, v)[1] - z for z in (x, y)]
        assert distance(*moved) <= attention.transport_bound(a, v, radius) * distance(x, y)
    assert attention.transport_bound(1e3 * a, v, 1.0) == float("inf")


def test_particles_refuses_what_they_cannot_do():
    x, a = draw(4, 3), draw(3, 3)
    with refuses("attention.particle_flow: a must have shape (3, 3), got (2, 3)"):
        attention.particle_flow(x, a[:2], a)
    with refuses("attention.particle_flow: weights must be 4 positive numbers, got [1.0, 0.0, 1.0, 1.0]"):
        attention.particle_flow(x, a, a, weights=torch.tensor([1.0, 0.0, 1.0, 1.0]))
    with refuses("attention.transport_bound: radius must be finite and 0 or more, got -1.0"):
        attention.transport_bound(a, a, -1.0)
