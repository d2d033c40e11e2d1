"""Fuzzes the ops: ``python -m tests.fuzz [--inputs N] [--seed S] [--jobs J] [--json FILE] [OP ...]``.

One seed gives one problem, whose result must agree with the plain reference; the same problem in other layouts, threads and
guises, whose results must be the same to the bit; and corruptions of it, which must be refused in one line or be answered right.
An input is one call of an op. Each op runs in processes of its own, so that a crash or a hang costs that process and names its seed.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import mmap
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import torch

from gramian import _C
from tests.oracles import OPS, Draw

GUISES = ((1, 49), (2, 3), (3, 3))  # of a problem: how many with how many threads, those alike left out
CORRUPTIONS = 4
PER_SEED = 1 + sum(count for _, count in GUISES) + CORRUPTIONS
SLICE_SECONDS = 90  # of a process, without what its start takes
SLICE_BYTES = 1 << 30  # that it may take: what asks for more is told so
HANG_SECONDS = 600  # on a machine that is busy elsewhere, too
REFUSALS = (ValueError, NotImplementedError, TypeError, MemoryError)
LEVELS = ("baseline", "avx2", "avx512")


class Subclass(torch.Tensor):
    pass


def tensors_of(args):
    """(path, tensor) of every tensor among the arguments, in lists too."""
    for i, a in enumerate(args):
        if isinstance(a, torch.Tensor):
            yield (i,), a
        elif isinstance(a, list):
            yield from (((i, j), t) for j, t in enumerate(a) if isinstance(t, torch.Tensor))


def replaced(args, path, value):
    args = list(args)
    if len(path) == 1:
        args[path[0]] = value
    else:
        args[path[0]] = [value if j == path[1] else t for j, t in enumerate(args[path[0]])]
    return tuple(args)


def given(op, args):
    """The arguments of one call: what it writes into is a copy."""
    args = list(args)
    for i in op.mutates:
        if isinstance(args[i], torch.Tensor):
            args[i] = args[i].clone()
    return tuple(args)


# ---- Guises: the same values ----


def _far_apart(t):
    stride = 1 << 18
    if t.ndim == 0 or not 0 < t[:1].numel() < stride or len(t) > 40 or not t[:1].is_contiguous():
        return t
    return torch.empty(len(t) * stride, dtype=t.dtype).as_strided(t.shape, (stride, *t.stride()[1:])).copy_(t)


def _backwards(t):
    return tuple(reversed(range(t.ndim)))


def _offset(t, by=1):
    return torch.cat([t.new_zeros(by), t.flatten()])[by:].view(t.shape)


DENSE = {
    "as it is": lambda t: t,
    "offset": _offset,
    "offset by five": lambda t: _offset(t, 5),
}
LAYOUTS = DENSE | {
    "transposed": lambda t: t.mT.contiguous().mT if t.ndim >= 2 else t,
    "every second": lambda t: torch.stack([t, torch.zeros_like(t)], -1)[..., 0],
    "rows apart": lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]] if t.ndim else t,
    "axes reversed": lambda t: t.permute(_backwards(t)).contiguous().permute(_backwards(t)),
    "negated view": lambda t: torch._neg_view(-t) if t.is_floating_point() else t,
}
RARE = {
    "needs gradient": lambda t: t.detach().clone().requires_grad_() if t.is_floating_point() else t,
    "parameter": lambda t: torch.nn.Parameter(t.detach().clone(), requires_grad=t.is_floating_point()),
    "subclass": lambda t: t.clone().as_subclass(Subclass),
    "far apart": _far_apart,
}


class Wardrobe:
    """The tensors of a problem in a few layouts each, made once: many guises for the price of a few copies."""

    def __init__(self, draw, args, op):
        self.args, self.rare = args, tuple(kind for kind in RARE if not (op.dense and kind == "far apart"))
        self.places = [(path, t) for path, t in tensors_of(args) if path[0] not in op.mutates]
        layouts, some = DENSE if op.dense else LAYOUTS, {1: None, 2: None, 3: 4}.get(len(self.places), 3)
        self.clothes = [
            [self._made(t, kind, layouts[kind]) for kind in draw.shuffled(layouts)[:some]] for _, t in self.places
        ]

    @staticmethod
    def _made(t, kind, dress):
        worn = dress(t)
        return ("as it is" if worn is t else kind), worn

    def choose(self, draw):
        """(name, tensor) of each tensor's dress, and whether one of them is rare, as in one of eight guises."""
        chosen = [draw.choice(options) for options in self.clothes]
        rare = bool(chosen) and draw.chance(0.125)
        if rare:
            i, kind = draw.number(0, len(chosen)), draw.choice(self.rare)
            chosen[i] = self._made(self.places[i][1], kind, RARE[kind])
        return chosen, rare

    def dressed(self, chosen):
        args = [list(a) if isinstance(a, list) else a for a in self.args]
        for (path, _), (_, worn) in zip(self.places, chosen, strict=True):
            if len(path) == 1:
                args[path[0]] = worn
            else:
                args[path[0]][path[1]] = worn
        return tuple(args)


