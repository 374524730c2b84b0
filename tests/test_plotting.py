"""Displays: the numbers that are drawn, against answers known otherwise; axes; what is refused."""

import sys

import numpy as np
import pytest
from helpers import KERNELS, SMALL, make_rows
from scipy import sparse
from sklearn.linear_model import BayesianRidge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nwsketch import NadarayaWatsonRegressor, NadarayaWatsonSketch, NadarayaWatsonSketchRegressor
from nwsketch.bandwidth_search import BandwidthPath
from nwsketch.hashing import HashFamily, HashParameters, get_family
from nwsketch.plotting import (
    BandwidthDisplay,
    CoverageDisplay,
    ErrorDisplay,
    KernelDisplay,
    OccupancyDisplay,
    SamplerDisplay,
)
from nwsketch.training import EpochReport

pyplot = pytest.importorskip("matplotlib.pyplot", reason="displays draw by matplotlib (the extra plot)")


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    pyplot.close("all")


def make(**parameters):
    return NadarayaWatsonSketchRegressor(**(SMALL | parameters))


def drawn(line):
    """Return the coordinates of a line: (2, n_points)."""
    return np.asarray(line.get_data(), dtype=float)


def rms(values):
    return np.sqrt(np.mean(np.square(values), axis=0))


# -- what all share --------------------------------------------------------------------------------


def fake_report(**changes):
    """Return a report of six examples drawn of ten, in two classes."""
    report = EpochReport(
        rows=np.array([0, 1, 2, 3, 8, 9]),
        weights=np.array([1.0, 1.0, 1.0, 1.0, 0.5, 0.5]),
        labels=np.array([0, 0, 0, 0, 1, 1]),
        class_sizes=np.array([8, 2]),
        predicted=np.array([0.5, 0.5, np.nan, 1.0, 2.0, 2.0]),
        losses=np.array([0.4, 0.6, 0.7, 1.0, 3.0, 1.5]),
    )
    return report._replace(**changes)


def fake_metrics(epoch, **changes):
    known = {"effective_sample_size": 4.5, "overhead_share": 0.1, "rank_correlation": 0.5}
    return {"epoch": epoch} | known | changes


def fake_sampler(**changes):
    class Sampler:
        def __len__(self):
            return 6

        def report(self):
            return fake_report(**changes)

        def metrics(self):
            return fake_metrics(3)

    return Sampler()


X, y = make_rows(60)
PATH = BandwidthPath(np.array([[1.0, 4.0], [2.0, 8.0], [1.0, 1.0], [2.0, 2.0]]), np.arange(4.0), None)
#: How every display is made, on axes or without.
MAKERS = {
    ErrorDisplay: lambda **options: ErrorDisplay.from_estimator(make().fit(X, y), X, **options),
    KernelDisplay: lambda **options: KernelDisplay.from_estimator(make().fit(X, y), X, n_pairs=9, **options),
    OccupancyDisplay: lambda **options: OccupancyDisplay.from_estimator(make().fit(X, y), **options),
    BandwidthDisplay: lambda ax=None, **style: BandwidthDisplay(path=PATH, chosen=np.array([2.0, 2.0])).plot(
        ax, **style
    ),
    CoverageDisplay: lambda **options: CoverageDisplay.from_predictions(y, 0 * y, 0 * y + 1, **options),
    SamplerDisplay: lambda **options: SamplerDisplay.from_sampler(fake_sampler(), **options),
}
LINES = {
    ErrorDisplay: "line_",
    KernelDisplay: "points_",
    OccupancyDisplay: "line_",
    BandwidthDisplay: "line_",
    CoverageDisplay: "line_",
    SamplerDisplay: "points_",
}


@pytest.mark.parametrize("display", MAKERS, ids=lambda display: display.__name__)
def test_without_axes_a_figure_is_made(display):
    assert pyplot.get_fignums() == []
    made = MAKERS[display]()
    assert [pyplot.figure(number) for number in pyplot.get_fignums()] == [made.figure_]
    again = made.plot()
    assert again is made
    assert len(pyplot.get_fignums()) == 2  # nothing is drawn over what was there


