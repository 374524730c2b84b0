"""Hash families: cells, collision probabilities, codes of the backends, the registry.

Everything here runs over the registry, so that a new family is tested as soon as it is registered.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import KERNELS, N_FEATURES, WITH_BANDWIDTH, WITHOUT_BANDWIDTH, compiled_codes, make_plan
from scipy.sparse import csr_array
from sklearn.metrics.pairwise import laplacian_kernel

from nwsketch import NadarayaWatsonSketch, NadarayaWatsonSketchRegressor
from nwsketch.backends import numba_backend
from nwsketch.backends.numba_hashing import Hasher
from nwsketch.hashing import (
    HashFamily,
    HashParameters,
    base,
    get_family,
    register,
    registered_families,
)
from nwsketch.hashing.projections import sequential_projections

LAYOUTS = {
    "C": lambda X: np.ascontiguousarray(X),
    "Fortran": lambda X: np.asfortranarray(X),
    "reversed": lambda X: X[::-1].copy()[::-1],
    "CSR": lambda X: csr_array(X),
}


class Lattice(HashFamily):
    """Rows of integers, each its own cells: what the rehash does is all there is to see."""

    name = "lattice"

    def __init__(self, n_values=None):
        self._n_values = n_values

    def n_values(self, n_features):
        return self._n_values

    def draw(self, rng, n_features, n_repetitions, hashes_per_repetition, bandwidth):
        n_hashes = n_repetitions * hashes_per_repetition
        return HashParameters("cells", {"hashes": np.arange(n_hashes)}, cells_per_hash=n_features)

    def cells(self, X, parameters):
        cells = X.astype(np.int64)[:, np.newaxis, :]
        return np.repeat(cells, len(parameters.arrays["hashes"]), axis=1)


@pytest.fixture
def registry(monkeypatch):
    """Let a test register families that are gone afterwards."""
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))


# -- compiled codes against the plain reference ---------------------------------------------------


def edge_of_rounding(plan, rng, n_rows=200):
    """Return rows whose float64 projection (or grid position) lies within 1e-9 of a cell's edge."""
    X = rng.normal(size=(n_rows, plan.n_features))
    hashes = np.arange(n_rows) % (plan.n_repetitions * plan.hashes_per_repetition)
    sides = rng.choice([-1e-10, 0.0, 1e-10], size=n_rows)
    if plan.form == "grid":
        scales, offsets = (plan.arrays[name].T[hashes] for name in ("scales", "offsets"))
        return (np.round(X * scales) + sides[:, np.newaxis] - offsets) / scales
    if plan.form in ("floor_projection", "sign_projection"):
        directions = plan.arrays["directions"].T[hashes]
        positions = (X * directions).sum(axis=1) + (
            plan.arrays["offsets"][hashes] if "offsets" in plan.arrays else 0
        )
        edges = np.round(positions) if plan.form == "floor_projection" else 0.0
        steps = (edges + sides - positions) / (directions**2).sum(axis=1)
        return X + steps[:, np.newaxis] * directions
    return X


def hostile_rows(plan, rng):
    """Return rows of every kind that a hash could stumble over, within what the sketch lets in."""
    X = rng.normal(size=(100, plan.n_features))
    unit_vectors = np.vstack([np.eye(plan.n_features), -np.eye(plan.n_features)])
    kinds = [
        np.zeros((1, plan.n_features)),
        -np.zeros((1, plan.n_features)),
        X,
        X * (rng.random(X.shape) < 0.3),
        np.round(3 * X),
        unit_vectors,
        1e-310 * X,
        1e-30 * X,
        1e5 * X,
        edge_of_rounding(plan, rng),
    ]
    if not plan.family.takes_bandwidth:
        kinds.append(1e30 * X)
    return np.vstack(kinds)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_hashes", [1, 3])
