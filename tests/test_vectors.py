import numpy as np
import pytest
from numba import njit
from numpy.testing import assert_array_equal

from nwsketch.backends.numba_kernels import vectors
from nwsketch.backends.numba_kernels.vectors import LANES, ORDER

RNG = np.random.default_rng(0)
ZERO, STRIDE = np.uint64(0), np.uint64(LANES)


@njit(inline="always")
def store(out, vector):
    vectors.store(out, ZERO, vector)


def floats(dtype=np.float32):
    """Numbers of both signs and sizes, among them zeros, halves and NaN."""
    numbers = (RNG.normal(size=ORDER * LANES) * 10.0 ** RNG.integers(-3, 4, ORDER * LANES)).astype(dtype)
    numbers[:8] = [0.0, -0.0, 0.5, 1.5, -2.5, np.nan, 3.0, -3.0]
    return numbers


def run(function, result_type, *arrays):
    """Call a function of vectors on the first vectors of the arrays, and on their first blocks."""

    @njit
    def of_vectors(a, b, c, out):
        store(out, function(vectors.load(a, ZERO), vectors.load(b, ZERO), vectors.load(c, ZERO)))

    @njit
    def of_blocks(a, b, c, out):
        a, b = vectors.load_block(a, ZERO, STRIDE), vectors.load_block(b, ZERO, STRIDE)
        vectors.store_block(out, ZERO, STRIDE, function(a, b, vectors.load_block(c, ZERO, STRIDE)))

    arrays = arrays + (arrays[-1],) * (3 - len(arrays))
    one, eight = np.zeros(LANES, result_type), np.zeros(ORDER * LANES, result_type)
    of_vectors(*arrays, one)
    of_blocks(*arrays, eight)
    assert_array_equal(one, eight[:LANES])
    return eight


