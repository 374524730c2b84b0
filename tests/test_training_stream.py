"""StreamSelector, and what of nwsketch.training works without PyTorch."""

import pickle
import subprocess
import sys
from copy import copy

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.stats import spearmanr

import nwsketch.training.stream
from nwsketch import NadarayaWatsonSketchRegressor
from nwsketch.training import StreamSelector, policies
from nwsketch.training.kernels import draw

WITHOUT_TORCH = """
import sys

class WithoutTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, WithoutTorch())
import numpy as np
import nwsketch.training
from nwsketch.training import StreamSelector, policies
rng = np.random.default_rng(0)
X = rng.normal(size=(64, 3))
selector = StreamSelector(warmup=16, seed=0)
for _ in range(3):
    rows, weights, codes = selector.select(X, n_select=32)
    selector.update(codes, X[rows, 0] ** 2)
print(len(policies.dynamic_random(9, 4, rng).rows), len(rows))
for name in ("SketchSampler", "Ranks", "WeightedCollate", "gradient_norm_bound"):
    try:
        getattr(nwsketch.training, name)
    except ImportError as error:
        print(error)
try:
    from nwsketch.training import SketchSampler
except ImportError as error:
    print(error)
print("torch" in sys.modules)
"""


def test_all_but_what_needs_torch_works_without_it_and_the_rest_says_what_to_install():
    answer = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True)
    counts, *messages, imported = answer.stdout.splitlines()
    assert counts == "4 32"
    assert len(messages) == 5
    for name, message in zip(["SketchSampler", "Ranks"], messages, strict=False):
        assert message == f'nwsketch.training.{name} needs PyTorch: pip install "nwsketch[torch]"'
    assert messages[-1] == messages[0]
    assert imported == "False"


def test_an_unknown_name_is_no_matter_of_torch():
    with pytest.raises(AttributeError, match="no attribute 'novelty'"):
        _ = nwsketch.training.novelty


# -- what is selected ------------------------------------------------------------------------------


def make_candidates(rng, n_rows=512):
    """Rows, and losses that depend on their place: high beyond a plane."""
    X = rng.normal(size=(n_rows, 4))
    return X, np.where(X[:, 0] > 0.8, 4.0, 0.1) + 0.05 * rng.random(n_rows)


def trained(n_steps=20, **parameters):
    selector = StreamSelector(**({"warmup": 256, "seed": 0} | parameters))
    rng = np.random.default_rng(1)
    for _ in range(n_steps):
        X, losses = make_candidates(rng)
        labels = (losses > 1).astype(int) if selector.n_labels else None
        rows, _, codes = selector.select(X, labels, n_select=128)
        selector.update(codes, losses[rows])
    return selector


def test_rows_of_higher_expected_loss_are_selected():
    selector, (X, losses) = trained(), make_candidates(np.random.default_rng(2))
    expected = selector.sketch.query(selector._hasher.hash(X))[:, 0]
    assert spearmanr(expected, losses)[0] > 0.3
    chosen = selector.select(X, n_select=128)
    assert len(set(chosen.rows)) == 128
    assert losses[chosen.rows].mean() > 1.4 * losses.mean()
    assert chosen.weights.dtype == np.float32
    assert chosen.weights.max() <= 10


def test_weighted_means_over_a_selection_are_unbiased():
    selector, (X, losses) = trained(), make_candidates(np.random.default_rng(2))
    means = []
    for _ in range(1500):
        rows, weights, _ = selector.select(X, n_select=64)
        means.append([(weights * losses[rows]).mean(), losses[rows].mean()])
    weighted, unweighted = np.array(means).T
    standard_error = weighted.std() / np.sqrt(len(weighted))
    assert abs(weighted.mean() - losses.mean()) < 3.5 * standard_error
    assert abs(unweighted.mean() - losses.mean()) > 20 * standard_error


def test_the_warm_up_is_uniform():
    selector, (X, losses) = StreamSelector(warmup=1000, seed=0), make_candidates(np.random.default_rng(2))
    assert selector.is_warming_up
    while selector.n_losses < 1000:
        rows, weights, codes = selector.select(X, n_select=100)
        assert (weights == 1).all()
        assert len(set(rows)) == 100
        selector.update(codes, losses[rows])
    assert not selector.is_warming_up
    assert selector.select(X, n_select=100).weights.std() > 0