@pytest.mark.parametrize(
    ("kernel", "n_buckets"),
    [(kernel, n_buckets) for kernel in KERNELS for n_buckets in (7, 64, 2**14)]
    + [(kernel, None) for kernel in KERNELS if get_family(kernel).n_values(N_FEATURES) is not None],
)
def test_compiled_codes_equal_the_reference(kernel, n_hashes, n_buckets, layout, dtype):
    plan = make_plan(kernel, n_hashes=n_hashes, n_buckets=n_buckets)
    X = hostile_rows(plan, np.random.default_rng(1)).astype(dtype)
    codes = plan.codes(X)
    assert codes.max() < plan.n_buckets
    np.testing.assert_array_equal(compiled_codes(plan, LAYOUTS[layout](X)), codes)
    # A copy in more bits holds the same numbers.
    np.testing.assert_array_equal(plan.codes(X.astype(np.float64)), codes)


@pytest.mark.parametrize("layout", ["C", "CSR"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_code_does_not_depend_on_the_rows_around_it(kernel, dtype, layout, monkeypatch):
    plan = make_plan(kernel, n_hashes=3)
    X = LAYOUTS[layout](hostile_rows(plan, np.random.default_rng(2)).astype(dtype))
    together = compiled_codes(plan, X)
    one_by_one = np.hstack([compiled_codes(plan, X[row : row + 1]) for row in range(X.shape[0])])
    np.testing.assert_array_equal(one_by_one, together)
    monkeypatch.setattr(numba_backend, "BLOCK_SIZE", 1)
    monkeypatch.setattr(numba_backend, "SERIAL_SIZE", 0)
    for n_threads in (1, 3):
        np.testing.assert_array_equal(compiled_codes(plan, X, n_threads), together)


@pytest.mark.parametrize("n_hashes", [1, 2, 20])
@pytest.mark.parametrize("n_features", [1, 2, 3, 4, 7, 33, 130])
@pytest.mark.parametrize("kernel", KERNELS)
def test_compiled_codes_equal_the_reference_for_every_shape(kernel, n_features, n_hashes, monkeypatch):
    # Kernels take rows, features and hashes in groups: what is left over must not be lost or read twice.
    monkeypatch.setattr(numba_backend, "SERIAL_SIZE", 0)
    plan = make_plan(kernel, n_features, n_repetitions=7, n_hashes=n_hashes, n_buckets=1000)
    X = edge_of_rounding(plan, np.random.default_rng(12), n_rows=600)
    X[::50] = 0.0
    codes = plan.codes(X)
    for layout in ("C", "CSR"):
        for n_threads in (1, 3):
            np.testing.assert_array_equal(compiled_codes(plan, LAYOUTS[layout](X), n_threads), codes)


@pytest.mark.parametrize("kernel", KERNELS)
def test_threads_may_be_the_first_to_hash_at_once(kernel):
    plan, n_threads = make_plan(kernel, n_hashes=2, n_repetitions=200, n_buckets=2**14), 4
    X = np.abs(np.random.default_rng(14).normal(size=(5, N_FEATURES)))
    expected = plan.codes(X)
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(20):
            hasher, start = Hasher(plan), threading.Barrier(n_threads)

            def hash_rows(hasher=hasher, start=start):
                codes = np.empty((200, 5), hasher.code_type)
                start.wait()
                hasher.hash(hasher.prepare(X), 0, 5, 0, 200, codes)
                hasher.hash(hasher.prepare(X), 0, 5, 0, 200, codes)  # by what the last to prepare has left
                return codes

            for future in [pool.submit(hash_rows) for _ in range(n_threads)]:
                np.testing.assert_array_equal(future.result(), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "n_features"),
    [(kernel, N_FEATURES) for kernel in KERNELS] + [("angular", 18), ("l2", 18)],  # these have factors
)
def test_ten_million_codes_equal_the_reference(kernel, n_features):
    plan = make_plan(kernel, n_features, n_repetitions=1000, n_buckets=2**14, bandwidth=n_features / 2)
    X = np.random.default_rng(13).normal(size=(10_000, n_features))
    if kernel == "jaccard":
        X[np.abs(X) < 0.5] = 0.0
    codes = compiled_codes(plan, X, n_threads=2)
    for start in range(0, len(X), 200):
        rows = slice(start, start + 200)
        np.testing.assert_array_equal(codes[:, rows], plan.codes(X[rows]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel", KERNELS)
def test_exact_ties_on_cell_edges(kernel, dtype, layout):
    # Small integers all around: every projection and every grid position is an integer, an edge.
    plan = make_plan(kernel, n_hashes=2)
    rng = np.random.default_rng(3)
    for name, array in plan.arrays.items():
        if array.dtype == np.float64:
            array[:] = (
                0.0
                if name == "offsets"
                else rng.integers(1, 4, array.shape) * rng.choice([-1, 1], array.shape)
            )
    X = rng.integers(-4, 5, (200, N_FEATURES)).astype(dtype)
    np.testing.assert_array_equal(compiled_codes(plan, LAYOUTS[layout](X)), plan.codes(X))


@pytest.mark.parametrize("scale", [1e-290, 1e-30, 1e30, 1e290])
@pytest.mark.parametrize("n_hashes", [1, 3])
@pytest.mark.parametrize("kernel", WITH_BANDWIDTH)
def test_compiled_codes_equal_the_reference_at_any_scale(kernel, n_hashes, scale):
    # Far outside of what float32 can hold; rows and bandwidth alike, so that cells stay small.
    plan = make_plan(kernel, n_hashes=n_hashes, bandwidth=scale)
    rng = np.random.default_rng(4)
    X = scale * np.vstack([rng.normal(size=(50, N_FEATURES)), np.zeros((1, N_FEATURES))])
    codes = plan.codes(X)
    assert len(np.unique(codes)) > 2
    for layout in LAYOUTS.values():
        np.testing.assert_array_equal(compiled_codes(plan, layout(X)), codes)


@pytest.mark.parametrize("kernel", [name for name in KERNELS if make_plan(name).form.endswith("projection")])
def test_rows_near_an_edge_need_more_than_float32(kernel):
    # If these rows were easy, the tests above would say nothing about the float64 recomputation.
    plan = make_plan(kernel)
    X = edge_of_rounding(plan, np.random.default_rng(5))
    directions = plan.arrays["directions"]
    offsets = plan.arrays.get("offsets", np.zeros(directions.shape[1]))
    single = X.astype(np.float32) @ directions.astype(np.float32) + offsets.astype(np.float32)
    double = sequential_projections(X, directions) + offsets
    to_edge = np.abs(double - (np.round(double) if plan.form == "floor_projection" else 0.0))
    own = np.arange(len(X)), np.arange(len(X)) % directions.shape[1]
    assert (to_edge[own] < 1e-9).all()
    cells = plan.cells(X)[:, :, 0]
    in_float32 = np.floor(single) if plan.form == "floor_projection" else single >= 0
    assert np.count_nonzero(in_float32[own] != cells[own]) > 20


@pytest.mark.parametrize("kernel", WITH_BANDWIDTH)
def test_negative_positions_are_floored_not_truncated(kernel):
    # Truncation would merge the cells -1 and 0 on either side of zero.
    plan = make_plan(kernel, n_features=1, n_repetitions=500)
    cells = plan.cells(np.array([[-0.7], [0.0], [0.7]]))
    assert (cells[1] == 0).all()
    assert (cells < 0).any()
    apart = (cells[0] != cells[1]).mean(), (cells[2] != cells[1]).mean()
    assert abs(apart[0] - apart[1]) < 5 * np.sqrt(2 * 0.25 / 500)


@pytest.mark.parametrize("kernel", KERNELS)
def test_cells_stay_below_the_bound_that_overflow_is_judged_by(kernel):
    plan = make_plan(kernel, bandwidth=[0.5, 1.0, 2.0, 4.0, 8.0])
    X = 10 * np.random.default_rng(6).standard_cauchy((500, N_FEATURES))
    largest = np.abs(plan.cells(X)).max(axis=(1, 2))
    bound = 1 + np.abs(X) @ plan.cells_per_unit
    assert (largest <= (bound if plan.family.takes_bandwidth else plan.family.n_values(N_FEATURES) - 1)).all()


# -- collision probabilities ----------------------------------------------------------------------

# distance in the family's metric and in units of the bandwidth
DISTANCES = {
    "cityblock": [0.0, 0.1, 0.5, 1.0, 2.0, 5.0],
    "euclidean": [0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 50.0],
    "angle": [0.0, 0.1, np.pi / 4, np.pi / 2, 3.0, np.pi],
    "jaccard": [0.0, 0.2, 0.5, 0.9, 1.0],
}


def pair_at(metric, distance, bandwidth, rng):
    """Return two rows that lie so far apart."""
    n_features = len(bandwidth)
    if metric == "jaccard":  # of ten columns in the union, the last in one row only
        n_differing = round(10 * distance)
        x, q = np.zeros((2, 20))
        x[:10] = rng.normal(size=10)
        q[: 10 - n_differing] = rng.normal(size=10 - n_differing)
        return np.vstack([x, q]) if n_differing < 10 else np.vstack([x, np.roll(x, 10)])
    x, step = rng.normal(size=(2, n_features))
    if metric == "angle":
        x /= np.linalg.norm(x)
        step -= step @ x * x
        return np.vstack([3 * x, np.cos(distance) * x + np.sin(distance) * step / np.linalg.norm(step)])
    step /= np.linalg.norm(step, ord={"cityblock": 1, "euclidean": 2}[metric])
    return np.vstack([x, x + distance * step * bandwidth])


@pytest.mark.parametrize(
    ("kernel", "distance"),
    [
        pytest.param(kernel, distance, id=f"{kernel}-{distance:.3g}")
        for kernel in KERNELS
        if get_family(kernel).distance is not None
        for distance in DISTANCES[get_family(kernel).distance]
    ],
)
@pytest.mark.parametrize("n_hashes", [1, 3])
def test_rows_collide_as_often_as_the_kernel_says(kernel, distance, n_hashes):
    family, n_repetitions, n_buckets = get_family(kernel), 20_000, 2**20
    # d = 3, where sparse +-1 directions would let opposite rows collide.
    n_features, bandwidth = (
        (20, np.ones(20)) if family.distance == "jaccard" else (3, np.array([0.5, 1.0, 4.0]))
    )
    pair = pair_at(family.distance, distance, bandwidth, np.random.default_rng(7))
    plan = make_plan(
        kernel,
        n_features,
        n_repetitions=n_repetitions,
        n_hashes=n_hashes,
        n_buckets=n_buckets,
        bandwidth=bandwidth,
    )
    expected = float(family.collision_probability(np.float64(distance))) ** n_hashes
    codes = compiled_codes(plan, pair)
    measured = (codes[:, 0] == codes[:, 1]).mean()
    # A rounding error of the rows themselves may put a pair on an edge: allow for one or two.
    error = np.sqrt(expected * (1 - expected) / n_repetitions)
    assert abs(measured - expected) <= 5 * error + (1 / n_buckets if plan.rehashed else 0) + 1e-12


@pytest.mark.parametrize(
    ("kernel", "distance", "bandwidth", "expected"),
    [
        ("l2", 1.0, 1.0, 0.3687463804),
        ("l2", 0.5, 1.0, 0.6095484222),
        ("l2", 2.0, 1.0, 0.1954171080),
        ("l2", 1.0, 4.0, 0.8005324324),
        ("l1", np.abs([0.0, 0.5, 1.0, 0.5, 1.0]).sum(), 1.0, 0.10422),
        ("l2", np.linalg.norm([0.0, 0.5, 1.0, 0.5, 1.0]), 1.0, 0.24423),
        ("laplacian", 2.0, 4.0, np.exp(-0.5)),
        ("angular", np.pi / 3, 1.0, 2 / 3),
        ("jaccard", 1 - 2 / 5, 1.0, 2 / 5),
    ],
)
def test_reference_values(kernel, distance, bandwidth, expected):
    probability = get_family(kernel).collision_probability(np.array([distance / bandwidth]))
    digits = 5 if round(expected, 5) == expected else 10
    assert probability[0] == pytest.approx(expected, abs=0.6 * 10.0**-digits)


def test_laplacian_is_the_kernel_of_scikit_learn():
    X, bandwidth = np.random.default_rng(8).normal(size=(20, 3)), 2.5
    distances = np.abs(X[:, np.newaxis] - X).sum(axis=2) / bandwidth
    np.testing.assert_allclose(
        get_family("laplacian").collision_probability(distances),
        laplacian_kernel(X, gamma=1 / bandwidth),
        rtol=1e-14,
    )


@pytest.mark.parametrize("kernel", [name for name in KERNELS if get_family(name).distance is not None])
def test_kernels_fall_from_one_to_zero(kernel):
    family = get_family(kernel)
    farthest = {"angle": np.pi, "jaccard": 1.0}.get(family.distance, 1e300)
    distances = np.unique(
        np.append(farthest * np.linspace(0, 1, 50), [5e-324, 1e-300, 1e-20, 1e-9, 1e-5, 0.1, 1.0])
    )
    probabilities = family.collision_probability(distances)
    assert probabilities[0] == 1.0
    np.testing.assert_allclose(probabilities[distances < 1e-12], 1.0, atol=1e-10)
    assert (np.diff(probabilities) <= 1e-15).all()
    assert probabilities[-1] == pytest.approx(0.0, abs=1e-15)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


def test_a_family_without_a_closed_form_says_so():
    with pytest.raises(TypeError, match="'lattice' states no collision probability in closed form"):
        Lattice().collision_probability(np.array([1.0]))


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_rows_have_no_codes(kernel):
    plan = make_plan(kernel)
    assert plan.codes(np.empty((0, N_FEATURES))).shape == (plan.n_repetitions, 0)


def test_the_zero_row_is_at_a_right_angle_to_every_row():
    plan = make_plan("angular", n_repetitions=20_000)
    codes = compiled_codes(plan, np.vstack([np.zeros(N_FEATURES), np.arange(N_FEATURES) - 1.5]))
    assert abs((codes[:, 0] == codes[:, 1]).mean() - 0.5) < 5 * np.sqrt(0.25 / 20_000)


def test_rows_without_a_non_zero_column_meet_each_other_alone():
    plan = make_plan("jaccard", n_repetitions=100, n_buckets=None)
    codes = compiled_codes(plan, np.vstack([np.zeros((2, N_FEATURES)), np.eye(N_FEATURES)]))
    assert (codes[:, 0] == codes[:, 1]).all()
    assert not (codes[:, :1] == codes[:, 2:]).any()


def test_stored_zeros_are_no_members_of_a_set():
    plan = make_plan("jaccard", n_repetitions=100, n_buckets=None)
    X = csr_array(
        (np.array([0.0, 1.0, -0.0]), np.array([0, 2, 3]), np.array([0, 3, 3])), shape=(2, N_FEATURES)
    )
    np.testing.assert_array_equal(compiled_codes(plan, X), plan.codes(X.toarray()))


# -- from cells to buckets ------------------------------------------------------------------------


@pytest.mark.parametrize("n_buckets", [7, 64, 1000])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param([0], [1], id="adjacent"),
        pytest.param([-1], [0], id="across zero"),
        pytest.param([3], [3 + 7 * 64 * 1000], id="alias of a plain modulo"),
        pytest.param([5], [5 + 2**20], id="far"),
        pytest.param([-(2**31)], [2**31], id="as far as it goes"),
        pytest.param([0, 1], [1, 0], id="swapped"),
        pytest.param([1, -1], [0, 0], id="equal sums"),
        pytest.param([2, 2, 2, 2], [2, 2, 2, 3], id="in one feature of four"),
    ],
)
def test_different_codes_meet_with_probability_one_over_n_buckets(first, second, n_buckets):
    seeds, n_repetitions = range(5), 10_000
    X = np.array([first, second], dtype=np.float64)
    meetings = 0
    for seed in seeds:
        plan = make_plan(Lattice(), len(first), n_repetitions=n_repetitions, n_buckets=n_buckets, seed=seed)
        codes = compiled_codes(plan, X)
        assert codes.max() < n_buckets
        meetings += np.count_nonzero(codes[:, 0] == codes[:, 1])
    n_draws = len(seeds) * n_repetitions
    expected = 1 / n_buckets
    assert abs(meetings / n_draws - expected) <= 5 * np.sqrt(expected * (1 - expected) / n_draws)


@pytest.mark.parametrize("n_buckets", [7, 1000])
def test_a_code_falls_into_every_bucket_alike(n_buckets):
    n_repetitions = 100 * n_buckets
    plan = make_plan(Lattice(), 2, n_repetitions=n_repetitions, n_buckets=n_buckets)
    visits = np.bincount(compiled_codes(plan, np.array([[12.0, -5.0]]))[:, 0], minlength=n_buckets)
    assert len(visits) == n_buckets
    statistic = ((visits - 100.0) ** 2 / 100.0).sum()  # chi-square with n_buckets - 1 degrees of freedom
    assert abs(statistic - (n_buckets - 1)) < 5 * np.sqrt(2 * (n_buckets - 1))


def test_without_rehash_every_code_has_a_bucket_of_its_own():
    values = np.arange(3)
    X = np.array(np.meshgrid(values, values, values)).reshape(3, -1).T.astype(np.float64)
    plan = make_plan(Lattice(n_values=3), 3, n_buckets=27)
    assert not plan.rehashed
    for codes in compiled_codes(plan, X):
        np.testing.assert_array_equal(np.sort(codes), np.arange(27))


@pytest.mark.parametrize("kernel", WITHOUT_BANDWIDTH)
def test_every_code_of_a_bounded_family_can_be_kept(kernel):
    n_values = get_family(kernel).n_values(N_FEATURES)
    plan = make_plan(kernel, n_hashes=2, n_buckets=None)
    assert (plan.n_buckets, plan.rehashed) == (n_values**2, False)
    X = hostile_rows(plan, np.random.default_rng(9))
    codes, cells = compiled_codes(plan, X), plan.cells(X)[:, :, 0]
    for repetition in range(plan.n_repetitions):
        pairs = cells[:, 2 * repetition : 2 * repetition + 2]
        # As many distinct codes as distinct pairs, and as distinct both: one for one.
        both = np.column_stack([codes[repetition], pairs])
        n_distinct = [len(np.unique(each, axis=0)) for each in (codes[repetition], pairs, both)]
        assert n_distinct[0] == n_distinct[1] == n_distinct[2] > 1


@pytest.mark.parametrize(
    ("n_buckets", "kept", "rehashed"), [(63, 63, True), (64, 64, False), (10**6, 64, False)]
)
def test_codes_are_rehashed_only_if_they_do_not_fit(n_buckets, kept, rehashed):
    plan = make_plan("angular", n_hashes=6, n_buckets=n_buckets)
    assert (plan.n_buckets, plan.rehashed) == (kept, rehashed)


@pytest.mark.parametrize("cell", [-1, 4, 5])
@pytest.mark.parametrize("n_hashes", [1, 2])
def test_cells_beyond_what_a_family_promises_are_refused(cell, n_hashes):
    # Unrehashed, they would write beyond the table, or into the bucket of another code.
    class Wrong(HashFamily):
        name = "wrong"

        def n_values(self, n_features):
            return 4

        def draw(self, rng, n_features, n_repetitions, hashes_per_repetition, bandwidth):
            return HashParameters("cells", {})

        def cells(self, X, parameters):
            return np.full((len(X), 3 * n_hashes, 1), [[cell], *[[0]] * (3 * n_hashes - 1)])

    shape = {"n_repetitions": 3, "hashes_per_repetition": n_hashes, "n_buckets": None}
    sketch = NadarayaWatsonSketch(1, kernel=Wrong(), random_state=0, **shape)
    with pytest.raises(ValueError, match=r"'wrong' returned cells outside \[0, n_values=4\)"):
        sketch.update([[0.0]], [1.0])


@pytest.mark.parametrize(
    ("kernel", "promised"), [("angular", 1), ("jaccard", 3), ("laplacian", 9), ("l2", 9)]
)
def test_a_form_that_yields_more_than_a_family_promises_is_refused(kernel, promised):
    family = type("Wrong", (type(get_family(kernel)),), {"n_values": lambda self, n_features: promised})()
    with pytest.raises(ValueError, match=f"promises n_values={promised}, but its form"):
        NadarayaWatsonSketch(5, kernel=family, random_state=0)


def test_angles_do_not_depend_on_the_length_however_huge():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (5, 100))
    plan = make_plan("angular", 100, n_repetitions=40, n_hashes=2)
    expected = plan.codes(X)
    for huge in (X * 1.7e308, csr_array(X * 1.7e308)):
        np.testing.assert_array_equal(compiled_codes(plan, huge), expected)
    np.testing.assert_array_equal(plan.codes(X * 1.7e308), expected)


