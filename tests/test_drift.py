"""Functions that change: rows that lose weight by half-lives, and rows that leave a window."""

import copy

import numpy as np
import pytest
from helpers import SMALL, held, learnt, make_rows
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.utils.estimator_checks import parametrize_with_checks

from nwsketch import NadarayaWatsonSketchRegressor, SlidingWindowRegressor, window
from nwsketch.half_life import MOST_DOUBLINGS, Clock


def make(half_life=None, **parameters):
    return NadarayaWatsonSketchRegressor(half_life=half_life, **(SMALL | {"bandwidth": 2.0} | parameters))


def in_parts(model, X, y, cuts, weights=None):
    for rows in np.split(np.arange(len(y)), cuts):
        if len(rows):
            model.partial_fit(X[rows], y[rows], None if weights is None else weights[rows])
    return model


def aged(n, half_life):
    """The weights of n rows, the newest last."""
    return 0.5 ** (np.arange(n)[::-1] / half_life)


# -- half-life ------------------------------------------------------------------------------------


@pytest.mark.parametrize("half_life", [7, 25.5, 1e9, 0.01])
def test_a_half_life_is_a_weight_per_row(half_life):
    X, y = make_rows()
    given_weights = np.random.default_rng(0).uniform(0.5, 2, len(y))
    weights = given_weights * aged(len(y), half_life)
    model = make(half_life).fit(X, y, given_weights)
    plain = make().fit(X, y, weights)
    np.testing.assert_allclose(model.predict(X), plain.predict(X), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.kernel_sum(X), plain.kernel_sum(X), rtol=1e-9, atol=1e-12)
    assert model.n_samples_seen_ == len(y)


@given(
    half_life=st.sampled_from([1, 3, 10, 64]),
    cuts=st.lists(st.integers(0, 150), max_size=6).map(sorted),
    weighted=st.booleans(),
)
def test_any_split_gives_the_same_bits(half_life, cuts, weighted):
    X, y = make_rows()
    weights = np.random.default_rng(0).uniform(0.5, 2, len(y)) if weighted else None
    whole, parts = make(half_life).fit(X, y, weights), in_parts(make(half_life), X, y, cuts, weights)
    units = [model._clock.unit(len(y)) for model in (whole, parts)]
    power = np.log2(units[0] / units[1])
    assert power == np.rint(power)  # an exact power of two
    # What has faded to nothing may have lost digits on the way.
    np.testing.assert_allclose(
        whole.sketch_.tables / units[0], parts.sketch_.tables / units[1], rtol=0, atol=1e-300
    )
    np.testing.assert_array_equal(whole.predict(X), parts.predict(X))