def test_labels_are_told_apart():
    rng = np.random.default_rng(0)
    X, labels = rng.normal(size=(512, 4)), rng.integers(0, 2, 512)
    apart, together = (StreamSelector(n_labels=n_labels, seed=0, warmup=0) for n_labels in (2, 0))
    for selector, of_rows in ((apart, labels), (together, None)):
        codes = selector.select(X, of_rows, n_select=512).codes
        selector.update(
            codes, np.zeros(512)
        )  # the order of the selection: any will do, and is replaced below
        for _ in range(4):
            rows, _, codes = selector.select(X, of_rows, n_select=512)
            selector.update(codes, 1.0 + labels[rows])
    shares = [
        labels[selector.select(X, of_rows, n_select=128).rows].mean()
        for selector, of_rows in ((apart, labels), (together, None))
    ]
    assert shares[0] > 0.58
    assert shares[1] < 0.58


@pytest.mark.parametrize(("half_life", "expected"), [(100, 1.0), (None, 10.0)])
def test_old_losses_lose_their_weight(half_life, expected, monkeypatch):
    monkeypatch.setattr(nwsketch.training.stream, "LARGEST_WEIGHT", 50.0)  # scaled down on the way
    selector, X = StreamSelector(half_life=half_life, seed=0), np.ones((100, 2))
    for loss, n_steps in ((19.0, 10), (1.0, 10)):
        for _ in range(n_steps):
            selector.update(X, np.full(100, loss))
    assert selector.sketch.query(X[:1])[0, 0] == pytest.approx(expected, abs=0.1)
    assert selector.sketch.total_weight < 500 or half_life is None


def test_codes_spare_hashing_and_change_nothing():
    X, losses = make_candidates(np.random.default_rng(0), 1200)
    by_codes, by_rows = (StreamSelector(seed=0) for _ in range(2))
    rows, _, codes = by_codes.select(X, n_select=1100)
    by_codes.update(codes, losses[rows])
    by_rows.select(X, n_select=1100)  # which decides the centre
    by_rows.update(X[rows], losses[rows])
    assert np.array_equal(by_codes.sketch.tables, by_rows.sketch.tables)


def test_the_seed_decides_and_a_pickle_goes_on():
    first, second = trained(), trained()
    X, _ = make_candidates(np.random.default_rng(5))
    copy = pickle.loads(pickle.dumps(first))
    chosen = [selector.select(X, n_select=50) for selector in (first, second, copy, trained(seed=1))]
    for same in chosen[1:3]:
        assert np.array_equal(chosen[0].rows, same.rows)
        assert np.array_equal(chosen[0].weights, same.weights)
    assert not np.array_equal(chosen[0].rows, chosen[3].rows)


def test_losses_that_are_not_finite_are_skipped_and_counted():
    selector = StreamSelector(seed=0)
    selector.update(np.ones((1024, 2)), np.where(np.arange(1024) % 2, np.nan, 3.0))
    selector.update(np.ones((1200, 2)), np.where(np.arange(1200) % 2, np.inf, 3.0))
    assert selector.n_skipped == 512 + 600
    assert selector.n_losses == 512 + 600
    assert selector.sketch.query([[1.0, 1.0]]) == pytest.approx(3.0)


def test_sparse_rows_and_a_sketch_of_ones_own():
    rng = np.random.default_rng(0)
    X = csr_array(rng.random((200, 30)) * (rng.random((200, 30)) < 0.2))
    sketch = NadarayaWatsonSketchRegressor(kernel="l2", n_repetitions=8, random_state=7)
    selector = StreamSelector(sketch=sketch, seed=0)
    rows, _, codes = selector.select(X, n_select=20)
    selector.update(codes, np.ones(20))
    selector.update(X, np.ones(200))
    assert selector.sketch.random_state == 7
    assert selector.sketch.family.name == "l2"
    assert len(rows) == 20


