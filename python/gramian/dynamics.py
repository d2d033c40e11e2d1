"""How networks learn: linearised and rescaled networks, the closed-form flow of a kernel, progress by groups, laziness."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ._progress import progress_bar
from .ntk._matrix_free import differentiable
from .ntk._recording import check

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "GroupProgress",
    "Linearized",
    "Scaled",
    "SuperNat",
    "at_progress",
    "cscore",
    "diagonal_flow",
    "flow",
    "linearize",
    "representation_alignment",
    "scale_output",
    "sign_similarity",
]


# ---- Networks that learn lazily ----


class Linearized(nn.Module):
    """A network's first-order expansion in its parameters: a linear model of its tangent features."""

    def __init__(self, model: nn.Module) -> None:
        """Expand around the parameters of `model`, which is copied and left alone."""
        super().__init__()
        check(model)
        self._model = [copy.deepcopy(model).requires_grad_(False)]  # in a list: its parameters are not this module's
        self._names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.change = nn.ParameterList(torch.zeros_like(p) for p in model.parameters() if p.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``f_0(x) + J_0(x) (w - w_0)``."""
        frozen = self._model[0]
        at = {name: p for name, p in frozen.named_parameters() if name in self._names}

        def outputs(weights: dict[str, Tensor]) -> Any:
            return torch.func.functional_call(frozen, weights, (x,))

        with differentiable():
            out, change, *_ = torch.func.jvp(outputs, (at,), (dict(zip(self._names, self.change, strict=True)),))
        result: Tensor = out + change
        return result

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Linearized:
        self._model[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]  # .to(device) moves the copy too
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def linearize(model: nn.Module) -> Linearized:
    r"""Linearise a network in its parameters, :math:`f_\mathrm{lin}(x) = f_0(x) + J_0(x) (w - w_0)`.

    Args:
        model: any module of one tensor; copied as it is, in its mode.

    Returns:
        A module to train like the network: its parameters ``change`` are :math:`w - w_0`, zero at first, one for each
        parameter of the network that requires a gradient, in their order.

    Raises:
        ValueError: batch normalisation or dropout in training mode.

    Cost:
        About two forward passes, and a backward pass of twice the network's.

    Accuracy:
        The network's own.

    Differentiable in the parameters and in ``x``.

    References:
        George, Lajoie and Baratin, Lazy vs hasty, arXiv:2209.09658 (linearised training).

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> linear, x = linearize(model), torch.ones(1, 2)
        >>> torch.equal(linear(x), model(x))
        True
    """
    return Linearized(model)


class Scaled(nn.Module):
    """A network's change since the start, times a factor."""

    def __init__(self, model: nn.Module, alpha: float, *, keep_start: bool) -> None:
        """Train `model` itself; its start is copied."""
        super().__init__()
        self.model, self.alpha, self.keep_start = model, alpha, keep_start
        self._start = [copy.deepcopy(model).requires_grad_(False)]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``alpha (f_w(x) - f_0(x))``, plus ``f_0(x)`` if the start is kept."""
        start: Tensor = self._start[0](x)
        change: Tensor = self.alpha * (self.model(x) - start)
        return change + start if self.keep_start else change

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Scaled:
        self._start[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def scale_output(model: nn.Module, alpha: float, *, keep_start: bool = False) -> Scaled:
    r"""Scale what a network learns: :math:`f_\alpha = \alpha (f_w - f_{w_0})`.

    Train it with a loss (or a learning rate) divided by :math:`\alpha^2`: the start and the first rate of change of the
    function then do not depend on :math:`\alpha`. Large :math:`\alpha` is the lazy regime, in which the network stays
    near its linearisation; around 1 features are learned.

    Args:
        model: any module of one tensor; it is the one that is trained. Its start is copied.
        alpha: positive.
        keep_start: add :math:`f_{w_0}`: runs of different ``alpha`` then fork from one network.

    Returns:
        A module around ``model``, with its parameters.

    Raises:
        ValueError: ``alpha`` not positive.

    Cost:
        Two forward passes.

    Accuracy:
        The difference cancels: relative error ``eps |f| / |f - f_0|``.

    Differentiable like the network.

    References:
        George, Lajoie and Baratin, arXiv:2209.09658; Chizat, Oyallon and Bach, arXiv:1812.07956.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> scale_output(model, 10.0)(torch.ones(1, 2)).item()
        0.0
    """
    if not alpha > 0:
        raise ValueError(f"scale_output: alpha must be positive, got {alpha}")
    return Scaled(model, alpha, keep_start=keep_start)


# ---- Closed forms ----


def flow(
    K: Tensor,  # noqa: N803
    y: Tensor,
    f0: Tensor,
    t: Tensor,
    *,
    rate: float = 1.0,
    discrete: bool = False,
    K_test: Tensor | None = None,  # noqa: N803
    f0_test: Tensor | None = None,
) -> Tensor:
    r"""Outputs of a linear(ised) model under gradient flow of the loss :math:`\frac12 |f - y|^2`, in closed form.

    :math:`f_t = y + e^{-\eta K t} (f_0 - y)`, mode by mode in the eigenbasis of the kernel; of other samples
    :math:`f_t = f_0 + K_\mathrm{test} K^{-1} (1 - e^{-\eta K t}) (y - f_0)`.

    Args:
        K: ``[n, n]``, one kernel for all outputs, or ``[n, n, c, c]``; symmetric, float32 or float64.
        y: ``[n, c]`` targets.
        f0: ``[n, c]`` outputs at the start.
        t: ``[s]`` times, not negative; numbers of steps if ``discrete``.
        rate: :math:`\eta`.
        discrete: gradient descent of that step instead of flow: :math:`(1 - \eta \lambda)^t`.
        K_test: ``[m, n]`` or ``[m, n, c, c]`` between other samples and these.
        f0_test: ``[m, c]``, given with ``K_test``.

    Returns:
        ``[s, n, c]``, or ``[s, m, c]`` of the other samples, in the dtype of ``K``.

    Raises:
        ValueError: shapes that do not fit, negative times, one of ``K_test`` and ``f0_test`` alone.

    Cost:
        An eigendecomposition, ``O((n c)^3)``, or ``O(n^3)`` for ``[n, n]``; then ``s`` products.

    Accuracy:
        That of the eigendecomposition; directions of no eigenvalue are handled by their limit, :math:`\eta t`.

    Differentiable where eigenvalues are distinct.

    References:
        Linearised dynamics as in arXiv:2209.09658; the closed form is the solution of a linear differential equation.

    Example:
        >>> K, y, f0 = torch.eye(2), torch.ones(2, 1), torch.zeros(2, 1)
        >>> flow(K, y, f0, torch.tensor([0.0, 0.6931472]))[:, 0, 0]
        tensor([0.0000, 0.5000])
    """
    op = "flow"
    full = K.ndim == 4
    if y.ndim != 2 or f0.shape != y.shape:
        raise ValueError(f"{op}: y and f0 must be [n, c], got shapes {tuple(y.shape)} and {tuple(f0.shape)}")
    n, c = y.shape
    if K.shape != ((n, n, c, c) if full else (n, n)):
        raise ValueError(f"{op}: K must be [n, n] or [n, n, c, c] with n, c = {n}, {c}, got shape {tuple(K.shape)}")
    if t.ndim != 1 or (t < 0).any():
        raise ValueError(f"{op}: t must be [s] and not negative, got {t.tolist()}")
    if (K_test is None) != (f0_test is None):
        raise ValueError(f"{op}: K_test and f0_test must be given together, got one")
    values, modes = torch.linalg.eigh(_matrix(K))
    values = values.clamp(min=0)
    residual = (y - f0).to(K.dtype)
    parts = modes.mT @ (residual.reshape(n * c, 1) if full else residual)
    times = rate * t.to(K.dtype)[:, None]
    # What is left of each mode, minus one: no digits are lost while it is small.
    gone = torch.expm1(-times * values) if not discrete else (1 - rate * values) ** t.to(K.dtype)[:, None] - 1
    if K_test is None or f0_test is None:
        moved: Tensor = (modes @ (-gone[..., None] * parts)).reshape(len(t), n, c)
        return moved + f0.to(K.dtype)
    m = len(f0_test)
    if K_test.shape != ((m, n, c, c) if full else (m, n)) or f0_test.shape != (m, c):
        raise ValueError(
            f"{op}: K_test and f0_test must be like K and f0 for m = {m} samples, "
            f"got shapes {tuple(K_test.shape)} and {tuple(f0_test.shape)}"
        )
    tiny = torch.finfo(K.dtype).eps * values.max()
    weight = torch.where(values > tiny, -gone / values.clamp(min=tiny), times.expand_as(gone))
    moved = (_matrix(K_test) @ (modes @ (weight[..., None] * parts))).reshape(len(t), m, c)
    return moved + f0_test.to(K.dtype)


def _matrix(kernel: Tensor) -> Tensor:
    if kernel.ndim == 2:
        return kernel
    n, m, c, _ = kernel.shape
    return kernel.permute(0, 2, 1, 3).reshape(n * c, m * c)


def diagonal_flow(target: Tensor, start: Tensor, t: Tensor, *, rate: float = 1.0) -> Tensor:
    r"""Gradient flow of a two-layer diagonal linear network, :math:`\beta = u \odot v`, in closed form.

    With :math:`u = v` at the start and orthonormal inputs every mode is logistic,
    :math:`\beta(t) = \beta^* / (1 + (\beta^* / \beta_0 - 1) e^{-2 \eta \beta^* t})`: strong modes are learned first, and the
    smaller the start, the more so. In the linear regime all would be learned at once.

    Args:
        target: ``[d]`` :math:`\beta^*`, positive.
        start: ``[d]`` :math:`\beta_0 = u_0^2`, positive.
        t: ``[s]`` times.
        rate: :math:`\eta`.

    Returns:
        ``[s, d]``: :math:`\beta(t)`.

    Raises:
        ValueError: shapes that differ, values that are not positive.

    Cost:
        ``s d`` exponentials.

    Accuracy:
        A few ulp.

    Differentiable.

    References:
        The exactly solvable model of arXiv:2209.09658's argument; the solution is that of the logistic equation.

    Example:
        >>> diagonal_flow(torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([0.0]))
        tensor([[0.5000]])
    """
    if target.ndim != 1 or start.shape != target.shape or t.ndim != 1:
        shapes = [tuple(v.shape) for v in (target, start, t)]
        raise ValueError(f"diagonal_flow: target and start must be [d] and t [s], got shapes {shapes}")
    if not ((target > 0).all() and (start > 0).all()):
        raise ValueError("diagonal_flow: target and start must be positive, got values that are not")
    behind: Tensor = (target / start - 1) * torch.exp(-2 * rate * target * t[:, None])
    return target / (1 + behind)


# ---- Progress by groups ----


def at_progress(progress: Tensor, values: Tensor, levels: Tensor) -> Tensor:
    r"""Read curves off where a run first reaches given levels of progress: runs are compared at equal progress, not time.

    Args:
        progress: ``[s]`` along the run, for example the training accuracy, or minus the training loss.
        values: ``[s, ...]`` recorded at the same moments.
        levels: ``[p]`` of progress.

    Returns:
        ``[p, ...]``: ``values`` linearly interpolated where ``progress`` first passes the level; NaN where it never does,
        and the first values for levels below the first progress.

    Raises:
        ValueError: shapes that do not fit.

    Cost:
        ``s + p log s``.

    Accuracy:
        Between recordings both are taken as linear.

    Differentiable in ``values``.

    References:
        Groups of examples are compared at equal progress in arXiv:2209.09658.

    Example:
        >>> at_progress(torch.tensor([0.0, 0.5, 0.4, 1.0]), torch.tensor([1.0, 2.0, 9.0, 3.0]), torch.tensor([0.25, 0.7]))
        tensor([1.5000, 6.0000])
    """
    if progress.ndim != 1 or values.shape[:1] != progress.shape or levels.ndim != 1 or len(progress) == 0:
        shapes = [tuple(v.shape) for v in (progress, values, levels)]
        raise ValueError(f"at_progress: progress and values must be [s, ...] and levels [p], got shapes {shapes}")
    highest = progress.cummax(0).values
    after = torch.searchsorted(highest, levels.to(progress.dtype))
    reached = after < len(progress)
    after = after.clamp(max=len(progress) - 1)
    before = (after - 1).clamp(min=0)
    span = progress[after] - progress[before]
    share = torch.where(span > 0, (levels - progress[before]) / span.where(span > 0, 1), 1).clamp(0, 1)
    shape = (-1, *[1] * (values.ndim - 1))
    weight = share.to(values.dtype).view(shape)
    found = values[before] + weight * (values[after] - values[before])
    return torch.where(reached.view(shape), found, torch.nan)


class GroupProgress:
    """Loss and accuracy of groups of samples along a run, to be read at equal progress of all.

    Attributes:
        names: of the groups.
    """

    def __init__(self, groups: dict[str, Tensor]) -> None:
        """Take for each group the indices, or a mask, of its samples."""
        self.names = tuple(groups)
        self._groups = list(groups.values())
        self._losses: list[Tensor] = []
        self._accuracies: list[Tensor] = []

    def record(self, logits: Tensor, labels: Tensor) -> None:
        """Record a moment of the run from the outputs for all samples, ``[n, c]``, and their labels ``[n]``."""
        with torch.no_grad():
            losses = nn.functional.cross_entropy(logits, labels, reduction="none").double()
            hits = (logits.argmax(1) == labels).double()
        self._losses.append(torch.stack([losses.mean(), *(losses[g].mean() for g in self._groups)]))
        self._accuracies.append(torch.stack([hits.mean(), *(hits[g].mean() for g in self._groups)]))

    def curves(self, measure: Literal["loss", "accuracy"] = "accuracy") -> tuple[Tensor, Tensor]:
        """Return the measure of all samples ``[s]`` and of the groups ``[s, groups]`` along the run."""
        if measure not in ("loss", "accuracy"):
            raise ValueError(f"GroupProgress: measure must be loss or accuracy, got {measure}")
        table = torch.stack(self._losses if measure == "loss" else self._accuracies)
        return table[:, 0], table[:, 1:]

    def at(self, levels: Tensor, measure: Literal["loss", "accuracy"] = "accuracy") -> Tensor:
        """Return the groups' measure ``[p, groups]`` where all samples together first reach the levels of it."""
        everyone, groups = self.curves(measure)
        sign = -1 if measure == "loss" else 1
        return at_progress(sign * everyone, groups, sign * levels)


def cscore(
    fit: Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]],
    x: Tensor,
    labels: Tensor,
    *,
    runs: int = 10,
    share: float = 0.7,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Consistency scores: how often a sample is classified rightly by models that did not learn from it.

    Args:
        fit: takes samples and labels, trains a model, and returns a function from samples to outputs ``[n, c]``.
        x: ``[n, ...]`` samples.
        labels: ``[n]`` integer classes.
        runs: models to train, each from a random subset.
        share: of the samples in a subset, between 0 and 1.
        generator: of the subsets; torch's own without it.
        progress: show a bar over the runs (with tqdm installed).

    Returns:
        ``[n]`` float64 from 0 (hard) to 1 (easy); NaN for a sample that every subset contained.

    Raises:
        ValueError: numbers out of range, labels that do not fit.

    Cost:
        ``runs`` trainings.

    Accuracy:
        A mean of about ``runs (1 - share)`` hits or misses: its standard error is at most half over that number's root.

    Not differentiable.

    References:
        Jiang, Zhang, Talwar and Mozer, Characterizing structural regularities of labeled data in overparameterized models,
        arXiv:2002.03206; groups by this score in arXiv:2209.09658.

    Example:
        >>> x, labels = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([1, 0, 0, 0])
        >>> always_zero = lambda x, labels: lambda x: torch.eye(2)[torch.zeros(len(x), dtype=torch.int64)]
        >>> cscore(always_zero, x, labels, runs=20, share=0.5, generator=torch.Generator().manual_seed(0))
        tensor([0., 1., 1., 1.], dtype=torch.float64)
    """
    op, n = "cscore", len(x)
    if labels.shape != (n,):
        raise ValueError(f"{op}: labels must be [n] with n = {n} like x, got shape {tuple(labels.shape)}")
    if runs < 1:
        raise ValueError(f"{op}: runs must be positive, got {runs}")
    learned = round(n * share)
    if not 1 <= learned < n:
        raise ValueError(f"{op}: share must leave samples on both sides, got {share} of {n}")
    hits, tries = (torch.zeros(n, dtype=torch.float64, device="cpu") for _ in range(2))
    for _ in progress_bar(range(runs), op, shown=progress):
        order = torch.randperm(n, generator=generator, device="cpu")
        inside, outside = order[:learned], order[learned:]
        predict = fit(x[inside], labels[inside])
        with torch.no_grad():
            right = predict(x[outside]).argmax(1) == labels[outside]
        hits[outside] += right.double().cpu()
        tries[outside] += 1
    return hits.div(tries)


# ---- How lazy ----


def sign_similarity(first: nn.Module, second: nn.Module, x: Tensor) -> float:
    r"""Share of ReLUs that are on in both networks or off in both: 1 in a lazy run, less as features are learned.

    Args:
        first: a network with ``nn.ReLU`` modules (or their inputs' signs elsewhere do not count).
        second: another of the same structure, usually the first at another time.
        x: ``[n, ...]`` inputs of both.

    Returns:
        From 0 to 1, over all samples and all inputs of all ``nn.ReLU`` modules.

    Raises:
        ValueError: no ``nn.ReLU``, or different structures.

    Cost:
        A forward pass each.

    Accuracy:
        Exact counts.

    The networks stay as they were. Not differentiable.

    References:
        A measure of laziness in arXiv:2209.09658.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU())
        >>> sign_similarity(net, net, torch.randn(5, 3))
        1.0
    """
    signs = [_relu_signs(model, x) for model in (first, second)]
    shapes = [[tuple(s.shape) for s in of] for of in signs]
    if not signs[0] or shapes[0] != shapes[1]:
        raise ValueError(f"sign_similarity: first and second must have the same nn.ReLU modules, got inputs {shapes}")
    same = sum(int((a == b).sum()) for a, b in zip(*signs, strict=True))
    return same / sum(s.numel() for s in signs[0])


def _relu_signs(model: nn.Module, x: Tensor) -> list[Tensor]:
    signs: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: signs.append(inputs[0] > 0))
        for module in model.modules()
        if isinstance(module, nn.ReLU)
    ]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return signs


def representation_alignment(first: Tensor, second: Tensor, *, centered: bool = False) -> Tensor:
    r"""Alignment of two representations of the same samples, :math:`|A^\top B|_F^2 / (|A^\top A|_F |B^\top B|_F)`.

    That is the kernel alignment of :math:`A A^\top` and :math:`B B^\top` (linear CKA if centred).

    Args:
        first: ``[n, p]`` floating.
        second: ``[n, q]`` of the same dtype.
        centered: subtract the means of the features first.

    Returns:
        Scalar tensor from 0 to 1.

    Raises:
        ValueError: shapes that do not fit.

    Cost:
        ``2 n (p^2 + p q + q^2)`` flops, or ``2 n^2 (p + q)`` where that is less.

    Accuracy:
        That of the products.

    Differentiable.

    References:
        Alignment of representations with the start in arXiv:2209.09658; Kornblith et al., arXiv:1905.00414 (linear CKA).

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> representation_alignment(x, 3 * x)
        tensor(1.)
    """
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second):
        raise ValueError(
            "representation_alignment: first and second must be [n, p] and [n, q], "
            f"got shapes {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if centered:
        first, second = first - first.mean(0), second - second.mean(0)
    n, p, q = len(first), first.shape[1], second.shape[1]
    if n * (p + q) < p * p + p * q + q * q:
        a, b = first @ first.mT, second @ second.mT
        products: Tensor = (a * b).sum() / (a.norm() * b.norm())
        return products
    features: Tensor = (first.mT @ second).square().sum() / ((first.mT @ first).norm() * (second.mT @ second).norm())
    return features


# ---- SuperNat ----


class SuperNat:
    r"""Gradient descent on a linear model whose features are re-weighted at every step to keep its complexity low.

    The complexity of a run is bounded by :math:`\sum_t |\delta w_t|_2 |\Phi_t|_F / n`. Of all weights of the modes of
    :math:`\Phi = \sum_j \sqrt{\lambda_j} u_j v_j^\top`, the same step of the function costs least where mode j has
    :math:`\lambda_j |u_j^\top \nabla_f L|` for :math:`\lambda_j`: modes along the residual are kept, the rest is damped.
    (By Cauchy and Schwarz: the step needs :math:`|\delta w|^2 = \eta^2 \sum_j \lambda_j^2 g_j^2 / s_j^2` with features of
    squared singular values :math:`s_j^2`, of norm :math:`\sum_j s_j^2`; the product is least at that choice.)

    Baratin et al., arXiv:2008.00938.

    Attributes:
        weights: ``[p, c]`` of the model ``features @ weights`` in the features as given.
        bound: the sum so far.
    """

    def __init__(self, features: Tensor, outputs: int = 1, *, rate: float = 1.0, reweight: bool = True) -> None:
        """Take ``[n, p]`` features; without re-weighting this is gradient descent of the given rate."""
        if features.ndim != 2:
            raise ValueError(f"SuperNat: features must be [n, p], got shape {tuple(features.shape)}")
        self._u, self._scale, self._v = torch.linalg.svd(features, full_matrices=False)
        self._spectrum = self._scale.square()
        self._total = self._spectrum.sum()
        self.rate, self.reweight = rate, reweight
        self.weights = features.new_zeros(features.shape[1], outputs)
        self.bound = 0.0

    def step(self, gradient: Tensor) -> None:
        """Move along minus ``gradient`` ``[n, c]`` of the loss by the outputs, in the features as they are now weighted."""
        along = self._u.mT @ gradient
        size = along.norm(dim=1)
        if self.reweight and size.max() > 0:
            weighted = self._spectrum * size
            if weighted.sum() > 0:
                self._spectrum = weighted * (self._total / weighted.sum())  # what changes is the shape, not the size
        move = self.rate * (self._spectrum * size.square()).sum().sqrt()
        norm = self._spectrum.sum().sqrt()
        share = torch.where(self._scale > 0, self._spectrum / self._scale.where(self._scale > 0, 1), 0)
        self.weights = self.weights - self.rate * self._v.mT @ (share[:, None] * along)
        self.bound += float(move * norm) / len(gradient)
