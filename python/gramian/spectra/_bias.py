"""Spectral bias: in which order a network learns frequencies, and how firmly it holds them."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gramian._lightning import recording_callback
from gramian._progress import progress_bar

from ._targets import amplitudes_at, numbers, sinusoids

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["FrequencyRecorder", "learn_sinusoids", "learned_at", "perturbed_amplitudes"]


def _outputs(op: str, model: nn.Module, inputs: Tensor) -> Tensor:
    out: Tensor = model(inputs)
    if out.numel() != len(inputs):
        raise ValueError(f"{op}: model must have one output, got shape {tuple(out.shape)} for {len(inputs)} inputs")
    return out.reshape(len(inputs))


class FrequencyRecorder:
    r"""Record which frequencies a network has learned, in any training loop: :math:`|\tilde f(k_i)| / A_i` against the step.

    1 is learned, 0 is not there yet. Rahaman et al., arXiv:1806.08734.

    Example:
        >>> z = torch.arange(16) / 16
        >>> recorder = FrequencyRecorder(nn.Linear(1, 1), z[:, None], z, [1.0, 2.0])
        >>> for step in range(3):  # and train in between
        ...     recorder.record(step)
        >>> recorder.heat.shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        z: Tensor,
        frequencies: Tensor | Sequence[float],
        *,
        amplitudes: Tensor | Sequence[float] | float = 1.0,
    ) -> None:
        """Take the model, of one output, and where to look.

        Args:
            model: evaluated as it is at each recording, in eval mode.
            inputs: ``[n, ...]`` what it is fed at each ``z``: ``z[:, None]``, or a curve such as ``petal(z, L)``.
            z: ``[n]``, best ``torch.arange(n) / n``.
            frequencies: ``[k]`` in cycles a unit of ``z``.
            amplitudes: ``[k]`` of the target, or one for all.

        Raises:
            ValueError: sizes that do not fit.
        """
        if len(inputs) != len(z):
            raise ValueError(f"FrequencyRecorder: inputs must have the {len(z)} rows of z, got {len(inputs)}")
        self.model, self.inputs, self.z = model, inputs, z
        self.frequencies = numbers("FrequencyRecorder", "frequencies", frequencies)
        self.amplitudes = numbers("FrequencyRecorder", "amplitudes", amplitudes, len(self.frequencies))
        self.steps: list[int] = []
        self._rows: list[Tensor] = []

    @torch.no_grad()
    def record(self, step: int) -> None:
        """Measure the network as it is now."""
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            values = _outputs("FrequencyRecorder", self.model, self.inputs)
        finally:
            for module, was in modes.items():
                module.training = was
        self._rows.append(amplitudes_at(values, self.z, self.frequencies) / self.amplitudes)
        self.steps.append(step)

    @property
    def heat(self) -> Tensor:
        """Share of each amplitude at each recording, ``[s, k]`` float64."""
        return (
            torch.stack(self._rows)
            if self._rows
            else torch.zeros(0, len(self.frequencies), dtype=torch.float64, device="cpu")
        )

    def save(self, path: Path) -> None:
        """Write all recordings as JSON."""
        kept = {"frequencies": self.frequencies.tolist(), "steps": self.steps, "heat": self.heat.tolist()}
        path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")

    def callback(self, every: int = 1) -> Any:
        """Return a Lightning callback that records every so many training batches, and at the end.

        Raises:
            ImportError: neither ``lightning`` nor ``pytorch_lightning`` is installed.
        """
        return recording_callback(self.record, every)


def learn_sinusoids(
    model: nn.Module,
    z: Tensor,
    frequencies: Tensor | Sequence[float],
    *,
    inputs: Tensor | None = None,
    amplitudes: Tensor | Sequence[float] | float = 1.0,
    phases: Tensor | Sequence[float] | float = 0.0,
    steps: int = 80_000,
    every: int = 100,
    learning_rate: float = 3e-4,
    shown: bool = False,
) -> FrequencyRecorder:
    r"""Fit a sum of sinusoids by full-batch Adam, :math:`f(\gamma(z)) \to \lambda(z)`, and record frequency against step.

    Args:
        model: of one output, on CPU; trained in place.
        z: ``[n]`` samples, best ``torch.arange(n) / n``.
        frequencies: ``[k]`` in cycles a unit of ``z``.
        inputs: ``[n, d]`` what the model is fed, e.g. ``petal(z, L)``; ``z`` itself by default.
        amplitudes: see `sinusoids`.
        phases: see `sinusoids`.
        steps: of Adam on the mean squared error.
        every: steps between recordings; the start and the end are recorded, too.
        learning_rate: of Adam.
        shown: a progress bar.

    Returns:
        The recorder, with its ``steps`` and its ``heat`` ``[s, k]``.

    Raises:
        ValueError: sizes that do not fit, a model of several outputs.

    Cost:
        The training, and a forward pass a recording.

    Accuracy:
        The model's dtype.

    Repeats with the model's start.

    References:
        arXiv:1806.08734; the defaults are the paper's steps, and its code's rate.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))
        >>> found = learn_sinusoids(model, torch.arange(32) / 32, [1.0, 4.0], steps=20, every=10)
        >>> found.steps
        [0, 10, 20]
    """
    if steps < 0 or every < 1:
        raise ValueError(f"learn_sinusoids: steps and every must be positive, got {steps} and {every}")
    fed = z[:, None] if inputs is None else inputs
    recorder = FrequencyRecorder(model, fed, z, frequencies, amplitudes=amplitudes)
    target = sinusoids(z, frequencies, amplitudes=amplitudes, phases=phases)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for step in progress_bar(range(steps), "learning", shown=shown):
        if step % every == 0:
            recorder.record(step)
        optimizer.zero_grad()
        (_outputs("learn_sinusoids", model, fed) - target).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    recorder.record(steps)
    return recorder


