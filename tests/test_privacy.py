"""Noise that hides a row: how much of it, on which grid, from where, and what a copy with noise may do."""

import copy
import pickle
from fractions import Fraction

import numpy as np
import pytest
from helpers import SMALL, held, make_rows
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nwsketch import NadarayaWatsonSketch, NadarayaWatsonSketchRegressor
from nwsketch.discrete_noise import BLOCK_SIZE, discrete_laplace, system_words
from nwsketch.privacy import MOST_ROWS, STEPS_PER_BOUND, make_grid, on_grid, privatized

N_REPETITIONS = 8


def make(n_outputs=1, **parameters):
    parameters = {"n_repetitions": N_REPETITIONS, "n_buckets": 32, "random_state": 3, **parameters}
    return NadarayaWatsonSketch(2, n_outputs, **parameters)


def rows(n, seed=0, n_outputs=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)), rng.uniform(-1, 1, (n, n_outputs)), rng.uniform(0, 1, n)


def seeded_words(seed):
    rng = np.random.default_rng(seed)
    return lambda n: rng.integers(0, 2**64, n, dtype=np.uint64)


# -- the sampler ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 3, 40])
def test_draws_follow_the_discrete_laplace_distribution(scale):
    # The bits are seeded: the verdict is the same on every run.
    draws = discrete_laplace(1_000_000, scale, seeded_words(scale))
    values = np.arange(-6 * scale, 6 * scale + 1)
    ratio = np.exp(-1 / scale)
    expected = (1 - ratio) / (1 + ratio) * ratio ** np.abs(values) * draws.size
    counts = np.bincount(draws + draws.size)[draws.size - 6 * scale : draws.size + 6 * scale + 1]
    counts, expected = np.append(counts, draws.size - counts.sum()), np.append(expected, 0)
    expected[-1] = draws.size - expected.sum()
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_a_large_scale_is_that_of_a_laplace_distribution():
    scale = 2**40
    draws = discrete_laplace(200_000, scale, seeded_words(0)) / scale
    assert stats.kstest(draws, stats.laplace.cdf).pvalue > 1e-3
    assert len(np.unique(np.abs(draws * scale) % 1024)) == 1024  # all bits are drawn, the last ones too


def test_draws_across_blocks_are_independent():
    draws = discrete_laplace(2 * BLOCK_SIZE, 1000, seeded_words(1)).astype(float)
    assert len(np.unique(draws[:BLOCK_SIZE] - draws[BLOCK_SIZE:])) > 1000
    assert abs(np.corrcoef(draws[:BLOCK_SIZE], draws[BLOCK_SIZE:])[0, 1]) < 5 / np.sqrt(BLOCK_SIZE)


def test_words_that_would_favour_small_remainders_are_drawn_again():
    # 2^64 is 1 modulo 3: of all words the last alone is one too many.
    supply = iter([np.array([2**64 - 1, 5], dtype=np.uint64), np.array([7], dtype=np.uint64)])
    from nwsketch.discrete_noise import _uniform

    assert _uniform(3, 2, lambda n: next(supply)).tolist() == [1, 2]


def test_words_come_from_the_operating_system(monkeypatch):
    asked = []
    monkeypatch.setattr("os.urandom", lambda n: asked.append(n) or bytes(n))
    assert system_words(3).tolist() == [0, 0, 0]
    assert asked == [24]


