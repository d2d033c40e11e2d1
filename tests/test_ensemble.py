"""Bias and variance of ensembles: the accumulator, its estimators, bootstrap intervals, and training that resumes."""

import itertools
import math

import pytest
import torch
from torch import nn

from gramian import NumericalWarning, _safetensors, ensemble
from gramian.ensemble import _bootstrap
from tests.checks import check_thread_counts_agree, refuses
from tests.reference import ensemble as reference

DTYPES = [torch.float32, torch.float64]
LOSSES = ["squared", "probability", "cross_entropy", "zero_one"]


def models(sets=3, seeds=4, n=5, c=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(sets, 1, n, c, generator=generator, dtype=dtype)
    return common + 0.5 * torch.randn(sets, seeds, n, c, generator=generator, dtype=dtype)


def targets(n=5, c=3, dtype=torch.float64):
    return torch.randn(n, c, generator=torch.Generator().manual_seed(9), dtype=dtype)


def assert_parts(got, expected, tolerance):
    for name, part in zip(ensemble.Decomposition._fields, expected, strict=False):
        wanted = torch.tensor(part.astype(float))
        torch.testing.assert_close(getattr(got, name), wanted, rtol=tolerance, atol=tolerance)


# ---- The op ----


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [0, 1, 23, 40])
@pytest.mark.parametrize(("n", "c"), [(0, 3), (1, 1), (7, 1), (5, 9), (300, 10), (3, 2049), (1, 40_000)])
def test_accumulate_sums_deviations_and_their_squares(isa, dtype, m, n, c):
    generator = torch.Generator().manual_seed(1)
    p, y = (torch.randn(shape, generator=generator, dtype=dtype) + 100 for shape in ((m, n, c), (n, c)))
    sums, squares = torch.ones(n, c, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    torch.ops.gramian.ensemble_accumulate_(p, y, sums, squares)
    deviations = p.double() - y.double()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(sums, 1 + deviations.sum(0), rtol=8 * eps, atol=32 * m * eps)
    torch.testing.assert_close(squares, 1 + deviations.square().sum((0, 2)), rtol=32 * eps, atol=32 * eps)
    alone = torch.zeros(n, c, dtype=torch.float64)
    torch.ops.gramian.ensemble_accumulate_(p, None, alone, None)
    torch.testing.assert_close(alone, p.double().sum(0), rtol=1e-14, atol=1e-12)


def test_accumulate_reads_any_strides():
    p, y = models(1, 6, 8, 5)[0], targets(8, 5)
    expected = torch.zeros(8, 5, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    torch.ops.gramian.ensemble_accumulate_(p, y, *expected)
    spread = torch.zeros(12, 8, 5, dtype=torch.float64)
    spread[::2] = p
    for other in (p.permute(2, 0, 1).contiguous().permute(1, 2, 0), spread[::2], p.flip(0).flip(0)):
        got = torch.zeros(8, 5, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
        torch.ops.gramian.ensemble_accumulate_(other, y.mT.contiguous().mT, *got)
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1], expected[1])


def test_accumulate_is_bitwise_the_same_for_every_thread_count():
    p, y = models(1, 9, 5000, 7, torch.float32)[0], targets(5000, 7, torch.float32)

    def run():
        state = torch.zeros(5000, 7, dtype=torch.float64), torch.zeros(5000, dtype=torch.float64)
        torch.ops.gramian.ensemble_accumulate_(p, y, *state)
        return state

    check_thread_counts_agree(run)


def test_accumulate_passes_opcheck():
    state = torch.zeros(5, 3, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    torch.library.opcheck(torch.ops.gramian.ensemble_accumulate_.default, (models()[0], targets(), *state))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": torch.ones(2, 3)}, "predictions must be [m, n, c], got shape (2, 3)"),
        (
            {"predictions": torch.ones(2, 3, 4, dtype=torch.int64)},
            "predictions must be float32 or float64, got int64",
        ),
        ({"target": torch.ones(4, 3)}, "target must be [n, c] like predictions (2, 3, 4), got shape (4, 3)"),
        (
            {"target": torch.ones(3, 4, dtype=torch.float64)},
            "target must have the dtype of predictions (float32), got float64",
        ),
        (
            {"sums": torch.ones(3, 4)},
            "sums must be contiguous float64 [n, c] for predictions of shape (2, 3, 4), got float32 (3, 4)",
        ),
        (
            {"squares": torch.ones(4, dtype=torch.float64)},
            "squares must be contiguous float64 [n] for predictions of shape (2, 3, 4), got float64 (4,)",
        ),
        ({"squares": None}, "squares must be given with target, and only then, got None"),
        ({"target": None}, "squares must be given with target, and only then, got no target"),
    ],
)
def test_accumulate_refuses(change, message):
    arguments = {
        "predictions": torch.ones(2, 3, 4),
        "target": torch.ones(3, 4),
        "sums": torch.zeros(3, 4, dtype=torch.float64),
        "squares": torch.zeros(3, dtype=torch.float64),
    } | change
    with refuses(f"accumulate_: {message}"):
        torch.ops.gramian.ensemble_accumulate_(*arguments.values())


