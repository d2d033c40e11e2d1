"""Ranks give what one process gives: real processes over gloo, few launches with many checks each."""

import datetime as dt
import json
import os
import re
import runpy
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from gramian import _safetensors, distributed, ensemble, neighbors, ntk, spectra
from gramian.distributed import _neighbors
from gramian.distributed._clusters import _uniforms
from gramian.distributed._ranks import Ranks, check_backend
from tests import distributed_ranks
from tests.checks import refuses


def shares(n, size):
    """How many rows each rank has: uneven, and of more than two ranks none on the second."""
    each = [2 + 3 * rank for rank in range(size)]
    if size > 2:
        each[1] = 0
    rows = [n * share // sum(each) for share in each]
    rows[-1] += n - sum(rows)
    return rows


def mine(t, rank, size):
    return t.split(shares(len(t), size))[rank]


def same(found, whole, rank, size):
    for own, everyones in zip(found, whole, strict=True):
        assert torch.equal(own, mine(everyones, rank, size))


def points(n=157, d=5, seed=0):
    """Points on a grid: many equal distances, and equal rows on several ranks."""
    return torch.randint(0, 4, (n, d), generator=torch.Generator().manual_seed(seed)).float()


# ---- Neighbours ----


def check_knn(rank, size):
    x, y = points(), points(83, seed=1)
    for metric in ("euclidean", "ip", "cosine"):
        options = {"metric": metric}
        same(distributed.knn(mine(x, rank, size), 7, **options), neighbors.knn(x, 7, **options), rank, size)
        found = distributed.knn(mine(x, rank, size), 60, exclude_self=True, **options)  # more than most shards have
        same(found, neighbors.knn(x, 60, exclude_self=True, **options), rank, size)
        found = distributed.knn(mine(x, rank, size), 6, causal=True, **options)
        same(found, neighbors.knn(x, 6, causal=True, **options), rank, size)
        found = distributed.knn(mine(x, rank, size), 5, mine(y, rank, size), **options)
        same(found, neighbors.knn(x, 5, y, **options), rank, size)
    wide = torch.randn(157, 40, generator=torch.Generator().manual_seed(2)).bfloat16()
    same(distributed.knn(mine(wide, rank, size), 3), neighbors.knn(wide, 3), rank, size)
    _neighbors._PIECE, usual = 4, _neighbors._PIECE  # shards in many pieces, of which some ranks' are empty
    for causal in (False, True):
        found = distributed.knn(mine(x, rank, size), 6, causal=causal)
        same(found, neighbors.knn(x, 6, causal=causal), rank, size)
    _neighbors._PIECE = usual
    one_each = torch.arange(float(size))[:, None]
    found = distributed.knn(one_each[rank : rank + 1], size - 1, exclude_self=True)
    assert torch.equal(found.indices, neighbors.knn(one_each, size - 1, exclude_self=True).indices[rank : rank + 1])


def check_dtensor(rank, size):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    x = points(50)
    sharded = distribute_tensor(x, init_device_mesh("cpu", (size,)), [Shard(0)])
    found = distributed.knn(sharded, 4)
    assert found.indices.shape == (50, 4)
    assert torch.equal(found.indices.full_tensor(), neighbors.knn(x, 4).indices)
    clusters = distributed.kmeans(sharded, 3, init=x[:3])
    assert torch.equal(clusters.labels.full_tensor(), neighbors.kmeans(x, 3, init=x[:3]).labels)


# ---- K-means ----


def cloud():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(900, 6, generator=generator) + 4 * torch.randint(0, 3, (900, 1), generator=generator)


def check_kmeans(rank, size):
    x, weights = cloud(), torch.rand(900, generator=torch.Generator().manual_seed(8))
    own = mine(x, rank, size)
    far = torch.cat([x[:9], torch.full((3, 6), 1e3)])  # three that start empty: relocated
    for options in (
        {},
        {"tol": 1e-3},
        {"max_iter": 2},
        {"weights": weights},
        {"spherical": True},
        {"empty": "keep"},
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = neighbors.kmeans(x, 12, init=far, **options)
            shared = options | ({"weights": mine(weights, rank, size)} if "weights" in options else {})
            found = distributed.kmeans(own, 12, init=far, **shared)
        assert found.n_iter == whole.n_iter, options
        torch.testing.assert_close(found.centers, whole.centers, rtol=2e-7, atol=1e-6)  # one rounding of float32
        assert torch.equal(found.labels, mine(whole.labels, rank, size)), options
        assert found.inertia == pytest.approx(whole.inertia, rel=1e-6)
    parallel = distributed.kmeans(own, 20, generator=torch.Generator().manual_seed(rank))  # the first rank's seed rules
    return parallel.centers, parallel.inertia


def check_start(rank, size):
    """k-means|| finds far clusters, and starts where there are few different points."""
    x = torch.arange(40.0)[:, None].fmod(4) * 100 + torch.arange(40.0)[:, None].div(1000)
    found = distributed.kmeans(mine(x, rank, size), 4, generator=torch.Generator().manual_seed(0))
    assert found.inertia < 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        few = distributed.kmeans(mine(points(30, 1), rank, size), 9, generator=torch.Generator().manual_seed(0))
    assert few.inertia == 0


def check_resuming_kmeans(rank, size, folder):
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(4))
    arguments = {"init": x[:25], "save_every": 3}
    own = mine(x, rank, size)
    whole = distributed.kmeans(own, 25, folder=Path(folder) / "whole", **arguments)
    kept = distributed.kmeans(own, 25, folder=Path(folder) / "whole", **arguments)
    # Stopped after the second save: the file as it was then.
    saves = []

    def stop(*_):
        saves.append(1)
        if len(saves) == 2:
            raise KeyboardInterrupt

    from gramian.distributed import _clusters

    before = _clusters._Run.keep
    _clusters._Run.keep = lambda self, *state: (before(self, *state), stop())
    with pytest.raises(KeyboardInterrupt):
        distributed.kmeans(own, 25, folder=Path(folder) / "cut", **arguments)
    _clusters._Run.keep = before
    dist.barrier()
    resumed = distributed.kmeans(own, 25, folder=Path(folder) / "cut", **arguments)
    for other in (kept, resumed):
        assert torch.equal(other.centers, whole.centers)
        assert torch.equal(other.labels, whole.labels)
        assert (other.inertia, other.n_iter) == (whole.inertia, whole.n_iter)
    assert whole.n_iter > 6
    with pytest.raises(
        ValueError, match=r"^kmeans: folder must hold a run of the same arguments, got another tol, data$"
    ):
        distributed.kmeans(own + 1, 25, folder=Path(folder) / "whole", tol=0.5, **arguments)


# ---- CLID ----


def check_clid(rank, size):
    from sklearn.datasets import load_digits

    x = torch.tensor(load_digits().data, dtype=torch.float32)[:600]
    x[100] = x[1]  # equal rows, on several ranks
    x[599] = x[1]
    rows = {"pixels": mine(x, rank, size), "half": mine(x[:, ::2], rank, size)}
    found = distributed.clid(rows, metric="euclidean", k=3, generator=torch.Generator().manual_seed(0))
    labels = distributed.kmeans(rows["pixels"], 24, generator=torch.Generator().manual_seed(0)).labels
    everyones = Ranks("test", None, x.device).gather_rows(labels, shares(len(x), size))
    whole = neighbors.cluster_learnability(x, labels=everyones, k=3, metric="euclidean")
    assert found.learnability[0] == whole.value
    assert found.dimension[0] == neighbors.twonn(x).value
    assert found.dimension[1] == neighbors.twonn(x[:, ::2]).value
    split = distributed.clid(rows, protocol="split", generator=torch.Generator().manual_seed(0))
    return found.learnability, found.dimension, found.score, split.learnability


# ---- Tangent kernels ----


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)).double()