@pytest.mark.parametrize("half_life", [0.5, 2.5, 33.3])
def test_any_split_of_a_half_life_that_is_no_integer_gives_nearly_the_same(half_life):
    X, y = make_rows()
    whole, parts = make(half_life).fit(X, y), in_parts(make(half_life), X, y, np.arange(1, 150))
    np.testing.assert_allclose(whole.predict(X), parts.predict(X), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(whole.kernel_sum(X), parts.kernel_sum(X), rtol=1e-12, atol=1e-12)


def test_streams_of_many_half_lives_stay_in_range():
    X, y = make_rows(5000)
    model = in_parts(make(2), X, y, np.arange(7, 5000, 7))  # 2,500 half-lives
    assert model.sketch_.total_weight < 2.0 ** (MOST_DOUBLINGS + 3)
    np.testing.assert_allclose(model.predict(X), make().fit(X, y, aged(5000, 2)).predict(X), atol=1e-9)
    np.testing.assert_allclose(model.kernel_sum(X), in_parts(make(2), X, y, []).kernel_sum(X), rtol=1e-12)


def test_tables_are_passed_over_once_in_many_half_lives(monkeypatch):
    X, y = make_rows(1000)
    passes = []
    model = make(10).fit(X[:10], y[:10])
    decay = type(model.sketch_).decay
    monkeypatch.setattr(
        type(model.sketch_), "decay", lambda self, factor: passes.append(factor) or decay(self, factor)
    )
    in_parts(model, X[10:], y[10:], np.arange(1, 990))
    assert len(passes) == 990 // (10 * MOST_DOUBLINGS)


@pytest.mark.parametrize("half_life", [5, 40.0])
def test_forgetting_takes_what_is_left_of_a_row(half_life):
    X, y = make_rows()
    model = in_parts(make(half_life), X, y, [30, 60, 61])
    gone = np.r_[3, 70:90]
    model.forget(X[gone], y[gone], age=149 - gone)
    stayed = np.delete(np.arange(150), gone)
    rest = make().fit(X[stayed], y[stayed], aged(150, half_life)[stayed])
    np.testing.assert_allclose(model.kernel_sum(X), rest.kernel_sum(X), atol=1e-9)
    # The others grow no younger: later rows find them as old as they are.
    model.partial_fit(X[:20], y[:20] + 1)
    order = np.r_[stayed, :20]
    weights = np.r_[aged(170, half_life)[stayed], aged(20, half_life)]
    both = make().fit(X[order], np.r_[y[stayed], y[:20] + 1], weights)
    np.testing.assert_allclose(model.kernel_sum(X), both.kernel_sum(X), atol=1e-9)
    np.testing.assert_allclose(model.predict(X), both.predict(X), atol=1e-6)


def test_leaving_one_out_knows_the_age_of_a_row():
    X, y = make_rows(60)
    model = make(20).fit(X, y)
    left = model.loo_predict(X, y, age=np.arange(60)[::-1])
    for i in (0, 31, 59):
        others = np.delete(np.arange(60), i)
        expected = make().fit(X[others], y[others], aged(60, 20)[others]).predict(X[[i]])
        assert left[i] == pytest.approx(expected[0], abs=1e-9)


@pytest.mark.parametrize(
    ("half_life", "age", "message"),
    [
        (5, None, "With half_life=5 a row's weight depends on its age: give age"),
        (5, -1, r"age=-1 does not fit: give a number of rows, at least 0, for each of the 10 rows"),
        (5, [1, 2], r"age=\[1, 2\] does not fit"),
        (5, np.nan, "age=nan does not fit"),
        (None, 3, "age was given, but half_life=None"),
    ],
)
def test_ages_that_do_not_fit_are_refused(half_life, age, message):
    X, y = make_rows()
    model = make(half_life).fit(X, y)
    before = learnt(model)
    for method in (model.forget, model.loo_predict):
        with pytest.raises(ValueError, match=message):
            method(X[-10:], y[-10:], age=age)
    assert learnt(model) == before


def test_rows_that_were_not_learnt_at_that_age_are_refused():
    X, y = make_rows()
    model = make(5).fit(X, y)
    before = learnt(model)
    with pytest.raises(ValueError, match="Cannot forget rows that were not learnt"):
        model.forget(X[:10], y[:10], age=0)
    assert learnt(model) == before


@pytest.mark.parametrize("n_first", [20, 130])
def test_a_merge_takes_both_ends_as_now(n_first):
    X, y = make_rows()
    first, second = make(16).fit(X[:n_first], y[:n_first]), make(16).fit(X[n_first:], y[n_first:])
    weights = np.r_[aged(n_first, 16), aged(150 - n_first, 16)]
    before = learnt(second)
    merged = first.merge(second)
    both = make().fit(X, y, weights)
    np.testing.assert_allclose(merged.kernel_sum(X), both.kernel_sum(X), rtol=1e-9, atol=1e-12)
    assert learnt(second) == before
    # ... and goes on from there.
    merged.partial_fit(X[:16], y[:16])
    later = make().fit(np.r_[X, X[:16]], np.r_[y, y[:16]], np.r_[weights / 2, aged(16, 16)])
    np.testing.assert_allclose(merged.kernel_sum(X), later.kernel_sum(X), rtol=1e-9, atol=1e-12)


def test_merging_another_half_life_is_refused():
    X, y = make_rows()
    with pytest.raises(ValueError, match=r"half_life=16\.0 and half_life=None"):
        make(16).fit(X, y).merge(make().fit(X, y))
    with pytest.raises(ValueError, match=r"half_life=8 and half_life=16\.0"):
        make(8).merge(make(16).fit(X, y))
    assert make(16).merge(make(16).fit(X, y)).n_samples_seen_ == 150


def test_a_half_life_is_not_private():
    X, y = make_rows()
    with pytest.raises(ValueError, match="every row changes the weights of all rows before it"):
        make(16).fit(X, np.tanh(y)).privatize(1.0, 1.0)


@pytest.mark.parametrize("parameters", [{"bias_correction": 3}, {"trend": "linear"}, {"bandwidth": "loo"}])
def test_what_is_learnt_of_all_rows_learns_them_by_age(parameters):
    X, y = make_rows(300)
    model, plain = make(50, **parameters).fit(X, y), make(**parameters).fit(X, y, aged(300, 50))
    np.testing.assert_allclose(model.predict(X), plain.predict(X), rtol=1e-6, atol=1e-8)


def test_half_life_works_with_uncertainty_sparse_rows_and_many_outputs():
    X, y = make_rows()
    targets = np.column_stack([y, -y])
    model = in_parts(make(20, uncertainty=True), sparse.csr_array(X), targets, [40, 90])
    plain = make(uncertainty=True).fit(X, targets, aged(150, 20))
    for mine, theirs in zip(
        model.predict(X, return_std=True), plain.predict(X, return_std=True), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize("n_new", [1, 30, 100, 250])
def test_a_change_is_forgotten_by_half_lives(n_new):
    # After a long past the share of old evidence is 2^(-n / half_life); here the past has 2,000 rows.
    X = np.zeros((2000, 1))
    model = make(100).fit(X, np.full(2000, 5.0))
    model.partial_fit(X[:n_new], np.full(n_new, -3.0))
    share = (model.predict([[0.0]])[0] + 3) / 8
    assert share == pytest.approx(0.5 ** (n_new / 100), rel=1e-5)


def test_the_error_after_a_change_falls_as_predicted():
    # The target rises by 2 everywhere; the twin has known it all along, from the same rows.
    rng = np.random.default_rng(0)
    model = make(300, n_repetitions=128, bandwidth=0.5, n_buckets=512)
    X = rng.uniform(size=(6000, 1))
    twin = copy.deepcopy(model).fit(X, np.sin(6 * X[:, 0]) + 2)
    model.fit(X, np.sin(6 * X[:, 0]))
    queries = rng.uniform(0.2, 0.8, size=(200, 1))
    for n_since in (150, 300, 450, 600):
        X = rng.uniform(size=(150, 1))
        for each in (model, twin):
            each.partial_fit(X, np.sin(6 * X[:, 0]) + 2)
        error = np.abs(twin.predict(queries) - model.predict(queries)).mean()
        assert error == pytest.approx(2 * 0.5 ** (n_since / 300), rel=0.03)


def test_weights_are_powers_of_the_half_life_to_the_last_bit():
    clock = Clock(8.0)
    X = np.zeros((40, 1))
    whole = clock.of_new(0, X, None)
    assert np.array_equal(whole[::8], 2.0 ** np.arange(5))
    assert np.array_equal(whole[8:], 2 * whole[:-8])
    assert np.array_equal(clock.halved(3).of_new(0, X, None), whole / 8)


# -- window ---------------------------------------------------------------------------------------


@parametrize_with_checks([SlidingWindowRegressor(NadarayaWatsonSketchRegressor(**SMALL))])
def test_a_window_is_scikit_learn_compatible(estimator, check):
    check(estimator)


@given(
    cuts=st.lists(st.integers(1, 150), max_size=8).map(sorted),
    size=st.sampled_from([1, 13, 60, 149, 150, 500]),
    is_sparse=st.booleans(),
)
def test_a_window_holds_the_last_rows(cuts, size, is_sparse):
    X, y = make_rows()
    weights = np.random.default_rng(0).integers(1, 5, len(y)) / 4  # sums of such are exact
    rows = sparse.csr_array(X) if is_sparse else X
    model = in_parts(SlidingWindowRegressor(make(), window=size), rows, np.round(y, 1) * 8, cuts, weights)
    last = slice(-min(size, 150), None)
    alone = make().fit(X[last], np.round(y[last], 1) * 8, weights[last])
    np.testing.assert_allclose(model.estimator_.sketch_.tables, alone.sketch_.tables, atol=1e-12)
    np.testing.assert_array_equal(model.estimator_.sketch_.tables[..., -1], alone.sketch_.tables[..., -1])
    assert model.n_samples_seen_ == min(size, 150)
    kept = model.rows_in_window()
    np.testing.assert_array_equal(kept.X.toarray() if is_sparse else kept.X, X[last])
    np.testing.assert_array_equal(kept.weights, weights[last])


def test_rounding_errors_of_what_left_the_window_are_wiped_out(monkeypatch):
    X, y = make_rows(2000)
    monkeypatch.setattr(window, "WINDOWS_BETWEEN_CLEANINGS", 5)
    model = SlidingWindowRegressor(make(), window=20).fit(X[:20], 1e6 * y[:20])
    clean = []
    for start in range(20, 2000, 20):
        rows = slice(start, start + 20)
        model.partial_fit(X[rows], 1e6 * y[rows])
        alone = make().fit(X[rows], 1e6 * y[rows])
        clean.append(held(model.estimator_.sketch_) == held(alone.sketch_))
    assert clean == [step % 5 == 4 for step in range(99)]


def test_the_error_after_a_change_falls_along_the_window():
    X = np.zeros((1000, 1))
    model = SlidingWindowRegressor(make(), window=400).fit(X, np.full(1000, 5.0))
    for n_new in (100, 200, 300, 400, 500):
        model.partial_fit(X[:100], np.full(100, -3.0))
        share = (model.predict([[0.0]])[0] + 3) / 8
        assert share == pytest.approx(max(1 - n_new / 400, 0), abs=1e-9)


def test_an_interrupt_leaves_the_window_as_it_was(monkeypatch):
    X, y = make_rows()
    model = SlidingWindowRegressor(make(), window=50).fit(X[:60], y[:60])
    before, kept = learnt(model.estimator_), model.rows_in_window()
    with monkeypatch.context() as patch:
        patch.setattr(NadarayaWatsonSketchRegressor, "forget", lambda *rows: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.partial_fit(X[60:], y[60:])
    assert learnt(model.estimator_) == before
    assert all(map(np.array_equal, kept, model.rows_in_window()))


@pytest.mark.parametrize("parameters", [{"bias_correction": 3}, {"half_life": 5}])
def test_a_window_over_what_cannot_forget_is_refused(parameters):
    with pytest.raises(ValueError, match="A sliding window cannot forget what an estimator learnt with"):
        SlidingWindowRegressor(make(**parameters)).fit(*make_rows())