# ---- Estimators ----


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize(("sets", "seeds", "n", "c"), [(3, 4, 5, 3), (2, 2, 1, 1), (5, 3, 7, 1), (2, 40, 3, 10)])
def test_squared_parts_are_those_of_the_definitions(sets, seeds, n, c, dtype, tolerance, unbiased):
    p, y = models(sets, seeds, n, c, dtype), targets(n, c, dtype)
    got = ensemble.bias_variance(p, y, unbiased=unbiased, per_point=True)
    assert_parts(got, reference.squared(p.numpy(), y.numpy(), unbiased=unbiased), tolerance)
    whole = ensemble.bias_variance(p, y, unbiased=unbiased)
    torch.testing.assert_close(torch.stack(whole[:5]), torch.stack([part.mean() for part in got[:5]]))


def test_unbiased_parts_of_sets_with_different_numbers_of_seeds():
    p, y = models(3, 6), targets()
    kept = [p[0, :2], p[1, :6], p[2, :3]]
    parts = ensemble.BiasVariance(y)
    for index, of_set in enumerate(kept):
        parts.update(of_set, index)
    got = parts.result(per_point=True)
    assert_parts(got, reference.squared([list(of_set.numpy()) for of_set in kept], y.numpy(), unbiased=True), 1e-13)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("unbiased", [False, True])
def test_the_parts_add_up_to_the_error(loss, unbiased):
    p = models(3, 4, 40, 5)
    labels = torch.arange(40) % 5
    parts = ensemble.bias_variance(p, labels if loss != "squared" else targets(40, 5), loss=loss, unbiased=unbiased)
    torch.testing.assert_close(parts.bias2 + parts.variance, parts.error, rtol=1e-13, atol=0)
    torch.testing.assert_close(parts.optimisation + parts.sampling, parts.variance, rtol=1e-13, atol=0)


def test_cross_entropy_parts_are_divergences():
    p = models(3, 4)
    for y in (targets().softmax(1), torch.eye(3, dtype=torch.float64)[torch.tensor([0, 2, 1, 1, 0])]):
        got = ensemble.bias_variance(p, y, loss="cross_entropy", per_point=True)
        assert_parts(got, reference.cross_entropy(p.numpy(), y.numpy()), 1e-13)
        direct = nn.functional.cross_entropy(p.flatten(0, 2), y.expand(3, 4, 5, 3).flatten(0, 2))
        torch.testing.assert_close(got.error.mean(), direct)


def test_cross_entropy_takes_probabilities_of_zero():
    p = models(2, 2, 1, 3)
    p[..., 2] = -math.inf
    reachable = ensemble.bias_variance(p, torch.tensor([0]), loss="cross_entropy")
    without = ensemble.bias_variance(p[..., :2].contiguous(), torch.tensor([0]), loss="cross_entropy")
    torch.testing.assert_close(torch.stack(reachable[:5]), torch.stack(without[:5]))
    assert ensemble.bias_variance(p, torch.tensor([2]), loss="cross_entropy").error == math.inf


def test_zero_one_parts_are_those_of_kohavi_and_wolpert_and_of_domingos():
    labels = torch.randint(4, (3, 5, 60), generator=torch.Generator().manual_seed(0))
    y = torch.randint(4, (60,), generator=torch.Generator().manual_seed(1))
    got = ensemble.bias_variance(labels, y, loss="zero_one", classes=4, unbiased=False, per_point=True)
    assert_parts(got, reference.zero_one(labels.numpy(), y.numpy(), 4), 1e-13)
    logits = nn.functional.one_hot(labels, 4).double()
    again = ensemble.bias_variance(logits, y, loss="zero_one", unbiased=False, per_point=True)
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


