"""information: bounds, MINE and KSG, against their definitions, peers and known answers."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.special import digamma
from torch import nn

import gramian
from gramian import information
from tests import checks
from tests.checks import refuses
from tests.reference import information as reference

KINDS = ["dv", "nwj", "tuba", "infonce", "jsd", "smile", "club"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def scores_of(n, seed=0, dtype=torch.float64):
    return torch.randn(n, n, generator=generator(seed), dtype=torch.float64).to(dtype)


def correlated(n, rho, d=1, seed=0, dtype=torch.float64):
    g = generator(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * torch.randn(n, d, generator=g, dtype=torch.float64)
    return x.to(dtype), y.to(dtype)


def truth(rho, d=1):
    return -d / 2 * math.log(1 - rho**2)


# ---- Bounds ----


@pytest.mark.filterwarnings("ignore:infonce. the bound:gramian.NumericalWarning")
@pytest.mark.parametrize("n", [2, 3, 17])
@pytest.mark.parametrize("kind", KINDS)
def test_bound_is_its_definition(kind, n):
    scores = scores_of(n).requires_grad_()
    options = {"tau": 0.7, "log_a": 1.3}
    value, expected = information.bound(scores, kind, **options), reference.bound(scores, kind, **options)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for got, want in zip(torch.autograd.grad(value, scores), torch.autograd.grad(expected, scores), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_bounds_keep_the_identities_between_them():
    scores, c = scores_of(30), 3.7
    off = information._bounds.off_diagonal(scores)
    bound, lme = information.bound, information.log_mean_exp(off)
    identities = [
        (bound(scores + c, "dv"), bound(scores, "dv")),
        (bound(scores + c, "infonce"), bound(scores, "infonce")),
        (bound(scores + 1 - lme, "nwj"), bound(scores, "dv")),
        (bound(scores, "nwj", shift=True), bound(scores, "dv")),
        (bound(scores, "tuba", shift=True, log_a=0.4), bound(scores, "dv")),
        (bound(scores, "tuba", log_a=1.0), bound(scores, "nwj")),
        (bound(scores, "tuba", log_a=float(lme)), bound(scores, "dv")),
        (bound(scores, "smile"), bound(scores, "dv")),
        (bound(torch.zeros(5, 5), "infonce").double(), torch.zeros((), dtype=torch.float64)),
    ]
    for a, b in identities:
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert bound(scores, "nwj") <= bound(scores, "dv")
    assert bound(scores, "infonce") <= math.log(30)
    assert torch.equal(off.sort().values, scores[~torch.eye(30, dtype=torch.bool)].sort().values)


def test_bounds_do_not_overflow():
    scores = 600 * scores_of(20, dtype=torch.float32)
    for kind in ("dv", "smile", "jsd", "club"):
        assert information.bound(scores, kind).isfinite()
    expected = information.bound(scores.double(), "dv")
    torch.testing.assert_close(information.bound(scores, "dv").double(), expected, rtol=1e-6, atol=0)
    many = torch.linspace(-600, 600, 1000)
    torch.testing.assert_close(
        information.log_mean_exp(many).double(), information.log_mean_exp(many.double()), rtol=1e-6, atol=0
    )
    rows = information.log_mean_exp(scores.double(), 1)
    torch.testing.assert_close(rows, scores.double().logsumexp(1) - math.log(20))


def test_infonce_warns_near_its_ceiling():
    with pytest.warns(gramian.NumericalWarning, match=r"near its ceiling log n = 2\.08"):
        information.bound(100 * torch.eye(8), "infonce")


def test_bounds_refuse():
    with refuses("bound: scores must be [n, n], got shape (2, 3)"):
        information.bound(torch.ones(2, 3))
    with refuses("bound: scores must have at least 2 rows, for a pair that was not drawn together, got 1"):
        information.bound(torch.ones(1, 1))
    with refuses("bound: kind must be one of dv, nwj, tuba, infonce, jsd, smile, club, got mi"):
        information.bound(torch.ones(2, 2), "mi")
    with refuses("pair_bound: kind must be dv, nwj, tuba, jsd, smile or club, got infonce"):
        information.pair_bound(torch.ones(2), torch.ones(2), "infonce")
    with refuses("pair_bound: joint and marginal must have scores, got none"):
        information.pair_bound(torch.ones(0), torch.ones(2))
    with refuses("pair_bound: tau must be positive, got 0"):
        information.pair_bound(torch.ones(2), torch.ones(2), "smile", tau=0)
    with refuses("log_mean_exp: t must have values to reduce, got shape (0,)"):
        information.log_mean_exp(torch.ones(0))
    with refuses("log_mean_exp_ema: rate must be above 0 and at most 1, got 0"):
        information.log_mean_exp_ema(torch.ones(2), None, 0)
    with refuses("EmaDonskerVaradhan: rate must be above 0 and at most 1, got 2"):
        information.EmaDonskerVaradhan(2)


def test_log_mean_exp_ema_divides_by_the_running_mean():
    batches = [torch.randn(6, generator=generator(s), dtype=torch.float64) for s in range(4)]
    mean, log_ema = None, None
    for t in batches:
        t.requires_grad_()
        batch_mean = t.detach().exp().mean()
        mean = batch_mean if mean is None else 0.9 * mean + 0.1 * batch_mean
        value, log_ema = information.log_mean_exp_ema(t, log_ema, 0.1)
        torch.testing.assert_close(value.exp(), batch_mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(log_ema.exp(), mean, rtol=1e-12, atol=0)
        (gradient,) = torch.autograd.grad(value, t)
        torch.testing.assert_close(gradient, t.detach().exp() / (6 * mean), rtol=1e-12, atol=0)
    t = batches[0].detach().requires_grad_()
    plain = torch.autograd.grad(information.log_mean_exp(t), t)
    with_rate_one = torch.autograd.grad(information.log_mean_exp_ema(t, log_ema, 1.0)[0], t)
    torch.testing.assert_close(with_rate_one, plain, rtol=1e-12, atol=0)


def test_log_mean_exp_ema_does_not_overflow():
    t = torch.linspace(-600, 600, 50, requires_grad=True)  # exp would be infinite from 89 on
    value, log_ema = information.log_mean_exp_ema(t, torch.tensor(-600.0), 0.01)
    assert value.isfinite()
    assert log_ema.isfinite()
    assert torch.autograd.grad(value, t)[0].isfinite().all()


def test_the_running_mean_is_saved_and_evaluation_leaves_it():
    module = information.EmaDonskerVaradhan(0.1)
    joint, marginal = scores_of(5)[:2]
    first = module(joint, marginal)
    torch.testing.assert_close(first, information.pair_bound(joint, marginal), rtol=1e-12, atol=1e-12)
    module(joint, marginal + 2)
    again = information.EmaDonskerVaradhan(0.1)
    again.load_state_dict(module.state_dict())
    assert torch.equal(again.log_ema, module.log_ema)
    before = again.log_ema.clone()
    again.eval()(joint, marginal)
    assert torch.equal(again.log_ema, before)
    assert torch.equal(again.train()(joint, marginal), module(joint, marginal))
    assert torch.equal(again.log_ema, module.log_ema)


# ---- MINE ----


def test_derangement_moves_every_place():
    seen = set()
    for _ in range(200):
        drawn = information.derangement(4, generator(len(seen)))
        assert sorted(drawn.tolist()) == [0, 1, 2, 3]
        assert not (drawn == torch.arange(4)).any()
        seen.add(tuple(information.derangement(4).tolist()))
    assert len(seen) == 9  # all derangements of four
    with refuses("derangement: n must be at least 2, got 1"):
        information.derangement(1)


def test_adaptive_clip_takes_norms_over_all_parameters():
    parameters = [torch.zeros(2), torch.zeros(3), torch.zeros(1)]
    own = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0, 0.0]), None]
    added = [torch.tensor([0.0, 6.0]), None, torch.tensor([8.0])]
    for p, g in zip(parameters, own, strict=True):
        p.grad = None if g is None else g.clone()
    assert information.adaptive_clip_(parameters, added, weight=-2) == 0.5
    assert torch.equal(parameters[0].grad, torch.tensor([3.0, -6.0]))
    assert torch.equal(parameters[1].grad, own[1])
    assert torch.equal(parameters[2].grad, torch.tensor([-8.0]))
    assert information.adaptive_clip_(parameters, [torch.zeros(2), None, None]) == 0
    assert parameters[0].grad.isfinite().all()
    small = [torch.tensor([0.1, 0.0]), None, None]
    assert information.adaptive_clip_(parameters, small) == 1
    with refuses("adaptive_clip_: gradients must be one for each of 3 parameters, got 1"):
        information.adaptive_clip_(parameters, [None])
    with refuses("adaptive_clip_: gradients must be finite, got a norm of inf"):
        information.adaptive_clip_(parameters, [torch.tensor([math.inf, 0]), None, None])


@pytest.mark.parametrize(
    ("kind", "marginal"),
    [
        ("dv", "derangement"),
        ("dv", "permutation"),
        ("dv", "all_pairs"),
        ("nwj", "derangement"),
        ("infonce", "all_pairs"),
        ("jsd", "all_pairs"),
        ("smile", "derangement"),
    ],
)
def test_mine_finds_dependence_with_every_bound(kind, marginal):
    x, y = correlated(3000, 0.9, dtype=torch.float32)
    mine = information.MINE(1, 1, hidden=32, kind=kind, marginal=marginal, rate=0.1)
    found = mine.fit(x, y, steps=200, batch=128, learning_rate=5e-3, evaluate_every=40)
    # The truth is 0.83; few steps, and 450 held-out rows of which each estimate errs by about 0.05.
    assert 0.5 < found.value < 1.05
    assert 0 < found.std < 0.2
    assert len(found.curve) == len(found.steps) > 0
    assert not found.saturated


def test_mine_is_repeatable_and_leaves_the_random_state():
    x, y = correlated(300, 0.5, dtype=torch.float32)
    before = torch.get_rng_state()
    first, again = (information.MINE(1, 1, hidden=8).fit(x, y, steps=20, batch=32).value for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), before)


def test_mine_takes_loaders_and_stops_early():
    x, y = correlated(600, 0.9, dtype=torch.float32)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x[:400], y[:400]), 50)
    held = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x[400:], y[400:]), 50)
    found = information.MINE(1, 1, hidden=16).fit(
        loader, steps=4000, held_out=held, evaluate_every=5, patience=3, learning_rate=1e-2
    )
    assert found.steps[-1] < 4000
    assert 0.3 < found.value < 1.3  # 100 rows


def test_mine_estimate_is_the_bound_of_all_pairs():
    x, y = correlated(50, 0.5)
    for kind, options in (("dv", {}), ("nwj", {}), ("infonce", {}), ("smile", {"tau": 0.3})):
        mine = information.MINE(1, 1, hidden=8, kind=kind, **options).double()
        expected = reference.bound(mine.critic(x, y).detach(), kind, **options)
        found = mine.estimate(x, y)
        assert found.value == pytest.approx(float(expected), rel=1e-9, abs=1e-12)
        assert found.std >= 0


def test_mine_is_a_regulariser():
    x, y = correlated(64, 0.5)
    x.requires_grad_()
    mine = information.MINE(1, 1, hidden=8).double()
    (gradient,) = torch.autograd.grad(mine(x, y), x)
    assert gradient.abs().sum() > 0
    critic = information.SeparableCritic(nn.Linear(1, 4), nn.Linear(1, 4)).double()
    assert information.MINE(1, 1, critic=critic, kind="infonce")(x, y).requires_grad


def test_mine_refuses():
    x, y = correlated(20, 0.5)
    mine = information.MINE(1, 1, hidden=4).double()
    with refuses("MINE: x must have at least 2 rows, for a pair that was not drawn together, got 1"):
        mine(x[:1], y[:1])
    with refuses("MINE: y must have the 20 rows of x, got 19"):
        mine.fit(x, y[:19])
    with refuses("MINE: x must be floating [n, d_x], got torch.float64 of shape (20,)"):
        mine(x[:, 0], y)
    with refuses("MINE: y must be finite, got a NaN or an infinity"):
        mine(x, y.clone().fill_(torch.nan))
    with refuses("MINE: held_out must be above 0 and below 1, got 1.0"):
        mine.fit(x, y, held_out=1.0)
    with refuses("MINE: x must have rows for 2 to train on and 4 to hold out, got 5"):
        mine.fit(x[:5], y[:5])
    with refuses("MINE: y must be given with x, or x and held_out both iterate over batches, got None"):
        mine.fit(x)
    with refuses("MINE: kind must be dv, nwj, infonce, jsd or smile, got club"):
        information.MINE(1, 1, kind="club")
    with refuses("MINE: marginal must be derangement, permutation or all_pairs, got shuffle"):
        information.MINE(1, 1, marginal="shuffle")
    with pytest.warns(gramian.NumericalWarning, match="y has a constant column"):
        mine.fit(x, torch.ones_like(y), steps=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("d", "rho", "low", "high"), [(1, 0.5, 0.12, 0.17), (1, 0.9, 0.77, 0.88), (5, 0.5, 0.60, 0.78)]
)
def test_mine_is_near_the_truth_on_correlated_gaussians(d, rho, low, high):
    # The mean over seeds; bands around the truth 0.144, 0.830, 0.719 as wide as the held-out rows' own error, and for five
    # dimensions a bound's shortfall.
    values = []
    for seed in range(2):
        x, y = correlated(20000, rho, d, seed, torch.float32)
        mine = information.MINE(d, d, hidden=64, seed=seed)
        values.append(mine.fit(x, y, steps=600, batch=512, learning_rate=4e-3).value)
    assert low < np.mean(values) < high


# ---- KSG ----


@pytest.mark.parametrize("algorithm", [1, 2])
@pytest.mark.parametrize(("n", "d_x", "d_y", "k"), [(2, 1, 1, 1), (60, 1, 1, 3), (83, 2, 3, 1), (70, 5, 1, 69)])
def test_ksg_is_the_estimator_of_the_paper(n, d_x, d_y, k, algorithm):
    x = torch.randn(n, d_x, generator=generator(1), dtype=torch.float64)
    y = x.sum(1, keepdim=True) + torch.randn(n, d_y, generator=generator(2), dtype=torch.float64)
    expected = reference.ksg(x.numpy(), y.numpy(), k, algorithm)
    assert information.ksg(x, y, k=k, algorithm=algorithm).item() == pytest.approx(expected, abs=1e-12)


def test_ksg_given_z_is_the_conditional_estimator():
    x, y, z = (torch.randn(90, d, generator=generator(d), dtype=torch.float64) for d in (1, 2, 3))
    expected = reference.conditional_ksg(x.numpy(), y.numpy(), z.numpy(), 4)
    assert information.ksg(x, y, z, k=4).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_ksg_equals_npeet_plus(d):
    peer = pytest.importorskip("npeet_plus")
    x, y = correlated(1000, 0.6, d)
    np.random.seed(0)  # noqa: NPY002  it adds noise of 1e-10 from there
    expected = peer.mi(x.numpy(), y.numpy(), k=3, base=math.e)
    assert information.ksg(x, y).item() == pytest.approx(float(np.mean(expected)), abs=1e-9)


@pytest.mark.parametrize("conditional", [False, True])
def test_ksg_equals_ennemi(monkeypatch, conditional):
    peer = pytest.importorskip("ennemi")
    # Its own digamma is a short expansion, which errs by 1e-6 at small arguments.
    monkeypatch.setattr("ennemi._entropy_estimators._psi", digamma)
    x, y = (t[:, 0] for t in correlated(800, 0.6))
    z = 0.5 * x + torch.randn(800, generator=generator(9), dtype=torch.float64) if conditional else None
    options = {} if z is None else {"cond": z.numpy()}
    expected = peer.estimate_mi(y.numpy(), x.numpy(), k=3, preprocess=False, **options)
    assert information.ksg(x, y, z).item() == pytest.approx(float(expected.ravel()[0]), abs=1e-9)


def test_ksg_is_near_the_truth_and_does_not_mind_order_or_maps_of_single_columns():
    x, y = correlated(5000, 0.9)
    value = information.ksg(x, y)
    assert float(value) == pytest.approx(truth(0.9), abs=0.05)  # its spread at 5000 rows is about 0.02
    torch.testing.assert_close(information.ksg(y, x), value, rtol=1e-12, atol=1e-12)
    order = torch.randperm(5000, generator=generator())
    torch.testing.assert_close(information.ksg(x[order], y[order]), value, rtol=1e-12, atol=1e-12)
    assert float(information.ksg(x, y, algorithm=2)) == pytest.approx(truth(0.9), abs=0.05)
    assert float(information.ksg(x.exp(), y**3)) == pytest.approx(truth(0.9), abs=0.1)


def test_ksg_takes_integers_and_says_that_ties_bias_it():
    x = torch.randint(0, 3, (200,), generator=generator())
    with pytest.warns(gramian.NumericalWarning, match="ties bias"):
        plain = information.ksg(x, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jittered = information.ksg(x, x, jitter=1e-3, generator=generator())
    assert plain.isfinite()
    assert jittered > 0.8  # the entropy of three equal classes is 1.1
    with pytest.warns(gramian.NumericalWarning, match="y has a constant column"):
        information.ksg(torch.randn(50, generator=generator()), torch.ones(50))


def test_ksg_has_the_same_bits_for_every_number_of_threads():
    x, y = correlated(700, 0.5, 3)
    checks.check_thread_counts_agree(lambda: (information.ksg(x, y), information.ksg(x, y, algorithm=2)))


def test_ksg_refuses():
    x, y = correlated(10, 0.5)
    with refuses("ksg: k must be from 1 to 9, the other rows, got 10"):
        information.ksg(x, y, k=10)
    with refuses("ksg: y must be [10, d] or [10], got shape (9, 1)"):
        information.ksg(x, y[:9])
    with refuses("ksg: x must be finite, got row 4"):
        information.ksg(x.index_fill(0, torch.tensor([4]), torch.nan), y)
    with refuses("ksg: algorithm must be 1 or 2, got 3"):
        information.ksg(x, y, algorithm=3)
    with refuses("ksg: algorithm must be 1 with z, got 2"):
        information.ksg(x, y, x, algorithm=2)
    with refuses("ksg: jitter must be zero or positive, got -1"):
        information.ksg(x, y, jitter=-1)