# -- sensitivity ----------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 40),
    bound=st.sampled_from([1.0, 0.75, 3.3, 1e-9, 2e7]),
    epsilon=st.sampled_from([0.1, 1.0, 7.7]),
    weight=st.sampled_from([1.0, 1e-3, 0.999, 0.0]),
    target=st.sampled_from([1.0, -1.0, 0.3, 0.0]),
    n_outputs=st.integers(1, 2),
)
def test_one_row_more_changes_no_more_than_the_noise_covers(
    seed, n, bound, epsilon, weight, target, n_outputs
):
    X, y, weights = rows(n, seed, n_outputs)
    y *= bound
    place = seed % (n + 1)
    one = np.insert(X, place, [0.1, 0.2], axis=0), np.insert(y, place, target * bound, axis=0)
    without = make(n_outputs).update(X, y, weights).tables
    with_it = make(n_outputs).update(*one, np.insert(weights, place, weight)).tables
    grid = make_grid(np.append(np.full(n_outputs, bound), 1.0), epsilon, N_REPETITIONS, MOST_ROWS)
    loss = Fraction(0)
    for channel, scale in enumerate(grid.scales):
        change = np.abs(on_grid(with_it, grid, channel) - on_grid(without, grid, channel))
        assert np.count_nonzero(change, axis=1).max() <= 1  # one bucket in each repetition
        assert change.max() <= grid.steps[channel]
        loss += Fraction(int(change.sum()), scale)
    assert loss <= Fraction(epsilon)


def test_the_bound_on_the_loss_is_nearly_reached():
    # Or there would be more noise than the promise needs.
    grid = make_grid(np.array([1.0, 1.0]), 1.0, N_REPETITIONS, MOST_ROWS)
    without, with_it = make().tables, make().update([[0.1, 0.2]], [1.0]).tables
    change = [np.abs(on_grid(with_it, grid, c) - on_grid(without, grid, c)).sum() for c in range(2)]
    assert 0.97 < sum(change / np.array(grid.scales)) <= 1.0


def test_sums_in_floating_point_are_charged_for():
    # Two orders of the same additions: sums whose difference is no multiple of what was added.
    small = make_grid(np.array([1.0, 1.0]), 1.0, N_REPETITIONS, 2**10)
    large = make_grid(np.array([1.0, 1.0]), 1.0, N_REPETITIONS, 2**26)
    assert small.steps == (STEPS_PER_BOUND + 1,) * 2
    assert large.steps == (2 * STEPS_PER_BOUND + 1,) * 2  # 2^52 / 2^52 of a bound more


@pytest.mark.parametrize("bound", [1.0, 0.1, 300.0, 1e200, 1e-200])
def test_grids_are_powers_of_two_and_fine(bound):
    grid = make_grid(np.array([bound, 1.0]), 0.5, N_REPETITIONS, 100)
    assert (np.frexp(grid.widths)[0] == 0.5).all()
    assert all(STEPS_PER_BOUND <= steps <= 2 * STEPS_PER_BOUND + 1 for steps in grid.steps)


# -- the noise ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epsilon", "bounds"), [(1.0, [1.0]), (0.25, [20.0]), (4.0, [0.01, 500.0])])
def test_noise_has_the_scale_that_epsilon_asks_for(epsilon, bounds):
    sketch = make(len(bounds), n_repetitions=64, n_buckets=256)
    private = sketch.privatize(epsilon, bounds)
    # Laplace noise of scale b has the mean magnitude b and the standard deviation b sqrt 2.
    expected = 64 * (1 + len(bounds)) / epsilon * np.append(bounds, 1.0)
    magnitudes = np.abs(private.tables).mean(axis=(0, 1))
    assert magnitudes == pytest.approx(expected * (1 + 2**-6), rel=0.04)  # 5 standard errors: sqrt(64 256)
    assert private.tables.std(axis=(0, 1)) == pytest.approx(private.privacy.noise, rel=0.06)
    assert np.abs(private.tables.mean(axis=(0, 1)) / private.privacy.noise).max() < 5 / np.sqrt(64 * 256)


def test_noise_is_added_to_what_was_learnt():
    X, y, weights = rows(5000)
    sketch = make().update(X, y, weights)
    before = held(sketch)
    private = sketch.privatize(1e5, 1.0)
    np.testing.assert_allclose(private.tables, sketch.tables, atol=0.02)
    np.testing.assert_allclose(private.query(X), sketch.query(X), atol=0.01)
    assert not np.array_equal(private.tables, sketch.tables)
    assert held(sketch) == before
    assert sketch.privacy is None