def check_ntk(rank, size, folder):
    model, x = network(), torch.randn(23, 4, generator=torch.Generator().manual_seed(5)).double()
    labels = torch.arange(23) % 3
    own = mine(x, rank, size)
    for outputs in ("full", "trace", 1):
        rows = distributed.empirical_ntk(model, own, outputs=outputs)
        whole = ntk.empirical_ntk(model, x, outputs=outputs)
        torch.testing.assert_close(rows, mine(whole, rank, size), rtol=1e-12, atol=1e-12)  # other blocks, other order
    kernel = Ranks("test", None, x.device).gather_rows(
        distributed.empirical_ntk(model, own, outputs="trace"), shares(23, size)
    )
    assert torch.equal(kernel, kernel.T)
    found = distributed.streamed_label_alignment(model, own, mine(labels, rank, size), block_size=4)
    torch.testing.assert_close(found, ntk.streamed_label_alignment(model, x, labels), rtol=1e-10, atol=0)
    check_resuming_gram(model, own, Path(folder) / "gram", rank, size)
    if size != 3:  # forward derivatives are slow to import
        return kernel
    pairs = distributed.ntk_top(model, own, 4, generator=torch.Generator().manual_seed(rank))
    whole = ntk.ntk_top(model, x, 4)
    torch.testing.assert_close(pairs.values, whole.values, rtol=1e-8, atol=0)  # the square of the residuals' bound
    vectors = mine(whole.vectors, rank, size)
    for j in range(4):
        torch.testing.assert_close(pairs.vectors[..., j].abs(), vectors[..., j].abs(), rtol=0, atol=1e-4)
    return pairs.values


