"""The ranks of a process group: what they must agree on, how they exchange shards, how their sums are added."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.distributed.tensor import DTensor

__all__ = ["Meeting", "RankError", "Ranks", "Rows", "cuts", "digest", "rows_of"]


_FEW = 1024  # numbers that are cheaper to send to everyone than to add up in parts


class RankError(RuntimeError):
    """A rank stopped answering: it died, it raised, or it waited for longer than its group's timeout."""


class Rows(NamedTuple):
    """A rank's rows of a sharded tensor, and how to give it a result that is sharded the same way."""

    local: Tensor
    group: dist.ProcessGroup | None
    like: DTensor | None

    def wrap(self, result: Tensor) -> Tensor:
        """Return a tensor whose first axis is that of the rows: as it is, or as the DTensor that the rows were."""
        if self.like is None:
            return result
        from torch.distributed.tensor import DTensor, Shard

        shape = torch.Size((self.like.shape[0], *result.shape[1:]))
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(
            result, self.like.device_mesh, [Shard(0)], run_check=False, shape=shape, stride=stride
        )


def rows_of(op: str, name: str, x: Tensor, group: dist.ProcessGroup | None) -> Rows:
    """Take a tensor as the rows of this rank, or a DTensor apart."""
    dtensor = sys.modules.get("torch.distributed.tensor")  # slow to import; without it there are none
    if dtensor is None or not isinstance(x, dtensor.DTensor):
        return Rows(x.detach(), group, None)
    if x.device_mesh.ndim != 1 or tuple(x.placements) != (dtensor.Shard(0),):
        raise ValueError(f"{op}: {name} must be sharded by rows on a mesh of one axis, got {x.placements}")
    return Rows(x.to_local().detach(), x.device_mesh.get_group() if group is None else group, x)


