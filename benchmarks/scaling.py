"""How ranks scale: measured on this machine beside what the cost model says, and the model's curves up to 1,024 ranks.

python -m benchmarks.scaling measure --json benchmarks/results/scaling/distributed.json   # 1, 2 and 4 processes
python -m benchmarks.scaling measure --link 1                                             # over a loopback of 1 Gb/s, as root
python -m benchmarks.scaling report benchmarks/results/scaling/*.json
python -m benchmarks.scaling plot docs/how-it-works/figures/distributed.svg
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from benchmarks import bench_distributed, machine
from benchmarks.team import Team, grown, timed
from gramian import distributed
from gramian.distributed import Link

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

N, D, K = 50_000, 128, 10
CLUSTERS, ROUNDS = 100, 50
MEGABYTES = 16


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="1, 2 and 4 processes on this machine")
    measuring.add_argument("--json", type=Path, help="write the results there")
    measuring.add_argument("--rounds", type=int, default=3)
    measuring.add_argument(
        "--link", type=float, metavar="GBIT", help="shape the loopback of a network namespace to this rate"
    )
    measuring.add_argument("--shaped", type=float, help=argparse.SUPPRESS)
    reporting = commands.add_parser("report", help="the table of results files")
    reporting.add_argument("results", type=Path, nargs="+")
    plotting = commands.add_parser("plot", help="the model's curves")
    plotting.add_argument("figure", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "plot":
        plot(options.figure)
    elif options.command == "report":
        print("\n\n".join(report(json.loads(path.read_text(encoding="utf-8"))) for path in options.results))
    elif options.link is not None:
        _again_in_a_namespace(options)
    else:
        results = measure(options.rounds, options.shaped)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(report(results))


def _again_in_a_namespace(options: argparse.Namespace) -> None:
    # Of a bucket of 256 KiB, full again after 2 ms, a sum of 100 centres would be sent as if there were no limit.
    shape = (
        f"ip link set lo up mtu 16000 && tc qdisc add dev lo root tbf rate {options.link}gbit burst 32kb latency 100ms"
    )
    command = [sys.executable, "-m", "benchmarks.scaling", "measure", "--rounds", str(options.rounds)]
    command += ["--shaped", str(options.link)] + (["--json", str(options.json)] if options.json else [])
    subprocess.run(["unshare", "-n", "bash", "-c", f'{shape} && exec "$@"', "bash", *command], check=True)


# ---- Measuring ----


def _send(_: dict[Any, Any], count: int) -> float:
    """Return the seconds of a message from the first rank to the second and back, over two."""
    message = torch.zeros(count, dtype=torch.uint8)
    dist.barrier()
    start = time.perf_counter()
    if dist.get_rank() < 2:
        order = (dist.send, dist.recv) if dist.get_rank() == 0 else (dist.recv, dist.send)
        for act in order:
            act(message, 1 - dist.get_rank())
    return (time.perf_counter() - start) / 2


def measure_link(team: Team) -> Link:
    """Return the rate and the latency between two ranks."""
    small = min(max(team.ask(_send, 1)) for _ in range(50))
    large = min(max(team.ask(_send, MEGABYTES << 20)) for _ in range(3))
    return Link((MEGABYTES << 20) / max(large - small, 1e-9), small)


def _knn_of(ranks: int, link: Link, rate: float) -> distributed.Cost:
    return distributed.knn_cost(N, D, K, ranks, link=link, rate=rate)


def _kmeans_of(ranks: int, link: Link, rate: float) -> distributed.Cost:
    return distributed.kmeans_cost(N, D, CLUSTERS, ROUNDS, ranks, link=link, rate=rate)


def measure(rounds: int, shaped: float | None) -> dict[str, Any]:
    """Measure teams of 1, 2 and 4 ranks in turns."""
    key = (N, D, 0)
    teams = {ranks: Team(ranks) for ranks in (1, 2, 4)}
    for team in teams.values():
        team.ask(bench_distributed._keep, *key, 0.3)
    start = bench_distributed.points(*key, 0.3)[:CLUSTERS]
    works: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Callable[..., distributed.Cost]]] = {
        f"knn n={N} d={D} k={K}": (bench_distributed.run_knn, (key, K), _knn_of),
        f"kmeans n={N} d={D} k={CLUSTERS} {ROUNDS} rounds": (
            bench_distributed.run_kmeans,
            (key, start, ROUNDS),
            _kmeans_of,
        ),
    }
    link = measure_link(teams[2])
    rows = []
    for name, (function, arguments, cost) in works.items():
        seconds: dict[int, list[float]] = {ranks: [] for ranks in teams}
        memory: dict[int, float | None] = {}
        for _ in range(rounds):
            for ranks, team in teams.items():
                seconds[ranks].append(max(team.ask(timed, function, *arguments)))
        for ranks in teams:
            growth = _growth(ranks, function, key, arguments[1:])
            memory[ranks] = None if growth is None else growth + 4 * N * D / ranks / 2**20
        alone = statistics.median(seconds[1])
        work = cost(1, link, 1.0).compute
        for ranks in teams:
            busy = max(1.0, ranks / machine.cores())  # ranks that share a core
            # What shapes a loopback shapes all that goes through it: ranks share its rate.
            between = Link(link.rate / ranks, link.latency) if shaped else link
            model = cost(ranks, between, work / alone / busy)
            rows.append(
                {
                    "work": name,
                    "ranks": ranks,
                    "seconds": statistics.median(seconds[ranks]),
                    "rounds": seconds[ranks],
                    "model": model.seconds,
                    "speedup": alone / statistics.median(seconds[ranks]),
                    "sent": model.sent,
                    "memory_mib": memory[ranks],
                    "model_memory_mib": model.memory / 2**20,
                }
            )
    facts = {"cores": machine.cores(), "shaped_gbit": shaped, "link_rate": link.rate, "link_latency": link.latency}
    return {"machine": facts, "torch": torch.__version__, "rows": rows}


def _growth(
    ranks: int, function: Callable[..., Any], key: tuple[int, int, int], arguments: tuple[Any, ...]
) -> float | None:
    """Return the MiB by which a call raises the peak of fresh ranks: later calls use again what earlier ones left behind."""
    team, small = Team(ranks), (512, *key[1:])
    for some in (small, key):
        team.ask(bench_distributed._keep, *some, 0.3)
    team.ask(function, small, *arguments)  # connections, lazy imports
    growths = [growth for growth in team.ask(grown, function, key, *arguments) if growth is not None]
    return max(growths) if growths else None


def report(results: dict[str, Any]) -> str:
    """Return the table of a measurement."""
    facts = results["machine"]
    where = f"shaped to {facts['shaped_gbit']:g} Gb/s" if facts["shaped_gbit"] else "loopback"
    lines = [
        f"{facts['cores']} cores, torch {results['torch']}, one thread a rank, median of {len(results['rows'][0]['rounds'])} rounds;",
        f"{where}: {8e-9 * facts['link_rate']:.1f} Gb/s, {1e6 * facts['link_latency']:.0f} us a message",
        "",
        "| work | ranks | seconds | model | speed-up | sent by a rank, MB | memory of a rank with its rows, MiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results["rows"]:
        memory = "-" if row["memory_mib"] is None else f"{row['memory_mib']:.0f}"
        lines.append(
            f"| {row['work']} | {row['ranks']} | {row['seconds']:.2f} | {row['model']:.2f} | {row['speedup']:.2f} | "
            f"{row['sent'] / 1e6:.1f} | {memory} |"
        )
    return "\n".join(lines)


# ---- The model's curves ----


def plot(path: Path) -> None:
    """Draw strong and weak scaling of nearest neighbours and K-means for each link."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ranks = [1 << power for power in range(11)]
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    rate, rows = 1e12, 1_000_000  # a server of sixteen cores
    curves = {
        "nearest neighbours": lambda n, r, link: distributed.knn_cost(n, 512, 10, r, link=link, rate=rate).seconds,
        "K-means, 1,000 clusters, 50 rounds": lambda n, r, link: (
            distributed.kmeans_cost(n, 512, 1000, 50, r, link=link, rate=rate).seconds
        ),
    }
    for column, (name, seconds) in enumerate(curves.items()):
        for link_name, link in distributed.links.items():
            strong = [seconds(rows, 1, link) / seconds(rows, r, link) for r in ranks]
            axes[0][column].plot(ranks, strong, marker=".", label=link_name)
            # Work a rank stays the same: rows grow with the ranks for K-means, with their root for all pairs.
            grown = [rows / 16 * (r**0.5 if column == 0 else r) for r in ranks]
            weak = [seconds(grown[0], 1, link) / seconds(n, r, link) for n, r in zip(grown, ranks, strict=True)]
            axes[1][column].plot(ranks, weak, marker=".", label=link_name)
        axes[0][column].plot(ranks, ranks, color="0.7", linestyle=":", label="linear")
        axes[0][column].set(xscale="log", yscale="log", title=name)
        axes[1][column].set(xscale="log", xlabel="ranks", ylim=(0, 1.05))
        axes[1][column].set_xticks(ranks[::2], [str(r) for r in ranks[::2]])
    axes[0][0].set_ylabel(f"speed-up of n = {rows:,}, d = 512")
    axes[1][0].set_ylabel("efficiency at constant work a rank")
    axes[0][0].legend(frameon=False)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "scaling"}):  # the same file each time
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    if path.suffix == ".svg":
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    main()
