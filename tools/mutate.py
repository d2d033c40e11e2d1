"""The mutation drill: ``python tools/mutate.py [--json FILE] [--seconds S] [NAME ...]``.

Small faults are planted one by one in a copy of the tree, which is built anew; the tests must fail on each. First the fuzzer's short
run of the ops that the fault may touch, then the family's tests. What is known already is read from FILE and not done again.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tree import Copy


class Mutant(NamedTuple):
    """A text, what takes its place, and which tests should see it."""

    file: str  # below csrc
    old: str
    new: str
    ops: str  # the start of their names
    tests: str


def _mutants():
    table = {}

    def add(file, ops, tests, **changes):
        for name, (old, new) in changes.items():
            table[f"{Path(file).stem}.{name}"] = Mutant(file, old, new, ops, tests)

    add(
        "core/gram_square_sum.h",
        "gram_square_sum",
        "test_engine",
        rank=("if (x.dim() != 2)", "if (x.dim() < 1)"),
        columns=("y.size(1) != x.size(1)", "y.size(1) < x.size(1)"),
    )
    add(
        "core/gram_square_sum.cpp",
        "gram_square_sum",
        "test_engine",
        place=("block.i * b_blocks + block.j", "block.i + block.j"),
        last_block=("double total = 0;", "double total = 0; if (sums.size() > 1) sums.back() = 0;"),
    )
    add(
        "core/probe_kernel.cpp",
        "gram_square_sum",
        "test_engine",
        square=("squares += v * v;", "squares += v;"),
        lanes=("for (int l = 0; l < kLanes<T>; ++l) total", "for (int l = 1; l < kLanes<T>; ++l) total"),
    )
    add(
        "attention/attention.h",
        "attention",
        "test_attention",
        l2_scale=("options.l2 ? 2 * c : c", "c"),
        mask_stride=("mask.size(axis) == 1 ? 0 : mask.stride(axis)", "mask.stride(axis) == 1 ? 0 : mask.stride(axis)"),
        block=("block * kAttentionRows,", "block * kAttentionRows + (block > 0),"),
        features=("if (k.size(3) != q.size(3))", "if (k.size(3) > q.size(3))"),
        default_scale=(
            "1 / std::sqrt(static_cast<double>(q.size(3)))",
            "1 / std::sqrt(static_cast<double>(v.size(3)))",
        ),
    )
    add(
        "attention/attention_kernel.cpp",
        "attention",
        "test_attention",
        key_bias=("static_cast<T>(-0.5 * s.scale) * square", "static_cast<T>(0.5 * s.scale) * square"),
        key_tangent=("static_cast<T>(-s.scale) * tangent", "static_cast<T>(-0.5 * s.scale) * tangent"),
    )
    add(
        "ensemble/accumulate_.cpp",
        "ensemble",
        "test_ensemble",
        paired=("if (squares.has_value() != target.has_value())", "if (squares.has_value() && !target.has_value())"),
        in_place=("predictions.stride(2) == 1 && predictions.stride(1) == c", "predictions.stride(2) == 1"),
    )
    add(
        "ensemble/accumulate_kernel.cpp",
        "ensemble",
        "test_ensemble",
        tail=("sums[j] += s + kModels * b;", "sums[j] += s + b;"),
        square=("widen(apart[1] + h) + b * (2 * s + kModels * b)", "widen(apart[1] + h) + b * (s + kModels * b)"),
    )
    add(
        "information/infonce.cpp",
        "information_infonce",
        "test_information",
        log_n=(
            "value / static_cast<double>(n) + std::log(static_cast<double>(n))",
            "value / static_cast<double>(n) + std::log(static_cast<double>(n) - 1)",
        ),
        gradient=("by_g[k] = (p.f[k] - by_g[k])", "by_g[k] = (p.f[k] + by_g[k])"),
        one_row=("if (n < 2)", "if (n < 1)"),
    )
    add(
        "information/infonce_kernel.cpp",
        "information_infonce",
        "test_information",
        past_the_end=("static_cast<T>(__builtin_inf());  // weights", "T{0};  // weights"),
        top=("constexpr T kHeadroom = 8;", "constexpr T kHeadroom = 800;"),
    )
    add(
        "information/pairwise_scores_kernel.cpp",
        "information_pairwise",
        "test_information",
        second_half=("total[2 * sub + 1] += w3 * relu<T>(right)", "total[2 * sub + 1] += w3 * right"),
        word=("words[u + r] = word[r]", "words[u + r] = word[0]"),
        last_pairs=(
            "p.m - j < kPairs ? p.m - j : kPairs;\n    __builtin_memcpy",
            "p.m - j < kPairs ? p.m - j - 1 : kPairs;\n    __builtin_memcpy",
        ),
    )
    add(
        "neighbors/count_within_kernel.cpp",
        "neighbors_count",
        "test_count_within",
        doubt=("count[i] += decide(p, i, t.col, maybe & ~sure)", "count[i] += __builtin_popcount(maybe & ~sure)"),
        column=("<= p.radius[t.col + l]", "<= p.radius[i]"),
    )
    add(
        "neighbors/count_within.cpp",
        "neighbors_count",
        "test_count_within",
        slack=(
            "+ 2 * kEps * (norm * norm + std::abs(square))",
            "- 64 * kEps * (norm * norm + std::abs(square)) - static_cast<double>(set.slack()[i])",
        ),
        nan=("if (std::isnan(r[i]))", "if (false)"),
    )
    add(
        "neighbors/kmeans_plus_plus_kernel.cpp",
        "neighbors_kmeans_plus",
        "test_kmeans",
        closest=("distance = distance < before ? distance : before;", ""),
        doubtful=("const T doubtful = 200 * c.rounding;", "const T doubtful = 0;"),
    )
    add(
        "neighbors/kmeans.cpp",
        "neighbors_kmeans",
        "test_kmeans",
        weight=("(weights_ == nullptr ? 1 : weights_[i]) * squared[i]", "squared[i]"),
        divisor=("double divisor = all.weight(j);", "double divisor = static_cast<double>(all.count(j));"),
        more_centers=("if (k > n && group.alone())", "if (k > n + 1 && group.alone())"),
    )
    add(
        "neighbors/kmeans_kernel.cpp",
        "neighbors_",
        "test_kmeans test_neighbors",
        decided=("decided ? index : exact_nearest(p, i + l, c)", "index"),
        bound=("norm - 2 * score - 3 * rounding * norm", "norm - 2 * score + norm"),
    )
    add(
        "neighbors/knn_kernel.cpp",
        "neighbors_knn",
        "test_neighbors",
        prune=(
            "kth_highest(entries.score, count, p.k) - 2 * p.slack[i]",
            "kth_highest(entries.score, count, p.k) + 2 * p.slack[i]",
        ),
        ties=("if (middle <= low || middle >= high) return low;", "if (middle <= low || middle >= high) return high;"),
        sign=("distances[e] = product ? best : -best;", "distances[e] = -best;"),
    )
    add(
        "neighbors/pair_set.h",
        "neighbors_",
        "test_neighbors test_count_within",
        slack=("std::numeric_limits<T>::epsilon() / 2;", "std::numeric_limits<T>::epsilon() / 1e6;"),
        overflow=("if (!std::isfinite(norm[i]))", "if (false)"),
    )
    add(
        "ntk/linear_gram_kernel.cpp",
        "ntk",
        "test_ntk",
        one_hot=("scratch.a_cols[j] == number ? 1 : 0", "scratch.a_cols[j] >= number ? 1 : 0"),
        positions=("if (++t < positions) continue;", "if (++t <= positions) continue;"),
        accumulate=("to = add ? to + total : total;", "to = total;"),
    )
    add(
        "ntk/materialise.h",
        "ntk",
        "test_ntk",
        slices=(
            "for (std::int64_t slice = 0; slice < kSlices; ++slice) total",
            "for (std::int64_t slice = 0; slice + 1 < kSlices; ++slice) total",
        ),
    )
    add(
        "simplex/sixj.h",
        "simplex_sixj",
        "test_simplex",
        parity=("(a + b + c) % 2 == 0 && a + b >= c", "a + b >= c"),
        range=("spins[i] < 0 || spins[i] > kLargestSpin", "spins[i] > kLargestSpin"),
    )
    add(
        "simplex/sixj_kernel.cpp",
        "simplex",
        "test_simplex",
        sign=("% 4 == 0 ? 1 : -1; }", "% 4 == 0 ? -1 : 1; }"),
        join=("select(index(b) < join, f64xN{}, down)", "select(index(b) <= join, f64xN{}, down)"),
        turned=("select(ratio < 0, -sign, sign)", "sign"),
    )
    add(
        "simplex/weight4_formulas.h",
        "simplex_weight4",
        "test_simplex",
        area=("0.5 * (pq + pr - qr)", "0.5 * (pq + qr - pr)"),
        flat=('there ? Math::root(det) : Math::number(__builtin_nan(""))', "Math::root(det)"),
        mixed=("own[i] = mixed / row;", "own[i] = -mixed / row;"),
    )
    add(
        "spectra/pair_sum_kernel.cpp",
        "spectra",
        "test_spectra_sums",
        turns=("(s + F::kMagic) - F::kMagic", "(s + F::kMagic) - F::kMagic + static_cast<T>(1e-4)"),
        negative=("u < 0 ? Vec<T>{} : u", "u"),
        slope=("static_cast<T>(-1.5) * value", "static_cast<T>(1.5) * value"),
    )
    add(
        "spectra/shells_kernel.cpp",
        "spectra_shells",
        "test_spectra_grid",
        fold=("p.fold == Fold::even && p.last > 1 ? 1 : 0", "0"),
        remainder=("for (; k < modes; ++k)", "for (; k + 1 < modes; ++k)"),
    )
    add(
        "spectra/shells.h",
        "spectra_shells",
        "test_spectra_grid",
        most=("least < 0 || most >= shells", "least < 0 || most > shells"),
    )
    return table  # fmt: skip


MUTANTS = _mutants()


def drill(copy: Copy, mutant: Mutant) -> dict:
    began, path = time.monotonic(), copy.root / "csrc" / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) < 1:
        return {"result": "the text is gone"}
    path.write_text(text.replace(mutant.old, mutant.new, 1), encoding="utf-8")
    try:
        if not copy.make():
            return {"result": "does not compile"}
        built = time.monotonic() - began
        killer = None
        if not copy.passes("-q", "-x", "-k", f"right_or_refuses and {mutant.ops}", "tests/test_fuzz.py"):
            killer = "fuzzer"
        else:
            for test in mutant.tests.split():
                if not copy.passes("-q", "-x", "-m", "not slow", f"tests/{test}.py"):
                    killer = test
                    break
    finally:
        path.write_text(text, encoding="utf-8")
    seconds = time.monotonic() - began
    return {
        "result": "killed" if killer else "survived",
        "by": killer,
        "build_seconds": round(built),
        "seconds": round(seconds),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="all by default")
    parser.add_argument("--json", type=Path, help="results are read from here, and written back after each")
    parser.add_argument("--folder", type=Path, help="where the copy and its build stay; by default they do not")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no more after so long")
    options = parser.parse_args()
    known = json.loads(options.json.read_text(encoding="utf-8")) if options.json and options.json.exists() else {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Copy(options.folder or Path(scratch))
        if not copy.make() or not copy.passes("-q", "-x", "tests/test_fuzz.py"):
            print("the tree fails as it is")
            return 1
        for name in options.names or MUTANTS:
            if known.get(name, {}).get("result") == "killed" and not options.names:
                continue
            if time.monotonic() - began > options.seconds:
                break
            known[name] = drill(copy, MUTANTS[name])
            print(f"{name:45} {known[name]}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0 if all(r["result"] == "killed" for r in known.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