def check_resuming_gram(model, own, folder, rank, size):
    whole = distributed.empirical_ntk(model, own, folder=folder)
    dist.barrier()
    names = sorted(folder.iterdir())
    if rank == 0:
        names[0].unlink()  # as if it had been interrupted
    dist.barrier()
    before = [path.stat().st_mtime_ns for path in names[1:]]
    assert torch.equal(distributed.empirical_ntk(model, own, folder=folder), whole)
    dist.barrier()
    assert [path.stat().st_mtime_ns for path in names[1:]] == before, "what was there was computed again"
    with pytest.raises(ValueError, match=r"^empirical_ntk: folder must hold a run of the same arguments"):
        distributed.empirical_ntk(model, own, outputs="trace", folder=folder)


# ---- Sums ----


def check_sums(rank, size):
    generator = torch.Generator().manual_seed(6)
    x, y, v = (torch.randn(n, c, generator=generator).double() for n, c in ((61, 3), (47, 3), (47, 2)))
    found = distributed.kernel_sum(*(mine(t, rank, size) for t in (x, y, v)), bandwidth=0.7)
    whole = spectra.kernel_sum(x, y, v, bandwidth=0.7)
    torch.testing.assert_close(found, mine(whole, rank, size), rtol=1e-12, atol=1e-13)  # other order of sums
    many = torch.randn(size, 5000, generator=generator)  # added in parts; fewer numbers are not
    for count in (5, 5000):
        expected = sum(many[1:, :count].unbind(0), start=many[0, :count].clone())
        assert torch.equal(Ranks("test", None, x.device).sum(many[rank, :count].clone()), expected)
    frequencies = torch.randn(11, 3, generator=generator).double()
    for values in (v[:, 0], torch.complex(v, v.flip(0))):
        found = distributed.ndft(mine(y, rank, size), frequencies, mine(values, rank, size), norm="mean")
        torch.testing.assert_close(found, spectra.ndft(y, frequencies, values, norm="mean"), rtol=1e-12, atol=1e-13)


