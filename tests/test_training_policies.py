"""Policies: drawn as often as stated, unbiased, and defined for scores of any kind."""

import tracemalloc
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chi2

from nwsketch.training import policies
from nwsketch.training.policies import (
    clip,
    dynamic_random,
    inclusion_probabilities,
    mixture,
    probabilities,
    proportional,
    systematic,
    threshold,
    top_k,
    usable,
    variance_ratio,
    with_replacement,
    without_replacement,
)

N_ROWS, N_DRAWS = 40, 12
WEIGHTED = {
    "with replacement": lambda scores, rng: with_replacement(
        probabilities(scores, uniform_share=0.1), N_DRAWS, rng
    ),
    "without replacement": lambda scores, rng: without_replacement(
        probabilities(scores, uniform_share=0.1), N_DRAWS, rng
    ),
    "square root": lambda scores, rng: without_replacement(probabilities(scores, 0.5, 0.1), N_DRAWS, rng),
    "clipped": lambda scores, rng: without_replacement(probabilities(scores, 1.0, 0.1, 0.7), N_DRAWS, rng),
    "dynamic random": lambda scores, rng: dynamic_random(len(scores), N_DRAWS, rng),
}
#: Scores that a training loop may come up with one day.
ANY_SCORES = arrays(
    np.float64,
    st.integers(2, 30),
    elements=st.one_of(
        st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, 1.0, -1.0, np.nan, np.inf])
    ),
)


def make_scores(n_rows=N_ROWS, seed=0):
    """Heavy-tailed losses, of which some would be drawn more than once in proportion."""
    return np.random.default_rng(seed).lognormal(sigma=1.5, size=n_rows)


# -- unbiasedness, against a known full gradient ---------------------------------------------------


def gradients(seed=1):
    """Per-example gradients of a linear regression, (N_ROWS, 3), and their mean over all examples."""
    rng = np.random.default_rng(seed)
    X, y, coefficients = rng.normal(size=(N_ROWS, 3)), rng.normal(size=N_ROWS), np.array([1.0, -2.0, 0.5])
    each = 2 * (X @ coefficients - y)[:, np.newaxis] * X
    return each, each.mean(axis=0)


def errors_of_means(draw, n_trials=4000):
    """How many standard errors the mean of the draws' estimates lies off the full gradient: (3,)."""
    each, full = gradients()
    rng = np.random.default_rng(2)
    estimates = np.array([draw(rng, each) for _ in range(n_trials)])
    return (estimates.mean(axis=0) - full) / (estimates.std(axis=0) / np.sqrt(n_trials))


@pytest.mark.parametrize("policy", WEIGHTED)
@pytest.mark.parametrize("part", [slice(None), slice(0, 3), slice(-1, None)], ids=["all", "first", "last"])
def test_weighted_means_over_a_draw_and_over_a_batch_of_it_are_unbiased(policy, part):
    # In the order that systematic sampling picks them, the first and the last of a draw would not be.
    scores = make_scores()

    def estimate(rng, each):
        rows, weights = WEIGHTED[policy](scores, rng)
        return (weights[part, np.newaxis] * each[rows[part]]).mean(axis=0)

    assert np.abs(errors_of_means(estimate)).max() < 3.5


def test_accepted_examples_weigh_as_many_as_they_stand_for():
    scores = make_scores()

    def estimate(rng, each):
        rows, weights = threshold(scores, 2.0, rng)
        return (weights[:, np.newaxis] * each[rows]).sum(axis=0) / N_ROWS

    assert np.abs(errors_of_means(estimate)).max() < 3.5


def test_a_bias_is_seen():
    scores = make_scores()

    def unweighted(rng, each):
        return each[without_replacement(proportional(scores), N_DRAWS, rng).rows].mean(axis=0)

    def largest(rng, each):
        return each[top_k(scores, N_DRAWS, rng).rows].mean(axis=0) + 0.5 * rng.normal(size=3)

    for biased in (unweighted, largest):
        assert np.abs(errors_of_means(biased)).max() > 10


@pytest.mark.parametrize("policy", WEIGHTED)
def test_weights_are_one_on_average(policy):
    rng = np.random.default_rng(0)
    means = [WEIGHTED[policy](make_scores(), rng).weights.mean() for _ in range(3000)]
    assert abs(np.mean(means) - 1) <= 3.5 * np.std(means) / np.sqrt(len(means))


# -- drawn as often as stated ----------------------------------------------------------------------


