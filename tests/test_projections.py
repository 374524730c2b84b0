"""Directions with factors: their definition, their law, how far estimates spread, and the kernels' codes."""

import numpy as np
import pytest
from helpers import KERNELS, compiled_codes, hash_range, make_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.sparse import csr_array

from nwsketch import NadarayaWatsonSketchRegressor, suggest_size
from nwsketch.backends.numba_hashing import Hasher
from nwsketch.hashing.projections import gaussian_directions
from nwsketch.sketch import NadarayaWatsonSketch

#: Kernels whose directions have factors from eight features on.
STRUCTURED = ("angular", "l2")
#: What the variance of an estimate may be, by kernel and number of features, in units of that with
#: independent directions. Signs of rows with a single non-zero feature vary most.
LARGEST_SPREADS = {
    ("angular", 8): 1.6,
    ("angular", 16): 1.6,
    ("angular", 64): 1.25,
    ("l2", 8): 1.35,
    ("l2", 16): 1.35,
    ("l2", 64): 1.25,
}
H = np.array([[(-1.0) ** (i & j).bit_count() for j in range(8)] for i in range(8)])


def plain_directions(scales, gaussians, n_features, n_repetitions, n_hashes):
    """Return the directions whose factors these are: (n_features, n_repetitions, n_hashes)."""
    directions = np.zeros((n_features, n_repetitions, n_hashes))
    n_padded = -(-n_features // 8) * 8
    for repetition in range(n_repetitions):
        for k in range(n_hashes):
            gaussian = gaussians[repetition // 8 * n_hashes + k]
            for c in range(0, len(scales), 8):
                chunk = slice(c, c + 8)
                turned = H @ np.diag(gaussian[chunk]) @ H @ np.diag(scales[chunk]) / np.sqrt(8)
                start = c % n_padded  # the row is repeated
                for j in range(start, min(start + 8, n_features)):
                    directions[j, repetition, k] += turned[repetition % 8, j - start]
    return directions


# -- the directions -------------------------------------------------------------------------------


@pytest.mark.parametrize("own_lengths", [False, True])
@pytest.mark.parametrize("n_features", [8, 9, 16, 23, 24, 25, 100])
@pytest.mark.parametrize("n_hashes", [1, 3, 15])
@pytest.mark.parametrize("n_repetitions", [1, 7, 8, 9, 20])
def test_directions_are_those_of_their_factors(n_features, n_repetitions, n_hashes, own_lengths):
    shape = n_features, n_repetitions, n_hashes
    drawn = gaussian_directions(np.random.default_rng(0), *shape, own_lengths=own_lengths)
    n_copies = len(drawn["scales"]) // (-(-n_features // 8) * 8)
    np.testing.assert_allclose(np.abs(drawn["scales"]), 1 / np.sqrt(n_copies), rtol=1e-15)
    assert drawn["gaussians"].shape == (-(-n_repetitions // 8) * n_hashes, len(drawn["scales"]))
    expected = plain_directions(drawn["scales"], drawn["gaussians"], *shape)
    expected = expected.reshape(n_features, -1) * (drawn["lengths"] if own_lengths else 1.0)
    np.testing.assert_allclose(drawn["directions"], expected, rtol=0, atol=1e-13)


def test_few_features_need_no_factors():
    assert set(gaussian_directions(np.random.default_rng(0), 7, 3, 2, own_lengths=True)) == {"directions"}


N_SEEDS = 3000


@pytest.fixture(scope="module", params=[False, True], ids=["lengths shared", "own lengths"])
def sample(request):
    """Return directions of many seeds: (n_seeds, 9 features, 10 repetitions, 2 hashes)."""
    rngs = map(np.random.default_rng, range(N_SEEDS))
    draws = [gaussian_directions(rng, 9, 10, 2, own_lengths=request.param) for rng in rngs]
    return np.array([draw["directions"] for draw in draws]).reshape(N_SEEDS, 9, 10, 2)


def test_every_coordinate_is_a_standard_normal(sample):
    coordinates = sample.reshape(N_SEEDS, -1).T
    assert np.abs(coordinates.mean(axis=1)).max() < 5 / np.sqrt(N_SEEDS)
    assert np.abs(coordinates.var(axis=1) - 1).max() < 5 * np.sqrt(2 / N_SEEDS)
    assert min(stats.kstest(each, "norm").pvalue for each in coordinates) > 1e-5


def test_the_coordinates_of_a_direction_are_independent(sample):
    # Of independent ones alone is every projection normal, and the square of the length chi-square.
    rng = np.random.default_rng(1)
    for direction in sample.reshape(N_SEEDS, 9, -1).transpose(2, 0, 1):
        unit = rng.normal(size=9)
        unit /= np.linalg.norm(unit)
        assert stats.kstest(direction @ unit, "norm").pvalue > 1e-5
        assert stats.kstest((direction**2).sum(axis=1), "chi2", (9,)).pvalue > 1e-5


def test_no_two_directions_are_correlated(sample):
    correlations = np.corrcoef(sample.reshape(N_SEEDS, -1).T)
    assert np.abs(correlations - np.eye(180)).max() < 5.5 / np.sqrt(N_SEEDS)


def test_the_hashes_of_a_repetition_are_of_different_blocks(sample):
    # Directions of one block have (nearly) one length; those of different blocks have nothing in common.
    squares = (sample**2).sum(axis=1)
    correlations = np.corrcoef(squares.reshape(N_SEEDS, -1).T).reshape(10, 2, 10, 2)
    for r, k, s, m in np.ndindex(correlations.shape):
        same_block = (r // 8, k) == (s // 8, m)
        correlation = correlations[r, k, s, m]
        assert correlation > 0.1 if same_block else abs(correlation) < 5 / np.sqrt(N_SEEDS)


def pair_of(kind, n_features, rng):
    """Return two rows that are not far apart."""
    x, step = rng.normal(size=(2, n_features))
    if kind == "dense":
        return np.vstack([x, x + 0.7 * step])
    return np.vstack([3 * np.eye(n_features)[1], 3 * np.eye(n_features)[6]])


@pytest.mark.parametrize("kind", ["dense", "one feature each"])
@pytest.mark.parametrize("n_features", [9, 24])
@pytest.mark.parametrize("kernel", STRUCTURED)
def test_all_hashes_of_a_repetition_agree_as_often_as_if_they_were_independent(kernel, n_features, kind):
    pair = pair_of(kind, n_features, np.random.default_rng(2))
    n_repetitions, n_hashes = 800, 3
    by_stack, single = [], []
    for seed in range(20):
        plan = make_plan(
            kernel, n_features, n_repetitions=n_repetitions, n_hashes=n_hashes, bandwidth=6.0, seed=seed
        )
        cells = plan.cells(pair)[:, :, 0]
        agree = (cells[0] == cells[1]).reshape(-1, 8, n_hashes)
        by_stack.append(agree.all(axis=2).mean(axis=1))
        single.append(agree.mean(axis=(1, 2)))
    if kernel == "l2":
        distance = np.linalg.norm(pair[0] - pair[1]) / 6.0
    else:
        distance = np.arccos(pair[0] @ pair[1] / np.prod(np.linalg.norm(pair, axis=1)))
    probability = float(plan.family.collision_probability(np.float64(distance)))
    for measured, expected in ((by_stack, probability**n_hashes), (single, probability)):
        measured = np.concatenate(measured)  # means over the repetitions of a stack, which share blocks
        assert abs(measured.mean() - expected) < 5 * measured.std() / np.sqrt(measured.size)


def spread_rows(kind, n_features, rng):
    """Return 20 rows to be learnt and 8 to be asked about."""
    X = rng.normal(size=(28, n_features))
    if kind != "dense":
        order = np.argsort(rng.random(X.shape), axis=1)
        X[order >= {"one": 1, "two": 2}[kind]] = 0.0
    return X[:20], X[20:]


def variance_of_sums(draw, kernel, n_hashes, learnt, queries):
    """Return the variance over seeds of estimated kernel sums (16 repetitions, no rehash), by query."""
    widths = np.abs(learnt[0]).max() * np.sqrt(np.count_nonzero(learnt[0]))
    estimates = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        directions = draw(rng, learnt.shape[1], 16, n_hashes)
        offsets = rng.random(16 * n_hashes) if kernel == "l2" else 0.0
        positions = [rows @ directions / widths + offsets for rows in (learnt, queries)]
        cells, asked = (np.floor(each) if kernel == "l2" else each >= 0 for each in positions)
        agree = (cells == asked[:, np.newaxis]).reshape(len(asked), len(cells), 16, n_hashes)
        estimates.append(agree.all(axis=3).mean(axis=2).sum(axis=1))
    return np.var(estimates, axis=0)


def with_factors(*shape):
    return gaussian_directions(*shape, own_lengths=False)["directions"]


def with_own_lengths(*shape):
    return gaussian_directions(*shape, own_lengths=True)["directions"]


def independent(rng, n_features, n_repetitions, n_hashes):
    return rng.standard_normal((n_features, n_repetitions * n_hashes))


@pytest.mark.parametrize("kind", ["dense", "one", "two"])
@pytest.mark.parametrize("n_hashes", [1, 4])
@pytest.mark.parametrize(("case", "most"), LARGEST_SPREADS.items())
def test_how_far_estimates_spread_beside_independent_directions(case, most, n_hashes, kind):
    kernel, n_features = case
    rows = spread_rows(kind, n_features, np.random.default_rng(14))
    ours, theirs = (
        variance_of_sums(draw, kernel, n_hashes, *rows).mean()
        for draw in (with_own_lengths if kernel == "l2" else with_factors, independent)
    )
    assert 0.8 < ours / theirs < most


# -- codes of the kernels -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_hashes", "n_buckets"),
    [(n_hashes, n_buckets) for n_hashes in (1, 2, 5, 31, 32, 33, 40, 70) for n_buckets in (1000, 2**17)]
    + [(n_hashes, None) for n_hashes in (1, 2, 5, 31, 32)],
)
@pytest.mark.parametrize("n_repetitions", [1, 8, 11])
def test_signs_of_any_number_of_hashes(n_hashes, n_buckets, n_repetitions):
    plan = make_plan("angular", 9, n_repetitions=n_repetitions, n_hashes=n_hashes, n_buckets=n_buckets)
    assert plan.rehashed == (n_buckets is not None and n_buckets < 2**n_hashes)
    X = np.random.default_rng(3).normal(size=(130, 9))
    np.testing.assert_array_equal(compiled_codes(plan, X), plan.codes(X))


@pytest.mark.parametrize("n_hashes", [1, 2, 5, 33])
@pytest.mark.parametrize("n_repetitions", [1, 8, 11])
def test_floors_of_any_number_of_hashes(n_hashes, n_repetitions):
    plan = make_plan("l2", 9, n_repetitions=n_repetitions, n_hashes=n_hashes)
    X = np.random.default_rng(3).normal(size=(130, 9))
    np.testing.assert_array_equal(compiled_codes(plan, X), plan.codes(X))


@pytest.mark.parametrize("kernel", STRUCTURED)
@pytest.mark.parametrize(("n_buckets", "code_type"), [(2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_codes_are_as_wide_as_the_buckets_need(kernel, n_buckets, code_type):
    plan = make_plan(kernel, 9, n_repetitions=50, n_hashes=20, n_buckets=n_buckets)
    X = np.random.default_rng(4).normal(size=(200, 9))
    hasher, codes = Hasher(plan), plan.codes(X)
    assert hasher.code_type is code_type
    assert codes.max() > 2**15
    np.testing.assert_array_equal(hash_range(hasher, X, (0, 200), (0, 50)), codes)


@pytest.mark.parametrize("layout", [np.float32, np.float64, csr_array])
@pytest.mark.parametrize("n_hashes", [1, 3, 4])
@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_but_the_rows_and_repetitions_asked_for_is_written(kernel, n_hashes, layout):
    plan = make_plan(kernel, 19, n_hashes=n_hashes)
    X = np.random.default_rng(5).normal(size=(1100, 19))
    X = layout(X * (X > -0.5))
    hasher, codes = Hasher(plan), plan.codes(X.toarray() if layout is csr_array else X)
    for rows in ((0, 1), (3, 70), (64, 513), (63, 1100), (500, 500)):
        for repetitions in ((0, 20), (3, 5), (8, 16), (7, 17), (19, 20)):
            expected = codes[slice(*repetitions), slice(*rows)]
            np.testing.assert_array_equal(hash_range(hasher, X, rows, repetitions), expected)


@pytest.mark.parametrize("kernel", STRUCTURED)
def test_any_number_of_rows(kernel):
    plan = make_plan(kernel, 9, n_repetitions=9, n_hashes=2)
    X = np.random.default_rng(6).normal(size=(1100, 9))
    hasher, codes = Hasher(plan), plan.codes(X)
    for n_rows in (*range(71), 513, 1100):
        np.testing.assert_array_equal(hash_range(hasher, X[:n_rows], (0, n_rows), (0, 9)), codes[:, :n_rows])


@pytest.mark.parametrize("n_features", [8, 15, 16, 17, 24, 25, 31, 63, 64, 65, 127, 129, 200, 800])
@pytest.mark.parametrize("kernel", STRUCTURED)
def test_any_number_of_features(kernel, n_features):
    plan = make_plan(kernel, n_features, n_repetitions=9, n_hashes=2, bandwidth=np.sqrt(n_features))
    X = np.random.default_rng(7).normal(size=(600, n_features))
    np.testing.assert_array_equal(compiled_codes(plan, X), plan.codes(X))


def mixed_rows(n_features, magnitudes, rng):
    """Return rows of every magnitude, of which every tile has some, one huge feature among small ones too."""
    X = rng.normal(size=(300, n_features)) * rng.choice(magnitudes, 300)[:, np.newaxis]
    X[::7] = rng.choice([0.0, -0.0], X[::7].shape)
    X[::11, 1:] = 0.0
    X[3::11, 2] *= 1e9
    return X


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_features", [8, 21, 40])
def test_signs_of_rows_of_every_magnitude(n_features, dtype):
    magnitudes = [5e-324, 1e-310, 1e-45, 1e-38, 1e-30, 1e-25, 1.0, 1e20, 1e28]
    if dtype is np.float64:
        magnitudes += [1e35, 1e37, 1e39, 1e150, 1e290]
    X = mixed_rows(n_features, magnitudes, np.random.default_rng(8)).astype(dtype)
    plan = make_plan("angular", n_features, n_hashes=3)
    np.testing.assert_array_equal(compiled_codes(plan, X), plan.codes(X))


@pytest.mark.parametrize("bandwidth", [1e-3, 1.0, 1e6, "per feature"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_features", [8, 21, 40])
def test_floors_of_rows_of_every_magnitude(n_features, dtype, bandwidth):
    if bandwidth == "per feature":
        bandwidth = np.geomspace(1e-3, 1e6, n_features)
    magnitudes = [5e-324, 1e-310, 1e-30, 1e-25, 1e-4, 1.0, 100.0, 1e4, 1e5]
    X = mixed_rows(n_features, magnitudes, np.random.default_rng(8)).astype(dtype)
    plan = make_plan("l2", n_features, n_hashes=3, bandwidth=bandwidth)
    np.testing.assert_array_equal(compiled_codes(plan, X), plan.codes(X))


@pytest.mark.parametrize(
    ("scale", "bandwidth"),
    [(1e-290, 3e-290), (1e-30, 3e-30), (1e30, 3e30), (1e290, 3e290), (1e-300, 1e-307)],  # the last: clipped
)
def test_floors_of_rows_and_bandwidths_at_any_scale(scale, bandwidth):
    X = scale * np.random.default_rng(9).normal(size=(100, 9))
    plan = make_plan("l2", 9, n_hashes=3, bandwidth=bandwidth)
    codes = plan.codes(X)
    assert len(np.unique(codes)) > 10
    np.testing.assert_array_equal(compiled_codes(plan, X), codes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_features", [8, 16, 19])
@pytest.mark.parametrize("kernel", STRUCTURED)
def test_exact_ties_where_every_projection_is_an_edge(kernel, n_features, dtype):
    rng = np.random.default_rng(10)
    plan = make_plan(kernel, n_features, n_hashes=2)
    arrays = plan.arrays
    integers = rng.integers(-2, 3, arrays["gaussians"].shape)
    arrays["gaussians"][:] = np.sqrt(8) / np.abs(arrays["scales"]) * integers
    plain = plain_directions(arrays["scales"], arrays["gaussians"], n_features, 20, 2)
    arrays["directions"][:] = np.round(plain).reshape(n_features, -1)
    np.testing.assert_allclose(plain.reshape(n_features, -1), arrays["directions"], atol=1e-12)
    if kernel == "l2":
        arrays["offsets"][:], arrays["lengths"][:] = 0.0, 1.0
    X = rng.integers(-4, 5, (200, n_features)).astype(dtype)
    np.testing.assert_array_equal(compiled_codes(plan, X), plan.codes(X))


# -- rows within float32 rounding of an edge ------------------------------------------------------


def rows_beside_edges(plan, rng, n_rows=400):
    """Return hashes, rows that are not near to zero by them, and what moves them beside the nearest edge."""
    hashes = np.arange(n_rows) % (plan.n_repetitions * plan.hashes_per_repetition)
    directions = plan.arrays["directions"].T[hashes]
    squares = (directions**2).sum(axis=1, keepdims=True)
    X, offsets = rng.choice([-1.1, 1.1], directions.shape), np.zeros((n_rows, 1))
    if plan.form == "floor_projection":
        X *= 1000 * directions / squares
        offsets = plan.arrays["offsets"][hashes, np.newaxis]

    def move(X, distance):
        position = (X * directions).sum(axis=1, keepdims=True) + offsets
        edge = np.round(position) if plan.form == "floor_projection" else 0.0
        return X + (edge + distance - position) / squares * directions

    return hashes, X, move


def rows_that_rounding_moves(plan, rng):
    """Return rows just beside an edge, whose every feature is rounded towards its other side.

    Conversion to float32 alone takes them across, by about half a unit of the largest projection there is.
    """
    hashes, X, move = rows_beside_edges(plan, rng)
    directions, sides = plan.arrays["directions"].T[hashes], rng.choice([-1.0, 1.0], (len(X), 1))

    def roundings(X):
        units = np.abs(np.spacing(X.astype(np.float32))).astype(np.float64)
        return 0.42 * units * np.copysign(sides, directions)

    moved = (roundings(X) * directions).sum(axis=1, keepdims=True)
    rounded = move(X, -moved).astype(np.float32)
    return move(rounded + roundings(rounded), 1e-10 * sides)


def wrong_codes(plan, X, factor=1):
    """Count the codes that differ from the reference if error bounds of signs are multiplied by a factor."""
    hasher = Hasher(plan)
    hasher.prepare(X)  # which bounds the errors
    *others, errors, by_chunk, offsets, signs, multipliers = hasher._projections
    hasher._projections = (*others, errors * np.float32(factor), by_chunk, offsets, signs, multipliers)
    codes = hash_range(hasher, X, (0, len(X)), (0, plan.n_repetitions))
    return np.count_nonzero(codes != plan.codes(X))


EDGES = [
    *((kernel, n_features) for kernel in STRUCTURED for n_features in (5, 8, 23, 100, 256, 800)),
    *(("l1", n_features) for n_features in (5, 8, 23, 100)),
]


@pytest.mark.parametrize("n_hashes", [1, 4, 5])
@pytest.mark.parametrize(("kernel", "n_features"), EDGES)
def test_codes_are_right_where_float32_would_cross_an_edge(kernel, n_features, n_hashes):
    plan = make_plan(kernel, n_features, n_hashes=n_hashes)
    X = rows_that_rounding_moves(plan, np.random.default_rng(11))
    assert wrong_codes(plan, X) == 0
    assert np.count_nonzero(plan.codes(X) != plan.codes(X.astype(np.float32))) > 50
    if kernel == "angular":
        # These rows are where the bounds matter: without them, or with far smaller ones, codes are wrong.
        assert wrong_codes(plan, X, 0.003) > 50
        assert wrong_codes(plan, X, 0) > 50


def codes_changed_without_float64(kernel, n_features, share):
    """Return which rows' codes change if float64 makes nonsense of the cells that are left to it.

    Every row has one position a share of its largest error from the edge of a cell.
    """
    plan = make_plan(kernel, n_features, n_hashes=5)
    hashes, X, move = rows_beside_edges(plan, np.random.default_rng(12))
    hasher = Hasher(plan)
    hasher.prepare(X)
    _, directions, scales, *_, exponents, bounds, errors, by_chunk, _, _, _ = hasher._projections
    repetitions, k = hashes // 5, hashes % 5
    if not by_chunk:  # those of a repetition are sorted by length
        lengths = np.linalg.norm(plan.arrays["directions"], axis=0).reshape(-1, 5)
        k = lengths.argsort(axis=1).argsort(axis=1)[repetitions, k]
    n_padded = n_features if kernel == "l1" or n_features < 8 else -(-n_features // 8) * 8
    norms = np.linalg.norm(scales.reshape(-1, 1, n_padded)[..., :n_features] * X, axis=(0, 2))  # of copies
    stacks = repetitions // 8
    units = 2.0 ** exponents.reshape(-1, 6)[stacks, k]  # of the last block there is a copy
    errors = errors.reshape(-1, 6, 8)[stacks, k, repetitions % 8]
    X = move(X, share * ((errors * norms + bounds[2]) * units)[:, np.newaxis])
    hasher._projections = (hasher._projections[0], np.zeros_like(directions), *hasher._projections[2:])
    codes = hash_range(hasher, X, (0, len(X)), (0, plan.n_repetitions))
    own = repetitions, np.arange(len(X))
    return codes[own] != plan.codes(X)[own]


@pytest.mark.parametrize(("kernel", "n_features"), [edge for edge in EDGES if edge[0] != "angular"])
def test_cells_within_their_error_of_an_edge_are_those_of_float64(kernel, n_features):
    assert codes_changed_without_float64(kernel, n_features, 0.95).mean() > 0.95  # some by chance do not


@pytest.mark.parametrize(("kernel", "n_features"), [edge for edge in EDGES if edge[0] != "angular"])
def test_cells_that_depend_on_the_order_of_a_sum_in_float64_are_those_of_the_definition(kernel, n_features):
    plan = make_plan(kernel, n_features, n_hashes=5)
    hashes, X, move = rows_beside_edges(plan, np.random.default_rng(14), n_rows=2000)
    X = move(move(X, 0.0), 0.0)
    terms = X * plan.arrays["directions"].T[hashes]
    sums = [np.add.accumulate(order, axis=1)[:, -1] for order in (terms, terms[:, ::-1])]
    cells = [np.floor(total + plan.arrays["offsets"][hashes]) for total in sums]
    assert np.count_nonzero(cells[0] != cells[1]) > 100
    np.testing.assert_array_equal(compiled_codes(plan, X), plan.codes(X))


@pytest.mark.parametrize("n_features", [5, 8, 23, 100, 256, 800])
def test_cells_far_from_an_edge_are_those_of_float32(n_features):
    assert codes_changed_without_float64("l2", n_features, 20.0).mean() < 0.05


@pytest.mark.parametrize("kernel", ["l1", "l2"])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0])
def test_carries_of_low_halves_are_seen_where_buckets_are_narrow(kernel, scale):
    plan = make_plan(kernel, 9, n_hashes=15, n_repetitions=2000, n_buckets=2**26, bandwidth=10.0)
    X = scale * np.random.default_rng(13).normal(size=(33, 9))
    np.testing.assert_array_equal(compiled_codes(plan, X), plan.codes(X))


# -- rows and batches -----------------------------------------------------------------------------


@settings(max_examples=50)
@given(data=st.data())
def test_codes_depend_on_nothing_but_the_row(data):
    kernel = data.draw(st.sampled_from(KERNELS))
    n_features = data.draw(st.integers(1, 40))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    seed = data.draw(st.integers(0, 1000))
    plan = make_plan(kernel, n_features, n_repetitions=data.draw(st.integers(1, 20)), n_hashes=3, seed=seed)
    rng = np.random.default_rng(seed)
    X = mixed_rows(n_features + 2, [1e-30, 1e-3, 1.0, 100.0], rng)[:150, :n_features].astype(dtype)
    codes = plan.codes(X)
    order = rng.permutation(150)[: data.draw(st.integers(1, 150))]
    batch = X[order]
    layout = data.draw(st.sampled_from(["C", "F", "strided", "reversed", "within a wider array"]))
    if layout == "F":
        batch = np.asfortranarray(batch)
    elif layout == "strided":
        batch = np.repeat(batch, 3, axis=0)[::3]
    elif layout == "reversed":
        batch = batch[::-1, ::-1].copy()[::-1, ::-1]
    elif layout == "within a wider array":
        batch = np.hstack([batch, batch])[:, n_features:]
    np.testing.assert_array_equal(batch, X[order])
    np.testing.assert_array_equal(compiled_codes(plan, batch), codes[:, order])


# -- what must know that repetitions are drawn together -------------------------------------------


@pytest.mark.parametrize("kernel", STRUCTURED)
def test_the_standard_error_is_that_of_the_spread_over_seeds(kernel):
    rng = np.random.default_rng(20)
    X, queries = rng.normal(size=(300, 8)), rng.normal(size=(20, 8))
    y = (X**2).sum(axis=1)
    answers, errors = [], []
    for seed in range(200):
        shape = {"n_repetitions": 128, "hashes_per_repetition": 2, "random_state": seed, "n_jobs": 1}
        sketch = NadarayaWatsonSketch(8, kernel=kernel, bandwidth=4.0, **shape).update(X, y)
        answers.append(sketch.query(queries))
        errors.append(sketch.standard_error(queries))
    ratio = np.mean(np.square(errors)) / np.var(answers, axis=0, ddof=1).mean()
    assert 0.85 < ratio < 1.2


@pytest.mark.parametrize(("n_features", "together"), [(7, 1), (8, 8)])
def test_suggested_groups_hold_whole_blocks(n_features, together):
    rng = np.random.default_rng(21)
    X = rng.normal(size=(400, n_features))
    pilot = NadarayaWatsonSketchRegressor(kernel="l2", bandwidth=6.0, n_repetitions=512, random_state=0)
    pilot.fit(X, X[:, 0])
    size = suggest_size(pilot, X[:50], 0.5, 0.9)
    per_group = size.n_repetitions // size.n_groups
    assert per_group % together == 0
    few = pilot.set_params(n_repetitions=32 * together - 1).fit(X, X[:, 0])
    with pytest.raises(ValueError, match=f"at least {32 * together}, better"):
        suggest_size(few, X[:50], 0.5, 0.9)
