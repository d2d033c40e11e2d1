"""dynamics: closed forms against the runs that they describe, limits of laziness, groups at equal progress, refusals."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from gramian import dynamics, ntk
from gramian.dynamics import (
    GroupProgress,
    SuperNat,
    at_progress,
    cscore,
    diagonal_flow,
    flow,
    linearize,
    representation_alignment,
    scale_output,
    sign_similarity,
)


def network(*widths, seed=0):
    torch.manual_seed(seed)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]).double()


def cloud(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fit(model, x, y, *, rate, steps, divide=1.0):
    """Full-batch gradient descent on half the squared error, summed; the outputs after every step."""
    outputs = [model(x).detach()]
    for _ in range(steps):
        loss = (model(x) - y).square().sum() / 2 / divide
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradients, strict=True):
                p.sub_(rate * g)
        outputs.append(model(x).detach())
    return torch.stack(outputs)


# ---- Linearised and scaled networks ----


def test_linearized_is_the_first_order_expansion():
    model, x = network(4, 16, 3), cloud(6, 4)
    linear = linearize(model)
    torch.testing.assert_close(linear(x), model(x))
    jacobian = torch.func.jacrev(lambda w: torch.func.functional_call(model, w, (x,)))(dict(model.named_parameters()))
    change = [cloud(*p.shape, seed=i) for i, p in enumerate(model.parameters())]
    with torch.no_grad():
        for p, c in zip(linear.change, change, strict=True):
            p.copy_(c)
    moved = sum((j * c).flatten(2).sum(2) for j, c in zip(jacobian.values(), change, strict=True))
    torch.testing.assert_close(linear(x), model(x) + moved)
    assert len(list(linear.parameters())) == 4  # the network's own are not among them


def test_linearized_has_the_gradient_of_the_network_and_takes_attention():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double().eval()
    linear, x = linearize(model), cloud(2, 5, 8)
    linear(x).square().sum().backward()
    model(x).square().sum().backward()
    for change, p in zip(linear.change, model.parameters(), strict=True):
        torch.testing.assert_close(change.grad, p.grad)


def test_linearized_training_is_the_closed_form():
    model, x, y = network(4, 20, 2), cloud(7, 4), cloud(7, 2, seed=1)
    K = ntk.empirical_ntk(model, x)
    f0, rate = model(x).detach(), 0.5 / float(torch.linalg.eigvalsh(K.permute(0, 2, 1, 3).reshape(14, 14))[-1])
    run = fit(linearize(model), x, y, rate=rate, steps=30)
    steps = torch.arange(31)
    torch.testing.assert_close(flow(K, y, f0, steps, rate=rate, discrete=True), run, rtol=1e-8, atol=1e-9)
    x_test = cloud(5, 4, seed=2)
    linear = linearize(model)
    fit(linear, x, y, rate=rate, steps=30)
    K_test, f0_test = ntk.empirical_ntk(model, x_test, x), model(x_test).detach()
    got = flow(K, y, f0, steps[-1:], rate=rate, discrete=True, K_test=K_test, f0_test=f0_test)
    torch.testing.assert_close(got[0], linear(x_test).detach(), rtol=1e-8, atol=1e-9)


def test_flow_is_the_limit_of_small_steps_and_keeps_what_no_feature_moves():
    features, y = cloud(6, 3), cloud(6, 2, seed=1)
    K, f0 = features @ features.mT, cloud(6, 2, seed=2)  # rank three of six
    small = 1e-4
    got = flow(K, y, f0, torch.tensor([0.0, 0.05], dtype=torch.float64))
    torch.testing.assert_close(got[0], f0)
    torch.testing.assert_close(
        got[1], flow(K, y, f0, torch.tensor([0.05 / small]), rate=small, discrete=True)[0], rtol=1e-3, atol=1e-3
    )
    end = flow(K, y, f0, torch.tensor([1e6], dtype=torch.float64))[0]
    unseen = torch.linalg.eigh(K).eigenvectors[:, :3]
    torch.testing.assert_close(unseen.mT @ end, unseen.mT @ f0)
    torch.testing.assert_close(features.mT @ end, features.mT @ y)


def test_flow_of_one_kernel_is_that_of_the_full_one():
    features, y, f0 = cloud(5, 9), cloud(5, 2, seed=1), cloud(5, 2, seed=2)
    K, t = features @ features.mT, torch.tensor([0.1, 1.0], dtype=torch.float64)
    full = K[:, :, None, None] * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(flow(full, y, f0, t), flow(K, y, f0, t))
    torch.testing.assert_close(flow(K, y, f0, t, K_test=K, f0_test=f0), flow(K, y, f0, t))


def test_scaled_networks_start_alike_and_approach_the_linear_one():
    x, y = cloud(8, 4), cloud(8, 1, seed=1)
    start = network(4, 30, 1)
    rate, steps = 0.02, 60
    linear = linearize(start)
    offset = start(x).detach()
    with_offset = fit(linear, x, y + offset, rate=rate, steps=steps) - offset
    distances = []
    for alpha in (1.0, 10.0, 100.0):
        scaled = scale_output(copy.deepcopy(start), alpha)
        assert scaled(x).abs().max() == 0
        run = fit(scaled, x, y, rate=rate, steps=steps, divide=alpha**2)
        distances.append(float((run - with_offset).norm()))
    slopes = [math.log10(a / b) for a, b in pairwise(distances)]
    assert distances[0] > distances[1] > distances[2]
    assert slopes[-1] == pytest.approx(1, abs=0.2)  # the distance falls like 1 / alpha


def test_scaled_can_keep_its_start_and_moves_with_its_copy():
    model, x = network(3, 5, 2), cloud(4, 3)
    scaled = scale_output(model, 7.0, keep_start=True)
    torch.testing.assert_close(scaled(x), model(x))
    assert scaled.float()(x.float()).dtype == torch.float32
    assert linearize(network(3, 5, 2)).float()(x.float()).dtype == torch.float32


class Diagonal(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.u, self.v = nn.Parameter(start.sqrt()), nn.Parameter(start.sqrt())

    def forward(self, x):
        return (x @ (self.u * self.v))[:, None]


def test_diagonal_flow_solves_the_network_exactly():
    target, start = torch.tensor([3.0, 1.0, 0.2]).double(), torch.tensor([1e-3, 2e-3, 0.3]).double()

    def slope(w):  # gradient flow of half the squared distance, by autograd
        with torch.enable_grad():
            loss = (target - w[0] * w[1]).square().sum() / 2
            return -torch.autograd.grad(loss, w)[0]

    w, step, passed = torch.stack([start.sqrt(), start.sqrt()]).requires_grad_(), 2e-3, []
    for _ in range(3000):  # Runge and Kutta: the error is of order step^4
        passed.append((w[0] * w[1]).detach())
        a = slope(w)
        b = slope(w + step / 2 * a)
        c = slope(w + step / 2 * b)
        w = (w + step / 6 * (a + 2 * b + 2 * c + slope(w + step * c))).detach().requires_grad_()
    times = step * torch.arange(3000).double()
    torch.testing.assert_close(diagonal_flow(target, start, times), torch.stack(passed), rtol=1e-9, atol=1e-12)


def test_diagonal_network_learns_modes_in_turn_and_all_at_once_where_linear():
    target, start = torch.tensor([3.0, 1.0, 0.2]).double(), torch.full((3,), 1e-3).double()
    times = torch.linspace(0, 30, 3001).double()
    when = (diagonal_flow(target, start, times) >= target / 2).int().argmax(0).double()
    assert when[0] < when[1] / 2.5 < when[2] / 9  # one after the other, the strongest first
    x, rate = torch.eye(3).double(), 100.0
    linear = fit(linearize(Diagonal(start)), x, target[:, None], rate=rate, steps=8)[..., 0]
    left = (1 - 2 * rate * start) ** torch.arange(9)[:, None]  # the kernel of mode j is u_j^2 + v_j^2, the same for all
    torch.testing.assert_close(linear, target + left * (start - target))


# ---- Groups and progress ----


def test_at_progress_interpolates_where_a_level_is_first_passed():
    progress = torch.tensor([0.1, 0.5, 0.3, 0.9])
    values = torch.tensor([[0.0, 1.0], [4.0, 2.0], [8.0, 8.0], [2.0, 6.0]])
    got = at_progress(progress, values, torch.tensor([0.0, 0.1, 0.3, 0.5, 0.6, 0.95]))
    expected = torch.tensor([[0.0, 1.0], [0.0, 1.0], [2.0, 1.5], [4.0, 2.0], [5.0, 7.0], [torch.nan, torch.nan]])
    torch.testing.assert_close(got, expected, equal_nan=True)


def test_group_progress_is_the_mean_of_each_group():
    labels = torch.tensor([0, 1, 1, 0])
    tracker = GroupProgress({"easy": torch.tensor([0, 1]), "hard": torch.tensor([False, False, True, True])})
    for strength in (0.0, 1.0, 2.0):
        logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.0], [-1.0, 0.0]]) * strength
        logits[3, 0] += 1.5 * strength**2 / 2
        tracker.record(logits, labels)
    everyone, groups = tracker.curves()
    torch.testing.assert_close(everyone, groups.mean(1))
    assert groups[-1].tolist() == [1.0, 0.5]
    loss, losses = tracker.curves("loss")
    torch.testing.assert_close(loss, losses.mean(1))
    assert loss[0] == pytest.approx(math.log(2))
    torch.testing.assert_close(tracker.at(loss[1:2], "loss")[0], losses[1])
    with pytest.raises(ValueError, match="measure must be loss or accuracy, got time"):
        tracker.curves("time")


def test_cscore_tells_easy_from_hard():
    x = torch.cat([cloud(40, 2) - 3, cloud(40, 2, seed=1) + 3])
    labels = torch.arange(80) // 40
    labels[0], labels[79] = 1, 0  # mislabelled

    def nearest_mean(x, labels):
        means = torch.stack([x[labels == c].mean(0) for c in range(2)])
        return lambda x: -torch.cdist(x, means)

    scores = cscore(nearest_mean, x, labels, runs=30, generator=torch.Generator().manual_seed(0), progress=True)
    assert scores[[0, 79]].tolist() == [0.0, 0.0]
    assert (scores[1:79] == 1).all()


# ---- Laziness ----


def test_sign_similarity_counts_signs():
    first, x = network(4, 10, 10, 2), cloud(30, 4)
    second = copy.deepcopy(first)
    assert sign_similarity(first, second, x) == 1.0
    with torch.no_grad():
        second[0].weight.neg_()
        second[0].bias.neg_()
    hidden, turned = torch.relu(first[0](x)), torch.relu(second[0](x))
    same = ((first[2](hidden) > 0) == (first[2](turned) > 0)).double().mean().item()
    assert sign_similarity(first, second, x) == pytest.approx(same / 2)
    assert not any(module._forward_pre_hooks for module in second.modules())


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize(("n", "p", "q"), [(50, 4, 6), (5, 40, 30)])
def test_representation_alignment_is_that_of_the_kernels(n, p, q, centered):
    a, b = cloud(n, p) + 1, cloud(n, q, seed=1)
    expected = ntk.alignment(a @ a.mT, b @ b.mT, centered=centered)
    torch.testing.assert_close(representation_alignment(a, b, centered=centered), expected)


# ---- SuperNat ----


def decaying_features(n=30, p=60):
    u, _, v = torch.linalg.svd(cloud(n, p), full_matrices=False)
    return u * torch.arange(1, n + 1).double().pow(-0.5) @ v


def supernat_until(features, y, level, **options):
    optimiser = SuperNat(features, 1, rate=0.2, **options)
    for _ in range(20000):
        residual = features @ optimiser.weights - y
        if residual.square().mean() < level:
            return optimiser
        optimiser.step(residual)
    raise AssertionError("did not get there")


def test_supernat_without_weights_is_gradient_descent():
    features, y = decaying_features(), cloud(30, 2, seed=1)
    optimiser, weights, bound = SuperNat(features, 2, rate=0.3, reweight=False), torch.zeros(60, 2).double(), 0.0
    for _ in range(10):
        gradient = features @ weights - y
        move = 0.3 * features.mT @ gradient
        weights, bound = weights - move, bound + float(move.norm() * features.norm()) / 30
        optimiser.step(gradient)
    torch.testing.assert_close(optimiser.weights, weights)
    assert optimiser.bound == pytest.approx(bound)


@pytest.mark.parametrize("modes", [1, 3, 6])
def test_supernat_reaches_the_same_loss_at_a_lower_bound(modes):
    features = decaying_features()
    u = torch.linalg.svd(features, full_matrices=False).U
    y = u[:, :modes].sum(1, keepdim=True)
    level = 1e-3 * float(y.square().mean())
    plain = supernat_until(features, y, level, reweight=False)
    assert supernat_until(features, y, level).bound < plain.bound


# ---- Refusals ----


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linearize(nn.Sequential(nn.Linear(2, 2), nn.Dropout())), "model must"),
        (lambda: scale_output(nn.Linear(2, 1), 0.0), "scale_output: alpha must be positive, got 0.0"),
        (lambda: flow(torch.eye(3), torch.ones(2, 1), torch.ones(2, 1), torch.ones(1)), r"flow: K must be \[n, n\] or"),
        (lambda: flow(torch.eye(2), torch.ones(2), torch.ones(2), torch.ones(1)), r"flow: y and f0 must be \[n, c\]"),
        (
            lambda: flow(torch.eye(2), torch.ones(2, 1), torch.ones(2, 1), -torch.ones(1)),
            r"flow: t must be \[s\] and not negative, got \[-1.0\]",
        ),
        (
            lambda: flow(torch.eye(2), torch.ones(2, 1), torch.ones(2, 1), torch.ones(1), K_test=torch.eye(2)),
            "flow: K_test and f0_test must be given together, got one",
        ),
        (
            lambda: diagonal_flow(torch.ones(2), torch.zeros(2), torch.ones(1)),
            "diagonal_flow: target and start must be positive",
        ),
        (
            lambda: at_progress(torch.ones(2), torch.ones(3), torch.ones(1)),
            r"at_progress: progress and values must be \[s, ...\] and levels \[p\], got shapes",
        ),
        (lambda: cscore(None, torch.ones(4, 1), torch.ones(3)), r"cscore: labels must be \[n\] with n = 4 like x"),
        (lambda: cscore(None, torch.ones(4, 1), torch.ones(4), runs=0), "cscore: runs must be positive, got 0"),
        (
            lambda: cscore(None, torch.ones(4, 1), torch.ones(4), share=1.0),
            "cscore: share must leave samples on both sides, got 1.0 of 4",
        ),
        (
            lambda: sign_similarity(nn.Linear(2, 1), nn.Linear(2, 1), torch.ones(1, 2)),
            "sign_similarity: first and second must have the same nn.ReLU modules",
        ),
        (
            lambda: representation_alignment(torch.ones(3, 2), torch.ones(2, 2)),
            r"representation_alignment: first and second must be \[n, p\] and \[n, q\], got shapes",
        ),
        (lambda: SuperNat(torch.ones(3)), r"SuperNat: features must be \[n, p\], got shape \(3,\)"),
    ],
)
def test_dynamics_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_everything_public_is_tested_here():
    assert set(dynamics.__all__) <= set(globals()) | {"Linearized", "Scaled"}