def surprise(counts, expected, n_trials):
    """Chi-square test of counts of independent trials: the chance of a larger deviation by accident."""
    stated = expected > 0
    assert (counts[~stated] == 0).all()
    statistic = ((counts[stated] - expected[stated]) ** 2 / expected[stated]).sum()
    return chi2.sf(statistic, stated.sum() - 1)


def test_draws_with_replacement_occur_as_often_as_stated():
    p = mixture(proportional(make_scores()), 0.05)
    counts = np.bincount(with_replacement(p, 200_000, np.random.default_rng(0)).rows, minlength=N_ROWS)
    assert surprise(counts, 200_000 * p, 1) > 1e-3
    assert surprise(counts, 200_000 * np.roll(p, 1), 1) < 1e-9  # so the check can fail


def test_draws_without_replacement_occur_as_often_as_stated():
    included = inclusion_probabilities(proportional(make_scores()), N_DRAWS)
    assert (included == 1).any()  # which proportion alone would exceed
    rng, n_trials = np.random.default_rng(0), 30_000
    counts = np.zeros(N_ROWS)
    for _ in range(n_trials):
        counts[systematic(included, N_DRAWS, rng)] += 1
    deviations = np.sqrt(n_trials * included * (1 - included))
    certain = deviations < 1e-6
    assert (counts[certain] == n_trials).all()
    scores = (counts - n_trials * included)[~certain] / deviations[~certain]
    assert np.abs(scores).max() < 4
    assert 0.3 < scores.std() < 1.5


@pytest.mark.parametrize("at", [0, N_DRAWS - 1])
def test_every_place_of_a_draw_is_as_likely_an_examples(at):
    included = inclusion_probabilities(mixture(proportional(make_scores()), 0.3), N_DRAWS)
    rng, n_trials = np.random.default_rng(0), 30_000
    counts = np.bincount([systematic(included, N_DRAWS, rng)[at] for _ in range(n_trials)], minlength=N_ROWS)
    assert surprise(counts, n_trials * included / N_DRAWS, n_trials) > 1e-3


def test_accepted_examples_occur_as_often_as_stated():
    scores, n_trials = make_scores(), 20_000
    rng = np.random.default_rng(0)
    counts = sum(np.bincount(threshold(scores, 3.0, rng).rows, minlength=N_ROWS) for _ in range(n_trials))
    accepted = np.minimum(scores / 3.0, 1)
    assert (counts[accepted == 1] == n_trials).all()
    scale = np.sqrt(n_trials * accepted * (1 - accepted))[accepted < 1]
    assert (np.abs(counts - n_trials * accepted)[accepted < 1] < 4.5 * scale).all()


# -- probabilities ---------------------------------------------------------------------------------


def naive_inclusion(p, n_draws):
    """Cap at 1 and share what is left, until nothing exceeds 1."""
    capped = np.zeros(len(p), dtype=bool)
    while True:
        left = n_draws - capped.sum()
        included = np.where(capped, 1.0, left * p / p[~capped].sum() if (~capped).any() else 1.0)
        if (included <= 1 + 1e-12).all():
            return np.minimum(included, 1.0)
        capped |= included > 1 + 1e-12


@given(
    scores=arrays(np.float64, st.integers(1, 25), elements=st.floats(1e-9, 1e9)),
    share=st.floats(0, 1),
    n_draws=st.integers(1, 25),
)
def test_inclusion_probabilities_are_those_of_the_obvious_procedure(scores, share, n_draws):
    n_draws = min(n_draws, len(scores))
    p = mixture(proportional(scores), share)
    included = inclusion_probabilities(p, n_draws)
    assert included.max() <= 1
    assert included.sum() == pytest.approx(n_draws)
    np.testing.assert_allclose(included, naive_inclusion(p, n_draws), rtol=1e-6, atol=1e-12)


def test_examples_of_probability_zero_fill_up_a_draw_equally():
    included = inclusion_probabilities(np.array([0.5, 0.0, 0.5, 0.0, 0.0]), 3)
    np.testing.assert_allclose(included, [1, 1 / 3, 1, 1 / 3, 1 / 3])


def test_a_uniform_share_bounds_the_weights():
    scores = np.zeros(1000)
    scores[0] = 1.0
    rng = np.random.default_rng(0)
    for draw in (with_replacement, without_replacement):
        weights = draw(probabilities(scores, uniform_share=0.25), 500, rng).weights
        assert weights.max() <= 4 + 1e-9
    assert weights.max() > 1  # so a bound of 1 would not be met


def test_clipping_lowers_the_largest_scores_alone():
    scores = np.arange(1.0, 11.0)
    np.testing.assert_allclose(clip(scores, 0.5) * 10, np.minimum(scores, 5.5))
    np.testing.assert_allclose(clip(scores, 1.0) * 10, scores)


