"""What a benchmark is: one call of ours at one size, and the peers that do the same work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Environment = Literal["user", "tuned", "kept"]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Somebody else's call that does the same work.

    Attributes:
        name: as the table shows it, e.g. ``faiss-cpu``.
        version: returns the version; it imports the package, so that no import falls into the clock or into the memory.
        call: the exact call, as the table shows it.
        run: takes the inputs and returns what the case's ``error`` accepts. Conversions that a user of the peer does
            not need belong into ``setup`` or ``error``, outside the clock.
        environment: ``"user"`` is what a user gets; ``"tuned"`` forces OpenBLAS to its AVX-512 kernels; in ``"kept"`` malloc
            keeps memory instead of giving it back. Two rows, two peers: ``dataclasses.replace(peer, environment="tuned")``.
    """

    name: str
    version: Callable[[], str]
    call: str
    run: Callable[[Any], Any]
    environment: Environment = "user"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One op at one size.

    Attributes:
        op: e.g. ``neighbors.knn``.
        name: the size as the table shows it, e.g. ``self n=20160 d=128 k=10``.
        dtype: of the arithmetic, e.g. ``float32``; it picks the peak that the case is held against.
        setup: takes a seed and returns the inputs, allocated and touched.
        ours: takes the inputs and returns the result.
        peers: who is measured against it.
        flops: operations that the answer needs by our algorithm, a fused multiply-add counted as two.
        bytes: memory traffic that no implementation can avoid: each input read once, each output written once.
        error: takes a result and the inputs and returns the error against a wider reference; a string instead says why
            there is none.
        bf16_filter: products in bfloat16 may do the work, so the limit is their peak where the processor has them.
        rounds: even. Each side runs once in each.
        memory: measure the peak memory of each side too, each in a fresh process.
        long: a call lasts for seconds: a turn is one call, of which the first call is the first. A side that takes more than
            10 s is called once, and a peer of that kind is not called again for its memory.
    """

    op: str
    name: str
    dtype: str
    setup: Callable[[int], Any]
    ours: Callable[[Any], Any]
    flops: float
    bytes: float
    error: Callable[[Any, Any], float] | str
    peers: list[Peer] = field(default_factory=list)
    bf16_filter: bool = False
    rounds: int = 10
    memory: bool = False
    long: bool = False

    def __post_init__(self) -> None:
        """Refuse a number of rounds that would leave one order of the sides more often than the other."""
        if self.rounds < 2 or self.rounds % 2:
            message = f"{self.label}: rounds must be even and at least 2, got {self.rounds}"
            raise ValueError(message)

    @property
    def label(self) -> str:
        """Op, size and dtype: what ``--case`` searches and what messages name."""
        return f"{self.op} {self.name} {self.dtype}"
