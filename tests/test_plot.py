"""Figures say what they should, carry their units, and refuse what they cannot draw."""

import subprocess
import sys

import pytest
import torch

from gramian import dynamics, neighbors, ntk, plot, spectra
from tests import ops

# What draws each type of result, and the types of which there is nothing to draw: a few numbers, or tensors for other functions.
DRAWN = {
    "AlignmentRecord": lambda record: plot.alignment([record]),
    "Clid": plot.clid,
    "Clustering": plot.clusters,
    "Decomposition": plot.decomposition,
    "Dimension": plot.dimension,
    "Eigenpairs": plot.eigenvalues,
    "Estimate": plot.estimate,
    "Intervals": plot.decomposition,
    "KnnBoth": lambda found: plot.distances(found.of_x),
    "KnnPass": lambda found: plot.distances(found.others),
    "LayerConstant": lambda constant: plot.lipschitz([constant]),
    "Learnability": plot.learning_curve,
    "Neighbors": plot.distances,
    "Pieces": plot.pieces,
    "RadialSpectrum": plot.spectrum,
    "Regions": plot.regions,
    "SixjBlock": plot.symbols,
    "SixjFamily": plot.symbols,
}
NOT_DRAWN = {
    "A3TLosses",
    "Assignment",
    "BatchUpdate",
    "ComplexWeight",
    "Contraction",
    "Correlations",
    "Cost",
    "ExactSixj",
    "Faces",
    "FixedPoint",
    "Geometry",
    "Gradients",
    "LayerCost",
    "Link",
    "PachnerResidual",
    "Representations",
    "SingularValues",
    "SixjChunk",
    "Substitution",
    "Trained",
    "Weight4",
}


@pytest.fixture
def x():
    return torch.randn(60, 5, generator=torch.Generator().manual_seed(0))


def drawn(axes, tmp_path):
    """What every figure must: be saved, name both axes, have something in it."""
    axes.figure.savefig(tmp_path / "figure.png")
    assert axes.get_xlabel()
    assert axes.get_ylabel()
    assert axes.get_title("left")
    return axes


@pytest.mark.parametrize("name", DRAWN)
def test_a_result_of_each_type_is_drawn(name, tmp_path):
    axes = drawn(DRAWN[name](ops.RESULTS[name]()), tmp_path)
    assert axes.has_data()


def test_each_type_of_result_is_drawn_or_has_nothing_to_draw():
    assert not DRAWN.keys() & NOT_DRAWN
    assert DRAWN.keys() | NOT_DRAWN == ops.result_types().keys()


def test_eigenvalues_are_drawn_over_their_rank_without_those_that_have_no_logarithm(tmp_path):
    axes = drawn(plot.eigenvalues(torch.tensor([4.0, 2.0, 0.0, -1e-9])), tmp_path)
    assert axes.lines[0].get_xydata().tolist() == [[1.0, 4.0], [2.0, 2.0]]
    assert drawn(plot.eigenvalues(torch.zeros(2)), tmp_path).texts[0].get_text() == "no finite values"


def test_several_spectra_differ_in_more_than_colour(tmp_path):
    axes = drawn(plot.eigenvalues({name: torch.rand(5) + 1 for name in "abcdefgh"}), tmp_path)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list("abcdefgh")
    first, second = axes.lines[:2]
    assert first.get_linestyle() != second.get_linestyle()
    assert first.get_marker() != second.get_marker()


def test_eigenpairs_are_drawn_like_their_values(tmp_path, x):
    pairs = ntk.ntk_top(torch.nn.Linear(5, 1), x, 3)
    line = drawn(plot.eigenvalues(pairs), tmp_path).lines[0]
    assert line.get_ydata().tolist() == pytest.approx(pairs.values.tolist())


def test_a_kernel_is_put_in_the_order_of_the_classes(tmp_path):
    order = torch.tensor([1, 0, 1])
    kernel = torch.arange(9.0).view(3, 3)
    image = drawn(plot.kernel(kernel, order=order), tmp_path).images[0]
    assert image.get_array().tolist() == kernel[[1, 0, 2]][:, [1, 0, 2]].tolist()


def test_a_kernel_of_both_signs_is_white_at_zero(tmp_path):
    image = drawn(plot.kernel(torch.tensor([[1.0, -3.0], [0.0, 2.0]])), tmp_path).images[0]
    assert image.get_clim() == (-3.0, 3.0)


