"""neighbors.twonn and levina_bickel: reference values on real data, identities, scikit-dimension, duplicates, refusals."""

import pytest
import torch

import gramian
from gramian.neighbors import _dimension, levina_bickel, twonn


def digits(dtype=torch.float64):
    from sklearn.datasets import load_digits

    return torch.tensor(load_digits().data, dtype=dtype)


def cloud(n, d, embed=None, seed=0):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x if embed is None else x @ torch.eye(d, embed, dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 8.908172764810),
        ({"estimator": "mle"}, 9.044249492474),
        ({"estimator": "mle", "discard": 0.1}, 8.921538448975),
    ],
)
def test_twonn_of_the_digits_is_known(options, expected):
    assert twonn(digits(), **options).value.item() == pytest.approx(expected, rel=1e-11)
    assert twonn(digits(torch.float32), **options).value.item() == pytest.approx(expected, rel=1e-6)


def test_the_line_through_exact_ratios_has_their_slope():
    # On log(mu_i) = -log(1 - i/n) / D every point lies on the line; the last, whose i/n is 1, may be anything larger.
    n, dimension = 40, 3.0
    logs = -torch.log1p(-torch.arange(1, n, dtype=torch.float64) / n) / dimension
    logs = torch.cat([logs, logs[-1:] + 1])[torch.randperm(n)]
    assert _dimension._linear(logs, 0.0).item() == pytest.approx(dimension, rel=1e-12)


