"""Cluster learnability and CLID: known values on real data, identities, scipy's correlations, models as they come."""

import pytest
import torch
from torch import nn

import gramian
from gramian import neighbors
from gramian.neighbors import (
    Neighbors,
    clid,
    clid_weights,
    cluster_learnability,
    correlations,
    predict,
    representations,
)


def digits():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.tensor(bunch.data), torch.tensor(bunch.target)


def cloud(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- predict ----


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_predict_is_the_vote(k):
    generator = torch.Generator().manual_seed(k)
    labels = torch.randint(4, (50,), generator=generator)
    indices = torch.randint(-1, 50, (80, k), generator=generator)
    weights = torch.rand(80, k, generator=generator, dtype=torch.float64)
    for given in (None, weights):
        got = predict(labels, Neighbors(weights, indices), weights=given)
        for row in range(80):
            votes = [0.0] * 4
            for j, index in enumerate(indices[row].tolist()):
                if index >= 0:
                    votes[labels[index]] += 1.0 if given is None else given[row, j].item()
            expected = votes.index(max(votes)) if (indices[row] >= 0).any() else -1
            assert got[row] == expected


def test_predict_counts_in_parts_of_many_classes():
    labels = torch.arange(3_000_000)
    indices = torch.tensor([[5, 7, 7], [2_999_999, 1, -1]]).repeat(4, 1)
    assert predict(labels, Neighbors(indices.float(), indices)).tolist() == [7, 1] * 4


def test_predict_equals_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    x, y = digits()
    theirs = KNeighborsClassifier(5, algorithm="brute").fit(x[:900].numpy(), y[:900].numpy()).predict(x[900:].numpy())
    ours = predict(y[:900], neighbors.knn(x[900:], 5, x[:900]))
    assert (ours.numpy() == theirs).mean() > 0.995  # equal distances they order differently


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n: predict(torch.zeros(3), n), r"predict: labels must be \[m\] int64, got shape \(3,\) torch.float32"),
        (lambda n: predict(torch.tensor([-2]), n), "predict: labels must not be negative, got -2"),
        (
            lambda n: predict(torch.tensor([1]), n, weights=torch.ones(3)),
            r"predict: weights must be \[n, k\] = \(2, 1\) like nearest, got \(3,\)",
        ),
        (
            lambda n: predict(torch.tensor([1]), Neighbors(n.distances[0], n.indices[0])),
            r"predict: nearest must have indices \[n, k\], got shape \(1,\)",
        ),
    ],
)
def test_predict_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call(Neighbors(torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.int64)))


# ---- cluster_learnability ----


def test_learnability_of_the_digits_is_known():
    x, y = digits()
    raw = cluster_learnability(x, labels=y, metric="euclidean")
    assert int(raw.hits.sum()) == 1746
    rows = nn.functional.normalize(x)
    labels = neighbors.kmeans(rows, 42, init=rows[:42]).labels
    found = cluster_learnability(x, labels=labels)
    assert int(found.hits.sum()) == 1399
    assert found.value == 1399 / 1797
    split = cluster_learnability(x, labels=labels, protocol="split", train=torch.arange(0, 1797, 2))
    assert (int(split.hits.sum()), len(split.hits)) == (743, 898)


def test_learnability_of_separate_blobs_misses_the_first_of_each():
    labels = torch.arange(90) % 6
    x = 100 * cloud(6, 8)[labels] + cloud(90, 8, seed=1)
    assert cluster_learnability(x, labels=labels).value == 84 / 90
    assert cluster_learnability(x, labels=labels, protocol="split").value == 1.0


@pytest.mark.parametrize("protocol", ["prequential", "split"])
def test_learnability_of_one_cluster(protocol):
    found = cluster_learnability(cloud(50, 3), n_clusters=1, protocol=protocol)
    assert found.value == (49 / 50 if protocol == "prequential" else 1.0)


def test_learnability_depends_on_the_order_as_written():
    x, order = cloud(60, 4), torch.randperm(60, generator=torch.Generator().manual_seed(3))
    labels = (x[:, 0] > 0).long()
    found = cluster_learnability(x, labels=labels, order=order)
    torch.testing.assert_close(found.hits, cluster_learnability(x[order], labels=labels[order]).hits)
    torch.testing.assert_close(found.curve[-1].item(), found.value)
    assert found.curve[0] == 0


def test_learnability_clusters_into_the_root_of_n_and_repeats():
    x = cloud(170, 5)
    first, second = (cluster_learnability(x, k=3, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert first.value == second.value
    assert int(first.labels.max()) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "ip"}, "cluster_learnability: metric must be cosine or euclidean, got ip"),
        ({"protocol": "both"}, "cluster_learnability: protocol must be prequential or split, got both"),
        ({"labels": torch.zeros(3).long()}, r"labels must be \[n\] with n = 4 like x, got shape \(3,\)"),
        ({"order": torch.tensor([0, 1, 2, 2])}, r"order must be a permutation of 0 ... 3, got \[0, 1, 2, 2\]"),
        ({"protocol": "split", "train": 1.0}, "train must leave rows on both sides, got 1.0 of 4 rows"),
        ({"protocol": "split", "train": torch.arange(4)}, "train must leave rows on both sides, got 4 of 4 rows"),
        ({"k": 4}, "knn: k must be from 1 to 3"),
        ({"n_clusters": 9}, "kmeans: n_clusters must be from 1 to n = 4, got 9"),
    ],
)
def test_learnability_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        cluster_learnability(cloud(4, 2), **options)