def test_every_cell_lies_on_the_grid():
    X, y, weights = rows(300)
    private = make().update(X, np.pi * y, weights).privatize(0.3, 4.0)
    widths = make_grid(np.array([4.0, 1.0]), 0.3, N_REPETITIONS, MOST_ROWS).widths
    steps = private.tables / widths
    assert np.array_equal(steps, np.rint(steps))
    assert (np.abs(steps) % 2 == 1).any(axis=(0, 1)).all()  # and on no coarser one


def test_noise_does_not_repeat_with_any_seed():
    X, y, weights = rows(50)
    sketch = make(random_state=0).update(X, y, weights)
    drawn = []
    for _ in range(2):
        np.random.seed(0)  # noqa: NPY002 - the generator that must not be read
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        drawn.append(copy.deepcopy(sketch).privatize(1.0, 1.0).tables)
        assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert np.mean(drawn[0] == drawn[1]) < 0.01


def test_totals_tell_nothing_that_the_tables_do_not():
    X, y, weights = rows(500)
    private = make().update(X, y, weights).privatize(1.0, 1.0)
    totals = private.tables.sum(axis=1).mean(axis=0)
    assert private.total_weight == pytest.approx(totals[-1], rel=1e-12)
    assert private.total_weight != pytest.approx(weights.sum(), rel=1e-6)
    assert private.n_samples_seen == round(max(totals[-1], 0.0))
    exact = {500.0, float(weights.sum()), float((y[:, 0] * weights).sum())}
    assert exact.isdisjoint(private._state.totals)
    assert exact.isdisjoint(private._state.tables.ravel())


def test_an_empty_sketch_hides_that_it_is_empty():
    private = make().privatize(1.0, 1.0)
    assert private.n_samples_seen >= 0
    assert np.isfinite(private.query([[0.0, 0.0]])).all()
    assert np.count_nonzero(private.tables) > 0.99 * private.tables.size


# -- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["laplacian", "angular"])
@pytest.mark.parametrize("aggregation", ["mean", "median_of_means"])
def test_noise_alone_is_hardly_ever_taken_for_rows(kernel, aggregation):
    # Kernels with a bucket for every code have no spread of collisions to compare a count with.
    parameters = {"kernel": kernel, "aggregation": aggregation, "n_groups": 4, "empty": "nan"}
    queries = rows(2000, seed=1)[0]
    shares = []
    for seed in range(200):  # the noise has no seed: the mean of 20 exceeds the bound once in a hundred runs
        sketch = make(n_buckets=16, hashes_per_repetition=4, random_state=seed, **parameters)
        assert sketch.plan.rehashed == (kernel == "laplacian")
        answered = ~np.isnan(sketch.privatize(0.1, 1.0).query(queries))
        shares.append(answered.mean())
    # Three standard deviations, of the groups' counts too; the median needs one of four groups.
    assert np.mean(shares) < (0.02 if aggregation == "mean" else 0.05)


@pytest.mark.parametrize("empty", ["mean", -7.5, 3.0])
def test_answers_keep_within_the_bounds_of_the_targets(empty):
    # All targets lie on a bound, and noise would throw about half of the answers beyond it.
    X = rows(2000)[0]
    sketch = make(empty=empty).update(X, np.ones(2000))
    queries = np.concatenate([X[:200], X[:200] + 1e4])
    answers = np.concatenate([sketch.privatize(5.0, 1.0).query(queries) for _ in range(10)])
    assert ((np.abs(answers) <= 1) | (answers == empty)).all()
    assert 0.2 < np.mean(answers.reshape(10, 400)[:, :200] == 1) < 0.8
    assert isinstance(empty, str) or (answers == empty).any()


def test_a_mean_that_noise_drowns_is_the_middle_of_the_bounds():
    X, _, _ = rows(20)
    sketch = make().update(X, np.ones(20))
    shares = [np.mean(sketch.privatize(0.01, 1.0).query(X + 1e4) == 0) for _ in range(9)]
    assert np.median(shares) > 0.5  # a total within three deviations of its noise is drowned, most are
    private = make().update(np.tile(X, (1000, 1)), np.ones(20_000)).privatize(1.0, 1.0)
    assert private.query(X + 1e4).mean() == pytest.approx(1.0, abs=0.3)