def check_merge(rank, size):
    generator = torch.Generator().manual_seed(7)
    target, predictions = torch.randn(9, 2, generator=generator), torch.randn(size + 1, 3, 9, 2, generator=generator)
    whole, parts = ensemble.BiasVariance(target), ensemble.BiasVariance(target)
    for key in range(size + 1):  # each rank has a set of its own, which the even ones close; all share the last
        for seed in range(3):
            whole.update(predictions[key, seed], key)
            if key == rank or (key == size and seed % size == rank):
                parts.update(predictions[key, seed], key)
    if rank % 2 == 0:
        parts.close(rank)
    distributed.merge(parts)
    assert parts.seeds == whole.seeds
    for got, wanted in zip(parts.result()[:5], whole.result()[:5], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


# ---- Refusals: on every rank, before work ----


def refused(call, message):
    with pytest.raises(ValueError, match=r"^" + re.escape(message) + "$"):
        call()


def check_refusals(rank, size):
    x = points(20)
    odd, rest = rank == 1, "the other" if size == 2 else "most"
    refused(
        lambda: distributed.knn(x[:, : 4 if odd else 5], 2),
        f"knn: d must be the same on every rank, got 4 on rank 1 and 5 on {rest}",
    )
    refused(
        lambda: distributed.knn(x.double() if odd else x, 2),
        f"knn: dtype must be the same on every rank, got torch.float64 on rank 1 and torch.float32 on {rest}",
    )
    refused(
        lambda: distributed.knn(x, 3 if odd else 2),
        f"knn: k must be the same on every rank, got 3 on rank 1 and 2 on {rest}",
    )
    refused(
        lambda: distributed.kmeans(x, 2) if odd else distributed.knn(x, 2),
        f"{'kmeans' if odd else 'knn'}: function must be the same on every rank, got kmeans on rank 1 and knn on {rest}",
    )
    bad = x.clone()
    bad[3, 1] = torch.nan if odd else 0
    refused(lambda: distributed.knn(bad, 2), "knn: x must be finite, got a NaN or an infinity in row 3, on rank 1")
    refused(
        lambda: distributed.kmeans(bad, 2), "kmeans: x must be finite, got a NaN or an infinity in row 3, on rank 1"
    )
    total = 20 * size
    refused(
        lambda: distributed.knn(x, total, exclude_self=True),
        f"knn: k must be from 1 to {total - 1}, the rows to choose from, got {total}",
    )
    refused(lambda: distributed.kmeans(x[:0], 1), "kmeans: n_clusters must be from 1 to n = 0, got 1")
    model = network()
    if odd:
        nn.init.zeros_(model[0].weight)
    with pytest.raises(
        ValueError,
        match=rf"^empirical_ntk: parameters must be the same on every rank, got .* on rank 1 and .* on {rest}$",
    ):
        distributed.empirical_ntk(model, x[:, :4].double())
    parts = ensemble.BiasVariance(x)
    parts.update(x, 0)
    parts.close(0)
    refused(
        lambda: distributed.merge(parts),
        "merge: parts must not have a set that a rank has closed, got 0 on ranks 0 and 1",
    )
    with pytest.raises(
        ValueError, match=rf"^ndft: frequencies must be the same on every rank, got .* on rank 1 and .* on {rest}$"
    ):
        distributed.ndft(x, x[:2] + odd, x[:, 0])


# ---- Faults ----


def be_silent_and_die(rank, size):
    check_kmeans_death()
    be_silent_for_too_long(rank)
    return die_in_the_middle(rank, size)


def be_silent_for_too_long(rank):
    group = dist.new_group(timeout=dt.timedelta(seconds=1))
    if rank == 1:
        time.sleep(3)
        return
    with pytest.raises(
        distributed.RankError,
        match=r"^knn: rank .* lost all ranks while ranks compared what they were asked for; it died.*Timed out",
    ):
        distributed.knn(torch.randn(20, 3), 2, group=group)


def die_in_the_middle(rank, size):
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(rank))
    ring = Ranks.ring

    def dying(self, own, rows, steps, pieces=1):
        for number, one in enumerate(ring(self, own, rows, steps, pieces)):
            if rank == 1 and number == 1:
                os._exit(9)
            yield one

    Ranks.ring = dying
    start = time.monotonic()
    with pytest.raises(
        distributed.RankError, match=rf"^knn: rank {rank} of {size} lost .* while ranks (exchanged shards|finished)"
    ):
        distributed.knn(x, 2, x)
    Ranks.ring = ring
    assert time.monotonic() - start < 60
    return "broken"


def check_kmeans_death():
    """The exception of a sum within the op arrives as it is."""
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    total, calls = Ranks.sum, []

    def failing(self, values):
        calls.append(1)
        if len(calls) == 6:
            raise distributed.RankError("kmeans: a rank is lost")
        return total(self, values)

    Ranks.sum = failing
    with pytest.raises(distributed.RankError, match=r"^kmeans: a rank is lost$"):
        distributed.kmeans(x, 5, init=x[:5])
    Ranks.sum = total


# ---- The launches ----