def test_tensors_are_taken():
    torch = pytest.importorskip("torch", reason="tensors are PyTorch's")
    X, losses = make_candidates(np.random.default_rng(0))
    by_array, by_tensor = StreamSelector(seed=0, n_labels=2), StreamSelector(seed=0, n_labels=2)
    labels = np.arange(512) % 2
    chosen = by_array.select(X, labels, n_select=64)
    same = by_tensor.select(torch.from_numpy(X), torch.from_numpy(labels), n_select=64)
    assert np.array_equal(chosen.rows, same.rows)
    by_tensor.update(same.codes, torch.from_numpy(losses[same.rows]).to(torch.bfloat16).requires_grad_())
    assert by_tensor.n_losses == 64


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_labels": -1}, r"n_labels=-1 is out of range"),
        ({"warmup": -1}, r"warmup=-1 is out of range"),
        ({"half_life": 0}, r"half_life=0 is out of range"),
        ({"exponent": -1}, r"exponent=-1 is out of range"),
        ({"uniform_share": 2}, r"uniform_share=2 is out of range"),
        ({"clip": 0}, r"quantile=0 is out of range"),
        ({"seed": -1}, r"seed=-1 is out of range"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        StreamSelector(**({"seed": 0} | arguments))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, X: s.select(X, n_select=513), r"n_select=513 exceeds the 512 candidates"),
        (lambda s, X: s.select(X, n_select=0), r"n_select=0 is out of range"),
        (
            lambda s, X: s.select(X[:, :2], n_select=2),
            r"X has shape \(512, 2\), but this sketch has n_features=4",
        ),
        (lambda s, X: s.select(X[0], n_select=2), r"features has shape \(4,\): give one row per example"),
        (
            lambda s, X: s.select(X, np.zeros(512, int), n_select=2),
            r"labels were given, but this sketch knows none",
        ),
        (lambda s, X: s.select(X * np.nan, n_select=2), r"X holds NaN or infinity"),
        (lambda s, X: s.update(X, np.ones(3)), r"losses has shape \(3,\), but 512 examples were named"),
        (lambda s, X: s.update(X, 1.0), r"losses is a single number, as if reduced already"),
        (lambda s, X: s.update(X, np.full(512, "a")), r"losses has dtype <U1"),
        (
            lambda s, X: s.update(
                StreamSelector(seed=0, n_labels=300).select(X, np.full(512, 299), n_select=9).codes,
                np.ones(9),
            ),
            r"give what hash\(X\) of this sketch returned",
        ),
    ],
)
def test_wrong_input_is_named_and_changes_nothing(call, message):
    selector, (X, _) = trained(), make_candidates(np.random.default_rng(3))
    before = pickle.dumps((selector.n_losses, selector.sketch.tables, selector._rng))
    with pytest.raises(ValueError, match=message):
        call(selector, X)
    assert pickle.dumps((selector.n_losses, selector.sketch.tables, selector._rng)) == before


def test_missing_labels_and_foreign_codes_are_named():
    selector = StreamSelector(seed=0, n_labels=3)
    with pytest.raises(ValueError, match="labels are missing: this sketch tells rows apart by label"):
        selector.select(np.ones((4, 2)), n_select=2)
    codes = trained(n_steps=1).select(np.ones((4, 4)), n_select=2).codes
    with pytest.raises(ValueError, match="codes are of another selector"):
        selector.update(codes, np.ones(2))
    assert selector.sketch is None


@pytest.mark.parametrize(
    ("sketch", "error", "message"),
    [
        (
            {"bias_correction": 2},
            ValueError,
            r"bias_correction=2, which needs the losses of all rows at once",
        ),
        ({"trend": "linear"}, ValueError, r"set trend=None"),
        ({"uncertainty": True}, ValueError, r"set uncertainty=False"),
        ({"bandwidth": "loo"}, ValueError, r"bandwidth='loo', which is found on losses"),
        ({"kernel": "angular", "bandwidth": 2.0}, ValueError, r"has no bandwidth, but bandwidth=2\.0"),
        ({"backend": "torch"}, ValueError, r"backend='torch' .* set backend='auto'"),
        ({"device": "cuda"}, ValueError, r"device='cuda', but codes and losses are kept on the host"),
        (None, TypeError, r"sketch is a str: give an unfitted NadarayaWatsonSketchRegressor"),
    ],
)
def test_a_sketch_that_cannot_serve_is_refused(sketch, error, message):
    estimator = "laplacian" if sketch is None else NadarayaWatsonSketchRegressor(**sketch)
    with pytest.raises(error, match=message):
        StreamSelector(sketch=estimator, seed=0).select(np.ones((4, 2)), n_select=2)