@pytest.mark.parametrize("display", MAKERS, ids=lambda display: display.__name__)
def test_given_axes_are_drawn_on(display):
    figure, axes = pyplot.subplots(2, 2)
    given = axes if display is SamplerDisplay else axes[0, 0]
    made = MAKERS[display](ax=given, color="red")
    assert made.figure_ is figure
    assert pyplot.get_fignums() == [figure.number]
    if display is SamplerDisplay:
        assert list(made.axes_) == list(axes.ravel())
    else:
        assert made.ax_ is axes[0, 0]
        assert not any(other.has_data() for other in axes.ravel()[1:])
    lines = getattr(made, LINES[display])
    assert (lines if not isinstance(lines, list) else lines[0]).get_color() == "red"
    made.figure_.canvas.draw()


@pytest.mark.parametrize("display", MAKERS, ids=lambda display: display.__name__)
def test_without_matplotlib_the_extra_is_named(display, monkeypatch):
    made = MAKERS[display]()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot")
    message = rf'^{display.__name__} draws by matplotlib: pip install "nwsketch\[plot\]"$'
    for call in (MAKERS[display], made.plot):
        with pytest.raises(ImportError, match=message):
            call()


@pytest.mark.parametrize("display", [ErrorDisplay, KernelDisplay, OccupancyDisplay, BandwidthDisplay])
def test_another_estimator_is_refused(display):
    rows = () if display in (OccupancyDisplay, BandwidthDisplay) else (X,)
    with pytest.raises(TypeError, match="is a BayesianRidge: give a fitted NadarayaWatsonSketchRegressor"):
        display.from_estimator(make_pipeline(StandardScaler(), BayesianRidge().fit(X, y)), *rows)
    with pytest.raises(ValueError, match="not fitted"):
        display.from_estimator(make(), *rows)


def test_a_pipeline_is_its_last_step_on_its_rows():
    pipeline = make_pipeline(StandardScaler(), make(bandwidth=1.0)).fit(X, y)
    rows, model = pipeline[:-1].transform(X), pipeline[-1]
    for display in (ErrorDisplay, KernelDisplay):
        one, other = display.from_estimator(pipeline, X), display.from_estimator(model, rows)
        lines = getattr(one, LINES[display]), getattr(other, LINES[display])
        one, other = (line[0] if isinstance(line, list) else line for line in lines)
        np.testing.assert_array_equal(drawn(one), drawn(other))
    loads = [OccupancyDisplay.from_estimator(each).loads for each in (pipeline, model)]
    np.testing.assert_array_equal(*loads)
    alone = make_pipeline(make(bandwidth=1.0)).fit(X, y)
    errors = [ErrorDisplay.from_estimator(each, X).errors for each in (alone, alone[-1])]
    np.testing.assert_array_equal(*errors)


def test_the_torch_backend_shows_the_same():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra nwsketch[torch])")
    models = [make(backend=name, device="cpu", n_buckets=32).fit(X, y) for name in ("numba", "torch")]
    rows = X, torch.from_numpy(X)
    for display, data in ((ErrorDisplay, "errors"), (KernelDisplay, "collisions")):
        shown = [display.from_estimator(*given) for given in zip(models, rows, strict=True)]
        np.testing.assert_allclose(*(getattr(each, data) for each in shown), rtol=1e-9)
    loads = [OccupancyDisplay.from_estimator(model).loads for model in models]
    np.testing.assert_allclose(*loads, rtol=1e-9)


# -- error against repetitions ---------------------------------------------------------------------


