"""The largest magnitude of an array, and whether all of it is finite, beside what NumPy says of it."""

import numpy as np
import pytest
import sklearn
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from nwsketch import NadarayaWatsonSketchRegressor
from nwsketch.magnitudes import MANY, all_finite, largest_magnitude

WHATEVER = npst.arrays(st.sampled_from([np.float32, np.float64]), st.integers(1, 9))


@given(WHATEVER, st.integers(0, MANY), st.booleans())
def test_largest_magnitude_is_that_of_numpy(special, place, negative):
    values = np.zeros(MANY + special.size, dtype=special.dtype)
    values[place : place + special.size] = special
    magnitude = largest_magnitude(-values if negative else values)
    np.testing.assert_array_equal(magnitude, np.abs(special).max())  # NaN if NaN
    assert all_finite(values) == np.isfinite(special).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["C", "F", "strided", "backwards", "read-only", "few", "swapped"])
def test_layouts(layout, dtype):
    values = np.random.default_rng(0).standard_normal((MANY // 8, 16)).astype(dtype)
    values[5, 3] = -7.5
    values = {
        "C": values,
        "F": np.asfortranarray(values),
        "strided": values.repeat(2, axis=1)[:, ::2],
        "backwards": values[::-1],
        "read-only": np.frombuffer(values.tobytes(), dtype).reshape(values.shape),
        "few": values[:9],
        "swapped": values.astype(values.dtype.newbyteorder()),
    }[layout]
    assert largest_magnitude(values) == 7.5
    assert all_finite(values)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, np.float16])
def test_other_numbers_are_left_to_numpy(dtype):
    values = np.ones(MANY, dtype=dtype)
    assert largest_magnitude(values) == 1
    assert all_finite(values)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", ["fit", "partial_fit", "predict"])
def test_large_input_that_is_not_finite_is_refused_in_scikit_learns_words(method, value):
    X = np.zeros((MANY, 2), dtype=np.float32)
    model = NadarayaWatsonSketchRegressor(n_repetitions=2, random_state=0).fit(X, X[:, 0])
    X[-1, -1] = value
    targets = () if method == "predict" else (np.zeros(MANY),)
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
        getattr(model, method)(X, *targets)


def test_sums_that_overflow_are_no_sign_of_infinity():
    X = np.full((MANY, 2), 3e38, dtype=np.float32)
    model = NadarayaWatsonSketchRegressor(n_repetitions=2, bandwidth=1e38, random_state=0)
    assert model.fit(X, np.ones(MANY)).predict(X[:1]) == 1


def test_scikit_learn_may_be_told_to_assume_that_input_is_finite(monkeypatch):
    def refuse(values):
        raise AssertionError("looked at")

    X = np.ones((20, 2))
    monkeypatch.setattr("nwsketch.validation.all_finite", refuse)
    with sklearn.config_context(assume_finite=True):
        model = NadarayaWatsonSketchRegressor(n_repetitions=2, random_state=0).fit(X, X[:, 0])
        assert model.predict(X[:1]) == 1