def everything(rank, size, folder):
    check_knn(rank, size)
    check_dtensor(rank, size)
    check_start(rank, size)
    check_resuming_kmeans(rank, size, folder)
    check_sums(rank, size)
    check_merge(rank, size)
    check_refusals(rank, size)
    return [*check_kmeans(rank, size), *check_clid(rank, size), check_ntk(rank, size, folder)]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_give_what_one_process_gives(size, tmp_path):
    given = distributed_ranks.launch(size, everything, str(tmp_path))
    for other in given[1:]:
        for a, b in zip(given[0], other, strict=True):
            assert a == b if isinstance(a, float) else torch.equal(a, b)
    alone = distributed.kmeans(cloud(), 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(given[0][0], alone.centers, rtol=2e-7, atol=1e-6)  # one rounding of float32


@pytest.mark.slow
def test_the_others_learn_of_a_rank_that_is_silent_and_of_one_that_dies():
    assert distributed_ranks.launch(3, be_silent_and_die, dying=[1])[::2] == ["broken", "broken"]


# ---- One process: no group, and what needs none ----


def test_without_a_group_there_is_one_rank():
    x = points()
    assert torch.equal(distributed.knn(x, 3).indices, neighbors.knn(x, 3).indices)
    found, whole = distributed.kmeans(x, 5, init=x[:5]), neighbors.kmeans(x, 5, init=x[:5])
    assert torch.equal(found.centers, whole.centers)
    assert found.n_iter == whole.n_iter


def test_a_group_refuses_a_device_that_its_backend_cannot_reach():
    for device, config in (
        ("cpu", "cpu:gloo,cuda:gloo"),
        ("cuda", "cpu:gloo,cuda:nccl"),
        ("cpu", "cpu:gloo,cuda:nccl"),
    ):
        check_backend("knn", device, config)
    for device, config, wanted in (
        ("cuda", "cpu:gloo,cuda:gloo", "nccl"),
        ("cpu", "cuda:nccl", "gloo"),
        ("cpu", "cpu:nccl,cuda:nccl", "gloo"),
        ("xpu", "cpu:gloo", "one"),
    ):
        with refuses(
            f"knn: group must have a backend for tensors on {device}, such as {wanted}, got {config}; "
            'dist.init_process_group("cpu:gloo,cuda:nccl") has both'
        ):
            check_backend("knn", device, config)


def test_random_numbers_do_not_depend_on_who_draws_them():
    whole = _uniforms(7, 0, 200_000)
    assert torch.equal(
        torch.cat([_uniforms(7, 0, 70_000), _uniforms(7, 70_000, 70_000), _uniforms(7, 70_000, 200_000)]), whole
    )
    assert abs(whole.mean() - 0.5) < 0.005
    assert whole.unique().numel() > 199_990


def test_the_kmeans_op_refuses_a_group_that_nobody_named():
    x = points(9)
    with pytest.raises(RuntimeError):
        torch.ops.gramian.neighbors_kmeans(x, x[:2], None, 5, 0.0, False, True, "nobody", 0)


def test_a_safetensors_file_comes_back_and_has_the_published_form(tmp_path):
    path = tmp_path / "some.safetensors"
    tensors = {
        "a": torch.arange(6.0).view(2, 3),
        "b": torch.tensor([1, -2]),
        "c": torch.zeros(0, 3, dtype=torch.float64),
        "d": torch.ones(2, dtype=torch.bfloat16),
    }
    _safetensors.save(path, tensors, {"run": "x"})
    loaded, about = _safetensors.load(path)
    assert about == {"run": "x"}
    for name, t in tensors.items():
        assert torch.equal(loaded[name], t)
        assert loaded[name].dtype == t.dtype
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert header["a"] == {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    assert data[8 + length : 8 + length + 24] == tensors["a"].numpy().tobytes()
    assert (8 + length) % 8 == 0
    path.write_bytes(data[:-1])
    with refuses(f"some.safetensors must be a whole safetensors file, got one of {len(data) - 1} bytes"):
        _safetensors.load(path)


@pytest.mark.slow
def test_the_example_prints_the_same_table_for_one_rank_and_for_two(capsys):
    pytest.importorskip("sklearn")
    example = str(Path(__file__).parent.parent / "examples" / "distributed_clid.py")
    runpy.run_path(example, run_name="__main__")
    table, _, about = capsys.readouterr().out.partition("\nranks: ")
    assert about.startswith("1")
    assert {"pixels", "pca"} <= set(table.split())
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", example],
        capture_output=True,
        text=True,
        timeout=150,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        check=True,
    )
    assert launched.stdout.startswith(f"{table}\nranks: 2")