def naive_errors(model, queries, truth, size):
    """Answer by every group of ``size`` repetitions of tables without rehashing; root mean squared errors."""
    codes, tables = model.sketch_.hash(queries).array, model.sketch_.tables
    gaps = []
    for first in range(0, len(tables) - size + 1, size):
        held = sum(tables[r][codes[r]] for r in range(first, first + size))
        gaps.append(held[:, :-1] / held[:, -1:] - truth)
    return rms(np.concatenate(gaps))


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_errors_are_those_of_groups_of_repetitions(n_outputs):
    Y = np.column_stack([y, y**2])[:, :n_outputs]
    model = make(kernel="angular", hashes_per_repetition=2, n_repetitions=20).fit(X, Y)
    exact = NadarayaWatsonRegressor(kernel="angular", hashes_per_repetition=2).fit(X, Y)
    truth = exact.predict(X).reshape(len(X), -1)
    display = ErrorDisplay.from_estimator(model, X, exact=exact)
    assert display.n_repetitions.tolist() == [1, 2, 4, 8, 16, 20]
    expected = [naive_errors(model, X, truth, size) for size in display.n_repetitions]
    np.testing.assert_allclose(display.errors, expected, rtol=1e-10)
    np.testing.assert_allclose(
        display.errors[-1], rms(model.predict(X).reshape(len(X), -1) - truth), rtol=1e-10
    )

    display = ErrorDisplay.from_estimator(model, X)  # against all, whose share in the groups is made good
    truth = model.predict(X).reshape(len(X), -1)
    assert display.n_repetitions.tolist() == [1, 2, 4, 8]
    expected = [naive_errors(model, X, truth, size) / np.sqrt(1 - size / 20) for size in (1, 2, 4, 8)]
    np.testing.assert_allclose(display.errors, expected, rtol=1e-10)


def test_the_line_is_the_standard_error_and_the_errors_follow_it():
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (3000, 2))
    Y = np.column_stack([rows[:, 0], 10 * rows[:, 1]])
    model = make(bandwidth=0.7, n_repetitions=512, n_buckets=2048).fit(rows, Y)
    exact = NadarayaWatsonRegressor(bandwidth=0.7).fit(rows, Y)
    queries = rng.uniform(-1, 1, (400, 2))
    for reference in (None, exact):
        display = ErrorDisplay.from_estimator(model, queries, exact=reference)
        sizes = display.n_repetitions[:, np.newaxis]
        line = rms(model.sketch_.standard_error(queries)) * np.sqrt(512 / sizes)
        np.testing.assert_allclose(display.expected, line)
        # A ratio is linear in its parts where these are near the truth; few groups tell their error by
        # chance, as the errors of one group go together at all queries.
        several = (display.n_repetitions >= 8) & (display.n_repetitions <= 32)
        np.testing.assert_allclose(display.errors[several], line[several], rtol=0.25)
        for output in range(2):
            np.testing.assert_array_equal(
                drawn(display.line_[output]), [display.n_repetitions, display.errors[:, output]]
            )
            np.testing.assert_array_equal(
                drawn(display.expected_line_[output])[1], display.expected[:, output]
            )
    assert display.ax_.get_xscale() == display.ax_.get_yscale() == "log"


@pytest.mark.parametrize(
    "parameters",
    [
        {"trend": "linear"},
        {"trend": "linear", "empty": 7.0, "bandwidth": 0.05},
        {"uncertainty": True},
        {"empty": "nan", "bandwidth": 0.05},
        {"aggregation": "median_of_means", "n_groups": 4},
    ],
    ids=str,
)
def test_errors_of_all_repetitions_are_those_of_predict(parameters):
    model = make(**parameters).fit(X, y)
    exact = NadarayaWatsonRegressor().fit(X, y)
    display = ErrorDisplay.from_estimator(model, X, exact=exact)
    if "aggregation" in parameters:  # means are shown
        model.sketch_.answer_by("mean")
    gaps = model.predict(X) - exact.predict(X)
    assert display.n_repetitions[-1] == SMALL["n_repetitions"]
    assert display.errors[-1, 0] == pytest.approx(rms(gaps[~np.isnan(gaps)]), rel=1e-10)