def test_an_exponent_of_zero_is_uniform_and_one_is_proportional():
    scores = make_scores()
    np.testing.assert_allclose(proportional(scores, 0.0), 1 / N_ROWS)
    np.testing.assert_allclose(proportional(scores), scores / scores.sum())
    np.testing.assert_allclose(proportional(scores, 2.0), scores**2 / (scores**2).sum())


# -- scores of any kind ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([2.0, 2.0, 2.0], [1, 1, 1]),
        ([0.0, 0.0, 0.0], [1, 1, 1]),
        ([-3.0, -1.0, -2.0], [1, 1, 1]),
        ([-3.0, 1.0, 2.0], [0, 0.5, 1]),
        ([np.nan, np.nan], [1, 1]),
        ([np.nan, 1.0, 3.0], [2 / 3, 1 / 3, 1]),
        ([np.nan, 0.0, 0.0], [1, 1, 1]),
        ([np.inf, 1.0, 2.0], [1, 0.5, 1]),
        ([np.inf, 0.0, np.inf], [1, 0, 1]),
        ([-np.inf, 1.0, np.inf], [0, 1, 1]),
        ([1e308, 1e308, 0.5e308], [1, 1, 0.5]),
        ([5e-324, 0.0], [1, 0]),
        ([7.0], [1]),
    ],
)
def test_scores_of_any_kind_have_a_decided_outcome(scores, expected):
    np.testing.assert_allclose(usable(scores), expected)


