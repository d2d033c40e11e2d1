"""What the tour measures: a network that learns scikit-learn's digits, with a copy of it after every epoch."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gramian.tour.report import progress

WIDTH, BATCH, RATE, MOMENTUM = 256, 100, 0.1, 0.9


@dataclass(frozen=True)
class Subject:
    """The digits, in the order of a fixed shuffle, and the network's course on the first `learned` of them."""

    images: Tensor  # [n, 64] float32 in [0, 1]
    labels: Tensor  # [n] int64
    learned: int
    snapshots: list[nn.Sequential]  # after epoch 0, 1, ...
    accuracy: list[float]  # of each snapshot, on the images held out
    quick: bool

    @property
    def held_out(self) -> slice:
        """The images that the network never learned from."""
        return slice(self.learned, None)


def train(*, quick: bool) -> Subject:
    """Train a ReLU network of three hidden layers by SGD with momentum."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    shuffle = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.data / 16, dtype=torch.float32)[shuffle]
    labels = torch.tensor(digits.target, dtype=torch.int64)[shuffle]
    learned = 3 * len(images) // 4

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _network(images.shape[1], int(labels.max()) + 1)
        subject = Subject(images, labels, learned, [], [], quick)
        optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM)
        _record(subject, network)
        for _ in progress(range(4 if quick else 20), "training", "epoch"):
            for batch in torch.split(torch.randperm(learned), BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            _record(subject, network)
    return subject


def _network(inputs: int, classes: int) -> nn.Sequential:
    widths = [inputs, WIDTH, WIDTH, WIDTH, classes]
    layers: list[nn.Module] = []
    for width, following in itertools.pairwise(widths):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def _record(subject: Subject, network: nn.Sequential) -> None:
    subject.snapshots.append(copy.deepcopy(network))
    right = network(subject.images[subject.held_out]).argmax(1) == subject.labels[subject.held_out]
    subject.accuracy.append(right.double().mean().item())