def test_a_privatized_sketch_shows_its_own_answers():
    rows = np.random.default_rng(0).uniform(-1, 1, (2000, 2))
    model = make(bandwidth=0.5, n_repetitions=4).fit(rows, np.sign(rows[:, 0]))
    exact = NadarayaWatsonRegressor(bandwidth=0.5).fit(rows, np.sign(rows[:, 0]))
    private = model.privatize(epsilon=1.0, target_bound=1.0)
    display = ErrorDisplay.from_estimator(private, rows[:100], exact=exact)
    gaps = private.predict(rows[:100]) - exact.predict(rows[:100])
    assert display.errors[-1, 0] == pytest.approx(rms(gaps), rel=1e-10)


def test_repetitions_drawn_together_stay_together():
    rows = np.random.default_rng(0).normal(size=(50, 9))
    model = make(kernel="angular", n_repetitions=40).fit(rows, rows[:, 0])
    assert model.sketch_.plan.parameters.repetitions_together == 8
    assert ErrorDisplay.from_estimator(model, rows).n_repetitions.tolist() == [8, 16]


def test_what_has_no_error_to_show_is_refused():
    with pytest.raises(ValueError, match="ErrorDisplay needs a sketch that is a sum"):
        ErrorDisplay.from_estimator(make(bias_correction=1).fit(X, y), X)
    with pytest.raises(ValueError, match=r"n_repetitions=1 cannot be cut in two .* at least 2"):
        ErrorDisplay.from_estimator(make(n_repetitions=1).fit(X, y), X)
    other = NadarayaWatsonRegressor().fit(X, np.column_stack([y, y]))
    with pytest.raises(ValueError, match="exact predicts 2 outputs, but estimator 1"):
        ErrorDisplay.from_estimator(make().fit(X, y), X, exact=other)


# -- the kernel ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_hashes", [1, 2])
@pytest.mark.parametrize("kernel", KERNELS)
def test_collisions_are_those_of_the_closed_form(kernel, n_hashes):
    rows = make_rows(200, 10)[0]
    model = make(kernel=kernel, hashes_per_repetition=n_hashes, n_repetitions=400, n_buckets=16)
    display = KernelDisplay.from_estimator(model.fit(rows, rows[:, 0]), rows)
    points, values, width = display.curve
    np.testing.assert_allclose(values, get_family(kernel).collision_probability(points) ** n_hashes)
    gaps = np.abs(display.collisions - np.interp(display.distances, points, values))
    inside = gaps <= np.interp(display.distances, points, width) + 1e-9
    assert 0.85 < inside.mean() <= 1
    assert np.mean(display.collisions - np.interp(display.distances, points, values)) == pytest.approx(
        0, abs=0.015
    )
    np.testing.assert_array_equal(drawn(display.points_), [display.distances, display.collisions])
    np.testing.assert_array_equal(drawn(display.line_), [points, values])
    # Pairs at all distances.
    quarters = np.histogram(display.distances, bins=4, range=(0, display.distances.max()))[0]
    assert quarters.min() >= 5


@pytest.mark.parametrize("kernel", KERNELS)
def test_distances_are_in_bandwidths(kernel):
    rows = np.abs(make_rows(50, 6)[0]) + 0.1  # without zeros: thinning one row makes the other end
    sketch = NadarayaWatsonSketch(6, kernel=kernel, bandwidth=np.arange(1.0, 7.0), n_repetitions=8)
    display = KernelDisplay.from_sketch(sketch, rows[:1].repeat(2, axis=0), n_pairs=20)
    if kernel == "jaccard":  # k of 6 columns are left
        assert set((6 * (1 - display.distances)).round(9)) <= set(range(7))
        return
    np.testing.assert_allclose(display.distances, 0, atol=1e-9)  # all pairs are of one place
    np.testing.assert_allclose(display.collisions, 1)
    two = np.stack([rows[0], rows[0] + np.arange(1.0, 7.0)])
    display = KernelDisplay.from_sketch(sketch, two, n_pairs=200)
    farthest = {"cityblock": 6.0, "euclidean": np.sqrt(6.0)}
    if (distance := get_family(kernel).distance) in farthest:
        assert 0.9 * farthest[distance] < display.distances.max() <= farthest[distance] + 1e-9


