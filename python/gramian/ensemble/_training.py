"""Training many networks at once, so that an interruption loses nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from gramian import _safetensors
from gramian._progress import progress_bar

from ._decomposition import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Trained", "draw_sets", "train"]


class Trained(NamedTuple):
    """Models of one training set that were trained together.

    Attributes:
        training_set: row of ``sets`` that they were trained on.
        first_seed: the first of them; the others follow.
        predictions: ``[m, n, c]`` at the points, without gradient.
        losses: ``[m]`` of the last step.
    """

    training_set: int
    first_seed: int
    predictions: Tensor
    losses: Tensor


def draw_sets(
    n: int,
    sets: int,
    size: int,
    *,
    how: Literal["bootstrap", "subset", "split"] = "bootstrap",
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draw training sets :math:`S_1, S_2, \dots` from a pool of samples.

    Args:
        n: number of samples of the pool.
        sets: number of training sets.
        size: number of samples of each.
        how: ``"bootstrap"`` draws with replacement. ``"subset"`` draws each set without replacement. ``"split"`` draws disjoint
            sets: the only ones that are independent.
        generator: of the draws; torch's own by default.

    Returns:
        Row numbers of the pool, ``[sets, size]`` int64.

    Raises:
        ValueError: more samples than the pool has, for ``"subset"`` and ``"split"``; sizes below 1.

    Cost:
        A permutation of the pool for each set.

    Accuracy:
        Exact.

    Not differentiable; repeats with the generator.

    References:
        arXiv:1810.08591 (bootstrap replicates of the training set).

    Example:
        >>> draw_sets(6, 2, 3, how="split").flatten().sort().values
        tensor([0, 1, 2, 3, 4, 5])
    """
    if min(n, sets, size) < 1:
        raise ValueError(f"draw_sets: n, sets and size must be at least 1, got {n}, {sets} and {size}")
    if how not in ("bootstrap", "subset", "split"):
        raise ValueError(f"draw_sets: how must be bootstrap, subset or split, got {how}")
    if how == "bootstrap":
        return torch.randint(n, (sets, size), generator=generator, device="cpu")
    wanted = size if how == "subset" else sets * size
    if wanted > n:
        raise ValueError(f"draw_sets: size must be at most {n // (wanted // size)} for {n} samples, got {size}")
    if how == "split":
        return torch.randperm(n, generator=generator, device="cpu")[:wanted].view(sets, size)
    return torch.stack([torch.randperm(n, generator=generator, device="cpu")[:size] for _ in range(sets)])


def train(
    make: Callable[[], nn.Module],
    x: Tensor,
    y: Tensor,
    sets: Tensor,
    points: Tensor,
    *,
    seeds: int,
    steps: int,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
    batch: int | None = None,
    together: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    save_every: int = 500,
    shown: bool = False,
) -> Iterator[Trained]:
    r"""Train a network on each of several training sets :math:`S` with each of several seeds :math:`O`.

    The models of a set are trained together, as one network with stacked parameters (``torch.func.stack_module_state`` and
    ``vmap``), which spares most of the calls of small networks; a model that vmap cannot batch is called one by one. With a
    folder, finished models and the state of unfinished ones are kept there: called again with the same arguments after an
    interruption, training goes on where it stopped, to the same numbers.

    Args:
        make: returns a new model of one tensor ``[n, c]``; called with torch's generator seeded, another seed for each model.
        x: ``[samples, ...]`` pool of inputs.
        y: ``[samples, ...]`` targets, labels or floats.
        sets: ``[s, size]`` int64 rows of the pool for each training set, as from `draw_sets`.
        points: ``[n, ...]`` inputs at which the trained models predict.
        seeds: number of models of each set.
        steps: of the optimizer.
        loss: of a batch's outputs and targets, a scalar; by default cross-entropy for labels and mean squared error for floats.
        optimizer: makes one for a list of parameters, elementwise in them as SGD, Adam and AdamW are; by default SGD with rate
            0.1 and momentum 0.9.
        batch: samples of a step, each model in an order of its own; by default the whole set.
        together: models to train at once, by default all seeds of a set.
        seed: of the whole run.
        folder: where to keep the run.
        save_every: steps between copies of the state in the folder. An exception, Ctrl-C too, keeps the state as it was after
            the last step; only a killed process falls back to the last copy.
        shown: a progress bar.

    Returns:
        An iterator of groups of trained models, in the order of sets and seeds. It trains as it is read.

    Raises:
        ValueError: sizes that do not fit; a folder that holds a run of other arguments.

    Cost:
        The training. Memory: ``together`` models with their optimizer and activations.

    Accuracy:
        The models' own. A group of models rounds differently from each model alone.

    Repeats with ``seed``; leaves torch's generator as it was.

    References:
        arXiv:1810.08591.

    Example:
        >>> from gramian.ensemble import BiasVariance
        >>> x = torch.linspace(-1, 1, 8)[:, None]
        >>> sets = draw_sets(8, sets=3, size=4)
        >>> parts = BiasVariance(x.sin())
        >>> for group in train(lambda: nn.Linear(1, 1), x, x.sin(), sets, x, seeds=2, steps=5):
        ...     parts.update(group.predictions, group.training_set)
        >>> parts.seeds
        {0: 2, 1: 2, 2: 2}
    """
    if sets.dim() != 2 or sets.dtype != torch.int64 or sets.numel() == 0:
        raise ValueError(f"train: sets must be [s, size] int64, got shape {tuple(sets.shape)} {sets.dtype}")
    if int(sets.min()) < 0 or int(sets.max()) >= len(x) or len(y) != len(x):
        raise ValueError(f"train: sets must name rows of x [{len(x)}] and y [{len(y)}], got up to {int(sets.max())}")
    together = seeds if together is None else together
    for name, number in {"seeds": seeds, "steps": steps, "together": together, "save_every": save_every}.items():
        if number < 1:
            raise ValueError(f"train: {name} must be at least 1, got {number}")
    if batch is not None and not 1 <= batch <= sets.shape[1]:
        raise ValueError(f"train: batch must be from 1 to the size of a set, {sets.shape[1]}, got {batch}")
    if loss is None:
        loss = nn.functional.mse_loss if y.is_floating_point() else nn.functional.cross_entropy
    if optimizer is None:
        optimizer = _sgd
    run = _Run(make, x, y, points, steps, loss, optimizer, batch, save_every, None if folder is None else Path(folder))
    if run.folder is not None:
        _claim(run.folder, run, sets, {"seeds": seeds, "together": together, "seed": seed})
    groups = [(s, first) for s in range(len(sets)) for first in range(0, seeds, together)]
    return _groups(run, groups, sets, seeds, together, seed, shown)