def overlapped(draw, args, mutates):
    """A problem of tensors whose elements share memory, or that are one and the same."""
    places = [(path, t) for path, t in tensors_of(args) if path[0] not in mutates and t.ndim and t.numel()]
    if not places:
        return args
    path, t = draw.choice(places)
    kind = draw.number(0, 3)
    if kind == 0:
        return replaced(args, path, t[:1].expand(t.shape))
    if kind == 1 and t.ndim >= 2 and t.is_floating_point():
        rows = t.flatten()[: t.shape[-2] + t.shape[-1] - 1]
        if rows.numel() == t.shape[-2] + t.shape[-1] - 1:
            window = rows.as_strided(t.shape[-2:], (1, 1))
            return replaced(args, path, window.expand(t.shape))
    for other, same in places:
        if other != path and same.shape == t.shape and same.dtype == t.dtype and len(other) == len(path):
            return replaced(args, path, same)
    return args


# ---- Corruptions ----

SMALL_INTEGERS = (-(1 << 63), -1, 0, 1, 2, 7)
LARGE_INTEGERS = ((1 << 31) - 1, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1)
NUMBERS = (float("nan"), float("inf"), -float("inf"), -1.0, 1e308)
DTYPES = (
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool,
    torch.complex64, torch.float8_e4m3fn,
)  # fmt: skip


def _quantised(t):
    return torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8)


TENSORS = {
    "dtype": lambda draw, t: t.to(draw.choice(DTYPES)),
    "meta": lambda _, t: t.to("meta"),
    "sparse": lambda _, t: t.to_sparse(),
    "quantised": lambda _, t: _quantised(t),
    "scalar": lambda _, t: t.flatten()[0] if t.numel() else t.new_zeros(()),
    "more axes": lambda _, t: t[None],
    "fewer axes": lambda _, t: t[0] if t.ndim and t.shape[0] else t,
    "longer": lambda _, t: torch.cat([t, t[:1]]) if t.ndim else t,
    "wider": lambda _, t: torch.cat([t, t[..., :1]], -1) if t.ndim else t,
    "shorter": lambda _, t: t[:-1] if t.ndim else t,
    "narrower": lambda _, t: t[..., :-1] if t.ndim else t,
    "empty": lambda _, t: t[:0] if t.ndim else t,
    "none": lambda *_: None,
    "number": lambda *_: 1.0,
}


def _integer(draw):
    # No memory for so much is said slowly, by torch.
    return draw.choice(LARGE_INTEGERS if draw.chance(0.1) else SMALL_INTEGERS)