@given(scores=ANY_SCORES, share=st.floats(0, 1), exponent=st.floats(0, 4), seed=st.integers(0, 9))
def test_draws_keep_their_promises_for_any_scores(scores, share, exponent, seed):
    n_rows, rng = len(scores), np.random.default_rng(seed)
    p = probabilities(scores, exponent, share)
    assert (p >= 0).all()
    assert p.sum() == pytest.approx(1)
    for n_draws in {1, n_rows // 2 + 1, n_rows}:
        many, few = with_replacement(p, n_draws, rng), without_replacement(p, n_draws, rng)
        largest = top_k(scores, n_draws, rng)
        for rows, weights in (many, few, largest, dynamic_random(n_rows, n_draws, rng)):
            assert rows.shape == weights.shape == (n_draws,)
            assert rows.dtype == np.int64
            assert rows.min() >= 0
            assert rows.max() < n_rows
            assert np.isfinite(weights).all()
        assert (p[many.rows] > 0).all()
        for distinct in (few, largest):
            assert len(set(distinct.rows)) == n_draws
    accepted = threshold(scores, 1.0, rng)
    assert np.isfinite(accepted.weights).all()
    assert (accepted.weights >= 1).all()


def test_wrong_labels_are_drawn_first_by_top_k_and_clipping_holds_them_back():
    rng = np.random.default_rng(0)
    losses, is_wrong = rng.exponential(0.3, size=2000), np.arange(2000) < 200
    losses[is_wrong] += 5.0

    def share_of_wrong(draw):
        return is_wrong[draw.rows].mean()

    assert share_of_wrong(top_k(losses, 200, rng)) == 1
    plain = share_of_wrong(without_replacement(probabilities(losses, uniform_share=0.1), 200, rng))
    clipped = share_of_wrong(
        without_replacement(probabilities(losses, uniform_share=0.1, quantile=0.8), 200, rng)
    )
    rooted = share_of_wrong(without_replacement(probabilities(losses, 0.5, 0.1), 200, rng))
    assert plain > 0.5
    assert clipped < 0.25
    assert clipped < rooted < plain


def test_top_k_takes_equal_scores_at_random():
    rng = np.random.default_rng(0)
    counts = sum(np.bincount(top_k(np.ones(10), 3, rng).rows, minlength=10) for _ in range(2000))
    assert (np.abs(counts - 600) < 100).all()
    assert set(top_k([1.0, 9.0, 3.0, 8.0], 2, rng).rows) == {1, 3}


# -- many examples ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("draw", [with_replacement, without_replacement])
def test_more_than_2_to_the_24_examples(draw):
    n_rows, n_draws = 2**24 + 1, 2**20
    scores = np.ones(n_rows, dtype=np.float32)
    scores[-1] = np.inf  # the one that single precision would lose
    tracemalloc.start()
    start = perf_counter()
    rows, weights = draw(probabilities(scores, uniform_share=0.5), n_draws, np.random.default_rng(0))
    assert perf_counter() - start < 60  # about 5 on one core
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * n_rows * np.dtype(np.float64).itemsize
    assert rows.max() > 2**24 - 1000
    assert weights.mean() == pytest.approx(1, abs=0.02)
    quarter = np.bincount(rows * 4 // n_rows, minlength=4)
    assert (np.abs(quarter - n_draws / 4) < 2500).all()


class Rigged:
    """A generator that leaves the order alone and starts the points at one place."""

    def __init__(self, start):
        self.start = start

    def permutation(self, values):
        return np.arange(values) if np.isscalar(values) else values

    def random(self):
        return self.start


@pytest.mark.parametrize(
    ("start", "included"),
    [
        (0.6134987413723112, [0.6134987413723111, 1.0, 0.38650125862768886]),
        (0.9999999999999999, [0.6412878382090877, 0.35871216179091214, 1.0]),
    ],
)
def test_rounding_neither_draws_an_example_twice_nor_runs_over(start, included):
    # Where a point falls on the end of an example, and the next one seems a rounding error longer than 1.
    included = np.array(included)
    ends = np.cumsum(included) * (2 / included.sum())
    picked = np.searchsorted(ends, start + np.arange(2), side="right")
    assert len(set(picked)) == 1 or picked.max() == 3  # what must be mended
    rows = systematic(included, 2, Rigged(start))
    assert len(set(rows)) == 2
    assert rows.max() < 3


def test_all_pairs_are_drawn():
    # In a fixed order systematic sampling would never draw neighbours.
    rng = np.random.default_rng(0)
    pairs = {tuple(sorted(systematic(np.full(4, 0.5), 2, rng))) for _ in range(200)}
    assert len(pairs) == 6


# -- whether it pays -------------------------------------------------------------------------------


def test_the_variance_ratio_is_that_of_steps():
    each = np.linalg.norm(gradients()[0], axis=1)
    p = mixture(proportional(each), 0.1)
    rng = np.random.default_rng(0)
    rows, weights = with_replacement(p, 200_000, rng)
    measured = ((weights * each[rows]) ** 2).mean() / (each**2).mean()
    policy_weights = 1 / (N_ROWS * p)
    assert variance_ratio(each, policy_weights) == pytest.approx(measured, rel=0.02)
    # Also from examples that were drawn by the policy itself.
    assert variance_ratio(each[rows], weights, weights) == pytest.approx(measured, rel=0.02)
    assert measured < 0.9


def test_the_variance_ratio_of_a_uniform_policy_is_one_and_of_a_wrong_one_above():
    values = make_scores()
    assert variance_ratio(values, np.ones(N_ROWS)) == pytest.approx(1)
    backwards = 1 / (N_ROWS * mixture(proportional(1 / values), 0.1))
    assert variance_ratio(values, backwards) > 2
    never = np.where(values > 1, np.inf, 0.5)
    assert variance_ratio(values, never) == np.inf
    assert variance_ratio(np.where(values > 1, 0.0, values), never) == pytest.approx(0.5)
    assert np.isnan(variance_ratio(np.zeros(3), np.ones(3)))
    assert np.isnan(variance_ratio(np.zeros(0), np.zeros(0)))


def test_effective_size():
    assert policies.effective_size(np.full(8, 3.0)) == pytest.approx(8)
    assert policies.effective_size(np.array([1.0, 0.0, 0.0])) == pytest.approx(1)
    assert np.isnan(policies.effective_size(np.zeros(0)))


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, rng: proportional(p, -1.0), r"exponent=-1\.0 is out of range"),
        (lambda p, rng: proportional(p, np.nan), r"exponent=nan is out of range"),
        (lambda p, rng: mixture(p, 1.5), r"uniform_share=1\.5 is out of range"),
        (lambda p, rng: clip(p, 0.0), r"quantile=0\.0 is out of range"),
        (lambda p, rng: threshold(p, 0.0, rng), r"level=0\.0 is out of range"),
        (lambda p, rng: threshold(np.ones((2, 2)), 1.0, rng), r"scores has shape \(2, 2\)"),
        (lambda p, rng: usable(np.ones((2, 2))), r"scores has shape \(2, 2\): give one number per example"),
        (lambda p, rng: usable([]), r"scores has shape \(0,\)"),
        (lambda p, rng: without_replacement(p, 5, rng), r"n_draws=5 is out of range: .* from 1 to 4"),
        (lambda p, rng: with_replacement(p, 0, rng), r"n_draws=0 is out of range"),
        (lambda p, rng: dynamic_random(4, 5, rng), r"n_draws=5 is out of range"),
        (lambda p, rng: top_k(p, 2.0, rng), r"n_draws=2\.0 is out of range"),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.full(4, 0.25), np.random.default_rng(0))
