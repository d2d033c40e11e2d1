"""The one progress bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")


def progress_bar(items: Iterable[T], title: str, *, shown: bool, name: Callable[[T], str] | None = None) -> Iterable[T]:
    """Return `items`, with a bar of tqdm's around them when it is wanted and installed; it shows the `name` of an item."""
    if not shown:
        return items
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return items
    bar: Any = tqdm(items, desc=title)
    return _named(bar, title, name) if name else cast("Iterable[T]", bar)


def _named(bar: Any, title: str, name: Callable[[T], str]) -> Iterator[T]:
    for item in bar:
        bar.set_description(f"{title}: {name(item)}")
        yield item