@pytest.mark.parametrize("kernel", ["laplacian", "l2", "angular"])
def test_sparse_rows_show_as_dense_ones(kernel):
    model = make(kernel=kernel).fit(X, y)
    dense, csr = (KernelDisplay.from_estimator(model, rows) for rows in (X, sparse.csr_array(X)))
    np.testing.assert_allclose(csr.distances, dense.distances, atol=1e-9)
    np.testing.assert_allclose(csr.collisions, dense.collisions, atol=2 / SMALL["n_repetitions"])


def test_sparse_sets_are_thinned():
    model = make(kernel="jaccard", n_repetitions=256).fit(sparse.csr_array(X), y)
    display = KernelDisplay.from_estimator(model, sparse.csr_array(X))
    assert np.ptp(display.distances) == 1
    assert np.abs(display.collisions - (1 - display.distances)).max() < 0.2


class Formless(HashFamily):
    """A family that states no distance."""

    name = "formless"

    def draw(self, rng, n_features, n_repetitions, hashes_per_repetition, bandwidth):
        return HashParameters("cells", {"directions": rng.normal(size=(n_features, n_repetitions))})

    def cells(self, X, parameters):
        return np.floor(X @ parameters.arrays["directions"]).astype(np.int64)[:, :, np.newaxis]


def test_a_kernel_without_closed_form_is_refused():
    with pytest.raises(ValueError, match="'formless' has no kernel in closed form"):
        KernelDisplay.from_estimator(make(kernel=Formless()).fit(X, y), X)
    with pytest.raises(ValueError, match="n_pairs"):
        KernelDisplay.from_estimator(make().fit(X, y), X, n_pairs=0)


# -- occupancy -------------------------------------------------------------------------------------


def test_loads_are_those_of_the_tables():
    model = make(n_buckets=50).fit(X, y, sample_weight=np.linspace(0.1, 2, len(X)))
    display = OccupancyDisplay.from_estimator(model)
    assert display.ranks.tolist() == list(range(1, 51))  # few buckets: each has a point
    weights = np.sort(model.sketch_.tables[..., -1], axis=1)[:, ::-1]
    np.testing.assert_allclose(display.loads, weights / (model.sketch_.total_weight / 50))
    np.testing.assert_allclose(display.loads.mean(axis=1), 1)
    np.testing.assert_array_equal(display.occupied, np.count_nonzero(weights, axis=1) / 50)
    ranks, loads = drawn(display.line_)
    np.testing.assert_array_equal(loads, np.median(display.loads, axis=0)[: len(ranks)])
    assert display.line_.get_label() == f"median; {display.occupied.mean():.0%} of the buckets hold rows"
    display.figure_.canvas.draw()


def test_one_place_fills_one_bucket():
    display = OccupancyDisplay.from_estimator(make(bandwidth=1.0).fit(np.ones((30, 4)), np.arange(30)))
    np.testing.assert_allclose(display.loads[:, 0], SMALL["n_buckets"])
    np.testing.assert_allclose(display.loads[:, 1:], 0)
    np.testing.assert_allclose(display.occupied, 1 / SMALL["n_buckets"])
    np.testing.assert_allclose(drawn(display.line_), [[1], [SMALL["n_buckets"]]])
    display.figure_.canvas.draw()


def test_forgotten_rows_leave_their_buckets_empty():
    weights = np.full(len(X), 0.1)
    model = make(bandwidth=1.0).fit(X[:20], y[:20], weights[:20])
    before = OccupancyDisplay.from_estimator(model).occupied
    model.partial_fit(X, y, weights).forget(X, y, weights)
    np.testing.assert_array_equal(OccupancyDisplay.from_estimator(model).occupied, before)


def test_an_empty_sketch_has_no_load():
    with pytest.raises(ValueError, match="holds no rows"):
        OccupancyDisplay.from_sketch(NadarayaWatsonSketch(2, n_repetitions=4, n_buckets=8))


