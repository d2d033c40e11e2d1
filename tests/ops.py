"""One valid call of every op, and of one public function for every type of result: what the tests of all ops at once run on."""

import inspect

import torch
from torch import nn

import gramian
from gramian import adversarial, attention, distributed, ensemble, information, neighbors, ntk, simplex, spectra


def rows(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)


def _heads(dtype, count):
    return [rows(1, 2, 6, 4, seed=seed, dtype=dtype) for seed in range(count)]


def _critic(dtype):
    return [rows(*shape, dtype=dtype) for shape in ((5, 4), (7, 4), (4, 3), (3,), (3,))]


def _spins(*doubled):
    return torch.tensor(doubled).repeat_interleave(3).view(len(doubled), 3)


def _simplices():
    return [1 + 0.05 * rows(3, 10, dtype=torch.float64), 1 + 0.1 * rows(3, 10, seed=1, dtype=torch.float64)]


def _lists(dtype, seed):
    distances = rows(5, 2, seed=seed, dtype=dtype).sort(1)[0]
    return [distances, torch.tensor([[0, 1]] * 5, device="cpu") + 2 * seed]


def _mask(dtype):
    a, b, w2, b2, w3 = _critic(dtype)
    return torch.ops.gramian.information_pairwise_scores(a, b, w2, b2, w3, True)[1]


# The arguments of each op by its name, for a dtype of its floating inputs; trailing defaults are left out. Two calls give equal
# arguments, none of them shared. The ops of `simplex` have one precision, and the dtype is nothing to them.
OPS = {
    "attention_jtj": lambda dtype: _heads(dtype, 6),
    "attention_jvp": lambda dtype: _heads(dtype, 6),
    "attention_linearize": lambda dtype: _heads(dtype, 3),
    "attention_vjp": lambda dtype: _heads(dtype, 4),
    "ensemble_accumulate_": lambda dtype: [
        rows(3, 5, 2, dtype=dtype),
        rows(5, 2, seed=1, dtype=dtype),
        torch.zeros(5, 2, dtype=torch.float64),
        torch.zeros(5, dtype=torch.float64),
    ],
    "gram_square_sum": lambda dtype: [rows(5, 3, dtype=dtype), rows(4, 3, seed=1, dtype=dtype)],
    "information_infonce": lambda dtype: [rows(6, 3, dtype=dtype), rows(6, 3, seed=1, dtype=dtype), True],
    "information_pairwise_scores": lambda dtype: [*_critic(dtype), True],
    "information_pairwise_scores_backward": lambda dtype: [rows(5, 7, dtype=dtype), *_critic(dtype), _mask(dtype)],
    "neighbors_assign": lambda dtype: [rows(9, 3, dtype=dtype), rows(4, 3, seed=1, dtype=dtype)],
    "neighbors_count_within": lambda dtype: [rows(9, 3, dtype=dtype), torch.full((9,), 2.0, dtype=dtype)],
    "neighbors_kmeans": lambda dtype: [rows(9, 3, dtype=dtype), rows(2, 3, seed=1, dtype=dtype)],
    "neighbors_kmeans_plus_plus": lambda dtype: [rows(9, 3, dtype=dtype), torch.full((3, 2), 0.4, dtype=torch.float64)],
    "neighbors_knn": lambda dtype: [rows(9, 3, dtype=dtype), 2, rows(7, 3, seed=1, dtype=dtype)],
    "neighbors_knn_both": lambda dtype: [rows(9, 3, dtype=dtype), rows(5, 3, seed=1, dtype=dtype), 2],
    "neighbors_knn_merge": lambda dtype: [*_lists(dtype, 0), *_lists(dtype, 1), 3],
    "neighbors_knn_pass": lambda dtype: [rows(9, 3, dtype=dtype), 2],
    "neighbors_knn_route": lambda dtype: [rows(9, 3, dtype=dtype), 2],
    "ntk_layers_gram_": lambda dtype: [
        torch.zeros(3, 2, 3, 2, dtype=dtype),
        [rows(3, 1, 4, dtype=dtype)],
        [rows(3, 2, 1, 5, seed=1, dtype=dtype)],
        [],
        [],
        [1],
        [0],
        False,
        False,
        0,
        0,
        False,
    ],
    "ntk_linear_gram": lambda dtype: [
        rows(3, 2, 4, dtype=dtype),
        rows(3, 2, 2, 5, seed=1, dtype=dtype),
        None,
        None,
        True,
        False,
        False,
    ],
    "simplex_sixj": lambda dtype: [_spins(2, 2, 2, 2, 2, 2)],
    "simplex_sixj_blocks": lambda dtype: [_spins(2, 2, 2, 2), 4],
    "simplex_sixj_family": lambda dtype: [_spins(2, 2, 2, 2, 2), 3],
    "simplex_sixj_table": lambda dtype: [torch.tensor(0), 3, 1000],
    "simplex_threej": lambda dtype: [_spins(2, 2, 2, 0, 0, 0)],
    "simplex_weight4": lambda dtype: _simplices(),
    "simplex_weight4_backward": lambda dtype: [
        *_simplices(),
        torch.ones(3, dtype=torch.float64),
        torch.ones(3, dtype=torch.float64),
    ],
    "spectra_grid_shells": lambda dtype: [rows(2, 4, 6, dtype=dtype), None, torch.arange(12).int().view(3, 4) % 5, 5],
    "spectra_kernel_sum": lambda dtype: [
        rows(6, 3, dtype=dtype),
        rows(5, 3, seed=1, dtype=dtype),
        rows(5, 2, seed=2, dtype=dtype),
        0,
    ],
    "spectra_ndft": lambda dtype: [
        rows(6, 3, dtype=dtype),
        rows(5, 3, seed=1, dtype=dtype),
        rows(5, 2, seed=2, dtype=dtype),
    ],
    "spectra_powers": lambda dtype: [rows(2, 4, 3, 2, dtype=dtype), None, 1, 0.5],
    "spectra_shells": lambda dtype: [rows(2, 4, 3, 2, dtype=dtype), None, torch.arange(9).int().view(3, 3) % 5, 5, 1],
}


