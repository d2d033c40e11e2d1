"""The one progress bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")


def progress_bar(items: Iterable[T], title: str, *, shown: bool) -> Iterable[T]:
    """Return `items`, with a bar of tqdm's around them when it is wanted and installed."""
    if not shown:
        return items
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return items
    bar: Iterable[T] = tqdm(items, desc=title)
    return bar