def test_many_buckets_are_thinned_out():
    rng = np.random.default_rng(0)
    sketch = NadarayaWatsonSketch(3, n_repetitions=4, n_buckets=4096, bandwidth=0.1, random_state=0)
    display = OccupancyDisplay.from_sketch(sketch.update(rng.normal(size=(500, 3)), np.ones(500)))
    assert (display.ranks[0], display.ranks[-1]) == (1, 4096)
    assert len(display.ranks) <= 200
    assert (np.diff(display.ranks) > 0).all()


# -- bandwidths ------------------------------------------------------------------------------------


def test_scores_are_drawn_over_the_geometric_mean():
    path = PATH._replace(bandwidths=PATH.bandwidths[[0, 1, 2, 3]], descent=np.array([[1.0, 1.0], [1.0, 4.0]]))
    display = BandwidthDisplay(path=path, chosen=np.array([2.0, 8.0]), feature_names=["age", "height"]).plot()
    np.testing.assert_allclose(display.widths, [2, 4, 1, 2])
    assert display.is_learnt.tolist() == [True, True, False, False]
    learnt, scale = display.line_
    np.testing.assert_allclose(drawn(learnt), [[2, 4], [0, 1]])
    np.testing.assert_allclose(drawn(scale), [[1, 2], [2, 3]])
    np.testing.assert_allclose(display.chosen_line_.get_xdata(), 4)
    np.testing.assert_array_equal([drawn(line)[1] for line in display.descent_line_], path.descent.T)
    assert [line.get_label() for line in display.descent_line_] == ["age", "height"]
    assert display.ax_ is display.axes_[0]
    _, axes = pyplot.subplots(3)
    with pytest.raises(ValueError, match="ax holds 3 axes, but BandwidthDisplay draws on 2"):
        display.plot(axes)
    assert list(display.plot(axes[:2]).axes_) == list(axes[:2])
    assert display.plot(axes[2]).descent_line_ == []  # one alone is for the scores


def test_it_shows_what_the_search_kept():
    rows = np.random.default_rng(0).uniform(size=(300, 3))
    target = np.sin(9 * rows[:, 0])
    for bandwidth, n_axes in (("loo", 1), ("loo_per_feature", 2)):
        model = make(bandwidth=bandwidth, n_repetitions=32).fit(rows, target)
        display = BandwidthDisplay.from_estimator(model)
        assert len(display.axes_) == n_axes
        best = display.path.scores.argmax()
        np.testing.assert_allclose(display.chosen_line_.get_xdata(), display.widths[best])
        assert sum(len(drawn(line)[0]) for line in display.line_) == len(model.bandwidth_path_.scores)
    assert display.is_learnt.any()
    assert len(display.descent_line_) == 3
    assert display.descent_line_[2].get_label() == "feature 2"
    with pytest.raises(ValueError, match=r"did not search for a bandwidth: .* bandwidth='scale'"):
        BandwidthDisplay.from_estimator(make().fit(X, y))


# -- coverage --------------------------------------------------------------------------------------


def test_coverage_counts_targets_within():
    # 1.645 standard deviations are the level .9: half of the rows lie at 1, a quarter each at 1.7 and at 3.
    gaps = np.array([1.0, -1.0, 1.7, -3.0])
    display = CoverageDisplay.from_predictions(5 + gaps, np.full(4, 5.0), np.ones(4))
    levels, shares = drawn(display.line_[0])
    at = [np.argmin(np.abs(levels - level)) for level in (0.6, 0.7, 0.9, 0.92, 0.98)]
    assert shares[at].tolist() == [0, 0.5, 0.5, 0.75, 0.75]
    assert display.n_rows == 4