def test_two_classes_have_domingos_identity():
    labels = torch.randint(2, (3, 5, 60), generator=torch.Generator().manual_seed(0))
    got = ensemble.bias_variance(labels, torch.arange(60) % 2, loss="zero_one", classes=2, per_point=True)
    torch.testing.assert_close(got.main_bias + (1 - 2 * got.main_bias) * got.main_variance, got.error)


def test_unbiased_estimators_are_unbiased_and_plug_in_is_not():
    # h = s + o with variances 2 and 1, target at distance 3: bias2 9, sampling 2, optimisation 1. Points are repetitions.
    generator = torch.Generator().manual_seed(0)
    n = 40_000
    p = math.sqrt(2) * torch.randn(3, 1, n, 1, generator=generator, dtype=torch.float64)
    p = p + torch.randn(3, 2, n, 1, generator=generator, dtype=torch.float64)
    y = torch.full((n, 1), 3.0, dtype=torch.float64)
    parts = ensemble.bias_variance(p, y, per_point=True)
    for part, truth in zip(parts[1:5], (9, 3, 1, 2), strict=True):
        assert abs(part.mean() - truth) < 4 * part.std() / math.sqrt(n)  # four standard errors
    plug_in = ensemble.bias_variance(p, y, unbiased=False)
    assert plug_in.bias2 > 9.5  # 9 + (2 + 1/2) / 3
    assert plug_in.optimisation < 0.6  # 1/2


def test_fixed_design_least_squares_has_variance_noise_d_over_n():
    generator = torch.Generator().manual_seed(0)
    n, d, noise, sets = 50, 10, 0.5, 2000
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    truth = x @ torch.randn(d, 1, generator=generator, dtype=torch.float64)
    seen = truth + noise * torch.randn(sets, n, 1, generator=generator, dtype=torch.float64)
    fitted = x @ torch.linalg.lstsq(x.expand(sets, n, d), seen).solution
    with pytest.warns(NumericalWarning, match="one seed"):
        parts = ensemble.bias_variance(fitted[:, None], truth)
    expected = noise**2 * d / n
    assert abs(parts.variance - expected) < 4 * expected * math.sqrt(2 / (sets * d))
    assert abs(parts.bias2) < expected / 20


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_float32_predictions_far_from_zero_keep_their_variance(offset):
    p = models(2, 40, 50, 2, torch.float32) + offset
    y = targets(50, 2, torch.float32)
    got = ensemble.bias_variance(p, y, per_point=True)
    assert_parts(got, reference.squared(p.numpy(), y.numpy(), unbiased=True), 1e-6 if offset == 0 else 2e-6)


# ---- The accumulator ----


def feed(parts, p, order, sizes):
    for index, first in order:
        parts.update(p[index, first : first + sizes], index)


@pytest.mark.parametrize("loss", LOSSES)
def test_order_batches_merging_closing_and_saving_do_not_matter(loss, tmp_path):
    p = models(4, 6, 30, 5)
    y = torch.arange(30) % 5 if loss != "squared" else targets(30, 5)
    expected = torch.stack(ensemble.bias_variance(p, y, loss=loss))

    def fresh():
        return ensemble.BiasVariance(y, loss=loss, classes=5)

    def same(parts):
        assert parts.seeds == dict.fromkeys(range(4), 6)
        torch.testing.assert_close(torch.stack(parts.result()), expected, rtol=1e-12, atol=1e-14, equal_nan=True)

    singly = fresh()
    for seed, index in itertools.product(range(6), reversed(range(4))):
        singly.update(p[index, seed], index)
    same(singly)
    left, right = fresh(), fresh()
    feed(left, p, [(0, 0), (0, 3), (1, 0), (2, 3)], 3)
    left.close(0)
    feed(right, p, [(1, 3), (2, 0), (3, 0), (3, 3)], 3)
    right.close(3)
    left.merge(right)
    same(left)
    torch.save(left.state_dict(), tmp_path / "state")
    loaded = fresh()
    loaded.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    same(loaded)


def test_memory_does_not_grow_with_the_number_of_models():
    parts = ensemble.BiasVariance(targets(100, 3))
    for index in range(50):
        parts.update(models(1, 4, 100, 3, seed=index)[0], index)
        parts.close(index)
        held = sum(t.numel() for t in parts._folded.values())
        assert held <= 100 * (3 + 6)
        assert not parts._sets