OF_FLOATS = {
    "add": (lambda a, b, c: vectors.add(a, b), lambda a, b: a + b),
    "floor": (lambda a, b, c: vectors.floor(a), lambda a, b: np.floor(a)),
    "lesser": (lambda a, b, c: vectors.lesser(a, b), lambda a, b: np.where(a < b, a, b)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OF_FLOATS)
def test_functions_of_floats_are_those_of_numpy(name, dtype):
    ours, numpys = OF_FLOATS[name]
    a, b = floats(dtype), floats(dtype)
    assert_array_equal(run(njit(inline="always")(ours), dtype, a, b), numpys(a, b))


def test_multiply_add_rounds_once_or_twice():
    a, b, c = floats(), floats(), floats()
    exact = a.astype(np.float64) * b + c
    got = run(njit(inline="always")(lambda a, b, c: vectors.multiply_add(a, b, c)), np.float32, a, b, c)
    assert_array_equal(np.isnan(got), np.isnan(exact))
    error = 2.0**-23 * (np.abs(a.astype(np.float64) * b) + np.abs(c))
    assert (np.isnan(got) | (np.abs(got - exact) <= error)).all()


def words(dtype=np.uint32):
    return RNG.integers(0, np.iinfo(dtype).max, ORDER * LANES, dtype=dtype, endpoint=True)


def test_words_wrap():
    a, b, c = words(np.uint64), words(np.uint64), words(np.uint64)
    got = run(njit(inline="always")(lambda a, b, c: vectors.multiply_add(a, b, c)), np.uint64, a, b, c)
    assert_array_equal(got, a * b + c)


OF_WORDS = {
    "subtract": (lambda a, b, c: vectors.subtract(a, b), lambda a, b: a - b),
    "lesser": (lambda a, b, c: vectors.lesser(a, b), np.minimum),
    "masked": (lambda a, b, c: vectors.masked(a, b), lambda a, b: a & b),
    "opposite_bits": (lambda a, b, c: vectors.opposite_bits(a, b), lambda a, b: ~a & b),
}


@pytest.mark.parametrize("name", OF_WORDS)
def test_functions_of_words_are_those_of_numpy(name):
    ours, numpys = OF_WORDS[name]
    a, b = words(), words()
    assert_array_equal(run(njit(inline="always")(ours), np.uint32, a, b), numpys(a, b))


def test_words_are_shifted_right_by_as_many_bits_as_the_other_says():
    a, n_bits = words(), words() % np.uint32(32)
    got = run(njit(inline="always")(lambda a, b, c: vectors.shift_right(a, b)), np.uint32, a, n_bits)
    assert_array_equal(got, a >> n_bits)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_operators_of_vectors(dtype):
    @njit
    def compute(a, b, out):
        a, b = vectors.load(a, ZERO), vectors.load(b, ZERO)
        store(out, (a + b) * a - b)

    a, b, out = floats(dtype), floats(dtype), np.zeros(LANES, dtype)
    compute(a, b, out)
    a, b = a[:LANES], b[:LANES]
    assert_array_equal(out, (a + b) * a - b)


def test_numbers_as_words():
    numbers = RNG.uniform(0, 2.0**31 - 2**7, ORDER * LANES).astype(np.float32)
    numbers[:LANES] /= np.float32(2**30)
    words = run(njit(inline="always")(lambda a, b, c: vectors.as_words(a)), np.uint32, numbers)
    assert_array_equal(words, np.trunc(numbers))
    whole = RNG.integers(-(2**23), 2**23, ORDER * LANES).astype(np.float32)
    long_words = run(njit(inline="always")(lambda a, b, c: vectors.as_long_words(a)), np.uint64, whole)
    assert_array_equal(long_words.view(np.int64), whole)


def test_bits_of_floats_and_back():
    a = floats()
    bits = run(njit(inline="always")(lambda a, b, c: vectors.bits(a)), np.uint32, a)
    assert_array_equal(bits, a.view(np.uint32))
    reals = run(njit(inline="always")(lambda a, b, c: vectors.reals(a)), np.float32, bits)
    assert_array_equal(reals, a)


def test_floats_are_widened_and_narrowed():
    a, b = floats(), floats(np.float64)
    widened = run(njit(inline="always")(lambda a, b, c: vectors.widened(a)), np.float64, a)
    assert_array_equal(widened, a.astype(np.float64))
    assert_array_equal(run(njit(inline="always")(lambda a, b, c: vectors.widened(a)), np.float64, b), b)
    narrowed = run(njit(inline="always")(lambda a, b, c: vectors.narrowed(a)), np.float32, b)
    assert_array_equal(narrowed, b.astype(np.float32))


def test_larger_magnitudes():
    a, b = (np.nan_to_num(floats(np.float64)) for _ in range(2))
    got = run(njit(inline="always")(lambda a, b, c: vectors.larger_magnitude(a, b)), np.float64, np.abs(a), b)
    assert_array_equal(got, np.maximum(np.abs(a), np.abs(b)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_columns_are_loaded_from_rows(dtype):
    @njit
    def third(rows, out):
        store(out, vectors.load_column(vectors.pointer(rows, np.uint64(5)), np.uint64(2), np.uint64(5)))

    rows, column = RNG.normal(size=(LANES + 1, 5)).astype(dtype), np.zeros(LANES, dtype)
    third(rows, column)
    assert_array_equal(column, rows[1:, 2])


def test_signs_are_shifted_in_from_below():
    words, numbers = RNG.integers(0, 2**32, ORDER * LANES, dtype=np.uint32), floats()
    shift = njit(inline="always")(lambda a, b, c: vectors.shift_in_signs(a, b))

    @njit
    def compute(words, numbers, out):
        words, numbers = vectors.load(words, ZERO), vectors.load(numbers, ZERO)
        store(out, shift(words, numbers, numbers))

    out = np.zeros(LANES, np.uint32)
    compute(words, numbers, out)
    assert_array_equal(out, (words * np.uint32(2) + np.signbit(numbers))[:LANES])


def test_lanes_not_above_counts_nan():
    @njit
    def compute(a, b):
        return vectors.lanes_not_above(vectors.load(a, ZERO), vectors.load(b, ZERO))

    a, b = floats(), floats()
    assert compute(a, b) == sum(1 << i for i in range(LANES) if not a[i] > b[i])


def test_lanes_not_above_of_words_have_no_sign():
    @njit
    def compute(a, b):
        return vectors.lanes_not_above(vectors.load(a, ZERO), vectors.load(b, ZERO))

    a, b = (RNG.integers(0, 2**32, LANES, dtype=np.uint32) for _ in range(2))
    b[:2] = a[:2]
    assert compute(a, b) == sum(1 << i for i in range(LANES) if not a[i] > b[i])


def test_lanes_not_above_of_blocks_are_those_of_any_vector():
    @njit
    def compute(a, b):
        return vectors.lanes_not_above(
            vectors.load_block(a, ZERO, STRIDE), vectors.load_block(b, ZERO, STRIDE)
        )

    a, b = (RNG.integers(0, 100, ORDER * LANES, dtype=np.uint32) for _ in range(2))
    a += np.uint32(90)
    expected = (a <= b).reshape(ORDER, LANES).any(axis=0)
    assert 0 < expected.sum() < LANES
    assert compute(a, b) == sum(1 << i for i in range(LANES) if expected[i])


def test_first_lane_is_that_of_the_lowest_bit():
    lanes = RNG.integers(1, 2**LANES, 50, dtype=np.uint64)
    first = njit(lambda lanes: vectors.first_lane(lanes))
    assert [first(some) for some in lanes] == [f"{some:b}"[::-1].index("1") for some in lanes]


def test_least_of_a_block_under_a_mask():
    @njit
    def compute(a, mask, out):
        store(out, vectors.least(vectors.load_block(a, ZERO, STRIDE), vectors.load(mask, ZERO)))

    a, mask, out = words(), words(), np.zeros(LANES, np.uint32)
    compute(a, mask, out)
    assert_array_equal(out, (a.reshape(ORDER, LANES) & mask[:LANES]).min(axis=0))


def test_products_are_added():
    @njit
    def compute(a, factors, one, other):
        blocks = vectors.load_block(one, ZERO, STRIDE), vectors.load_block(other, ZERO, STRIDE)
        blocks = vectors.add_products(*blocks, a, ZERO, STRIDE, factors, np.uint64(1), np.uint64(ORDER))
        vectors.store_block(one, ZERO, STRIDE, blocks[0])
        vectors.store_block(other, ZERO, STRIDE, blocks[1])

    a, one, other = (RNG.integers(-9, 9, ORDER * LANES).astype(np.float32) for _ in range(3))
    factors = RNG.integers(-9, 9, 2 * ORDER + 1).astype(np.float32)
    expected = one + a * factors[1 : 1 + ORDER].repeat(LANES), other + a * factors[1 + ORDER :].repeat(LANES)
    compute(a, factors, one, other)
    assert_array_equal((one, other), expected)


def test_splats():
    @njit
    def compute(a, one, eight, copies):
        store(one, vectors.splat(a[3]))
        vectors.store_block(eight, ZERO, STRIDE, vectors.splat_block(a, np.uint64(2)))
        vectors.store_block(copies, ZERO, STRIDE, vectors.block_of(vectors.load(a, ZERO)))

    a, one, eight, copies = RNG.normal(size=16), *(np.zeros(n * LANES) for n in (1, ORDER, ORDER))
    compute(a, one, eight, copies)
    assert_array_equal(one, np.full(LANES, a[3]))
    assert_array_equal(eight, a[2 : 2 + ORDER].repeat(LANES))
    assert_array_equal(copies, np.tile(a[:LANES], ORDER))


def test_pairs_are_added():
    @njit
    def compute(a, b):
        vectors.add_pair(a, np.uint64(3), b, np.uint64(1))

    a, b = RNG.normal(size=6), RNG.normal(size=4)
    expected = a.copy()
    expected[3:5] += b[1:3]
    compute(a, b)
    assert_array_equal(a, expected)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_buckets_are_those_of_numpy(dtype):
    joined, codes = RNG.integers(0, 2**64, LANES, dtype=np.uint64), np.zeros(LANES + 1, dtype)

    @njit
    def compute(joined, codes):
        vectors.store_buckets(codes, np.uint64(1), vectors.load(joined, ZERO), np.uint64(50_000))

    compute(joined, codes)
    assert_array_equal(codes[1:], (joined >> np.uint64(32)) * np.uint64(50_000) >> np.uint64(32))
    assert codes[0] == 0