def test_honest_deviations_lie_on_the_diagonal_and_false_ones_off_it():
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.5, 2, (20_000, 2))
    errors = spread * rng.normal(size=spread.shape)
    display = CoverageDisplay.from_predictions(errors, 0 * errors, spread)
    assert np.abs(display.coverage - display.levels[:, np.newaxis]).max() < 0.02
    assert np.abs(display.hard_coverage - display.levels[:, np.newaxis]).max() < 0.03
    assert [line.get_label() for line in display.line_] == ["all rows, output 0", "all rows, output 1"]
    hard = spread[:, 0] > 1.5
    errors[hard, 0] *= 3  # where the deviations are largest they are too small by far
    display = CoverageDisplay.from_predictions(errors, 0 * errors, spread)
    at = np.argmin(np.abs(display.levels - 0.68))
    assert display.hard_coverage[at, 0] == pytest.approx(0.26, abs=0.02)  # within a third of one deviation
    assert display.hard_coverage[at, 1] == pytest.approx(0.68, abs=0.02)
    np.testing.assert_array_equal(drawn(display.hard_line_[0])[1], display.hard_coverage[:, 0])
    wide = CoverageDisplay.from_predictions(errors[:, 1], 0 * errors[:, 1], 2 * spread[:, 1])
    assert wide.coverage[at, 0] == pytest.approx(0.953, abs=0.01)


def test_coverage_is_that_of_predict():
    Y = np.column_stack([y, y**2])
    model = make_pipeline(StandardScaler(), make(uncertainty=True)).fit(X, Y)
    new, targets = make_rows(80, seed=1)
    targets = np.column_stack([targets, targets**2])
    predictions, std = model.predict(new, return_std=True)
    display = CoverageDisplay.from_estimator(model, new, targets)
    by_hand = CoverageDisplay.from_predictions(targets, predictions, std)
    np.testing.assert_array_equal(display.coverage, by_hand.coverage)
    at = np.argmin(np.abs(display.levels - 0.68))
    one = np.mean(np.abs(targets - predictions) <= 0.99446 * std, axis=0)
    np.testing.assert_allclose(display.coverage[at], one)
    CoverageDisplay.from_estimator(BayesianRidge().fit(X, y), X, y)  # whoever has standard deviations
    with pytest.raises(ValueError, match="fit with uncertainty=True"):
        CoverageDisplay.from_estimator(make().fit(X, y), X, y)


def test_rows_without_prediction_are_left_out():
    gaps = np.array([0.0, 9.0, 0.0])
    display = CoverageDisplay.from_predictions(gaps, [0.0, np.nan, 0.0], np.ones(3))
    assert display.n_rows == 2
    assert (display.coverage == 1).all()
    with pytest.raises(ValueError, match="No row has a prediction"):
        CoverageDisplay.from_predictions(gaps, np.full(3, np.nan), np.ones(3))
    with pytest.raises(ValueError, match=r"shapes \(3,\), \(3,\), \(2,\)"):
        CoverageDisplay.from_predictions(gaps, gaps, np.ones(2))


# -- the sampler -----------------------------------------------------------------------------------


def test_what_a_report_says_is_drawn():
    history = [fake_metrics(0, effective_sample_size=6.0, overhead_share=0.2), fake_metrics(1)]
    sampler = fake_sampler()
    display = SamplerDisplay.from_sampler(sampler, history, class_names=["cat", "dog"])
    np.testing.assert_array_equal(drawn(display.points_), [[0.5, 0.5, 1, 2, 2], [0.4, 0.6, 1, 3, 1.5]])
    assert display.axes_[0].get_title() == "rank correlation 0.50"
    assert display.effective_sample_size == pytest.approx(25 / 4.5)  # (sum w)^2 / sum w^2
    assert display.axes_[1].get_title() == "worth 6 of 6 examples (93%)"
    heights = [bar.get_height() for bar in display.bars_]
    assert (heights[0], heights[-1], sum(heights)) == (2, 4, 6)
    np.testing.assert_allclose(display.shares, [[0.8, 0.2], [4 / 6, 2 / 6], [0.8, 0.2]])
    shown = [[bar.get_height() for bar in bars] for bars in display.class_bars_]
    np.testing.assert_allclose(shown, display.shares)
    assert [label.get_text() for label in display.axes_[2].get_xticklabels()] == ["cat", "dog"]
    np.testing.assert_allclose(drawn(display.epoch_line_[0]), [[0, 1], [1, 0.75]])
    np.testing.assert_allclose(drawn(display.epoch_line_[1]), [[0, 1], [0.2, 0.1]])
    alone = SamplerDisplay.from_sampler(sampler)
    assert alone.epochs.tolist() == [3]
    alone.figure_.canvas.draw()


