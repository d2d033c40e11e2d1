"""Records what becomes of a network's tangent kernel while it learns, in any training loop."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from gramian._lightning import recording_callback

from ._alignment import center, effective_rank, label_alignment, trace_ratio
from ._empirical import empirical_ntk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["AlignmentRecord", "AlignmentRecorder"]


class AlignmentRecord(NamedTuple):
    """What one set of samples shows at one moment; all numbers but the alignment are of the trace kernel of that set.

    Attributes:
        step: as given by the loop.
        name: of the set.
        alignment: with the labels, centred, in the recorder's form.
        effective_rank: of the centred kernel.
        top_share: of the centred kernel's trace that its largest ``c`` modes hold, ``c`` the number of classes.
        trace: of the kernel, the squared norm of all tangent features.
        moved: how far the parameters have moved since the recording before, in the Euclidean norm.
        complexity: the sum of ``moved * sqrt(trace before the move)`` so far.
    """

    step: int
    name: str
    alignment: float
    effective_rank: float
    top_share: float
    trace: float
    moved: float
    complexity: float


class AlignmentRecorder:
    r"""Record alignment, spectrum and complexity of the tangent kernel along a training run.

    Call `record` from any loop; fixed, small sets of samples keep it cheap: one `ntk.empirical_ntk` of each.

    The complexity of a run, :math:`\sum_t |\delta w_t|_2 |\Phi_t|_F` with :math:`|\Phi_t|_F^2 = \mathrm{Tr} K_t`, is read
    between recordings, so it depends on how often one records. Baratin et al., arXiv:2008.00938.

    Example:
        >>> model, x, labels = nn.Linear(4, 3), torch.randn(20, 4), torch.arange(20) % 3
        >>> recorder = AlignmentRecorder(model, {"train": (x, labels)})
        >>> for step in range(3):  # and train in between
        ...     recorder.record(step)
        >>> len(recorder.curve("train", "alignment"))
        3
    """

    def __init__(
        self,
        model: nn.Module,
        sets: Mapping[str, tuple[Tensor, Tensor]],
        *,
        params: Sequence[str] | None = None,
        labels: Literal["kernel", "vector"] = "kernel",
    ) -> None:
        """Take the model and named sets of samples ``[n, ...]`` with integer labels ``[n]``; `labels` as in `ntk.label_alignment`.

        Raises:
            ValueError: no sets, or labels that do not fit their samples.
        """
        if labels not in ("kernel", "vector"):
            raise ValueError(f"AlignmentRecorder: labels must be 'kernel' or 'vector', got {labels!r}")
        if not sets:
            raise ValueError("AlignmentRecorder: sets must hold at least one, got none")
        for name, (x, y) in sets.items():
            if y.shape != (len(x),) or y.is_floating_point():
                raise ValueError(
                    f"AlignmentRecorder: sets must have labels [n] of integers, got shape {tuple(y.shape)} "
                    f"{y.dtype} for {len(x)} samples of {name!r}"
                )
        self.model, self.sets, self.params = model, dict(sets), params
        self.labels: Literal["kernel", "vector"] = labels
        self.records: list[AlignmentRecord] = []
        self._before: list[Tensor] = []

    def record(self, step: int) -> None:
        """Measure the kernel as it is now. The model is put into eval mode meanwhile."""
        weights = [p.detach().clone() for p in self.model.parameters() if p.requires_grad]
        squares = [(a - b).square().sum() for a, b in zip(weights, self._before, strict=bool(self._before))]
        moved = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
        self._before = weights
        last = {record.name: record for record in self.records[-len(self.sets) :]}
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            for name, (x, y) in self.sets.items():
                outputs: Literal["full", "trace"] = "full" if self.labels == "vector" else "trace"
                measured = empirical_ntk(self.model, x, outputs=outputs, params=self.params).double()
                kernel = torch.einsum("nmcc->nm", measured) if self.labels == "vector" else measured
                centered = center(kernel)
                before = last.get(name)
                complexity = 0.0 if before is None else before.complexity + moved * before.trace**0.5
                self.records.append(
                    AlignmentRecord(
                        step,
                        name,
                        float(label_alignment(measured, y, labels=self.labels)),
                        float(effective_rank(centered)),
                        float(trace_ratio(centered, min(len(torch.unique(y)), len(x)))),
                        float(kernel.trace()),
                        moved,
                        complexity,
                    )
                )
        finally:
            for module, was in modes.items():
                module.training = was

    def curve(self, name: str, what: str) -> Tensor:
        """Return one number of one set along the run, ``[s]`` float64."""
        if name not in self.sets or what not in AlignmentRecord._fields[2:]:
            raise ValueError(
                f"AlignmentRecorder: curve must be one of {', '.join(AlignmentRecord._fields[2:])} "
                f"of one of {', '.join(self.sets)}, got {what} of {name}"
            )
        return torch.tensor(
            [getattr(r, what) for r in self.records if r.name == name], dtype=torch.float64, device="cpu"
        )

    @property
    def steps(self) -> list[int]:
        """The steps that were recorded."""
        return [r.step for r in self.records[:: len(self.sets)]]

    def save(self, path: Path) -> None:
        """Write all records as JSON."""
        path.write_text(json.dumps([r._asdict() for r in self.records], indent=1) + "\n", encoding="utf-8")

    def callback(self, every: int = 1) -> Any:
        """Return a Lightning callback that records every so many training batches, and before the first.

        Raises:
            ImportError: neither ``lightning`` nor ``pytorch_lightning`` is installed.
        """
        return recording_callback(self.record, every)