def corruption(draw, args):
    i = draw.number(0, len(args))
    a = args[i]
    if isinstance(a, bool):
        return "flag", replaced(args, (i,), draw.choice((not a, 2, None)))
    if isinstance(a, int):
        return "integer", replaced(args, (i,), _integer(draw))
    if isinstance(a, float):
        return "number", replaced(args, (i,), draw.choice(NUMBERS))
    if isinstance(a, str):
        return "text", replaced(args, (i,), draw.choice(("", "Euclidean", "a\nb", "\0")))
    if isinstance(a, list) and a and isinstance(a[0], int):
        return "integers", replaced(args, (i, draw.number(0, len(a))), _integer(draw))
    if isinstance(a, list) and (not a or draw.chance(0.2)):
        return "list", replaced(args, (i,), draw.choice(([], a[:-1], a + a[:1])))
    path = (i,) if not isinstance(a, list) else (i, draw.number(0, len(a)))
    tensor = a if not isinstance(a, list) else a[path[1]]
    if tensor is None:
        return "present", replaced(
            args, path, torch.zeros(draw.size(0, 3), draw.size(0, 3), dtype=draw.choice(DTYPES[:6]))
        )
    kind = draw.choice(tuple(TENSORS))
    return kind, replaced(args, path, TENSORS[kind](draw, tensor))


# ---- One seed ----


def call(op, args):
    got = op.call(*args)
    if op.mutates:
        return [args[i] for i in op.mutates if args[i] is not None]
    return [t.detach() for t in ((got,) if isinstance(got, torch.Tensor) else got)]


def bits(results):
    return [(t.dtype, t.shape, t.numpy().tobytes()) for t in results]


def one_nan(results):
    """With all NaNs alike: of two that meet in a sum, an order of the terms or a compiler keeps either."""
    return [t.masked_fill(t.isnan(), torch.nan) if t.is_floating_point() else t for t in results]


def _flat(results):
    return [
        t if type(t) is torch.Tensor and t.is_contiguous() else t.as_subclass(torch.Tensor).contiguous()
        for t in results
    ]


class Fuzzer:
    def __init__(self, op):
        self.op = op
        self.counts = collections.Counter()
        self.worst = {}  # by level and dtype
        self.faults = []

    def fault(self, seed, what, error):
        text = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error)
        self.faults.append({"seed": seed, "what": what, "error": text[:300]})

    def seed(self, seed):
        op, draw = self.op, Draw(seed)
        level = LEVELS[: LEVELS.index(_C.best_isa()) + 1][seed % (LEVELS.index(_C.best_isa()) + 1)]
        _C.set_isa(level)
        args = op.draw(draw)
        if not op.dense and draw.chance(0.2):
            args = overlapped(draw, args, op.mutates)
        got = self.problem(seed, args, level)
        if got is not None:
            self.guises(seed, draw, args, got)
        for _ in range(CORRUPTIONS):
            self.corrupted(seed, draw, args)

    def problem(self, seed, args, level):
        op = self.op
        self.counts["problems"] += 1
        x = next((t for _, t in tensors_of(args)), None)
        bad = op.finite and x is not None and not bool(torch.isfinite(x).all())
        try:
            got = _flat(call(op, given(op, args)))
        except ValueError as error:
            self.counts["refused"] += 1
            if not re.search(r"finite|NaN|overflow|must lie in", str(error)):
                self.fault(seed, "a valid problem was refused", error)
            return None
        except Exception as error:  # noqa: BLE001  any other is a fault
            self.fault(seed, "a valid problem failed", error)
            return None
        if bad:
            self.fault(seed, "what is not finite was not refused", "")
            return None
        try:
            ratio = op.ratio(args, got)
        except AssertionError as error:
            self.fault(seed, "wrong", error)
            return None
        key = f"{level} {str(x.dtype).removeprefix('torch.')}"
        if ratio > self.worst.get(key, (-1, 0))[0]:
            self.worst[key] = (ratio, seed)
        if not ratio <= 1:
            self.fault(seed, "wrong", f"error is {ratio} of the bound")
        return got

    def guises(self, seed, draw, args, results):
        wardrobe, expected, seen = Wardrobe(draw, args, self.op), bits(results), set()
        # Another number of threads takes longer to come by than a small problem does: mostly one, on some seeds others.
        others = draw.chance(0.15)
        try:
            for threads, count in GUISES:
                if others:
                    torch.set_num_threads(threads)
                for _ in range(count):
                    chosen, rare = wardrobe.choose(draw)
                    key = (threads * others, *(kind for kind, _ in chosen))
                    if key not in seen:
                        seen.add(key)
                        # Without a gradient to keep, as users who need none: a way past all of autograd.
                        with torch.inference_mode(not rare):
                            self.guised(seed, wardrobe.dressed(chosen), results, expected, key)
        finally:
            torch.set_num_threads(1)

    def guised(self, seed, args, results, expected, key):
        self.counts["guises"] += 1
        try:
            got = _flat(call(self.op, given(self.op, args)))
        except Exception as error:  # noqa: BLE001
            self.fault(seed, f"guise {key}", error)
            return
        if bits(got) != expected and bits(one_nan(got)) != bits(one_nan(results)):
            self.fault(seed, f"guise {key}", "other bits")

    def corrupted(self, seed, draw, args):
        try:
            kind, broken = corruption(draw, args)
        except (RuntimeError, NotImplementedError, IndexError):
            return  # torch itself cannot make it
        if all(a is b for a, b in zip(args, broken, strict=True)):
            return  # of the dtype that it has, or of fewer axes than none
        self.counts["corruptions"] += 1
        try:
            got = call(self.op, given(self.op, broken))
        except REFUSALS as error:
            self.counts["refused"] += 1
            name = self.op.name.partition("_")[2] or self.op.name
            ours = re.match(r"^[\w.]+: [^\n]*$", str(error))
            if type(error) is ValueError and not ours:
                self.fault(seed, f"{kind}: not our refusal ({name})", error)
            return
        except RuntimeError as error:
            # torch's own words on a schema, an undefined tensor, or a dtype
            self.counts["refused"] += 1
            if not re.search(
                r"expected|Expected|schema|data-dependent|Unable to cast|Overflow|cannot be|out of range|promote",
                str(error),
            ):
                self.fault(seed, kind, error)
            return
        except Exception as error:  # noqa: BLE001
            self.fault(seed, kind, error)
            return
        self.answered(seed, kind, broken, got)

    def answered(self, seed, kind, args, got):
        self.counts["answered"] += 1
        if any(t.is_meta for _, t in tensors_of(args)):
            if not all(t.is_meta for t in got):
                self.fault(seed, kind, "values from tensors that have none")
            return
        if kind in ("integer", "integers", "number", "flag", "list", "text"):
            return
        try:
            ratio = self.op.ratio(args, _flat(got))
        except Exception as error:  # noqa: BLE001  the reference does not take it, the op did
            self.fault(seed, f"{kind}: not refused", error)
            return
        if not ratio <= 1:
            self.fault(seed, f"{kind}: wrong", f"error is {ratio} of the bound")