def test_results_of_neighbors_are_drawn(tmp_path, x):
    learned = neighbors.cluster_learnability(x)
    curve = drawn(plot.learning_curve({"a": learned, "b": learned}), tmp_path).lines[0]
    assert curve.get_ydata()[-1] == pytest.approx(learned.value)
    result = neighbors.clid({"a": x, "b": x[:, :2]}, generator=torch.Generator().manual_seed(0))
    points = drawn(plot.clid(result), tmp_path).lines
    assert [float(p.get_xdata()[0]) for p in points] == pytest.approx(result.dimension.tolist())
    found = neighbors.twonn(x, neighborhood=10)
    bars = drawn(plot.dimension(found), tmp_path).patches
    assert sum(bar.get_height() for bar in bars) == found.local.isfinite().sum()
    near = neighbors.knn(x, k=4, exclude_self=True)
    middle = drawn(plot.distances(near), tmp_path).lines[0]
    assert middle.get_ydata().tolist() == pytest.approx(near.distances.double().quantile(0.5, 0).tolist())
    clustered = neighbors.kmeans(x, 4)
    assert sum(bar.get_height() for bar in drawn(plot.clusters(clustered), tmp_path).patches) == 60


def test_recordings_are_drawn(tmp_path):
    z = torch.arange(16) / 16
    recorder = spectra.FrequencyRecorder(torch.nn.Linear(1, 1), z[:, None], z, [1.0, 2.0])
    for step in (0, 10):
        recorder.record(step)
    assert drawn(plot.frequencies(recorder), tmp_path).collections[0].get_array().size == 4
    groups = dynamics.GroupProgress({"a": torch.tensor([0]), "b": torch.tensor([1, 2])})
    for scale in (0.0, 1.0):
        groups.record(scale * torch.eye(3), torch.arange(3))
    line = drawn(plot.progress(groups, measure="loss"), tmp_path).lines[0]
    everyone, each = groups.curves("loss")
    assert line.get_xydata().tolist() == torch.stack([everyone, each[:, 0]], 1).tolist()


def test_the_parts_of_several_ensembles_stand_side_by_side(tmp_path):
    intervals = ops.RESULTS["Intervals"]()
    axes = drawn(plot.decomposition({"20": intervals.estimate, "40": intervals}), tmp_path)
    bias = next(line for line in axes.lines if line.get_label() == "bias²")
    assert bias.get_ydata().tolist() == [intervals.estimate.bias2.item()] * 2
    (point, interval) = axes.collections[0].get_segments()
    assert point[0, 1] == point[1, 1]
    assert interval[:, 1].tolist() == [intervals.low.bias2.item(), intervals.high.bias2.item()]


def test_symbols_stand_at_their_spins(tmp_path):
    block = ops.RESULTS["SixjBlock"]()
    image = drawn(plot.symbols(block), tmp_path).images[0]
    left, right, below, above = image.get_extent()
    assert (left, below) == (block.first_l / 2 - 0.5, block.first_j / 2 - 0.5)
    assert (above - below, right - left) == block.values.shape


def test_a_figure_goes_where_it_is_told(x):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert plot.distances(neighbors.knn(x, k=2), axes=axes) is axes


def test_plot_refuses_what_it_cannot_draw(x):
    with pytest.raises(ValueError, match=r"^eigenvalues: values must be \[k\], got shape \(2, 2\)$"):
        plot.eigenvalues(torch.eye(2))
    with pytest.raises(ValueError, match=r"^kernel: K must be \[n, m\], got shape \(3,\)$"):
        plot.kernel(torch.zeros(3))
    with pytest.raises(ValueError, match=r"^kernel: order must be \[n\] of a square kernel, got shape \(2,\)$"):
        plot.kernel(torch.eye(3), order=torch.zeros(2))
    with pytest.raises(ValueError, match=r"^frequencies: recorder must have a recording, got none$"):
        plot.frequencies(spectra.FrequencyRecorder(torch.nn.Linear(1, 1), torch.zeros(2, 1), torch.zeros(2), [1.0]))
    with pytest.raises(ValueError, match=r"^regions: output must be in \[0, 1\), got 1$"):
        plot.regions(ops.RESULTS["Regions"](), output=1)
    with pytest.raises(ValueError, match=r"^symbols: result must be one family, got values of shape \(2, 2\)$"):
        plot.symbols(type(ops.RESULTS["SixjFamily"]())(torch.zeros(2), torch.zeros(2, 2)))
    with pytest.raises(ValueError, match=r"^dimension: result must have local dimensions, got None"):
        plot.dimension(neighbors.twonn(x))


def test_gramian_needs_matplotlib_only_to_draw():
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['matplotlib.figure'] = None; import gramian, torch\n"
        "try: gramian.plot.eigenvalues(torch.ones(2))\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "gramian.plot needs matplotlib: pip install 'gramian[plot]'"