def test_one_seed_or_one_set_is_nan_with_a_warning():
    p, y = models(3, 4), targets()
    with pytest.warns(NumericalWarning, match="one training set"):
        one_set = ensemble.bias_variance(p[:1], y)
    assert one_set.bias2.isnan() and one_set.variance.isnan() and one_set.sampling.isnan()
    expected = reference.squared(p[:1].numpy(), y.numpy(), unbiased=False)
    torch.testing.assert_close(one_set.optimisation, torch.tensor(float(expected[3].mean()) * 4 / 3).double())
    with pytest.warns(NumericalWarning, match="one seed"):
        one_seed = ensemble.bias_variance(p[:, :1], y)
    assert one_seed.optimisation.isnan() and one_seed.sampling.isnan()
    torch.testing.assert_close(one_seed.variance, p[:, 0].var(0).sum(1).mean())
    torch.testing.assert_close(one_seed.bias2 + one_seed.variance, one_seed.error)
    with pytest.warns(NumericalWarning):
        one = ensemble.bias_variance(p[:1, :1], y)
    torch.testing.assert_close(one.error, (p[0, 0] - y).square().sum(1).mean())
    assert all(part.isnan() for part in one[1:5])
    ragged = ensemble.BiasVariance(y)
    ragged.update(p[0], 0)
    ragged.update(p[1, 0], 1)
    with pytest.warns(NumericalWarning, match="one seed"):
        assert all(part.isnan() for part in ragged.result()[1:5])


def test_nan_stays_with_its_point():
    p = models()
    p[0, 1, 2, 0] = math.nan
    got = ensemble.bias_variance(p, targets(), per_point=True)
    bad = torch.arange(5) == 2
    assert all(torch.equal(part.isnan(), bad) for part in got[:5])
    assert ensemble.bias_variance(p, targets()).error.isnan()


def test_accumulator_refuses():
    y = targets()
    with refuses("BiasVariance: loss must be one of squared, probability, cross_entropy, zero_one, got mse"):
        ensemble.BiasVariance(y, loss="mse")
    with refuses("BiasVariance: target must have labels from 0 to below classes = 2, got up to 2"):
        ensemble.BiasVariance(torch.tensor([0, 2]), classes=2)
    with refuses("BiasVariance: target must be labels [n] or floats [n, c], got shape (1, 1)"):
        ensemble.BiasVariance(torch.tensor([[0]]), classes=2)
    with refuses(
        "BiasVariance: target must be labels [n] or float32 or float64 [n, c], got torch.float16 of shape (5, 3)"
    ):
        ensemble.BiasVariance(y.half())
    parts = ensemble.BiasVariance(y)
    with refuses("BiasVariance: predictions must be [m, 5, 3], got shape (4, 3)"):
        parts.update(torch.ones(4, 3), 0)
    with refuses("BiasVariance: predictions must have the dtype of the target (torch.float64), got torch.float32"):
        parts.update(torch.ones(5, 3), 0)
    with refuses("BiasVariance: result must follow an update, got none"):
        parts.result()
    with refuses("BiasVariance: training_set must be open, got 7"):
        parts.close(7)
    parts.update(models()[0], 0)
    parts.close(0)
    with refuses("BiasVariance: training_set must not be closed, got 0"):
        parts.update(models()[0], 0)
    with refuses("BiasVariance: other must not have a set that either side has closed, got [0]"):
        parts.merge(parts)
    with refuses("BiasVariance: other must have the loss squared and the same target, got zero_one"):
        parts.merge(ensemble.BiasVariance(torch.tensor([0]), loss="zero_one", classes=2))
    with refuses("BiasVariance: state must be of the loss squared, got zero_one"):
        parts.load_state_dict(ensemble.BiasVariance(torch.tensor([0]), loss="zero_one", classes=2).state_dict())
    votes = ensemble.BiasVariance(torch.tensor([0]), loss="zero_one", classes=2)
    with refuses("BiasVariance: predictions must be labels below 2, got 3"):
        votes.update(torch.tensor([3]), 0)
    with refuses("bias_variance: predictions must be [sets, seeds, n, c], got shape (5, 3) torch.float64"):
        ensemble.bias_variance(y, y)
    with refuses("bias_variance: predictions must have a set, a seed and n = 5 points, got shape (0, 1, 5, 3)"):
        ensemble.bias_variance(models()[:0, :1], y)


