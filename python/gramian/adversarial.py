"""Adversarial examples and the adversarially augmented training that learns to hide them in a hidden layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["A3TLoss", "A3TLosses", "fgsm", "pgd"]

Norm = Literal["linf", "l2"]


def fgsm(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    labels: Tensor,
    eps: float,
    *,
    clip: tuple[float, float] | None = (0.0, 1.0),
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Tensor:
    r"""One step up the sign of the gradient of the loss, ``x + eps · sign ∂L(x, y)/∂x``.

    Args:
        model: from inputs to what ``loss`` takes; in the mode (training or evaluation) that the caller chose. Normalisation
            belongs inside.
        x: ``[n, ...]`` inputs, floating.
        labels: what ``loss`` compares with.
        eps: size of the step, in the units of ``x``; 0 returns a copy.
        clip: range of valid inputs, which the result is cut to; None for none.
        loss: of outputs and labels.

    Returns:
        Shape and dtype of ``x``, no gradient. Every value differs from ``x`` by at most ``eps``.

    Raises:
        ValueError: a negative ``eps``, a range that is empty, inputs that are not floating.

    Cost:
        One forward and one backward pass by the inputs alone.

    Accuracy:
        Exact but for the roundings of a sum.

    No ``.grad`` of the model is touched.

    References:
        Goodfellow et al., arXiv:1412.6572; as used in arXiv:1801.04055.

    Example:
        >>> fgsm(lambda x: torch.cat([x, -x], 1), torch.tensor([[0.5]]), torch.tensor([0]), 0.1)
        tensor([[0.4000]])
    """
    _check("fgsm", x, eps, clip)
    if eps == 0:
        return x.detach().clone()
    step = _input_gradient(model, x.detach(), labels, loss).sign()
    return _clipped(x.detach() + eps * step, clip)


def pgd(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    labels: Tensor,
    eps: float,
    *,
    step: float | None = None,
    steps: int = 10,
    norm: Norm = "linf",
    random_start: bool = True,
    clip: tuple[float, float] | None = (0.0, 1.0),
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Projected gradient ascent of the loss within a ball of radius ``eps`` around each input.

    Args:
        model: from inputs to what ``loss`` takes; in the mode that the caller chose.
        x: ``[n, ...]`` inputs, floating.
        labels: what ``loss`` compares with.
        eps: radius of the ball, in the units of ``x``; 0 returns a copy.
        step: length of a step; by default ``2.5 eps / steps``.
        steps: number of steps.
        norm: ``"linf"``, steps along the sign; ``"l2"``, steps along the gradient.
        random_start: start at a point drawn uniformly from the ball instead of at ``x``.
        clip: range of valid inputs; None for none.
        loss: of outputs and labels.
        generator: of the random start.

    Returns:
        Shape and dtype of ``x``, no gradient; within ``eps`` of ``x`` in the norm, up to rounding.

    Raises:
        ValueError: a negative ``eps`` or ``steps``, a range that is empty, an unknown norm, inputs that are not floating.

    Cost:
        ``steps`` forward and backward passes by the inputs alone.

    Accuracy:
        Exact but for the roundings of sums.

    No ``.grad`` of the model is touched.

    References:
        Madry et al., arXiv:1706.06083.

    Example:
        >>> x, down = torch.tensor([[0.5]]), lambda x: torch.cat([x, -x], 1)
        >>> pgd(down, x, torch.tensor([0]), 0.1, steps=4, random_start=False)
        tensor([[0.4000]])
    """
    _check("pgd", x, eps, clip)
    if steps < 0:
        raise ValueError(f"pgd: steps must be zero or positive, got {steps}")
    if norm not in ("linf", "l2"):
        raise ValueError(f"pgd: norm must be linf or l2, got {norm}")
    clean = x.detach()
    if eps == 0 or x.numel() == 0:
        return clean.clone()
    step = 2.5 * eps / max(steps, 1) if step is None else step
    moved = clean.clone()
    if random_start:
        moved = _clipped(clean + _drawn(clean, eps, norm, generator), clip)
    for _ in range(steps):
        gradient = _input_gradient(model, moved, labels, loss)
        if norm == "linf":
            moved = clean + (moved + step * gradient.sign() - clean).clamp(-eps, eps)
        else:
            apart = moved + step * gradient / _length(gradient) - clean
            moved = clean + apart * (eps / _length(apart)).clamp(max=1)
        moved = _clipped(moved, clip)
    return moved


