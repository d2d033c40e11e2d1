"""adversarial: attacks against their definitions and a peer, and the losses of A3T written out."""

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy, cross_entropy

from gramian import adversarial
from tests.checks import refuses


def subject(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype)
    return model, torch.rand(7, 3, 2, 2, dtype=dtype), torch.randint(0, 3, (7,))


def test_fgsm_is_a_step_up_the_sign_of_the_gradient():
    model, x, labels = subject()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model(leaf), labels), leaf)
    assert torch.equal(adversarial.fgsm(model, x, labels, 0.1, clip=None), x + 0.1 * gradient.sign())
    clipped = adversarial.fgsm(model, x, labels, 0.1)
    assert torch.equal(clipped, (x + 0.1 * gradient.sign()).clamp(0, 1))
    one_step = adversarial.pgd(model, x, labels, 0.1, steps=1, step=0.1, random_start=False)
    torch.testing.assert_close(one_step, clipped, rtol=0, atol=1e-15)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_stays_in_the_ball_and_climbs(norm):
    model, x, labels = subject()
    for eps in (0.05, 0.5):
        moved = adversarial.pgd(model, x, labels, eps, norm=norm, generator=torch.Generator().manual_seed(0))
        apart = (moved - x).flatten(1)
        length = apart.abs().amax(1) if norm == "linf" else apart.norm(dim=1)
        assert (length <= eps * (1 + 1e-12)).all()
        assert moved.min() >= 0
        assert moved.max() <= 1
        assert cross_entropy(model(moved), labels) > cross_entropy(model(x), labels)
        assert not moved.requires_grad


@pytest.mark.parametrize("attack", [adversarial.fgsm, adversarial.pgd])
def test_attacks_leave_the_model_alone_and_do_nothing_at_eps_zero(attack):
    model, x, labels = subject()
    marks = [torch.full_like(p, 3.0) for p in model.parameters()]
    for p, mark in zip(model.parameters(), marks, strict=True):
        p.grad = mark.clone()
    outside = x + 2  # not even cut to the range
    same = attack(model, outside, labels, 0.0)
    assert torch.equal(same, outside)
    assert same is not outside
    with torch.no_grad():
        attack(model, x.requires_grad_(), labels, 0.1)
    assert x.grad is None
    for p, mark in zip(model.parameters(), marks, strict=True):
        assert torch.equal(p.grad, mark)
    assert attack(model, x[:0], labels[:0], 0.1).shape == (0, 3, 2, 2)


def test_pgd_survives_a_zero_gradient():
    def flat(x):
        return torch.zeros(len(x), 3, dtype=x.dtype) * x.sum()

    _, x, labels = subject()
    assert torch.equal(adversarial.pgd(flat, x, labels, 0.1, norm="l2", random_start=False), x)


def test_random_starts_fill_the_ball():
    x = torch.full((4000, 2), 0.5, dtype=torch.float64)
    for norm in ("linf", "l2"):
        drawn = adversarial.pgd(
            lambda x: x, x, None, 0.2, steps=0, norm=norm, generator=torch.Generator().manual_seed(0)
        )
        apart = drawn - x
        length = apart.abs().amax(1) if norm == "linf" else apart.norm(dim=1)
        assert length.max() <= 0.2 * (1 + 1e-12)
        assert (length < 0.1).double().mean() == pytest.approx(0.25, abs=0.03)  # a quarter of a disc, or of a square


@pytest.mark.filterwarnings("ignore")
def test_attacks_equal_torchattacks():
    torchattacks = pytest.importorskip("torchattacks")
    model, x, labels = subject(dtype=torch.float32)
    model.eval()
    fgsm = torchattacks.FGSM(model, eps=0.1)(x, labels)
    torch.testing.assert_close(adversarial.fgsm(model, x, labels, 0.1), fgsm, rtol=0, atol=1e-6)
    pgd = torchattacks.PGD(model, eps=0.1, alpha=0.03, steps=5, random_start=False)(x, labels)
    ours = adversarial.pgd(model, x, labels, 0.1, step=0.03, steps=5, random_start=False)
    torch.testing.assert_close(ours, pgd, rtol=0, atol=1e-6)
    pgd = torchattacks.PGDL2(model, eps=0.5, alpha=0.2, steps=5, random_start=False)(x, labels)
    ours = adversarial.pgd(model, x, labels, 0.5, step=0.2, steps=5, norm="l2", random_start=False)
    torch.testing.assert_close(ours, pgd, rtol=0, atol=1e-5)


def augmented(beta=0.3):
    torch.manual_seed(1)
    return adversarial.A3TLoss(
        nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh()), nn.Linear(8, 3), nn.Linear(8, 1), alpha=0.7, beta=beta
    ).double()


def test_a3t_losses_are_those_of_the_paper():
    module = augmented()
    _, x, labels = subject()
    x_adv = adversarial.fgsm(module.classify, x, labels, 0.1)
    losses = module(x, x_adv, labels)
    clean, fooled = (torch.sigmoid(module.discriminator(module.encoder(t))[:, 0]) for t in (x, x_adv))
    classifier = 0.7 * cross_entropy(module.classify(x), labels) + 0.3 * cross_entropy(module.classify(x_adv), labels)
    classifier = classifier - 0.3 * fooled.log().mean()
    told = torch.cat([clean, fooled])
    truth = torch.cat([torch.ones_like(clean), torch.zeros_like(fooled)])
    torch.testing.assert_close(losses.classifier, classifier, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(losses.discriminator, binary_cross_entropy(told, truth), rtol=1e-12, atol=1e-12)
    far = module(x, x + 1e6, labels)
    assert all(loss.isfinite() for loss in far)


def test_a3t_losses_reach_only_their_own_networks():
    module = augmented()
    _, x, labels = subject()
    losses = module(x, x + 0.1, labels)
    classifier = [*module.encoder.parameters(), *module.readout.parameters()]
    discriminator = list(module.discriminator.parameters())
    assert torch.autograd.grad(losses.classifier, discriminator, retain_graph=True, allow_unused=True) == (None, None)
    unused = torch.autograd.grad(losses.discriminator, classifier, retain_graph=True, allow_unused=True)
    assert all(g is None for g in unused)
    with_beta, without = (
        torch.autograd.grad(m(x, x + 0.1, labels).classifier, m.encoder[1].weight)[0] for m in (module, augmented(0.0))
    )
    assert not torch.equal(with_beta, without)


def test_adversarial_refuses():
    model, x, labels = subject()
    with refuses("fgsm: eps must be zero or positive, got -1"):
        adversarial.fgsm(model, x, labels, -1)
    with refuses("fgsm: x must be floating, got torch.int64"):
        adversarial.fgsm(model, x.long(), labels, 0.1)
    with refuses("pgd: clip must be a range (low, high), got (1, 0)"):
        adversarial.pgd(model, x, labels, 0.1, clip=(1, 0))
    with refuses("pgd: norm must be linf or l2, got l1"):
        adversarial.pgd(model, x, labels, 0.1, norm="l1")
    with refuses("pgd: steps must be zero or positive, got -1"):
        adversarial.pgd(model, x, labels, 0.1, steps=-1)
    with refuses("A3TLoss: alpha must be from 0 to 1, got 2"):
        adversarial.A3TLoss(model, model, model, alpha=2)
    with refuses("A3TLoss: beta must be zero or positive, got -1"):
        adversarial.A3TLoss(model, model, model, beta=-1)
    with refuses("A3TLoss: x_adv must have the shape of x (7, 3, 2, 2), got (6, 3, 2, 2)"):
        augmented()(x, x[:6], labels)
