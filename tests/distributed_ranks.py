"""What tests of several processes run: one launch of ranks goes through many checks; processes are forked from one that has imported torch."""

import contextlib
import datetime as dt
import functools
import os
import tempfile
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SLOW_TO_IMPORT = ["gramian.distributed", "torch.distributed.tensor", "torch._dynamo", "sklearn.datasets"]
LIMIT = 100  # seconds after which a launch is given up


def _start(rank, size, port_file, body, results, arguments):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(port_file, size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=dt.timedelta(seconds=60))
    try:
        result = body(rank, size, *arguments)
    except BaseException:  # noqa: BLE001 - whatever it is, the others must not wait
        result = traceback.format_exc()
        torch.save(("failed", result), f"{results}/{rank}")
        os._exit(1)
    torch.save(("done", result), f"{results}/{rank}")
    if result != "broken":
        dist.barrier()
    with contextlib.suppress(RuntimeError):
        dist.destroy_process_group()


def launch(size, body, *arguments, dying=()):
    """Run ``body(rank, size, *arguments)`` in as many processes and return what each gave; those in ``dying`` may die."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        results.mkdir()
        paths = [results / str(rank) for rank in range(size)]
        context = mp.get_context("forkserver")
        context.set_forkserver_preload([*SLOW_TO_IMPORT, body.__module__])
        start = functools.partial(
            _start, port_file=f"{folder}/store", body=body, results=str(results), arguments=arguments
        )
        processes = [context.Process(target=start, args=(rank, size)) for rank in range(size)]
        for process in processes:
            process.start()
        try:
            for process in processes:
                process.join(LIMIT)
                assert process.exitcode is not None, "a rank hangs"
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
        given = [torch.load(path, weights_only=False) if path.exists() else ("failed", "died") for path in paths]
        failed = [
            f"rank {rank}: {text}" for rank, (state, text) in enumerate(given) if state != "done" and rank not in dying
        ]
        failed.sort(key=lambda text: "RankError" in text)  # the rank that failed by itself first
        assert not failed, failed[0]
        return [result for _, result in given]