# ---- Bootstrap ----


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["percentile", "basic"])
def test_intervals_hold_the_estimate_and_repeat(loss, kind):
    p = models(8, 5, 60, 4)
    y = targets(60, 4) if loss == "squared" else torch.arange(60) % 4
    first, again = (
        ensemble.bootstrap(p, y, loss=loss, kind=kind, replicates=300, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    for estimate, low, high in zip(*(part[:5] for part in first), strict=True):
        assert low < high
        assert low - (high - low) < estimate < high + (high - low)
    assert all(torch.equal(a, b) for a, b in zip(first.low[:5], again.low[:5], strict=True))
    assert first.low.main_bias.isnan()


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = torch.Generator().manual_seed(0)
    y, covered, trials = torch.zeros(20, 1, dtype=torch.float64), 0, 60
    for _ in range(trials):
        p = torch.randn(12, 1, 20, 1, generator=generator, dtype=torch.float64)
        p = p + torch.randn(12, 6, 20, 1, generator=generator, dtype=torch.float64)
        found = ensemble.bootstrap(p, y, replicates=200, level=0.9, generator=generator)
        covered += int(found.low.variance <= 2 <= found.high.variance)
    assert 0.7 < covered / trials <= 1  # 12 sets: the percentile interval is known to be narrow


def test_a_replicate_that_draws_every_model_once_is_the_estimate():
    p, y = models(4, 3), targets()
    gram = _bootstrap._gram(p, y, "squared")
    once = _bootstrap._pair_replicates(gram, torch.ones(1, 4).double(), torch.full((1, 4, 3), 1 / 3).double())
    torch.testing.assert_close(once[:, 0], torch.stack(ensemble.bias_variance(p, y)[:5]))
    log = _bootstrap._plug_in_replicates(
        p, y.softmax(1), torch.full((1, 4), 0.25).double(), torch.full((1, 4, 3), 1 / 3).double()
    )
    expected = ensemble.bias_variance(p, y.softmax(1), loss="cross_entropy")
    torch.testing.assert_close(log[:, 0], torch.stack(expected[:5]))


def test_bootstrap_refuses():
    p, y = models(), targets()
    with refuses("bootstrap: level must be between 0 and 1, got 95"):
        ensemble.bootstrap(p, y, level=95)
    with refuses("bootstrap: replicates must be at least 1, got 0"):
        ensemble.bootstrap(p, y, replicates=0)
    with refuses("bootstrap: kind must be percentile or basic, got bca"):
        ensemble.bootstrap(p, y, kind="bca")


# ---- Training ----


def test_sets_are_drawn_as_asked():
    generator = torch.Generator().manual_seed(0)
    assert ensemble.draw_sets(10, 3, 50, generator=generator).max() < 10
    subsets = ensemble.draw_sets(10, 3, 8, how="subset", generator=generator)
    assert all(len(row.unique()) == 8 for row in subsets)
    assert len(ensemble.draw_sets(10, 3, 3, how="split", generator=generator).unique()) == 9
    with refuses("draw_sets: size must be at most 3 for 10 samples, got 4"):
        ensemble.draw_sets(10, 3, 4, how="split")
    with refuses("draw_sets: n, sets and size must be at least 1, got 10, 0 and 4"):
        ensemble.draw_sets(10, 0, 4)
    with refuses("draw_sets: how must be bootstrap, subset or split, got jackknife"):
        ensemble.draw_sets(10, 1, 4, how="jackknife")


def perceptron():
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))


def with_norm_and_dropout():
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


