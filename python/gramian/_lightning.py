"""A Lightning callback for what records along a training run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["recording_callback"]


def recording_callback(record: Callable[[int], None], every: int) -> Any:
    """Return a callback that calls ``record(step)`` before every so many batches, from the first on, and at the end.

    Raises:
        ImportError: neither ``lightning`` nor ``pytorch_lightning`` is installed.
    """
    try:
        base: Any = importlib.import_module("lightning.pytorch").Callback
    except ImportError:
        base = importlib.import_module("pytorch_lightning").Callback

    class Record(base):  # type: ignore[misc]
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step % every == 0:
                record(trainer.global_step)

        def on_train_end(self, trainer: Any, *_: Any) -> None:
            record(trainer.global_step)

    return Record()