@pytest.mark.parametrize("x", [torch.zeros(3), torch.zeros(1, 3)])
def test_learnability_refuses_what_has_no_pairs(x):
    with pytest.raises(ValueError, match=r"cluster_learnability: x must (be \[n, d\]|have at least 2 rows), got"):
        cluster_learnability(x)


# ---- clid ----


def test_clid_standardises_and_weighs():
    sets = {name: cloud(300, d, seed=d) for name, d in (("a", 2), ("b", 5), ("c", 9))}
    found = clid(sets, weights=(2.0, 0.5), generator=torch.Generator().manual_seed(0))
    assert found.names == ("a", "b", "c")
    expected = torch.zeros(3, dtype=torch.float64)
    for weight, term in ((2.0, found.learnability), (0.5, found.dimension)):
        expected += weight * (term - term.mean()) / term.std(correction=0)
    torch.testing.assert_close(found.score, expected)
    assert found.dimension.argsort().tolist() == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:clid:gramian.NumericalWarning")  # one representation has no scale
@pytest.mark.parametrize("protocol", ["prequential", "split"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 3])
def test_one_sweep_of_clid_gives_what_its_measures_give(protocol, metric, k):
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    x[200:220] = x[:20]  # duplicates: the dimension needs a search of its own
    rows = x if metric == "euclidean" else x * (1 / x.norm(dim=1, keepdim=True))
    options = {"protocol": protocol, "metric": metric, "k": k}
    found = clid({"x": x}, **options, generator=torch.Generator().manual_seed(2))
    alone = cluster_learnability(x, **options, generator=torch.Generator().manual_seed(2))
    assert found.learnability.item() == alone.value
    assert found.dimension.item() == neighbors.twonn(rows).value.item()


def test_clid_of_one_has_no_scale():
    with pytest.warns(gramian.NumericalWarning) as caught:
        assert clid({"only": cloud(50, 3)}).score.item() == 0
    assert [str(warning.message).split(",")[0] for warning in caught] == [
        "clid: learnability is undefined or equal for some",
        "clid: dimension is undefined or equal for some",
    ]


def test_clid_of_a_collapsed_one_is_nan_for_it_alone():
    with pytest.warns(gramian.NumericalWarning):
        found = clid({"good": cloud(50, 3), "other": cloud(50, 5), "collapsed": torch.ones(50, 3)})
    assert found.score.isnan().tolist() == [False, False, True]


def test_clid_weights_find_the_plane():
    cl, dim = cloud(9, 2).unbind(1)
    z = [(t - t.mean()) / t.std(correction=0) for t in (cl, dim)]
    assert clid_weights(cl, dim, 0.7 * z[0] - 0.2 * z[1] + 5) == pytest.approx((0.7, -0.2))


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_equal_scipy(ties):
    stats = pytest.importorskip("scipy.stats")
    a, b = cloud(40, 2).unbind(1)
    if ties:
        a, b = a.mul(2).round(), b.mul(2).round()
    found = correlations(a, b + a)
    for name, function in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
        assert getattr(found, name) == pytest.approx(function(a.numpy(), (b + a).numpy())[0], abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clid({}), "clid: representations must all have the same number of rows, got none"),
        (lambda: clid({"a": cloud(5, 2), "b": cloud(6, 2)}), r"the same number of rows, got \[5, 6\]"),
        (lambda: clid_weights(*cloud(2, 3).unbind(1)), r"clid_weights: .* must be \[m\] with m >= 3, got"),
        (lambda: correlations(torch.ones(3), torch.ones(4)), r"correlations: score and accuracy must be \[m\]"),
    ],
)
def test_clid_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- representations ----


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)
        self.unused = nn.Linear(1, 1)

    def forward(self, x):
        return self.head(self.norm(self.convolution(x)).mean((2, 3)))


def test_representations_are_the_layers_of_the_model_in_eval_mode():
    model, x, y = Net(), torch.randn(10, 1, 6, 6), torch.arange(10)
    model.norm(torch.randn(8, 3, 2, 2))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)
    model.head.eval()  # a part that was in eval mode stays there
    found = representations(model, data, ["convolution", "norm", ""], progress=True)
    assert torch.equal(found.targets, y)
    assert [model.training, model.norm.training, model.head.training] == [True, True, False]
    assert not any(module._forward_hooks for module in model.modules())
    with torch.no_grad():
        model.eval()
        torch.testing.assert_close(found.layers["convolution"], model.convolution(x).flatten(1))
        torch.testing.assert_close(found.layers[""], model(x))
        pooled = representations(model, x.split(3), ["norm"], pool=True)
        torch.testing.assert_close(pooled.layers["norm"], model.norm(model.convolution(x)).mean((2, 3)))
    assert pooled.targets is None


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["head", "nose"], r"layers must name modules of the model \(, convolution, norm, head, unused\), got nose"),
        (["unused"], "layers must run once a batch, got 'unused' in other numbers"),
    ],
)
def test_representations_refuses_and_leaves_no_trace(layers, message):
    model = Net()
    with pytest.raises(ValueError, match=f"representations: {message}"):
        representations(model, [torch.randn(2, 1, 6, 6)], layers)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_representations_refuses_no_batches():
    with pytest.raises(ValueError, match="representations: data must have batches, got none"):
        representations(Net(), [])