def _sgd(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


class _Run(NamedTuple):
    make: Callable[[], nn.Module]
    x: Tensor
    y: Tensor
    points: Tensor
    steps: int
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer]
    batch: int | None
    save_every: int
    folder: Path | None


def _digest(t: Tensor) -> str:
    return hashlib.sha256(t.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def _claim(folder: Path, run: _Run, sets: Tensor, numbers: dict[str, int]) -> None:
    """Write what the run is into its folder, or compare with what is there."""
    with torch.random.fork_rng(devices=[]):
        model = run.make()
    trial = run.optimizer([torch.zeros(1, requires_grad=True, device="cpu")])
    tensors = {"x": run.x, "y": run.y, "points": run.points, "sets": sets}
    plain = {key: value for key, value in trial.defaults.items() if isinstance(value, (int, float, tuple, type(None)))}
    asked = {
        **{name: _digest(t.flatten() if t.dim() == 0 else t) for name, t in tensors.items()},
        **numbers,
        "steps": run.steps,
        "batch": run.batch,
        "loss": getattr(run.loss, "__name__", type(run.loss).__name__),
        "optimizer": [type(trial).__name__, {key: repr(value) for key, value in sorted(plain.items())}],
        "make": [str(model), [[name, list(p.shape)] for name, p in model.named_parameters()]],
    }
    manifest = folder / "run.json"
    if manifest.exists():
        kept = json.loads(manifest.read_text(encoding="utf-8"))
        other = [key for key, value in asked.items() if kept.get(key) != value]
        if other:
            raise ValueError(f"train: folder must hold a run of the same arguments, got another {', '.join(other)}")
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial = manifest.with_suffix(".partial")
    partial.write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")
    partial.replace(manifest)


def _groups(
    run: _Run, groups: list[tuple[int, int]], sets: Tensor, seeds: int, together: int, seed: int, shown: bool
) -> Iterator[Trained]:
    for training_set, first in progress_bar(groups, "ensemble", shown=shown):
        count = min(together, seeds - first)
        path = None if run.folder is None else run.folder / f"set{training_set}-seed{first}.safetensors"
        if path is not None and path.exists():
            done, _ = _safetensors.load(path)
        else:
            begin = seed + training_set * seeds + first
            with torch.random.fork_rng(devices=[]):
                done = _fit(run, sets[training_set], range(begin, begin + count), path)
            if path is not None:
                _safetensors.save(path, done, {})
                path.with_suffix(".state").unlink(missing_ok=True)
        yield Trained(training_set, first, done["predictions"], done["losses"])


class _Stack:
    """Models as one: parameters ``[m, ...]``, called by vmap where the model allows it."""

    def __init__(self, models: list[nn.Module], loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> None:
        """Stack the models; a batch of x and y tries whether vmap can call them."""
        self.model, self.loss = models[0], loss
        self.params, self.buffers = torch.func.stack_module_state(models)
        self.batched = len(models) > 1
        if self.batched:
            kept = {name: buffer.clone() for name, buffer in self.buffers.items()}
            try:
                with torch.no_grad():
                    self.losses(*(t.expand(len(models), *t.shape) for t in (x, y)))
            except (RuntimeError, ValueError, NotImplementedError):
                self.batched = False
            self.buffers = kept

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs ``[m, b, c]`` of inputs ``[m, b, ...]``."""

        def one(params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            result: Tensor = torch.func.functional_call(self.model, (params, buffers), (x,))
            return result

        if self.batched:
            result: Tensor = torch.func.vmap(one, randomness="different")(self.params, self.buffers, x)
            return result
        picked = [[{name: t[i] for name, t in ts.items()} for ts in (self.params, self.buffers)] for i in range(len(x))]
        return torch.stack([one(params, buffers, x[i]) for i, (params, buffers) in enumerate(picked)])

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """Loss of each model on its own batch, ``[m]``."""
        if self.batched:
            result: Tensor = torch.func.vmap(self.loss, randomness="different")(self(x), y)
            return result
        return torch.stack([self.loss(out, aim) for out, aim in zip(self(x), y, strict=True)])


def _save_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], str]:
    """The state of an optimizer: its tensors, and the rest as JSON."""
    state: dict[str, Any] = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    for index, of_parameter in state["state"].items():
        tensors |= {
            f"optimizer.{index}.{name}": value for name, value in of_parameter.items() if torch.is_tensor(value)
        }
        state["state"][index] = {name: value for name, value in of_parameter.items() if not torch.is_tensor(value)}
    return tensors, json.dumps(state)


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], rest: str) -> None:
    state = json.loads(rest)
    state["state"] = {
        int(index): of_parameter for index, of_parameter in state["state"].items()
    }  # JSON's keys are text
    for key, value in tensors.items():
        part, *where = key.split(".", 2)
        if part == "optimizer":
            state["state"][int(where[0])][where[1]] = value
    optimizer.load_state_dict(state)


def _fit(run: _Run, rows: Tensor, seeds: range, path: Path | None) -> dict[str, Tensor]:
    models = []
    for seed in seeds:
        torch.manual_seed(seed)
        models.append(run.make())
    x, y, m = run.x[rows], run.y[rows], len(models)
    stack = _Stack(models, run.loss, x[: run.batch], y[: run.batch])
    parameters = [p.detach().requires_grad_() for p in stack.params.values()]
    stack.params = dict(zip(stack.params, parameters, strict=True))
    optimizer = run.optimizer(parameters)
    losses, step = torch.zeros(m, device="cpu"), 0
    order = torch.empty(m, 0, dtype=torch.int64, device="cpu")  # samples that are still to come in this epoch
    resume = None if path is None else path.with_suffix(".state")
    if resume is not None and resume.exists():
        kept, about = _safetensors.load(resume)
        with torch.no_grad():
            for i, parameter in enumerate(parameters):
                parameter.copy_(kept[f"parameter.{i}"])
        _load_optimizer(optimizer, kept, about["optimizer"])
        stack.buffers = {name: kept[f"buffer.{name}"].to(t.device) for name, t in stack.buffers.items()}
        losses, step, order = kept["losses"], int(about["step"]), kept["order"]
        torch.set_rng_state(kept["rng"])

    def keep() -> None:
        if resume is not None:
            tensors, rest = _save_optimizer(optimizer)
            tensors |= {f"parameter.{i}": p for i, p in enumerate(parameters)}
            tensors |= {f"buffer.{name}": t for name, t in stack.buffers.items()}
            tensors |= {"losses": losses, "order": order, "rng": rng}
            _safetensors.save(resume, tensors, {"step": str(step), "optimizer": rest})

    consistent, rng, before = True, torch.get_rng_state(), order
    whole = (x.expand(m, *x.shape), y.expand(m, *y.shape))
    buffers = {name: t.clone() for name, t in stack.buffers.items()}
    try:
        while step < run.steps:
            if run.batch is None:
                inputs, targets = whole
            else:
                if order.shape[1] < run.batch:
                    order = torch.stack([torch.randperm(len(rows), device="cpu") for _ in range(m)])
                picked, left = order[:, : run.batch], order[:, run.batch :]
                inputs, targets = x[picked], y[picked]
            now = stack.losses(inputs, targets)
            optimizer.zero_grad()
            now.sum().backward()  # type: ignore[no-untyped-call]  # a model's gradient is that of its own loss
            consistent = False
            optimizer.step()
            losses, step, rng = now.detach(), step + 1, torch.get_rng_state()
            if run.batch is not None:
                order = left
            before, buffers = order, {name: t.clone() for name, t in stack.buffers.items()}
            consistent = True
            if step % run.save_every == 0:
                keep()
    except BaseException:
        if consistent and step > 0:  # else the last copy stands
            order, stack.buffers = before, buffers
            keep()
        raise
    stack.model.eval()
    with torch.no_grad():
        pieces = [stack(part.expand(m, *part.shape)) for part in torch.split(run.points, max(1, CHUNK // (64 * m)))]
    return {"predictions": torch.cat(pieces, 1), "losses": losses}