# ---- Processes ----


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE if sys.platform == "linux" else 0


def work(name, first, last, progress, report):
    """The seeds [first, last) of one op, as far as the time of a slice goes; the seed at work is kept in the file ``progress``."""
    np.seterr(all="ignore")
    torch.set_num_threads(1)
    if sys.platform == "linux":
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE + SLICE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gc.freeze()  # what is imported is not looked through again
    fuzzer, began, settled = Fuzzer(OPS[name]), time.process_time(), 0
    with Path(progress).open("r+b") as file, mmap.mmap(file.fileno(), 8) as at:
        for seed in range(first, last):
            at[:] = struct.pack("q", seed)
            fuzzer.seed(seed)
            seconds = time.process_time() - began
            if not settled and (seconds > SLICE_SECONDS / 2 or seed >= first + (last - first) // 2):
                settled = resident_bytes()
            if seconds > SLICE_SECONDS:
                break
    result = {
        "inputs": sum(fuzzer.counts[k] for k in ("problems", "guises", "corruptions")),
        "counts": dict(fuzzer.counts),
        "worst": fuzzer.worst,
        "faults": fuzzer.faults[:50],
        "fault_count": len(fuzzer.faults),
        "seconds": time.process_time() - began,
        "grown_bytes": resident_bytes() - settled,
        "next_seed": seed + 1,
    }
    Path(report).write_text(json.dumps(result), encoding="utf-8")


def run_slice(name, first, last):
    """Results of seeds from ``first`` on, and the seed that follows them; after a crash or a hang that is the seed after it."""
    with tempfile.TemporaryDirectory() as folder:
        progress, report = Path(folder) / "progress", Path(folder) / "report"
        progress.write_bytes(struct.pack("q", first))
        seeds = (str(first), str(last), str(progress), str(report))
        worker = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.fuzz", "--worker", name, *seeds],
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "3",
                "OMP_WAIT_POLICY": "passive",  # waiting threads leave the core to others
                "MALLOC_PERTURB_": str(1 + first % 255),  # what nobody has written is not zero, and not the same twice
            },
        )
        seen, since = first, time.monotonic()
        while worker.poll() is None:
            time.sleep(0.05)
            now = struct.unpack("q", progress.read_bytes())[0]
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > HANG_SECONDS:
                worker.kill()
        if report.exists() and worker.returncode == 0:
            return json.loads(report.read_text(encoding="utf-8"))
        code = worker.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit {code}"
        seed = struct.unpack("q", progress.read_bytes())[0]
        fault = {"seed": seed, "what": "crash or hang", "error": f"{how} {worker.stderr.read()[-300:]}"}
        return {"faults": [fault], "fault_count": 1, "next_seed": seed + 1}


