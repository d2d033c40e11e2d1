"""MINE: mutual information by training a critic."""

from __future__ import annotations

import copy
import math
import warnings
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from gramian._progress import progress_bar
from gramian._warnings import NumericalWarning

from ._bounds import EmaDonskerVaradhan, Kind, pair_bound, warn_if_saturated
from ._critic import PairwiseCritic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["MINE", "Estimate", "adaptive_clip_", "derangement"]

Marginal = Literal["derangement", "permutation", "all_pairs"]


def derangement(n: int, generator: torch.Generator | None = None) -> Tensor:
    r"""Random permutation that leaves no place as it was: pairs ``(i, p_i)`` are then never joint pairs.

    Args:
        n: places, at least 2.
        generator: of torch's random numbers, on the CPU.

    Returns:
        ``[n]`` int64, uniform over the derangements.

    Raises:
        ValueError: fewer than 2 places.

    Cost:
        ``e`` permutations on average: they are drawn until one has no fixed place.

    Accuracy:
        Exact.

    Not differentiable.

    References:
        arXiv:2305.20025 (why a permutation will not do).

    Example:
        >>> derangement(2)
        tensor([1, 0])
    """
    if n < 2:
        raise ValueError(f"derangement: n must be at least 2, got {n}")
    places = torch.arange(n)
    while True:
        drawn = torch.randperm(n, generator=generator)
        if not (drawn == places).any():
            return drawn


def adaptive_clip_(parameters: Iterable[Tensor], gradients: Sequence[Tensor | None], weight: float = 1.0) -> float:
    r"""Add the gradient of a regulariser to ``.grad``, no longer than the gradient that is there already.

    ``g ← g_u + weight · min(|g_u|, |g_m|) g_m / |g_m|``, norms over all parameters together: mutual information has gradients
    without bound, which would drown the loss ``g_u`` comes from.

    Args:
        parameters: those with the gradient of the loss in ``.grad`` (None counts as zero).
        gradients: one of the regulariser for each parameter, as ``torch.autograd.grad`` returns them; None is zero.
        weight: how much of it to add; negative to maximise where the loss is minimised.

    Returns:
        The factor ``min(|g_u|, |g_m|) / |g_m|``, dimensionless; 0 where ``g_m`` is zero.

    Raises:
        ValueError: numbers of parameters and gradients that differ, a gradient that is not finite.

    Cost:
        Two passes over the gradients.

    Accuracy:
        Norms in float64.

    Changes ``.grad`` in place, nothing else.

    References:
        Belghazi et al., arXiv:1801.04062 (adaptive gradient clipping).

    Example:
        >>> p = torch.zeros(2)
        >>> p.grad = torch.tensor([1.0, 0.0])
        >>> adaptive_clip_([p], [torch.tensor([0.0, 4.0])]), p.grad
        (0.25, tensor([1., 1.]))
    """
    parameters = list(parameters)
    if len(parameters) != len(gradients):
        raise ValueError(
            f"adaptive_clip_: gradients must be one for each of {len(parameters)} parameters, got {len(gradients)}"
        )

    def norm(tensors: Iterable[Tensor | None]) -> float:
        return math.sqrt(sum(float(t.detach().double().square().sum()) for t in tensors if t is not None))

    own, added = norm(p.grad for p in parameters), norm(gradients)
    if not math.isfinite(added):
        raise ValueError(f"adaptive_clip_: gradients must be finite, got a norm of {added}")
    factor = min(own, added) / added if added > 0 else 0.0
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None and factor:
            step = gradient.detach() * (weight * factor)
            parameter.grad = step if parameter.grad is None else parameter.grad.add_(step)
    return factor


class Estimate(NamedTuple):
    """Mutual information in nats, from pairs the critic was not trained on.

    Attributes:
        value: the bound.
        std: its standard deviation over bootstrap samples of the held-out pairs; says nothing of the critic's bias.
        curve: ``[evaluations]`` held-out bound during training, float64.
        steps: ``[evaluations]`` step of each, int64.
        saturated: the value is as large as so many pairs can show; the truth may be larger.
    """

    value: float
    std: float
    curve: Tensor
    steps: Tensor
    saturated: bool