@pytest.mark.parametrize("function", [twonn, lambda x: twonn(x, estimator="mle"), levina_bickel])
def test_dimension_does_not_change_under_rotation_scaling_and_shifts(function):
    x = cloud(300, 4, 10)
    rotation = torch.linalg.qr(cloud(10, 10, seed=1)).Q
    expected = function(x).value
    torch.testing.assert_close(function(7.5 * x @ rotation + 3.0).value, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_dimension_of_a_cloud_is_that_of_its_subspace(d):
    x = cloud(4000, d, 12)
    assert twonn(x).value.item() == pytest.approx(d, rel=0.08)
    assert twonn(x, estimator="mle").value.item() == pytest.approx(d, rel=0.08)
    assert levina_bickel(x).value.item() == pytest.approx(d, rel=0.12)


def test_local_dimensions_tell_parts_apart():
    line, volume = cloud(500, 1, 6), cloud(500, 6, seed=1) + 100
    for found in (twonn(torch.cat([line, volume]), neighborhood=30), levina_bickel(torch.cat([line, volume]))):
        assert found.local.shape == (1000,)
        assert found.local[:500].median().item() == pytest.approx(1, rel=0.15)
        assert found.local[500:].median().item() == pytest.approx(6, rel=0.25)


def test_levina_bickel_is_its_formula():
    x = cloud(60, 3)
    k = 7
    distances = torch.cdist(x, x).sort(1).values[:, 1 : k + 1]
    inverse = (distances[:, -1:] / distances[:, :-1]).log().sum(1) / (k - 1)
    found = levina_bickel(x, k)
    torch.testing.assert_close(found.local, 1 / inverse)
    torch.testing.assert_close(found.value, 1 / inverse.mean())
    torch.testing.assert_close(levina_bickel(x, k, average="values").value, (1 / inverse).mean())
    torch.testing.assert_close(levina_bickel(x, k, unbiased=True).value, (k - 2) / (k - 1) / inverse.mean())


def test_dimension_equals_scikit_dimension():
    skdim = pytest.importorskip("skdim")
    x = cloud(2000, 5).numpy()
    for method in ("linear", "mle"):
        theirs = skdim.id.TwoNN(discard_fraction=0.1, method=method).fit(x)
        ours = twonn(torch.from_numpy(x), estimator=method, discard=0.1).value.item()
        assert ours == pytest.approx(theirs.dimension_, rel=1e-9)
    theirs = skdim.id.MLE(K=20).fit_transform_pw(x, n_neighbors=20)
    assert theirs.shape == (2000,)
    torch.testing.assert_close(levina_bickel(torch.from_numpy(x)).local, torch.from_numpy(theirs), rtol=1e-9, atol=0)
    for comb, average in (("mle", "inverses"), ("mean", "values")):
        theirs = skdim.id.MLE(K=20).fit(x, n_neighbors=20, comb=comb)
        ours = levina_bickel(torch.from_numpy(x), average=average).value.item()
        assert ours == pytest.approx(theirs.dimension_, rel=1e-9)


def test_dimension_equals_dadapy():
    dadapy = pytest.importorskip("dadapy", exc_type=ImportError)  # its wheels of 2025 do not load beside NumPy 2
    x = cloud(2000, 5).numpy()
    for algorithm, options in (("base", {}), ("ml", {"estimator": "mle"})):
        theirs = dadapy.Data(x, maxk=10).compute_id_2NN(algorithm=algorithm, mu_fraction=0.9)[0]
        assert twonn(torch.from_numpy(x), **options).value.item() == pytest.approx(theirs, rel=1e-9)


def test_duplicates_are_merged_dropped_or_refused():
    x = cloud(400, 3)
    doubled = torch.cat([x, x[:40]])
    for function in (twonn, levina_bickel):
        clean = function(x)
        merged = function(doubled)
        torch.testing.assert_close(merged.value, clean.value)
        with pytest.raises(ValueError, match="x must have different rows, got an equal of row 0"):
            function(doubled, duplicates="raise")
    merged, dropped = levina_bickel(doubled), levina_bickel(doubled, duplicates="drop")
    torch.testing.assert_close(merged.local[400:], merged.local[:40])
    torch.testing.assert_close(dropped.value, levina_bickel(x[40:]).value)
    assert dropped.local.isnan().nonzero()[:, 0].tolist() == [*range(40), *range(400, 440)]


@pytest.mark.parametrize("x", [torch.zeros(2, 3), torch.ones(50, 3), torch.tensor([[0.0], [1.0]]).repeat(9, 1)])
def test_a_collapsed_representation_has_no_dimension(x):
    with pytest.warns(gramian.NumericalWarning, match="twonn: too few different rows"):
        assert twonn(x, neighborhood=2).value.isnan()
    with pytest.warns(gramian.NumericalWarning, match="levina_bickel: too few different rows"):
        assert levina_bickel(x, 20 if len(x) > 20 else 2).value.isnan()


def test_dimension_is_differentiable():
    x = cloud(40, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: twonn(x).value, x)
    assert torch.autograd.gradcheck(lambda x: levina_bickel(x, 6).value, x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: twonn(x[0]), r"twonn: x must be \[n, d\], got shape \(3,\)"),
        (lambda x: twonn(x, estimator="best"), "twonn: estimator must be linear or mle, got best"),
        (lambda x: twonn(x, discard=1.0), "twonn: discard must be from 0 up to 1, got 1.0"),
        (lambda x: twonn(x, neighborhood=-1), "twonn: neighborhood must be zero or positive, got -1"),
        (lambda x: twonn(x, duplicates="keep"), "twonn: duplicates must be merge, drop or raise, got keep"),
        (lambda x: twonn(x.long()), "knn: x must be float32, float64, bfloat16 or float16, got int64"),
        (lambda x: twonn(x.log()), "knn: x must be finite, got a NaN or an infinity in row"),
        (lambda x: levina_bickel(x, 1), "levina_bickel: k must be at least 2, got 1"),
        (lambda x: levina_bickel(x, 2, unbiased=True), "levina_bickel: k must be at least 3, got 2"),
        (lambda x: levina_bickel(x, 30), "levina_bickel: k must be less than n = 30, got 30"),
        (lambda x: levina_bickel(x, average="all"), "levina_bickel: average must be inverses or values, got all"),
    ],
)
def test_dimension_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call(cloud(30, 3))