def test_what_a_sampler_does_not_know_is_said():
    display = SamplerDisplay.from_sampler(
        fake_sampler(labels=None, class_sizes=None, predicted=np.full(6, np.nan))
    )
    assert display.shares is None
    assert display.class_bars_ == []
    assert display.axes_[0].get_title() == "no loss was predicted before it was seen"
    assert display.axes_[2].get_title() == "the sampler knows no classes"
    display.figure_.canvas.draw()
    with pytest.raises(ValueError, match="has drawn nothing yet"):
        SamplerDisplay.from_sampler(fake_sampler(rows=np.empty(0, dtype=np.int64)))
    with pytest.raises(ValueError, match="ax holds 1 axes, but SamplerDisplay draws on 4"):
        SamplerDisplay.from_sampler(fake_sampler(), ax=pyplot.subplots()[1])


def test_losses_that_are_not_positive_have_linear_axes():
    losses = fake_report().losses
    scales = [
        SamplerDisplay.from_sampler(fake_sampler(losses=losses - shift)).axes_[0].get_xscale()
        for shift in (0, 1)
    ]
    assert scales == ["log", "linear"]


@pytest.mark.parametrize("labelled", [True, False])
def test_a_sampler_is_shown_as_it_trained(labelled):
    torch = pytest.importorskip("torch", reason="SketchSampler is a sampler of PyTorch")
    from torch.utils.data import DataLoader, TensorDataset

    from nwsketch.training import SketchSampler

    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.25).astype(int)
    rows = rng.normal(size=(400, 5)) + 3 * labels[:, np.newaxis]
    sampler = SketchSampler(
        rows, labels=labels if labelled else None, num_samples=200, switch=None, warmup_epochs=0.5, seed=0
    )
    loader = DataLoader(sampler.wrap(TensorDataset(torch.arange(400))), batch_size=50, sampler=sampler)
    history, losses = [], 0.2 + 2.0 * labels
    for _ in range(3):
        seen = []
        for index, weight, _ in loader:
            sampler.update(index, torch.as_tensor(losses[index.numpy()]))
            seen.append((index.numpy(), weight.numpy()))
        history.append(sampler.metrics())
    display = SamplerDisplay.from_sampler(sampler, history)
    drawn_rows, weights = (np.concatenate(part) for part in zip(*seen, strict=True))
    report = display.report
    np.testing.assert_array_equal(report.rows, drawn_rows)
    np.testing.assert_allclose(report.weights, weights, rtol=1e-6)
    np.testing.assert_array_equal(report.losses, losses[drawn_rows])
    assert display.effective_sample_size == pytest.approx(history[-1]["effective_sample_size"])
    np.testing.assert_array_equal(display.epochs, [0, 1, 2])
    np.testing.assert_allclose(display.epoch_shares[0], [m["effective_sample_size"] / 200 for m in history])
    np.testing.assert_array_equal(drawn(display.points_), [report.predicted, report.losses])
    assert np.corrcoef(np.log(report.predicted), np.log(report.losses))[0, 1] > 0.7
    if not labelled:
        assert report.labels is None and display.shares is None
        return
    np.testing.assert_array_equal(report.labels, labels[drawn_rows])
    assert report.class_sizes.tolist() == np.bincount(labels).tolist()
    in_data, in_draw, weighted = display.shares
    np.testing.assert_allclose(in_data, [1 - labels.mean(), labels.mean()])
    assert in_draw[1] > 2 * in_data[1] or in_draw[1] > 0.45  # the class of large losses
    np.testing.assert_allclose(weighted, in_data, atol=0.06)
    report.weights[:] = 0  # a copy: the sampler keeps its own
    assert sampler.metrics()["largest_weight"] > 0