def merged(before, result):
    total = {
        "inputs": 0,
        "seconds": 0.0,
        "fault_count": 0,
        "counts": {},
        "worst": {},
        "faults": [],
        "grown_bytes": 0,
    } | before
    for key in ("inputs", "seconds", "fault_count"):
        total[key] += result.get(key, 0)
    for key, count in result.get("counts", {}).items():
        total["counts"][key] = total["counts"].get(key, 0) + count
    for key, (ratio, seed) in result.get("worst", {}).items():
        if ratio > total["worst"].get(key, (-1, 0))[0]:
            total["worst"][key] = (ratio, seed)
    total["faults"] = (total["faults"] + result["faults"])[:50]
    total["grown_bytes"] = max(total["grown_bytes"], result.get("grown_bytes", 0))
    total["next_seed"] = result["next_seed"]
    return total


def fuzz(names, known, options):
    """Slices of ops, as many at a time as there are jobs, until each op has its inputs or the time is over; fills ``known``."""
    began, at_work = time.monotonic(), {}

    def inputs(name):
        return known.get(name, {}).get("inputs", 0)

    with ThreadPoolExecutor(options.jobs) as pool:
        while True:
            idle = [n for n in names if inputs(n) < options.inputs and n not in at_work.values()]
            # Whoever has had the least goes next, so that a run cut short is even.
            for name in sorted(idle, key=inputs)[: options.jobs - len(at_work)]:
                if time.monotonic() - began < options.seconds:
                    first = known.setdefault(name, {"first_seed": options.seed}).get("next_seed", options.seed)
                    last = first + -(-(options.inputs - inputs(name)) // PER_SEED)
                    at_work[pool.submit(run_slice, name, first, last)] = name
            if not at_work:
                return
            for done in wait(at_work, return_when=FIRST_COMPLETED).done:
                name = at_work.pop(done)
                known[name] = merged(known[name], done.result())
                if options.json:
                    options.json.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", metavar="OP", help="names of ops; all by default")
    parser.add_argument("--inputs", type=int, default=100_000, help="calls of each op, at least")
    parser.add_argument("--seed", type=int, default=0, help="first seed of an op that has no results yet")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no more slices after so long")
    parser.add_argument("--json", type=Path, help="read results from here, go on from them, and write them back")
    if sys.argv[1:2] == ["--worker"]:
        name, first, last, progress, report = sys.argv[2:]
        work(name, int(first), int(last), progress, report)
        return 0
    options = parser.parse_args()
    known = json.loads(options.json.read_text(encoding="utf-8")) if options.json and options.json.exists() else {}
    names = options.ops or list(OPS)
    fuzz(names, known, options)
    for name in names:
        if name in known:
            r = known[name]
            print(
                f"{name:40} {r['inputs']:9} inputs  {r['fault_count']} faults  worst {max((w[0] for w in r['worst'].values()), default=0):.2f}"
            )
            for fault in r["faults"][:5]:
                print(f"    seed {fault['seed']}: {fault['what']}: {fault['error']}")
    return 1 if any(known[n]["fault_count"] for n in names if n in known) else 0


if __name__ == "__main__":
    sys.exit(main())
