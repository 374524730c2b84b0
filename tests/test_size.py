"""suggest_size: its bound holds where it is measured, and it is not empty talk."""

import numpy as np
import pytest
from helpers import learnt
from scipy.sparse import csr_array
from sklearn.exceptions import NotFittedError

import nwsketch.size
from nwsketch import NadarayaWatsonRegressor, NadarayaWatsonSketchRegressor
from nwsketch.backends.aggregation import ratios, tolerated
from nwsketch.size import Spread, _measure, suggest_size

#: Of each kernel, a bandwidth at which the local kernel mass varies a good deal between rows.
SHAPES = [{"kernel": "laplacian", "bandwidth": 1.0}, {"kernel": "l2", "bandwidth": 1.0}]
IDS = [shape["kernel"] for shape in SHAPES]
N_SEEDS = 30


def make_rows(n_rows=400, seed=0):
    """Rows that lie denser in the middle, and a smooth target with noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 2))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] + 0.3 * rng.normal(size=n_rows)


QUERIES = make_rows(50, seed=1)[0]


def make_pilot(y=None, sample_weight=None, **parameters):
    parameters = {"bandwidth": 1.0, "n_repetitions": 512, "n_buckets": 128, "random_state": 0, **parameters}
    X, targets = make_rows()
    return NadarayaWatsonSketchRegressor(**parameters).fit(X, targets if y is None else y, sample_weight)


@pytest.fixture(scope="module")
def pilot():
    return make_pilot()


# -- the bound, measured --------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "confidence"), [(0.4, 0.8), (0.2, 0.9), (0.1, 0.95), (0.3, 0.999)])
@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_failures_of_the_suggested_size_stay_below_what_is_allowed(shape, error, confidence):
    size = suggest_size(make_pilot(**shape), QUERIES, error, confidence)
    assert size.covered.mean() >= 0.9
    X, y = make_rows()
    expected = NadarayaWatsonRegressor(**shape).fit(X, y).predict(QUERIES)

    def failure_rates(n_repetitions):
        models = (
            make_pilot(
                **shape,
                aggregation="median_of_means",
                n_repetitions=n_repetitions,
                n_groups=size.n_groups,
                random_state=seed,
            )
            for seed in range(1, N_SEEDS + 1)
        )
        errors = [np.abs(model.predict(QUERIES) - expected) for model in models]
        return (np.array(errors)[:, size.covered] > error).mean(axis=0)

    allowed = 1 - confidence
    rates = failure_rates(size.n_repetitions)
    assert rates.mean() <= allowed
    assert rates.max() <= allowed + 3 * np.sqrt(allowed * confidence / N_SEEDS)
    # A fiftieth of it is too little, so that the check can fail.
    per_group = max(size.n_repetitions // size.n_groups // 50, 1)
    assert failure_rates(per_group * size.n_groups).mean() > allowed


@pytest.mark.parametrize(("n_buckets", "error"), [(4, 1e3), (16, 0.3), (256, 0.3)])
@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_groups_are_wrong_or_silent_no_more_often_than_bounded(shape, n_buckets, error):
    # In 4 buckets hardly any mass stands out: such groups abstain, however large an error is allowed.
    n_groups = 400
    pilot = make_pilot(**shape, n_buckets=n_buckets, n_repetitions=8192)
    spread = _measure(pilot.sketch_, QUERIES, 1, error)
    X, y = make_rows()
    expected = NadarayaWatsonRegressor(**shape).fit(X, y).predict(QUERIES)[:, np.newaxis]
    sizes = (4, 16, 64, 256)
    bounds = [spread.group_failures(n) for n in sizes]
    for n, bound in zip(sizes, bounds, strict=True):
        sketch = make_pilot(**shape, n_buckets=n_buckets, n_repetitions=n * n_groups, random_state=1).sketch_
        state = sketch._state
        sums, squares = sketch._backend.sums(state, QUERIES, n_groups, None, 1)
        answers = ratios(
            sums,
            squares,
            state.channel_totals,
            n_repetitions=n,
            n_buckets=n_buckets,
            unit=state.unit,
            tolerance=tolerated(state),
        )[..., 0]
        for wrong in (~(answers <= expected + error), ~(answers >= expected - error)):
            rates = wrong[spread.has_mass].mean(axis=1)
            deviations = np.sqrt(rates * (1 - rates) / n_groups)
            assert (rates <= bound + 3 * deviations).all()
            assert n > 4 or rates.max() > 0.1  # else the test says nothing
    assert (np.diff(bounds, axis=0) <= 0).all()
    assert np.median(bounds[-1]) < 0.3


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
def test_the_worst_distribution_attains_the_bound(share):
    # Cantelli's inequality is an equality for one repetition that takes two values, 0 and -1 / (1 - share).
    one, none = np.ones(1), np.zeros(1)
    variance, third = share / (1 - share), (share**2 + (1 - share) ** 2) / np.sqrt(share * (1 - share))
    spread = Spread(one > 0, variance * np.ones((1, 1)), third * np.ones((1, 1)), *[none] * 5)
    assert spread.group_failures(1) == pytest.approx(share)


# -- how the size depends on what is asked --------------------------------------------------------


def test_repetitions_grow_as_the_inverse_square_of_the_error(pilot):
    sizes = [suggest_size(pilot, QUERIES, error, 0.95).n_repetitions for error in (0.5, 0.1, 2e-4, 1e-4)]
    assert sizes == sorted(sizes)
    assert sizes[3] / sizes[2] == pytest.approx(4, rel=0.05)


def test_more_confidence_takes_more_groups(pilot):
    sizes = [suggest_size(pilot, QUERIES, 0.3, 1 - failures) for failures in (0.1, 1e-2, 1e-4, 1e-8)]
    groups = [size.n_groups for size in sizes]
    assert groups == sorted(set(groups))
    # Exponential in the groups: the repetitions grow as the logarithm of the failures, not as 1 / failures.
    assert sizes[3].n_repetitions < 10 * sizes[1].n_repetitions
    assert all(size.n_groups % 2 and size.n_repetitions % size.n_groups == 0 for size in sizes)


def test_more_coverage_takes_more_repetitions(pilot):
    half, most = (suggest_size(pilot, QUERIES, 0.2, 0.9, coverage=coverage) for coverage in (0.5, 1.0))
    assert half.n_repetitions < most.n_repetitions
    assert 0.5 <= half.covered.mean() < 1
    assert most.covered.all()
    # The rows that are easiest are those with most mass near them.
    mass = pilot.kernel_sum(QUERIES)
    assert mass[half.covered].mean() > 1.2 * mass[~half.covered].mean()


def test_units_do_not_matter(pilot):
    y = make_rows()[1]
    plain = suggest_size(pilot, QUERIES, 0.2, 0.9)
    for weight, scale in ((2.0**900, 1.0), (2.0**-900, 1.0), (1.0, 2.0**900), (1.0, 2.0**-900)):
        scaled = make_pilot(scale * y, np.full(len(y), weight))
        size = suggest_size(scaled, QUERIES, 0.2 * scale, 0.9)
        assert size[:2] == plain[:2]
        assert np.array_equal(size.covered, plain.covered)


def test_a_weight_counts_repetitions_of_a_row():
    X, y = make_rows()
    weights = np.random.default_rng(0).integers(1, 4, len(y))
    weighted = make_pilot(y, weights)
    repeated = NadarayaWatsonSketchRegressor(**weighted.get_params())
    repeated.fit(np.repeat(X, weights, axis=0), np.repeat(y, weights))
    assert suggest_size(weighted, QUERIES, 0.2, 0.9)[:2] == suggest_size(repeated, QUERIES, 0.2, 0.9)[:2]


def test_every_output_is_within_the_error(pilot):
    y = make_rows()[1]
    one = suggest_size(pilot, QUERIES, 0.2, 0.9)
    # Ten times the target needs more than the target; the failures are shared between the two.
    both = suggest_size(make_pilot(np.column_stack([y, 10 * y])), QUERIES, 0.2, 0.9)
    alone = suggest_size(make_pilot(10 * y), QUERIES, 0.2, 0.95)
    assert one.n_repetitions < both.n_repetitions == alone.n_repetitions


def test_spreads_of_the_target_are_no_outputs(pilot):
    size = suggest_size(make_pilot(uncertainty=True), QUERIES, 0.2, 0.9)
    assert size[:2] == suggest_size(pilot, QUERIES, 0.2, 0.9)[:2]


def test_a_trend_leaves_its_residuals():
    X, y = make_rows()
    trended = make_pilot(trend="linear")
    plain = make_pilot(y - trended.trend_.predict(X).ravel())
    assert suggest_size(trended, QUERIES, 0.1, 0.9)[:2] == suggest_size(plain, QUERIES, 0.1, 0.9)[:2]


def test_sparse_rows_give_the_same_size(pilot):
    dense, sparse = suggest_size(pilot, QUERIES, 0.2, 0.9), suggest_size(pilot, csr_array(QUERIES), 0.2, 0.9)
    assert dense[:2] == sparse[:2]


def test_memory_is_bounded_by_blocks(pilot, monkeypatch):
    whole = suggest_size(pilot, QUERIES, 0.2, 0.9)
    monkeypatch.setattr(nwsketch.size, "BLOCK_SIZE", 512 * 2 * 7)  # seven rows at a time
    assert suggest_size(pilot, QUERIES, 0.2, 0.9)[:2] == whole[:2]


def test_the_pilot_is_not_changed_and_its_aggregation_does_not_matter(pilot):
    before = learnt(pilot)
    plain = suggest_size(pilot, QUERIES, 0.2, 0.9)
    assert learnt(pilot) == before
    grouped = make_pilot(aggregation="median_of_means", n_groups=4)
    assert suggest_size(grouped, QUERIES, 0.2, 0.9)[:2] == plain[:2]


def test_a_kernel_that_needs_no_rehashing():
    size = suggest_size(
        make_pilot(kernel="angular", bandwidth="scale", hashes_per_repetition=3), QUERIES, 0.2, 0.9
    )
    assert size.n_without_mass == 0
    assert size.covered.mean() >= 0.9


def test_where_nothing_varies_one_repetition_is_enough():
    pilot = NadarayaWatsonSketchRegressor(kernel="angular", n_repetitions=32, random_state=0)
    pilot.fit(np.ones((5, 2)), np.ones(5))
    assert suggest_size(pilot, np.ones((3, 2)), 0.1, 0.999)[:2] == (1, 1)


# -- rows without mass ----------------------------------------------------------------------------


def test_rows_without_mass_are_counted_and_left_out(pilot):
    queries = QUERIES.copy()
    queries[:3] = 50.0
    size = suggest_size(pilot, queries, 0.2, 0.9, coverage=0.8)
    assert size.n_without_mass == 3
    assert not size.covered[:3].any()
    assert size.covered.sum() >= 40


def test_too_many_rows_without_mass_are_an_error(pilot):
    queries = QUERIES.copy()
    queries[:6] = 50.0
    with pytest.raises(ValueError, match=r"6 of 50 rows .* coverage=0\.9 allows 5\. .* a wider bandwidth"):
        suggest_size(pilot, queries, 0.2, 0.9)


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"error": 0.0}, r"error=0\.0 is out of range: give a number above 0"),
        ({"error": np.inf}, r"error=inf is out of range"),
        ({"error": np.nan}, r"error=nan is out of range"),
        ({"confidence": 0.0}, r"confidence=0\.0 is out of range: give a number between 0 and 1"),
        ({"confidence": 1.0}, r"confidence=1\.0 is out of range"),
        ({"coverage": 0.0}, r"coverage=0\.0 is out of range: give a share"),
        ({"coverage": 1.1}, r"coverage=1\.1 is out of range"),
        ({"error": 1e-9}, r"error=1e-09 is out of reach: .* Give a larger error"),
        ({"X": QUERIES[:, :1]}, r"X has 1 features, but NadarayaWatsonSketchRegressor is expecting 2"),
        ({"X": np.full((1, 2), 1e300)}, r"cell index could reach"),
    ],
)
def test_a_wrong_argument_is_named(pilot, wrong, message):
    arguments = {"X": QUERIES, "error": 0.2, "confidence": 0.9} | wrong
    with pytest.raises(ValueError, match=message):
        suggest_size(pilot, **arguments)


def test_an_unsuitable_estimator_is_refused():
    X, y = make_rows()
    with pytest.raises(NotFittedError, match="not fitted yet"):
        suggest_size(NadarayaWatsonSketchRegressor(), QUERIES, 0.2, 0.9)
    with pytest.raises(TypeError, match=r"is a NadarayaWatsonRegressor: give a fitted NadarayaWatsonSketch"):
        suggest_size(NadarayaWatsonRegressor().fit(X, y), QUERIES, 0.2, 0.9)
    with pytest.raises(ValueError, match=r"n_repetitions=31 are too few .* at least 32"):
        suggest_size(make_pilot(n_repetitions=31), QUERIES, 0.2, 0.9)


def test_a_corrected_fit_is_refused():
    corrected = make_pilot(bias_correction=2)
    corrected.set_params(bias_correction=None)  # counts from the next fit on
    with pytest.raises(
        ValueError, match=r"a fit with bias_correction .* Fit a copy with bias_correction=None"
    ):
        suggest_size(corrected, QUERIES, 0.2, 0.9)