def _check(op: str, x: Tensor, eps: float, clip: tuple[float, float] | None) -> None:
    if not x.is_floating_point():
        raise ValueError(f"{op}: x must be floating, got {x.dtype}")
    if not eps >= 0:
        raise ValueError(f"{op}: eps must be zero or positive, got {eps}")
    if clip is not None and not clip[0] < clip[1]:
        raise ValueError(f"{op}: clip must be a range (low, high), got {clip}")


def _input_gradient(
    model: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        value = loss(model(leaf), labels)
        gradient: Tensor = torch.autograd.grad(value, leaf)[0]
    return gradient


def _clipped(x: Tensor, clip: tuple[float, float] | None) -> Tensor:
    return x if clip is None else x.clamp(clip[0], clip[1])


def _length(x: Tensor) -> Tensor:
    """Euclidean length of each sample, shaped to divide it; of a zero one, the smallest number that can."""
    length: Tensor = x.flatten(1).norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
    return length.view(-1, *[1] * (x.ndim - 1))


def _drawn(x: Tensor, eps: float, norm: Norm, generator: torch.Generator | None) -> Tensor:
    if norm == "linf":
        return (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype, device="cpu") - 1).to(x.device) * eps
    direction = torch.randn(x.shape, generator=generator, dtype=x.dtype, device="cpu")
    radius = torch.rand(len(x), generator=generator, dtype=x.dtype, device="cpu").pow(1 / direction[0].numel())
    return (direction / _length(direction) * radius.view(-1, *[1] * (x.ndim - 1)) * eps).to(x.device)


class A3TLosses(NamedTuple):
    """What one step of the training minimises: by the classifier, and by the discriminator."""

    classifier: Tensor
    discriminator: Tensor


class A3TLoss(nn.Module):
    r"""Adversarially augmented adversarial training: a discriminator on a hidden layer tells clean from adversarial.

    The classifier is ``readout ∘ encoder``. It minimises
    ``-α log P(y | x) - (1 - α) log P(y | x_adv) - β log D(encoder(x_adv))``, where ``D`` is the discriminator's probability that
    its input comes from a clean sample; the discriminator minimises the cross-entropy of clean against adversarial on detached
    features. So the encoder learns to make adversarial samples look clean. ``β = 0`` is adversarial training.

    Args:
        encoder: from inputs to the hidden layer.
        readout: from the hidden layer to logits.
        discriminator: from the hidden layer to one logit a sample, ``[n]`` or ``[n, 1]``, of "clean".
        alpha: weight of the clean samples, from 0 to 1.
        beta: weight of the discriminator in the classifier's loss, zero or positive.
    """

    def __init__(
        self,
        encoder: nn.Module,
        readout: nn.Module,
        discriminator: nn.Module,
        *,
        alpha: float = 0.5,
        beta: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"A3TLoss: alpha must be from 0 to 1, got {alpha}")
        if not beta >= 0:
            raise ValueError(f"A3TLoss: beta must be zero or positive, got {beta}")
        self.encoder, self.readout, self.discriminator = encoder, readout, discriminator
        self.alpha, self.beta = alpha, beta

    def classify(self, x: Tensor) -> Tensor:
        """Logits: the model to attack, and to use."""
        logits: Tensor = self.readout(self.encoder(x))
        return logits

    def forward(self, x: Tensor, x_adv: Tensor, labels: Tensor) -> A3TLosses:
        """Losses of a batch ``x`` and its adversarial version, made with the weights as they are.

        The classifier's loss sends no gradient to the discriminator's parameters, nor the discriminator's to the encoder's:
        step both optimisers after ``(losses.classifier + losses.discriminator).backward()``.
        """
        if x.shape != x_adv.shape:
            raise ValueError(f"A3TLoss: x_adv must have the shape of x {tuple(x.shape)}, got {tuple(x_adv.shape)}")
        features = self.encoder(torch.cat([x, x_adv]))
        logits = self.readout(features)
        n = len(x)
        clean, adversarial = cross_entropy(logits[:n], labels), cross_entropy(logits[n:], labels)
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        judged = torch.func.functional_call(self.discriminator, frozen, (features[n:],))
        told = self.discriminator(features.detach()).reshape(-1)
        return A3TLosses(
            self.alpha * clean + (1 - self.alpha) * adversarial + self.beta * softplus(-judged).mean(),
            (softplus(-told[:n]).mean() + softplus(told[n:]).mean()) / 2,
        )