def test_a_fitted_sketch_is_refused():
    fitted = NadarayaWatsonSketchRegressor(n_repetitions=8).fit(np.ones((4, 2)), np.ones(4))
    with pytest.raises(ValueError, match=r"sketch is fitted, .* sklearn\.base\.clone"):
        StreamSelector(sketch=fitted, seed=0).select(np.ones((4, 2)), n_select=2)


@pytest.mark.parametrize("bandwidth", ["scale", 0.5, [0.5, 1.0, 2.0, 1.0]])
def test_bandwidths_that_need_no_losses_work(bandwidth):
    selector = trained(
        3, sketch=NadarayaWatsonSketchRegressor(bandwidth=bandwidth, n_repetitions=16, random_state=0)
    )
    expected = None if bandwidth == "scale" else np.broadcast_to(bandwidth, 4)
    assert expected is None or np.array_equal(selector.sketch.bandwidth, expected)
    assert selector.sketch.bandwidth.shape == (4,)


def test_the_compiled_draw_is_that_of_the_policies():
    n_compiled = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n_rows = int(rng.integers(2, 1200))
        n_draws = int(rng.integers(1, n_rows + 1))
        scores = rng.exponential(size=n_rows) ** rng.choice([0.5, 1.0, 3.0, 8.0])
        scores[rng.random(n_rows) < rng.choice([0.0, 0.4])] = 0.0
        exponent, share = float(rng.choice([0.0, 0.5, 1.0, 2.0])), float(rng.choice([0.0, 0.1, 0.5, 1.0]))
        probabilities = policies.probabilities(scores, exponent, share)
        wanted = policies.without_replacement(probabilities, n_draws, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        order, start = rng.permutation(n_rows), rng.random()
        rows, weights = np.empty(n_draws, dtype=np.int64), np.empty(n_draws, dtype=np.float32)
        if draw(scores, exponent, share, order, start, rows, weights):
            n_compiled += 1
            shuffled = rng.permutation(n_draws)
            np.testing.assert_array_equal(rows[shuffled], wanted.rows)
            np.testing.assert_allclose(weights[shuffled], wanted.weights, rtol=1e-5)
    assert n_compiled > 150


@pytest.mark.parametrize("n_labels", [0, 3])
@pytest.mark.parametrize("n_buckets", [2**16, 64])  # every code its own; rehashed
def test_the_compiled_step_is_that_of_the_sketch_and_the_policies(n_buckets, n_labels):
    shape = {"kernel": "angular", "hashes_per_repetition": 8, "n_repetitions": 9, "n_buckets": n_buckets}
    estimator = NadarayaWatsonSketchRegressor(**shape, random_state=1)
    rng = np.random.default_rng(0)
    quick = StreamSelector(n_labels=n_labels, sketch=estimator, warmup=1, half_life=700, seed=0)
    plain = StreamSelector(n_labels=n_labels, sketch=estimator, warmup=1, half_life=700, seed=0)
    plain._clip = 1.0  # clips nothing, and is not for the compiled call
    for step in range(6):
        X = rng.normal(size=(400, 5)).astype(np.float32)
        labels = rng.integers(0, n_labels, 400) if n_labels else None
        for selector in (quick, plain):
            rows, weights, codes = selector.select(X, labels, n_select=100)
            theirs = None if labels is None else labels[rows]
            np.testing.assert_array_equal(codes.array, selector._hasher.hash(X[rows], theirs).array)
            losses = np.abs(X[rows, 0]).astype(np.float32) + 0.1
            if step:
                scores = selector.sketch.query(selector._hasher.hash(X, labels))[:, 0]
                included = policies.inclusion_probabilities(policies.probabilities(scores, 1.0, 0.1), 100)
                np.testing.assert_allclose(weights, 0.25 / included[rows], rtol=1e-5)
                assert len(set(rows.tolist())) == 100
            selector.update(codes, losses)


def test_what_the_compiled_call_learns_is_what_the_sketch_would():
    X, losses = make_candidates(np.random.default_rng(0), 700)
    selector = StreamSelector(half_life=100, seed=0)
    selector.select(X, n_select=10)
    sketch, weight = copy(selector.sketch), 1.0
    for part in (slice(0, 300), slice(300, 301), slice(301, 301), slice(301, 700)):
        codes = selector._hasher.hash(X)[part]
        selector.update(codes, losses[part].astype(np.float32))
        n_rows = len(codes)
        sketch.update(codes, losses[part].astype(np.float32), np.full(n_rows, weight))
        weight *= 2.0 ** (n_rows / 100)
    np.testing.assert_array_equal(selector.sketch.tables, sketch.tables)
    np.testing.assert_array_equal(selector.sketch._state.totals, sketch._state.totals)


def test_losses_whose_sums_would_overflow_are_refused_and_change_nothing():
    selector, X = StreamSelector(seed=0), np.eye(4)
    selector.update(X, np.ones(4))
    before = selector.sketch.tables.copy()
    with pytest.raises(ValueError, match="overflow"):
        selector.update(X, np.full(4, 1e304))
    np.testing.assert_array_equal(selector.sketch.tables, before)
    assert selector.n_losses == 4


def test_a_sketch_in_memory_that_cannot_be_written_learns_too():
    selector, X = StreamSelector(seed=0), np.eye(4)
    selector.update(X, np.ones(4))
    selector.sketch._state.tables.flags.writeable = False  # as joblib maps it from a file
    selector.update(X, np.ones(4))
    assert selector.n_losses == 8 == selector.sketch.n_samples_seen


def test_a_copy_of_what_was_learnt_does_not_change_with_it():
    selector, X = StreamSelector(seed=0), np.eye(4)
    selector.update(X, np.ones(4))
    kept = selector.sketch.__getstate__()["_state"]
    selector.update(X, np.ones(4))
    assert kept.n_rows == 4
    assert selector.sketch.n_samples_seen == 8


def test_one_order_of_candidates_serves_several_draws_and_rows_are_chosen_as_often_as_they_should():
    rng, n_draws = np.random.default_rng(0), 4000
    X = rng.normal(size=(12, 3))
    selector = StreamSelector(warmup=1, half_life=None, uniform_share=0.2, seed=3)
    selector.update(X, rng.exponential(size=12))
    scores = selector.sketch.query(selector._hasher.hash(X))[:, 0]
    included = policies.inclusion_probabilities(policies.probabilities(scores, 1.0, 0.2), 4)
    seen = np.zeros(12)
    for _ in range(n_draws):
        seen[selector.select(X, n_select=4).rows] += 1
    errors = np.sqrt(included * (1 - included) * n_draws)
    assert np.all(np.abs(seen - n_draws * included) < 4 * errors + 1e-9)
    assert included.min() < 0.2 < 0.5 < included.max()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_the_compiled_draw_leaves_odd_scores_to_the_policies(bad):
    scores = np.ones(8)
    scores[3] = bad
    rows, weights = np.empty(4, dtype=np.int64), np.empty(4, dtype=np.float32)
    assert not draw(scores, 1.0, 0.1, np.arange(8), 0.5, rows, weights)
    assert not draw(np.zeros(8), 1.0, 0.1, np.arange(8), 0.5, rows, weights)


def test_codes_that_were_changed_by_hand_are_refused():
    selector = StreamSelector(seed=0)
    codes = selector.select(np.eye(8), n_select=4).codes
    codes.array[0] = 60_000
    with pytest.raises(ValueError, match="60000"):
        selector.update(codes, np.ones(4))
    assert selector.n_losses == 0 == selector.sketch.n_samples_seen