class MINE(nn.Module):
    r"""Mutual information neural estimation: trains a critic ``T`` to maximise a bound on ``I(X; Y)``.

    The default is the Donsker-Varadhan bound with MINE's corrected gradient. `fit` trains and returns the best held-out
    estimate. `forward` is the bound of a batch, differentiable, to use as a regulariser.

    Args:
        d_x: features of ``x``.
        d_y: features of ``y``.
        critic: module with ``critic(x, y)``, scores of all pairs ``[n, m]``, and ``critic.pairs(x, y)``, ``[n]``; by default a
            `PairwiseCritic` with two hidden layers of ``hidden`` units.
        hidden: see ``critic``.
        kind: what is maximised: ``"dv"``, ``"nwj"``, ``"infonce"``, ``"jsd"`` or ``"smile"`` (trained by the gradient of
            ``"jsd"``). The value of ``"jsd"`` is that of the shifted ``"nwj"``, ``1 + mean d - mean exp o``.
        rate: weight of a new batch in the running mean of ``"dv"``; 1 is the plain gradient.
        marginal: ``"derangement"`` pairs each ``x`` with another row's ``y``, ``"permutation"`` with any row's, as first
            published, ``"all_pairs"`` with all other rows'. ``"infonce"`` takes all pairs in any case.
        tau: where ``"smile"`` cuts.
        seed: of the critic's first weights, the shuffles and the split.
    """

    def __init__(
        self,
        d_x: int,
        d_y: int,
        *,
        critic: nn.Module | None = None,
        hidden: int = 128,
        kind: Kind = "dv",
        rate: float = 0.01,
        marginal: Marginal = "derangement",
        tau: float = 5.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if kind not in {"dv", "nwj", "infonce", "jsd", "smile"}:
            raise ValueError(f"MINE: kind must be dv, nwj, infonce, jsd or smile, got {kind}")
        if marginal not in {"derangement", "permutation", "all_pairs"}:
            raise ValueError(f"MINE: marginal must be derangement, permutation or all_pairs, got {marginal}")
        if critic is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                critic = PairwiseCritic(d_x, d_y, (hidden, hidden))
        self.critic = critic
        self.kind, self.tau = kind, tau
        self.marginal: Marginal = "all_pairs" if kind == "infonce" else marginal
        self.ema = EmaDonskerVaradhan(rate)
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return what training maximises on a batch of joint pairs, ``[n, d_x]`` and ``[n, d_y]``, ``n`` at least 2."""
        _check_pairs(x, y)
        joint, marginal, scores = self._scores(x, y)
        if self.kind == "infonce":
            return _infonce_of(scores)
        if self.kind == "dv":
            value: Tensor = self.ema(joint, marginal)
            return value
        return pair_bound(joint, marginal, "jsd" if self.kind == "smile" else self.kind)

    def _scores(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.marginal == "all_pairs":
            scores = self.critic(x, y)
            n = len(x)
            off = scores.flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(-1)
            return scores.diagonal(), off, scores
        shuffled = (
            derangement(len(x), self.generator)
            if self.marginal == "derangement"
            else torch.randperm(len(x), generator=self.generator)
        )
        pairs: Callable[[Tensor, Tensor], Tensor] = self.critic.pairs  # type: ignore[assignment]
        both = pairs(torch.cat([x, x]), torch.cat([y, y[shuffled.to(y.device)]]))
        return both[: len(x)], both[len(x) :], both

    @torch.no_grad()
    def estimate(self, x: Tensor, y: Tensor, *, bootstrap: int = 100) -> Estimate:
        """Value of the bound with the critic as it is, on all pairs of ``x`` and ``y`` in blocks of 1024 rows.

        Args:
            x: ``[n, d_x]``.
            y: ``[n, d_y]``.
            bootstrap: samples that the standard deviation is taken over.
        """
        _check_pairs(x, y)
        training = self.training
        self.eval()
        try:
            joint, row_lme, row_size = self._held_out(x, y)
        finally:
            self.train(training)
        value = float(self._value(joint, row_lme, row_size))
        generator = torch.Generator().manual_seed(0)
        draws = (torch.randint(len(x), (len(x),), generator=generator).to(x.device) for _ in range(bootstrap))
        values = torch.stack([self._value(joint[d], row_lme[d], row_size[d]) for d in draws]) if bootstrap > 1 else None
        block = min(len(x), _BLOCK)
        ceiling = math.log(block if self.kind == "infonce" else float(row_size.sum()))
        return Estimate(
            value,
            math.nan if values is None else float(values.std()),
            torch.tensor([value], dtype=torch.float64),
            torch.zeros(1, dtype=torch.int64),
            value > ceiling - 0.5,
        )

    def _held_out(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return joint scores, and for each row log-mean-exp of its marginal ones in its block, and how many."""
        joints, lmes, sizes = [], [], []
        for first in range(0, len(x), _BLOCK):
            if len(x) - first == 1 and first:
                break  # a last row by itself has no partner
            scores = self.critic(x[first : first + _BLOCK], y[first : first + _BLOCK]).double()
            n = len(scores)
            joint = scores.diagonal().clone()
            if self.kind == "infonce":
                lme = scores.logsumexp(1) - math.log(n)
            else:
                off = scores.clamp(-self.tau, self.tau) if self.kind == "smile" else scores
                lme = off.clone().fill_diagonal_(-math.inf).logsumexp(1) - math.log(n - 1)
            joints.append(joint)
            lmes.append(lme)
            sizes.append(torch.full_like(joint, n - 1))
        return torch.cat(joints), torch.cat(lmes), torch.cat(sizes)

    def _value(self, joint: Tensor, row_lme: Tensor, row_size: Tensor) -> Tensor:
        if self.kind == "infonce":
            return (joint - row_lme).mean()
        lme = torch.logsumexp(row_lme + row_size.log(), 0) - row_size.sum().log()
        if self.kind in {"dv", "smile"}:
            return joint.mean() - lme
        constant = 0.0 if self.kind == "jsd" else -1.0
        return joint.mean() - (lme + constant).exp() + (1 if self.kind == "jsd" else 0)

    def fit(
        self,
        x: Tensor | Iterable[Sequence[Tensor]],
        y: Tensor | None = None,
        *,
        steps: int = 3000,
        batch: int = 512,
        learning_rate: float = 1e-3,
        held_out: float | Iterable[Sequence[Tensor]] = 0.3,
        evaluate_every: int = 100,
        patience: int | None = 10,
        progress: bool = False,
    ) -> Estimate:
        """Train the critic; keep the weights that were best on held-out pairs, and return their estimate.

        Args:
            x: ``[n, d_x]``, or an iterable over batches ``(x, y)`` such as a ``DataLoader``, gone through again and again.
            y: ``[n, d_y]`` with ``x``; None with an iterable.
            steps: Adam steps at most.
            batch: rows of a step, with tensors.
            learning_rate: Adam's; it falls to zero along a cosine.
            held_out: share of the rows that are never trained on; with an iterable, a second one.
            evaluate_every: steps between two evaluations on the held-out rows.
            patience: stop after so many evaluations without a better one; None, never.
            progress: show a bar over the steps (with tqdm installed).

        Half of the held-out rows choose when to stop, the other half give the estimate.
        """
        batches, held_x, held_y = self._data(x, y, batch, held_out)
        optimizer = torch.optim.Adam(self.critic.parameters(), learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
        half = len(held_x) // 2
        best, best_state, since = -math.inf, copy.deepcopy(self.critic.state_dict()), 0
        curve: list[float] = []
        at: list[int] = []
        self.train()
        for step in progress_bar(range(1, steps + 1), "MINE", shown=progress):
            loss = -self(*next(batches))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % evaluate_every and step != steps:
                continue
            value = self.estimate(held_x[:half], held_y[:half], bootstrap=0).value
            if not math.isfinite(value):
                raise ValueError(f"MINE: the bound must stay finite, got {value} at step {step}; lower learning_rate")
            curve.append(value)
            at.append(step)
            since += 1
            if value > best:
                best, best_state, since = value, copy.deepcopy(self.critic.state_dict()), 0
            if patience is not None and since >= patience:
                break
        self.critic.load_state_dict(best_state)
        final = self.estimate(held_x[half:], held_y[half:])
        if final.saturated:
            if self.kind == "infonce":
                warn_if_saturated(torch.tensor(final.value), min(len(held_x) - half, _BLOCK))
            else:
                warnings.warn(
                    f"MINE: the estimate {final.value:.2f} is near the logarithm of the held-out pairs: take more rows",
                    NumericalWarning,
                    stacklevel=2,
                )
        return final._replace(curve=torch.tensor(curve, dtype=torch.float64), steps=torch.tensor(at))

    def _data(
        self, x: Any, y: Tensor | None, batch: int, held_out: float | Iterable[Sequence[Tensor]]
    ) -> tuple[Iterator[tuple[Tensor, Tensor]], Tensor, Tensor]:
        if y is None:
            if isinstance(x, Tensor) or isinstance(held_out, (int, float)):
                raise ValueError("MINE: y must be given with x, or x and held_out both iterate over batches, got None")
            pairs = [tuple(pair) for pair in held_out]
            held_x, held_y = (torch.cat([pair[side] for pair in pairs]) for side in (0, 1))
            if len(held_x) < 4:
                raise ValueError(f"MINE: held_out must have at least 4 rows, got {len(held_x)}")
            return _forever(x), held_x, held_y
        _check_pairs(x, y)
        if not isinstance(held_out, (int, float)) or not 0 < held_out < 1:
            raise ValueError(f"MINE: held_out must be above 0 and below 1, got {held_out}")
        kept = int(len(x) * held_out)
        if kept < 4 or len(x) - kept < 2:
            raise ValueError(f"MINE: x must have rows for 2 to train on and 4 to hold out, got {len(x)}")
        for name, t in (("x", x), ("y", y)):
            if (t == t[:1]).all(0).any():
                warnings.warn(
                    f"MINE: {name} has a constant column, which tells nothing", NumericalWarning, stacklevel=4
                )
        order = torch.randperm(len(x), generator=self.generator).to(x.device)
        held, train = order[:kept], order[kept:]
        size = min(batch, len(train))

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            while True:
                shuffled = train[torch.randperm(len(train), generator=self.generator).to(train.device)]
                for first in range(0, len(train) - size + 1, size):
                    rows = shuffled[first : first + size]
                    yield x[rows], y[rows]

        return batches(), x[held], y[held]


_BLOCK = 1024  # rows whose pairs are scored against each other on held-out data


def _infonce_of(scores: Tensor) -> Tensor:
    """InfoNCE of a batch, which is often near its ceiling while it trains."""
    return (scores.diagonal() - scores.logsumexp(1)).mean() + math.log(len(scores))


def _forever(batches: Iterable[Sequence[Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        empty = True
        for x, y in batches:
            empty = False
            if len(x) >= 2:
                yield x, y
        if empty:
            raise ValueError("MINE: x must iterate over batches again and again, got none")


def _check_pairs(x: Tensor, y: Tensor) -> None:
    for name, t in (("x", x), ("y", y)):
        if t.ndim != 2 or not t.is_floating_point():
            raise ValueError(f"MINE: {name} must be floating [n, d_{name}], got {t.dtype} of shape {tuple(t.shape)}")
        if not t.detach().isfinite().all():
            raise ValueError(f"MINE: {name} must be finite, got a NaN or an infinity")
    if len(x) != len(y):
        raise ValueError(f"MINE: y must have the {len(x)} rows of x, got {len(y)}")
    if len(x) < 2:
        raise ValueError(f"MINE: x must have at least 2 rows, for a pair that was not drawn together, got {len(x)}")