def learned_at(heat: Tensor, steps: Sequence[int], *, threshold: float = 0.5) -> Tensor:
    r"""Tell when each frequency was learned: the first recording with :math:`|\tilde f(k)| / A \geq` the threshold.

    Args:
        heat: ``[s, k]`` of a `FrequencyRecorder`.
        steps: ``[s]`` of the recordings.
        threshold: share of the amplitude.

    Returns:
        ``[k]`` float64, infinite where it never was.

    Raises:
        ValueError: sizes that do not fit.

    Cost:
        Reads ``heat`` once.

    Accuracy:
        That of the recordings' spacing.

    Not differentiable.

    References:
        arXiv:1806.08734.

    Example:
        >>> learned_at(torch.tensor([[0.0, 0.0], [0.9, 0.1], [1.0, 0.2]]), [0, 10, 20])
        tensor([10., inf], dtype=torch.float64)
    """
    if heat.dim() != 2 or len(heat) != len(steps):
        raise ValueError(f"learned_at: heat must be [{len(steps)}, k] for these steps, got shape {tuple(heat.shape)}")
    at = torch.tensor([*steps, math.inf], dtype=torch.float64, device="cpu")
    reached = torch.cat([heat >= threshold, torch.ones(1, heat.shape[1], dtype=torch.bool, device="cpu")])
    return at[reached.byte().argmax(0)]


def perturbed_amplitudes(
    model: nn.Module,
    inputs: Tensor,
    z: Tensor,
    frequencies: Tensor | Sequence[float],
    radii: Tensor | Sequence[float],
    *,
    directions: int = 100,
    together: int = 25,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Perturb all parameters at random: the mean of :math:`|\tilde f_{\theta + \delta u}(k)| / |\tilde f_\theta(k)|`.

    What a network learned at low frequencies withstands larger perturbations than what it learned at high ones.

    Args:
        model: of one output, trained; left as it is.
        inputs: ``[n, ...]`` what it is fed at each ``z``.
        z: ``[n]``.
        frequencies: ``[k]`` in cycles a unit of ``z``.
        radii: ``[r]`` Euclidean norms of the perturbation of all parameters together.
        directions: number of random directions, the same for every radius.
        together: of these to evaluate at once.
        generator: of the directions; torch's own by default.

    Returns:
        ``[r, k]`` float64, 1 at radius 0.

    Raises:
        ValueError: sizes that do not fit, a model of several outputs.

    Cost:
        A forward pass for each radius and direction, batched by vmap over ``together`` directions.

    Accuracy:
        The model's dtype; the mean's standard error falls as one over the root of ``directions``.

    Not differentiable.

    References:
        arXiv:1806.08734.

    Example:
        >>> z = torch.arange(16) / 16
        >>> perturbed_amplitudes(nn.Linear(1, 1), z[:, None], z, [1.0], [0.0]).round(decimals=4)
        tensor([[1.]], dtype=torch.float64)
    """
    op = "perturbed_amplitudes"
    k, norms = numbers(op, "frequencies", frequencies), numbers(op, "radii", radii)
    if directions < 1 or together < 1:
        raise ValueError(f"{op}: directions and together must be at least 1, got {directions} and {together}")
    start = {name: p.detach() for name, p in model.named_parameters()}
    modes = {module: module.training for module in model.modules()}

    def values(params: dict[str, Tensor]) -> Tensor:
        out: Tensor = torch.func.functional_call(model, params, (inputs,))
        return out.reshape(len(inputs))

    total = torch.zeros(len(norms), len(k), dtype=torch.float64, device="cpu")
    model.eval()
    try:
        with torch.no_grad():
            own = amplitudes_at(_outputs(op, model, inputs), z, k)
            for begin in range(0, directions, together):
                count = min(together, directions - begin)
                drawn = {
                    name: torch.randn(count, *p.shape, generator=generator, dtype=p.dtype, device="cpu")
                    for name, p in start.items()
                }
                length = torch.stack([d.flatten(1).double().square().sum(1) for d in drawn.values()]).sum(0).sqrt()
                for row, norm in enumerate(norms):
                    moved = {
                        name: p + drawn[name] * (norm / length).to(p.dtype).view(-1, *(1,) * p.dim())
                        for name, p in start.items()
                    }
                    total[row] += (amplitudes_at(torch.func.vmap(values)(moved), z, k) / own).sum(0)
    finally:
        for module, was in modes.items():
            module.training = was
    return total / directions