class Looks(nn.Module):
    """Branches on its input's values, which vmap cannot follow."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x):
        return self.layer(x if x.sum() > 0 else -x)


def problem():
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(40, 2, generator=generator)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return x, y, ensemble.draw_sets(40, 2, 20, generator=generator), torch.randn(7, 2, generator=generator)


@pytest.mark.parametrize("make", [perceptron, with_norm_and_dropout, Looks])
@pytest.mark.parametrize("batch", [None, 8])
def test_models_learn_and_differ(make, batch):
    x, y, sets, points = problem()
    before = torch.get_rng_state()
    steps = 60 if make is perceptron else 5
    groups = list(ensemble.train(make, x, y, sets, points, seeds=3, steps=steps, batch=batch, together=2))
    assert torch.equal(before, torch.get_rng_state())
    assert [(g.training_set, g.first_seed, len(g.predictions)) for g in groups] == [
        (0, 0, 2),
        (0, 2, 1),
        (1, 0, 2),
        (1, 2, 1),
    ]
    predictions = torch.cat([g.predictions for g in groups])
    assert predictions.shape == (6, 7, 3)
    assert not predictions.requires_grad
    assert len(predictions.flatten(1).unique(dim=0)) == 6
    if make is perceptron:
        assert torch.cat([g.losses for g in groups]).max() < 0.7  # of log 3 = 1.1 at first


def test_a_stacked_model_learns_as_it_would_alone():
    x, y, sets, points = problem()
    (group, *_) = ensemble.train(perceptron, x, y, sets, points, seeds=3, steps=20)
    for seed in range(3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = perceptron()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[sets[0]]), y[sets[0]]).backward()
            optimizer.step()
        torch.testing.assert_close(group.predictions[seed], model(points).detach(), rtol=1e-4, atol=1e-5)


class Stop(Exception):
    pass


@pytest.mark.parametrize("make", [perceptron, with_norm_and_dropout])
@pytest.mark.parametrize(
    ("stops", "error"),
    [([1], Stop), ([0, 2], KeyboardInterrupt), ([9, 10, 11, 20], Stop), ([18], KeyboardInterrupt)],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(make, stops, error, tmp_path):
    x, y, sets, points = problem()
    calls, to_stop = 0, list(stops)

    def loss(outputs, aim):
        nonlocal calls
        calls += 1
        if to_stop and calls > to_stop[0]:
            to_stop.pop(0)
            raise error
        return nn.functional.cross_entropy(outputs, aim)

    def run(folder):
        options = {"seeds": 2, "steps": 12, "batch": 8, "loss": loss, "save_every": 1000}
        options["optimizer"] = lambda p: torch.optim.Adam(p, lr=0.01)
        return list(ensemble.train(make, x, y, sets, points, folder=folder, **options))

    for _ in stops:
        with pytest.raises(error):
            run(tmp_path / "interrupted")
    got = run(tmp_path / "interrupted")
    assert not to_stop
    spent = calls
    calls = 0
    whole = run(tmp_path / "whole")
    assert spent <= calls + 3 * len(stops)  # nothing was trained twice: the broken step, and vmap's trial
    for a, b in zip(got, whole, strict=True):
        assert torch.equal(a.predictions, b.predictions)
        assert torch.equal(a.losses, b.losses)
    calls = 0
    again = run(tmp_path / "interrupted")
    assert calls == 0
    assert all(torch.equal(a.predictions, b.predictions) for a, b in zip(again, whole, strict=True))
    assert not list((tmp_path / "interrupted").glob("*.state"))


def test_a_killed_process_falls_back_to_the_last_copy(tmp_path):
    x, y, sets, points = problem()

    def run(folder, steps=40):
        return list(
            ensemble.train(perceptron, x, y, sets[:1], points, seeds=2, steps=steps, folder=folder, save_every=15)
        )

    whole = run(tmp_path / "whole")
    saved = _safetensors.save
    copies = []

    def killed(path, *state):
        saved(path, *state)
        copies.append(path)
        if len(copies) == 2:
            raise SystemExit  # torn down right after a copy; what the handler then writes is the same

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_safetensors, "save", killed)
        with pytest.raises(SystemExit):
            run(tmp_path / "killed")
    _, about = _safetensors.load(next((tmp_path / "killed").glob("*.state")))
    assert about["step"] == "30"
    (tmp_path / "killed" / "set0-seed0.partial").write_bytes(b"half a file")
    got = run(tmp_path / "killed")
    assert torch.equal(got[0].predictions, whole[0].predictions)


def test_train_refuses(tmp_path):
    x, y, sets, points = problem()
    with refuses("train: sets must be [s, size] int64, got shape (20,) torch.int64"):
        ensemble.train(perceptron, x, y, sets[0], points, seeds=1, steps=1)
    with refuses("train: sets must name rows of x [10] and y [10], got up to 39"):
        ensemble.train(perceptron, x[:10], y[:10], torch.tensor([[39]]), points, seeds=1, steps=1)
    with refuses("train: seeds must be at least 1, got 0"):
        ensemble.train(perceptron, x, y, sets, points, seeds=0, steps=1)
    with refuses("train: batch must be from 1 to the size of a set, 20, got 21"):
        ensemble.train(perceptron, x, y, sets, points, seeds=1, steps=1, batch=21)
    list(ensemble.train(perceptron, x, y, sets, points, seeds=1, steps=1, folder=tmp_path))
    with refuses("train: folder must hold a run of the same arguments, got another x, steps"):
        ensemble.train(perceptron, 2 * x, y, sets, points, seeds=1, steps=2, folder=tmp_path)