def _overload(op):
    return getattr(torch.ops.gramian, op).default


# Which arguments an op writes into.
_WRITTEN = {
    op: [i for i, a in enumerate(_overload(op)._schema.arguments) if a.alias_info is not None and a.alias_info.is_write]
    for op in OPS
}


def call(op, arguments):
    """What an op leaves: what it returns, or what it wrote into; always a list of tensors."""
    returned = _overload(op)(*arguments)
    if returned is None:
        return [arguments[i] for i in _WRITTEN[op]]
    return [returned] if isinstance(returned, torch.Tensor) else list(returned)


# ---- Results ----


def _network(inputs=4, outputs=3):
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))


def _encoder():
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()


def _classes(n):
    return torch.arange(n, device="cpu") % 3


def _double(values):
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def _predictions():
    return rows(3, 2, 6, 2, dtype=torch.float64), rows(6, 2, seed=1, dtype=torch.float64)


def _a3t():
    loss = adversarial.A3TLoss(_network(4, 4), _network(4, 3), _network(4, 1))
    with torch.no_grad():
        return loss(rows(5, 4), rows(5, 4, seed=1), _classes(5))


def _record():
    recorder = ntk.AlignmentRecorder(_network(), {"train": (rows(6, 4), _classes(6))})
    recorder.record(0)
    return recorder.records[0]


def _trained():
    sets = torch.arange(8, device="cpu").view(2, 4)
    return next(iter(ensemble.train(_network, rows(8, 4), _classes(8), sets, rows(5, 4), seeds=2, steps=2)))


def _pentachoron():
    return torch.arange(5, device="cpu")[None]


def _seeded():
    return torch.Generator("cpu").manual_seed(0)