@pytest.mark.parametrize("kernel", WITH_BANDWIDTH)
def test_unbounded_codes_cannot_all_be_kept(kernel):
    with pytest.raises(
        ValueError, match=f"codes of kernel='{kernel}' are unbounded; give n_buckets as an integer"
    ):
        make_plan(kernel, n_buckets=None)


@pytest.mark.parametrize(("kernel", "n_hashes"), [("angular", 33), ("angular", 70), ("jaccard", 200)])
def test_too_many_codes_cannot_all_be_kept(kernel, n_hashes):
    # 2^33 do not fit an index of 32 bits, 2^70 no integer of 64, and 1001^200 no float.
    with pytest.raises(
        ValueError, match=f"kernel='{kernel}' with hashes_per_repetition={n_hashes} has .* codes; give"
    ):
        make_plan(kernel, 1000, n_repetitions=1, n_hashes=n_hashes, n_buckets=None)


# -- fingerprints ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_equal_plans_have_equal_fingerprints(kernel):
    assert make_plan(kernel).fingerprint() == make_plan(kernel).fingerprint()


@pytest.mark.parametrize(
    "changed",
    [
        {"kernel": "l1"},
        {"n_features": N_FEATURES + 1},
        {"n_repetitions": 21},
        {"n_hashes": 2},
        {"n_buckets": 65},
        {"bandwidth": 1.0 + 1e-15},
        {"seed": 1},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_plans_that_hash_differently_have_different_fingerprints(changed):
    ours = {"kernel": "l2"}
    assert make_plan(**ours).fingerprint() != make_plan(**(ours | changed)).fingerprint()


# -- the registry ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("registry")
def test_a_registered_family_is_found_by_its_name():
    assert register(Lattice) is Lattice
    assert registered_families() == (*KERNELS, "lattice")
    assert isinstance(get_family("lattice"), Lattice)
    register(Lattice)  # the same class again: nothing to do


@pytest.mark.usefixtures("registry")
def test_a_name_is_given_once():
    class Impostor(Lattice):
        name = "laplacian"

    with pytest.raises(
        ValueError, match=r"'laplacian' is registered already \(RandomBinning\); choose another"
    ):
        register(Impostor)
    assert not isinstance(get_family("laplacian"), Impostor)


def test_an_unknown_name_is_answered_by_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown kernel 'gauss': choose one of \['angular', 'jaccard'"):
        get_family("gauss")


def test_an_instance_needs_no_registration():
    family = Lattice()
    assert get_family(family) is family


# -- the authors' example, through a family of our own --------------------------------------------


class MockHash(HashFamily):
    """The hashes that the authors' own test hard-codes: X holds the number of a row."""

    name = "mock"
    codes = np.array([[2, 1, 0], [0, 0, 1], [2, 0, 1], [1, 0, 2], [0, 1, 1], [0, 2, 1], [1, 1, 2], [0, 0, 1]])

    def n_values(self, n_features):
        return 3

    def draw(self, rng, n_features, n_repetitions, hashes_per_repetition, bandwidth):
        n_hashes = n_repetitions * hashes_per_repetition
        return HashParameters("cells", {"hashes": np.arange(n_hashes)})

    def cells(self, X, parameters):
        rows = X[:, 0].astype(np.int64)
        return self.codes[rows][:, parameters.arrays["hashes"], np.newaxis]


MOCK_ROWS = np.arange(8.0)[:, np.newaxis]
MOCK_WEIGHTS = 0.3 * np.arange(1, 9)
MOCK_SUMS = [1.8, 6.2, 4.5, 3.9, 5.8, 5.1, 3.5, 6.2]
MOCK_RATIOS = [0.9, 1.43076923, 1.22727273, 1.4625, 1.45, 1.53, 1.5, 1.43076923]


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("n_buckets", [3, None, 1000])
@pytest.mark.parametrize("by", ["instance", "name"])
def test_mock_hashes_of_the_authors(by, n_buckets):
    kernel = MockHash() if by == "instance" else register(MockHash).name
    sketch = NadarayaWatsonSketch(1, kernel=kernel, n_repetitions=3, n_buckets=n_buckets)
    sketch.update(MOCK_ROWS, MOCK_WEIGHTS)
    np.testing.assert_allclose(sketch.channel_sums(MOCK_ROWS)[:, 0], MOCK_SUMS, rtol=1e-12)
    np.testing.assert_allclose(sketch.query(MOCK_ROWS)[:, 0], MOCK_RATIOS, rtol=1e-8)

    estimator = NadarayaWatsonSketchRegressor(kernel=kernel, n_repetitions=3, n_buckets=n_buckets)
    estimator.fit(MOCK_ROWS, MOCK_WEIGHTS)
    np.testing.assert_allclose(estimator.predict(MOCK_ROWS), MOCK_RATIOS, rtol=1e-8)


class SparseSigns(HashFamily):
    """A family that names compiled arithmetic; of its directions, some are zero throughout."""

    name = "sparse signs"

    def n_values(self, n_features):
        return 2

    def draw(self, rng, n_features, n_repetitions, hashes_per_repetition, bandwidth):
        n_hashes = n_repetitions * hashes_per_repetition
        return HashParameters(
            "sign_projection", {"directions": rng.integers(-1, 2, (n_features, n_hashes)) * 1e-3}
        )

    def cells(self, X, parameters):
        return (sequential_projections(X, parameters.arrays["directions"]) >= 0).astype(np.int64)[
            :, :, np.newaxis
        ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_family_may_name_compiled_arithmetic(layout):
    plan = make_plan(SparseSigns(), 2, n_repetitions=50, n_hashes=2)
    assert (plan.arrays["directions"] == 0).all(axis=0).any()
    X = np.random.default_rng(11).normal(size=(100, 2))
    np.testing.assert_array_equal(compiled_codes(plan, LAYOUTS[layout](X)), plan.codes(X))


class Staircase(HashFamily):
    """A family that never saw this package, with cells of its own arithmetic and no closed form."""

    name = "staircase"
    takes_bandwidth = True

    def draw(self, rng, n_features, n_repetitions, hashes_per_repetition, bandwidth):
        n_hashes = n_repetitions * hashes_per_repetition
        return HashParameters(
            "cells", {"offsets": rng.random((n_hashes, n_features)), "widths": 1.0 / bandwidth}, n_features
        )

    def cells(self, X, parameters):
        scaled = X[:, np.newaxis, :] * parameters.arrays["widths"] + parameters.arrays["offsets"]
        return np.floor(scaled).astype(np.int64)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_family_without_compiled_arithmetic_takes_every_input(layout):
    X = np.random.default_rng(10).normal(size=(300, 2)) * [1, 0]
    model = NadarayaWatsonSketchRegressor(kernel=Staircase(), bandwidth=0.5, random_state=0)
    expected = model.fit(X, X[:, 0]).predict(X)
    assert model.score(X, X[:, 0]) > 0.9
    np.testing.assert_array_equal(
        model.fit(LAYOUTS[layout](X), X[:, 0]).predict(LAYOUTS[layout](X)), expected
    )