def test_fewer_repetitions_mean_less_noise_in_an_answer():
    errors = {}
    X, y, _ = rows(3000)
    queries = rows(200, seed=1)[0]
    for n_repetitions in (4, 256):
        sketch = make(n_repetitions=n_repetitions, bandwidth=4.0).update(X, y)
        gaps = [
            sketch.privatize(1.0, 1.0).kernel_sum(queries) - sketch.kernel_sum(queries) for _ in range(60)
        ]
        errors[n_repetitions] = np.std(gaps)
    assert errors[256] == pytest.approx(8 * errors[4], rel=0.35)  # the square root of 64


# -- what a copy may do ---------------------------------------------------------------------------


def test_copies_of_different_rows_merge():
    X, y, _ = rows(400)
    first = make().update(X[:200], y[:200]).privatize(1.0, 1.0)
    second = make().update(X[200:], y[200:]).privatize(2.0, 3.0)
    sums = first.tables + second.tables
    first.merge(second)
    assert np.array_equal(first.tables, sums)
    assert first.privacy.epsilon == 2.0
    assert first.privacy.target_bound == [3.0]
    with pytest.raises(ValueError, match="Cannot merge a privatized sketch with one that is not"):
        first.merge(make().update(X, y))
    with pytest.raises(ValueError, match="Cannot merge a privatized sketch with one that is not"):
        make().update(X, y).merge(first)
    assert np.array_equal(first.tables, sums)


def test_a_copy_decays_and_travels():
    private = make().update(*rows(200)).privatize(1.0, 1.0)
    tables = private.tables.copy()
    twin = pickle.loads(pickle.dumps(private))
    assert twin.privacy.epsilon == 1.0
    assert held(twin) == held(private)
    assert np.array_equal(private.decay(0.5).tables, tables / 2)
    assert np.array_equal(twin.tables, tables)


@pytest.mark.parametrize("operation", ["update", "forget", "loo_query"])
def test_a_copy_takes_no_rows(operation):
    X, y, weights = rows(20)
    private = make().update(X, y, weights).privatize(1.0, 1.0)
    before = held(private)
    with pytest.raises(ValueError, match="needs a sketch without noise, and this one was privatized"):
        getattr(private, operation)(X, y, weights)
    with pytest.raises(ValueError, match="correct needs a sketch without noise"):
        private.correct(X, y, weights, n_rounds=1)
    with pytest.raises(ValueError, match="privatize needs a sketch without noise"):
        private.privatize(1.0, 1.0)
    assert held(private) == before


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0, -1.0, np.nan, np.inf, True, "1"])
def test_epsilon_out_of_range_is_refused(epsilon):
    with pytest.raises(ValueError, match=r"epsilon=.* is out of range: give a positive, finite number"):
        make().privatize(epsilon, 1.0)


@pytest.mark.parametrize("bound", [0.0, -1.0, np.nan, np.inf, 1e300, [1.0, 0.0]])
def test_a_bound_that_is_none_is_refused(bound):
    with pytest.raises(ValueError, match=r"target_bound holds .*give what no target exceeds in magnitude"):
        make(2).privatize(1.0, bound)


def test_bounds_of_another_number_of_outputs_are_refused():
    with pytest.raises(
        ValueError, match=r"target_bound has shape \(3,\): give one number, or one per output"
    ):
        make(2).privatize(1.0, [1.0, 2.0, 3.0])


def test_an_epsilon_that_drowns_everything_is_refused():
    with pytest.raises(ValueError, match="epsilon=1e-12 is too small"):
        make().privatize(1e-12, 1.0)


def test_what_the_sums_show_is_refused():
    X, y, weights = rows(50)
    with pytest.raises(
        ValueError, match=r"A bucket holds targets of output 0 beyond target_bound=0\.5: clip y"
    ):
        make().update(X, y, weights).privatize(1.0, 0.5)
    with pytest.raises(ValueError, match=r"50 rows weigh .* some weigh more than 1: divide sample_weight"):
        make().update(X, y, 3 * weights).privatize(1.0, 1.0)
    with pytest.raises(ValueError, match="The sketch has learnt 50 rows, more than most_rows=49"):
        make().update(X, y, weights).privatize(1.0, 1.0, most_rows=49)
    make().update(X, y, weights).privatize(1.0, 1.0, most_rows=50)