def digest(*tensors: Tensor) -> str:
    """Return a number for all bits of tensors, by which ranks and runs compare them."""
    total = hashlib.sha256()
    for t in tensors:
        plain = t.detach().cpu().contiguous().flatten()
        total.update(f"{t.dtype}{tuple(t.shape)}".encode())
        total.update(plain.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


class Meeting(NamedTuple):
    """Some of this rank's rows with some of another's; and who meets some of this rank's rows at the same time.

    Attributes:
        owner: the rank whose rows are here.
        mine: which of this rank's rows meet them.
        theirs: which of that rank's rows they are.
        held: those rows.
        giver: the rank that this rank's rows are with.
        by: which of that rank's rows meet them.
        given: which of this rank's rows they meet.
    """

    owner: int
    mine: slice
    theirs: slice
    held: Sequence[Tensor]
    giver: int
    by: slice
    given: slice


def cuts(count: int, pieces: int) -> list[slice]:
    """Cut so many rows into pieces that are alike."""
    return [slice(count * p // pieces, count * (p + 1) // pieces) for p in range(pieces)]


class Ranks:
    """The ranks that work on one call. Without a process group there is one."""

    def __init__(self, op: str, group: dist.ProcessGroup | None, device: torch.device) -> None:
        """Take a group; refuse one whose backend cannot reach the device."""
        self.op, self.device = op, device
        self.rank, self.size, self.group = 0, 1, group
        self._coming: tuple[Tensor, list[dist.Work]] | None = None  # what `expect` began
        if group is None and not (dist.is_available() and dist.is_initialized()):
            return
        self.group = dist.group.WORLD if group is None else group
        self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)
        if self.rank < 0:
            raise ValueError(f"{op}: group must have this process as a member, got one without it")
        check_backend(op, device.type, dist.get_backend_config(self.group))

    # ---- Before work: whatever one rank has to complain about, all ranks raise ----

    def agree(self, problem: str | None, **facts: Any) -> list[dict[str, Any]]:
        """Compare facts between ranks, and return those of each. A name that ends in ``_`` may differ.

        Raises:
            ValueError: on every rank, if one has a problem, or if a fact differs; it names the rank.
        """
        everyone = self.gather_objects((problem, {"function": self.op, **facts}))
        for rank, (complaint, _) in enumerate(everyone):
            if complaint is not None:
                raise ValueError(f"{self.op}: {complaint}" + (f", on rank {rank}" if self.size > 1 else ""))
        all_facts = [theirs for _, theirs in everyone]
        for name in dict.fromkeys(name for theirs in all_facts for name in theirs if not name.endswith("_")):
            values = [theirs.get(name) for theirs in all_facts]
            if all(value == values[0] for value in values):
                continue
            common, times = Counter(map(repr, values)).most_common(1)[0]
            if times < len(values):
                rank = next(r for r, value in enumerate(values) if repr(value) != common)
                raise ValueError(
                    f"{self.op}: {name} must be the same on every rank, got {values[rank]} on rank {rank} and "
                    f"{values[[*map(repr, values)].index(common)]} on {'the other' if self.size == 2 else 'most'}"
                )
        return all_facts

    def gather_objects(self, own: Any) -> list[Any]:
        if self.size == 1:
            return [own]
        everyone: list[Any] = [None] * self.size
        with self._talking("all ranks", "compared what they were asked for"):
            dist.all_gather_object(everyone, own, group=self.group)
        return everyone

    # ---- Sums and copies ----

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over ranks, added in their order, so the same bits on every rank and in every run.

        Each rank adds up its part of the sum and hands it round: as many bytes as an all-reduce, whose order is its own. Of few
        numbers every rank adds up all: one message less. Two ranks swap theirs, in a third of the time of a collective of gloo.
        """
        if self.size == 1 or values.numel() == 0:
            return values
        if self.size == 2:
            other = 1 - self.rank
            if self._coming is None:
                theirs = torch.empty_like(values)
                works = self.exchange([values], other, [theirs], other)
            else:
                (theirs, works), self._coming = self._coming, None
                works += self.exchange([values], other, [], other)
            self.wait(works, other, other)
            return theirs.add_(values)
        if values.numel() <= _FEW:
            first, *others = self.gather(values).unbind(0)
            total = first.clone()
            for theirs in others:
                total += theirs
            return total
        flat = values.reshape(-1)
        part = -(-flat.numel() // self.size)
        parts = torch.nn.functional.pad(flat, (0, part * self.size - flat.numel()))
        theirs, summed = torch.empty_like(parts), torch.empty_like(parts)
        with self._talking("all ranks", "added sums"):
            dist.all_to_all_single(theirs, parts, group=self.group)
            total = theirs[:part].clone()
            for rank in range(1, self.size):
                total += theirs[rank * part : (rank + 1) * part]
            dist.all_gather(list(torch.split(summed, part)), total, group=self.group)
        return summed[: flat.numel()].view(values.shape)

    def expect(self, count: int) -> None:
        """Say that so many float64 numbers are summed next, so that the other rank's may come as soon as it has them.

        gloo asks whether a message is awaited before it sends it, and spares the question if it was told. A receive that NCCL
        has queued would hold up what follows.
        """
        if self.size == 2 and self.device.type == "cpu":
            theirs = torch.empty(count, dtype=torch.float64)
            self._coming = theirs, self.exchange([], 1 - self.rank, [theirs], 1 - self.rank)

    def gather(self, values: Tensor) -> Tensor:
        """Stack tensors of one shape, ``[ranks, ...]``."""
        if self.size == 1:
            return values[None]
        everyone = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(self.size)]
        with self._talking("all ranks", "gathered results"):
            dist.all_gather(everyone, values.contiguous(), group=self.group)
        return torch.stack(everyone)

    def gather_rows(self, own: Tensor, rows: Sequence[int]) -> Tensor:
        """Join the rows of all ranks, of which there are as many as ``rows`` says."""
        if self.size == 1:
            return own
        most = max(rows)
        padded = own.new_zeros((most, *own.shape[1:]))
        padded[: len(own)] = own
        return torch.cat([part[:count] for part, count in zip(self.gather(padded), rows, strict=True)])

    def finish(self) -> None:
        """Wait for all ranks at the end of a call that only exchanged shards: a rank that died is then missed by every other."""
        if self.size > 1:
            with self._talking("all ranks", "finished"):
                dist.all_gather(
                    [torch.empty(1, device=self.device) for _ in range(self.size)],
                    torch.zeros(1, device=self.device),
                    group=self.group,
                )

    # ---- Rings ----

    def ring(
        self, own: Sequence[Tensor], rows: Sequence[int], steps: int, pieces: int = 1
    ) -> Iterator[tuple[int, slice, Sequence[Tensor]]]:
        """Yield the tensors of the ``steps`` ranks after this one, a piece of their rows at a time: of which rank, which rows.

        One piece of every rank goes round, then the next. While the caller works with what came, the rank before is given it, and
        the next is on its way: the first from the call on. So two pieces of others are held; what is yielded lasts until the next.
        """
        hops = [(piece, step) for piece in range(pieces) for step in range(1, steps + 1)]
        if not hops:
            return iter(())
        whole = [t.contiguous() for t in own]
        cut = [cuts(count, pieces) for count in rows]
        most = -(-max(rows) // pieces)
        buffers = [[t.new_empty((most, *t.shape[1:])) for t in own] for _ in hops[:2]]

        def begin(at: int, before: Sequence[Tensor]) -> tuple[Sequence[Tensor], list[dist.Work]]:
            piece, step = hops[at]
            here, coming = cut[self.rank][piece], cut[(self.rank + step) % self.size][piece]
            give = [t[here] for t in whole] if step == 1 else before
            take = [t[: coming.stop - coming.start] for t in buffers[at % 2]]
            return take, self.exchange(give, self.rank - 1, take, self.rank + 1)

        def arrive(held: Sequence[Tensor], works: list[dist.Work]) -> Iterator[tuple[int, slice, Sequence[Tensor]]]:
            for at, (piece, step) in enumerate(hops):
                self.wait(works, self.rank - 1, self.rank + 1)
                came = held
                if at + 1 < len(hops):
                    held, works = begin(at + 1, came)
                owner = (self.rank + step) % self.size
                yield owner, cut[owner][piece], came

        return arrive(*begin(0, ()))

    def meetings(self, own: Sequence[Tensor], rows: Sequence[int], pieces: int = 2) -> Iterator[Meeting]:
        """Yield meetings with the tensors of other ranks, so that any two rows meet once; they travel from the call on.

        They travel half the ring. Where the number of ranks is even, the two that lie opposite each other both hold both shards,
        and share the work: of halves A, B of the lower one's rows and C, D of the upper one's, the lower one takes A with C and B
        with D. So whatever piece arrives, half of a rank's rows meet it. ``pieces`` is even.
        """
        arriving = self.ring(own, rows, self.size // 2, pieces)
        given = cuts(rows[self.rank], pieces)

        def meeting(at: int, owner: int, theirs: slice, held: Sequence[Tensor]) -> Meeting:
            piece, giver = at // (self.size // 2), (2 * self.rank - owner) % self.size
            second = 2 * piece >= pieces
            mine, by = self._meeting(self.rank, owner, rows, second), self._meeting(giver, self.rank, rows, second)
            return Meeting(owner, mine, theirs, held, giver, by, given[piece])

        return (meeting(at, *arrived) for at, arrived in enumerate(arriving))

    def _meeting(self, rank: int, other: int, rows: Sequence[int], second: bool) -> slice:
        """Which of a rank's rows meet those of another that are in its first or its second half."""
        count = rows[rank]
        if 2 * ((other - rank) % self.size) != self.size:
            return slice(0, count)
        return slice(count // 2, count) if second == (rank < other) else slice(0, count // 2)

    def exchange(self, give: Sequence[Tensor], to: int, take: Sequence[Tensor], source: int) -> list[dist.Work]:
        """Begin to send tensors to one rank and to fill others from another. Nothing is sent of what is empty."""
        give, take = ([t for t in tensors if t.numel() > 0] for tensors in (give, take))
        if not give and not take:
            return []
        assert self.group is not None  # noqa: S101 - there are others
        to, source = to % self.size, source % self.size
        with self._talking(self._either(to, source), "began to exchange shards"):
            if self.device.type == "cpu":  # all that a batch does with gloo, without its 0.15 ms of questions
                receiving = [self.group.recv([t], source, 0) for t in take]
                return receiving + [self.group.send([t], to, 0) for t in give]
            ends = ((dist.irecv, take, source), (dist.isend, give, to))
            return list(
                dist.batch_isend_irecv(
                    [
                        dist.P2POp(act, t, dist.get_global_rank(self.group, peer), self.group)
                        for act, tensors, peer in ends
                        for t in tensors
                    ]
                )
            )

    def wait(self, works: Sequence[dist.Work], to: int, source: int) -> None:
        """Wait for what `exchange` began."""
        with self._talking(self._either(to, source), "exchanged shards"):
            for work in works:
                work.wait()

    def _either(self, *ranks: int) -> str:
        return "rank " + " or ".join(dict.fromkeys(str(rank % self.size) for rank in ranks))

    @contextmanager
    def _talking(self, whom: str, what: str) -> Iterator[None]:
        # Objects travel by the current device.
        device = torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
        try:
            with device:
                yield
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise RankError(
                f"{self.op}: rank {self.rank} of {self.size} lost {whom} while ranks {what}; it died, raised, or was "
                f"silent for longer than the group's timeout: {reason}"
            ) from error


def check_backend(op: str, device: str, config: str) -> None:
    """Refuse a group that has no backend for a device, or one that cannot send from it.

    ``config`` is as of torch.distributed: ``"cpu:gloo,cuda:nccl"``.
    """
    backends = dict(part.split(":", 1) for part in str(config).split(",") if ":" in part)
    backend = backends.get(device)
    unfit = backend is None or (device == "cuda" and backend == "gloo") or (device == "cpu" and backend == "nccl")
    if unfit:
        wanted = {"cuda": "nccl", "cpu": "gloo"}.get(device, "one")
        raise ValueError(
            f"{op}: group must have a backend for tensors on {device}, such as {wanted}, got {config}; "
            f'dist.init_process_group("cpu:gloo,cuda:nccl") has both'
        )