# A call that gives each public type of result that is a tuple of named parts, by the name of the type. Two calls give the
# same result.
RESULTS = {
    "A3TLosses": _a3t,
    "AlignmentRecord": _record,
    "Assignment": lambda: neighbors.assign(rows(9, 3), rows(2, 3, seed=1)),
    "BatchUpdate": lambda: neighbors.kmeans_batch(rows(9, 3), rows(2, 3, seed=1)),
    "Clid": lambda: neighbors.clid({"a": rows(40, 6), "b": rows(40, 3, seed=1)}, generator=_seeded()),
    "Clustering": lambda: neighbors.kmeans(rows(30, 3), 4, generator=_seeded()),
    "ComplexWeight": lambda: simplex.complex_weight(_pentachoron(), _double([1] * 10), _double([1] * 10)),
    "Contraction": lambda: attention.contraction(rows(3, 3), rows(3, 3, seed=1), 1.0),
    "Correlations": lambda: neighbors.correlations(rows(8), rows(8, seed=1)),
    "Cost": lambda: distributed.knn_cost(1e5, 64, 10, 4, link=distributed.links["10 Gb/s"], rate=1e11),
    "Decomposition": lambda: ensemble.bias_variance(*_predictions()),
    "Dimension": lambda: neighbors.levina_bickel(rows(60, 3), k=10),
    "Eigenpairs": lambda: ntk.ntk_top(_network(), rows(7, 4), 2, generator=_seeded()),
    "Estimate": lambda: information.MINE(2, 2, hidden=8).fit(rows(64, 2), rows(64, 2, seed=1), steps=6),
    "ExactSixj": lambda: simplex.sixj_exact(2, 2, 2, 2, 2, 2),
    "Faces": lambda: simplex.complex_faces(_pentachoron()),
    "FixedPoint": lambda: attention.fixed_point(lambda x: x / 2 + 1, rows(3, 2), lipschitz=0.5),
    "Geometry": lambda: simplex.geometry(_double([[1] * 10])),
    "Gradients": lambda: attention.vjp(*_heads(torch.float32, 4)),
    "Intervals": lambda: ensemble.bootstrap(*_predictions(), replicates=20, generator=_seeded()),
    "KnnBoth": lambda: neighbors.knn_both(rows(9, 3), rows(5, 3, seed=1), 2),
    "KnnPass": lambda: neighbors.knn_pass(rows(9, 3), 2),
    "LayerConstant": lambda: attention.lipschitz(_encoder(), rows(1, 5, 8))[0],
    "LayerCost": lambda: ntk.layer_cost(8, 8, outputs=2, positions=1, d_in=4, d_out=5),
    "Learnability": lambda: neighbors.cluster_learnability(rows(40, 6), generator=_seeded()),
    "Link": lambda: distributed.links["10 Gb/s"],
    "Neighbors": lambda: neighbors.knn(rows(9, 3), 2),
    "PachnerResidual": lambda: simplex.check_pachner(
        [[0, 0, 0, 0], [9, 1, 0, 0], [0, 8, 1, 0], [0, 0, 7, 2], [3, 0, 0, 9], [5, 6, 7, 8]]
    ),
    "Pieces": lambda: spectra.relu_line(_network(2, 1).double(), _double([0, 0]), _double([1, 1])),
    "RadialSpectrum": lambda: spectra.radial_spectrum(rows(8, 8)),
    "Regions": lambda: spectra.relu_plane(_network(2, 1).double(), _double([[0, 0], [1, 0], [1, 1], [0, 1]])),
    "Representations": lambda: neighbors.representations(_network(), [rows(5, 4)], ["0", ""]),
    "SingularValues": lambda: attention.op_sigma(*_heads(torch.float32, 3)),
    "SixjBlock": lambda: simplex.sixj_block(4, 4, 4, 4),
    "SixjChunk": lambda: next(simplex.sixj_table(3)),
    "SixjFamily": lambda: simplex.sixj_family(2, 2, 2, 2, 2),
    "Substitution": lambda: attention.substitution(
        rows(5, 3), 0, rows(3, seed=1), rows(3, 3, seed=2), rows(3, 3, seed=3)
    ),
    "Trained": _trained,
    "Weight4": lambda: simplex.weight4(*_simplices()),
}


def result_types():
    """The public types of result, by name."""
    modules = [getattr(gramian, name) for name in gramian.__all__]
    public = [getattr(module, name) for module in modules if inspect.ismodule(module) for name in module.__all__]
    return {value.__name__: value for value in public if inspect.isclass(value) and issubclass(value, tuple)}