def test_a_corrected_sketch_is_refused():
    X, y, _ = rows(50)
    with pytest.raises(ValueError, match="privatize needs a sketch that is a sum over its rows"):
        make().correct(X, y, n_rounds=2).privatize(1.0, 1.0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"bandwidth": "scale"}, "learnt a bandwidth from its rows"),
        ({"bandwidth": "loo"}, "learnt a bandwidth from its rows"),
        ({"trend": "linear"}, "learnt a trend from its rows"),
        ({"uncertainty": True}, "learnt squares of the targets from its rows"),
        ({"bias_correction": 2}, "privatize needs a sketch that is a sum over its rows"),
    ],
)
def test_an_estimator_that_learnt_more_than_sums_is_refused(parameters, message):
    X, y = make_rows()
    model = NadarayaWatsonSketchRegressor(**(SMALL | {"bandwidth": 2.0} | parameters)).fit(X, np.tanh(y))
    with pytest.raises(ValueError, match=message):
        model.set_params(bandwidth=1.0).privatize(1.0, 1.0)


def test_an_estimator_that_merged_a_learnt_bandwidth_is_refused():
    X, y = make_rows()
    learnt = NadarayaWatsonSketchRegressor(**SMALL).fit(X, np.tanh(y))
    model = NadarayaWatsonSketchRegressor(**SMALL, bandwidth=learnt.bandwidth_).fit(X, np.tanh(y))
    model.privatize(1.0, 1.0)
    with pytest.raises(ValueError, match="learnt a bandwidth from its rows"):
        model.merge(learnt).privatize(1.0, 1.0)


# -- the estimator --------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [{"bandwidth": 2.0}, {"kernel": "angular", "n_buckets": None}])
def test_a_private_estimator_predicts_and_does_not_learn(parameters):
    X, y = make_rows(400)
    y = np.tanh(y)
    model = NadarayaWatsonSketchRegressor(**(SMALL | {"hashes_per_repetition": 3} | parameters)).fit(X, y)
    private = model.privatize(1e5, 1.0)
    assert private.get_params() == model.get_params()
    np.testing.assert_allclose(private.predict(X), model.predict(X).clip(-1, 1), atol=0.02)
    assert private.n_samples_seen_ == pytest.approx(400, abs=2)
    with pytest.raises(ValueError, match="partial_fit needs a sketch without noise"):
        private.partial_fit(X, y)
    with pytest.raises(ValueError, match="forget needs a sketch without noise"):
        private.forget(X, y)
    assert model.partial_fit(X, y).n_samples_seen_ == 800
    assert private.fit(X, y).sketch_.privacy is None  # anew, and without noise


def test_an_unfitted_estimator_takes_the_promise_over():
    X, y = make_rows()
    private = NadarayaWatsonSketchRegressor(**SMALL, bandwidth=2.0).fit(X, np.tanh(y)).privatize(1.0, 1.0)
    other = NadarayaWatsonSketchRegressor(**SMALL, bandwidth=2.0).merge(private)
    assert other.sketch_.privacy.epsilon == 1.0


def test_privatized_leaves_the_state_alone():
    sketch = make().update(*rows(20))
    before = [part.copy() for part in sketch._state]
    privatized(sketch._state, 1.0, np.ones(1), n_groups=1, most_rows=100)
    assert all(map(np.array_equal, before, sketch._state))


def test_noise_decays_with_the_tables():
    private = NadarayaWatsonSketch(1, n_repetitions=16, n_buckets=256, random_state=0).privatize(1.0, 1.0)
    before = private.privacy.noise.copy()
    private.decay(0.25)
    np.testing.assert_allclose(private.privacy.noise, before / 4)
    assert private.tables[..., -1].std() == pytest.approx(private.privacy.noise[-1], rel=0.1)
