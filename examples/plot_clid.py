"""
Which encoder is best, told without labels
==========================================

CLID (arXiv:2206.01251) against the accuracy of linear probes, for a handful of encoders of scikit-learn's digits, or of Fashion-MNIST
where Debian's dataset-fashion-mnist is installed: random networks, PCA, a supervised network as it learns, and a contrastive one that
sees no labels. Each is scored by how learnable the clusters of its representation are and by how many dimensions it has; labels only
judge the score.

    python examples/plot_clid.py [--data digits|fashion] [--out plot_clid.png] [--quick]
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gramian import neighbors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

FASHION = Path("/usr/share/datasets/fashion-mnist")
COLORS = {"random": "#8d99ae", "pca": "#2a6f97", "supervised": "#9e2a2b", "contrastive": "#e09f3e"}
WIDTH = 64


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)


def fashion(count: int) -> tuple[Tensor, Tensor]:
    def read(name: str, header: int) -> Tensor:
        return torch.frombuffer(bytearray(gzip.decompress((FASHION / name).read_bytes())[header:]), dtype=torch.uint8)

    images = read("train-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28)[:count].float() / 255
    return images, read("train-labels-idx1-ubyte.gz", 8)[:count].long()


def network(images: Tensor, outputs: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    side = images.shape[-1] // 4
    return nn.Sequential(
        nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * side * side, WIDTH),
            nn.ReLU(),
        ),
        nn.Linear(WIDTH, outputs),
    )


def batches(n: int, size: int = 128) -> Iterator[Tensor]:
    yield from (rows for rows in torch.randperm(n).split(size) if len(rows) > 1)


def distorted(images: Tensor) -> Tensor:
    """Shift each image by up to an eighth of its side, change its contrast, add noise, blank a square."""
    n, _, side, _ = images.shape
    reach = max(1, side // 8)
    padded = nn.functional.pad(images, (reach,) * 4)
    rows, columns = torch.randint(2 * reach + 1, (2, n))
    at = torch.arange(side)
    images = padded[
        torch.arange(n)[:, None, None], 0, (rows[:, None] + at)[:, :, None], (columns[:, None] + at)[:, None]
    ]
    hole, width = torch.randint(side, (2, n, 1)), side // 4
    inside = [(at >= start) & (at < start + width) for start in hole]
    images = images.masked_fill(inside[0][:, :, None] & inside[1][:, None, :], 0)
    return (images * (0.6 + 0.8 * torch.rand(n, 1, 1)) + 0.1 * torch.randn_like(images))[:, None]


def supervised(images: Tensor, labels: Tensor, epochs: int, seed: int) -> Iterator[tuple[int, nn.Module]]:
    """Train on labels; yield the encoder after 0, 1, 2, 4, ... epochs."""
    model = network(images, int(labels.max()) + 1, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(epochs + 1):
        if epoch & (epoch - 1) == 0:
            yield epoch, model[0]
        for rows in batches(len(images)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()


def contrastive(images: Tensor, epochs: int, seed: int, temperature: float = 0.2) -> Iterator[tuple[int, nn.Module]]:
    """Train two distortions of an image to be nearer than those of others (InfoNCE); yield as `supervised` does."""
    model = network(images, 32, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(epochs + 1):
        if epoch > 0 and epoch & (epoch - 1) == 0:
            yield epoch, model[0]
        for rows in batches(len(images), 256):
            optimizer.zero_grad()
            one, other = (nn.functional.normalize(model(distorted(images[rows]))) for _ in range(2))
            logits = one @ other.T / temperature
            pairs = torch.arange(len(rows))
            loss = nn.functional.cross_entropy(logits, pairs) + nn.functional.cross_entropy(logits.T, pairs)
            loss.backward()
            optimizer.step()


def encode(encoder: nn.Module, images: Tensor) -> Tensor:
    return neighbors.representations(encoder, images.split(500)).layers[""]


def zoo(images: Tensor, labels: Tensor, learned: int, epochs: int) -> dict[str, Tensor]:
    """Return the representation of all images by every encoder; those that learn do so from the first `learned` images."""
    found = {f"random {seed}": encode(network(images, 1, seed)[0], images) for seed in range(2)}
    pixels = images.flatten(1)
    centered = pixels - pixels.mean(0)
    main = torch.linalg.eigh(centered.T @ centered).eigenvectors.flip(1)
    found |= {f"pca {count}": centered @ main[:, :count] for count in (2, 4, 8, 32)}
    for epoch, encoder in supervised(images[:learned], labels[:learned], epochs, 2):
        if epoch > 0:
            found[f"supervised {epoch}"] = encode(encoder, images)
    for epoch, encoder in contrastive(images, epochs, 3):
        found[f"contrastive {epoch}"] = encode(encoder, images)
    return found


def probe(rows: Tensor, labels: Tensor, learned: int) -> float:
    """Held-out accuracy of a linear classifier on the representation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit(rows[:learned].numpy()).transform(rows.numpy())
    classifier = LogisticRegression(max_iter=300, C=0.1).fit(scaled[:learned], labels[:learned].numpy())
    return float(classifier.score(scaled[learned:], labels[learned:].numpy()))


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--data", choices=["digits", "fashion"], help="fashion if it is installed")
    parser.add_argument("--out", type=Path, default=Path("plot_clid.png"))
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    options = parser.parse_args(arguments)
    data = options.data or ("fashion" if FASHION.exists() else "digits")

    images, labels = digits() if data == "digits" else fashion(2000 if options.quick else 4000)
    torch.manual_seed(0)
    shuffle = torch.randperm(len(images))
    images, labels = images[shuffle], labels[shuffle]
    learned = len(images) // 2
    encoders = zoo(images, labels, learned, 2 if options.quick else 8)
    held_out = {name: rows[learned:] for name, rows in encoders.items()}
    found = neighbors.clid(held_out, generator=torch.Generator().manual_seed(0))
    accuracy = torch.tensor([probe(rows, labels, learned) for rows in encoders.values()], dtype=torch.float64)

    print(f"{data}: {len(images) - learned} held-out images\n")
    print(f"{'encoder':<16}{'learnability':>13}{'dimension':>11}{'CLID':>8}{'probe':>8}")
    for name, *numbers in zip(found.names, found.learnability, found.dimension, found.score, accuracy, strict=True):
        print("{:<16}{:>13.3f}{:>11.2f}{:>8.2f}{:>8.3f}".format(name, *(number.item() for number in numbers)))
    weights = neighbors.clid_weights(found.learnability, found.dimension, accuracy)
    scores = {
        "CLID": found.score,
        "CL alone": found.learnability,
        "ID alone": found.dimension,
        "CLID, fitted": neighbors.clid(held_out, weights=weights, generator=torch.Generator().manual_seed(0)).score,
    }
    print(
        f"\n{'correlation':<16}{'Pearson':>9}{'Spearman':>10}{'Kendall':>9}   with the probe, over {len(accuracy)} encoders"
    )
    summary = {}
    for name, score in scores.items():
        against = neighbors.correlations(score, accuracy)
        print(f"{name:<16}{against.pearson:>9.2f}{against.spearman:>10.2f}{against.kendall:>9.2f}")
        summary[name] = against.pearson
    draw(found, accuracy, data, summary["CLID"]).savefig(options.out, dpi=150)
    print(f"\nfigure: {options.out}")
    return summary


def draw(found: neighbors.Clid, accuracy: Tensor, data: str, pearson: float) -> Figure:
    import matplotlib.pyplot as plt

    figure, (plane, line) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for kind, color in COLORS.items():
        at = torch.tensor([name.startswith(kind) for name in found.names])
        size = 20 + 300 * (accuracy[at] - accuracy.min()) / (accuracy.max() - accuracy.min())
        plane.scatter(found.dimension[at], found.learnability[at], s=size, color=color, alpha=0.8, label=kind)
        line.scatter(found.score[at], accuracy[at], s=40, color=color, label=kind)
    for name, x, y in zip(found.names, found.dimension, found.learnability, strict=True):
        plane.annotate(name.split()[1], (x, y), fontsize=7, xytext=(5, 4), textcoords="offset points")
    plane.set(xlabel="intrinsic dimension", ylabel="cluster learnability", title=f"{data}: size is probe accuracy")
    line.set(xlabel="CLID", ylabel="linear-probe accuracy", title=f"no labels in the score: r = {pearson:.2f}")
    line.legend(frameon=False)
    for axes in (plane, line):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
