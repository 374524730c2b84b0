"""SketchSampler: what it draws and when, what it learns, and what it says."""

from itertools import islice

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.stats import spearmanr

torch = pytest.importorskip("torch", reason="SketchSampler is a sampler of PyTorch")

from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, TensorDataset  # noqa: E402

import nwsketch.training.hashing  # noqa: E402
import nwsketch.training.stopwatch  # noqa: E402
from nwsketch import NadarayaWatsonSketchRegressor  # noqa: E402
from nwsketch.training import SketchSampler, WeightedCollate, gradient_norm_bound  # noqa: E402
from nwsketch.training.policies import variance_ratio  # noqa: E402

N_ROWS = 400


def make_data(n_rows=N_ROWS, seed=0):
    """Rows in four clusters, of which the last has high losses: (X, cluster, losses)."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, 4, n_rows)
    X = 4 * rng.normal(size=(4, 6))[cluster] + 0.3 * rng.normal(size=(n_rows, 6))
    return X, cluster, np.array([0.1, 0.2, 0.4, 4.0])[cluster]


def make_sampler(X=None, **parameters):
    X = make_data()[0] if X is None else X
    return SketchSampler(X, **({"num_samples": np.shape(X)[0] // 2, "seed": 0, "ranks": None} | parameters))


def make_loader(sampler, batch_size=50, **parameters):
    n_rows = len(sampler.evidence.codes)
    return DataLoader(
        sampler.wrap(TensorDataset(torch.arange(n_rows))),
        batch_size=batch_size,
        sampler=sampler,
        **parameters,
    )


def run_epoch(sampler, losses, loader=None):
    """Report losses (an array by example, or a function of examples) for an epoch: (rows, weights)."""
    drawn = []
    for index, weight, _ in make_loader(sampler) if loader is None else loader:
        sampler.update(index, torch.as_tensor(losses(index.numpy()) if callable(losses) else losses[index]))
        drawn.append((index.numpy(), weight.numpy()))
    return tuple(np.concatenate(part) for part in zip(*drawn, strict=True))


# -- batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_batch_is_index_weight_sample(n_workers):
    X, y, losses = make_data()
    sampler = make_sampler(X, labels=y, switch=None)
    dataset = TensorDataset(torch.from_numpy(X), torch.from_numpy(y))
    loader = DataLoader(sampler.wrap(dataset), batch_size=64, sampler=sampler, num_workers=n_workers)
    for _ in range(4):
        n_seen = 0
        for index, weight, (x, targets) in loader:
            assert index.dtype == torch.int64
            assert weight.dtype == torch.float32
            assert torch.equal(x, dataset.tensors[0][index])
            assert torch.equal(targets, dataset.tensors[1][index])
            sampler.update(index, torch.from_numpy(losses)[index])
            n_seen += len(index)
        assert n_seen == len(sampler) == 200
    assert sampler.epoch == 4
    assert sampler.metrics()["mode"] == "sampled"


def test_workers_change_nothing():
    losses = make_data()[2]
    alone, helped = make_sampler(switch=None), make_sampler(switch=None)
    with_workers = make_loader(helped, num_workers=2, persistent_workers=True)
    for _ in range(4):
        for one, other in zip(run_epoch(alone, losses), run_epoch(helped, losses, with_workers), strict=True):
            assert np.array_equal(one, other)


class Fetching(Dataset):
    """A data set that fetches whole batches, and counts how often."""

    def __init__(self):
        self.n_fetches = 0

    def __len__(self):
        return N_ROWS

    def __getitem__(self, row):
        raise AssertionError("one sample was asked for though batches can be fetched")

    def __getitems__(self, rows):
        self.n_fetches += 1
        return [10 * row for row in rows]


def test_a_data_set_that_fetches_batches_is_asked_for_batches():
    sampler, dataset = make_sampler(), Fetching()
    for index, _, samples in DataLoader(sampler.wrap(dataset), batch_size=50, sampler=sampler):
        assert torch.equal(samples, 10 * index)
    assert dataset.n_fetches == 4


def test_batch_samplers_and_collate_functions_of_ones_own():
    sampler = make_sampler()
    words = [f"w{row}" for row in range(N_ROWS)]
    loader = DataLoader(
        sampler.wrap(words),
        batch_sampler=BatchSampler(sampler, batch_size=64, drop_last=True),
        collate_fn=WeightedCollate("/".join),
    )
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    index, weight, text = batches[0]
    assert text == "/".join(f"w{row}" for row in index)
    assert (index.dtype, weight.dtype) == (torch.int64, torch.float32)


def test_a_single_sample_can_be_asked_for():
    sampler = make_sampler()
    dataset = sampler.wrap(list(range(N_ROWS)))
    drawn = next(iter(sampler))
    assert dataset[drawn] == (drawn.row, np.float32(1), drawn.row)
    assert dataset[drawn][1].dtype == np.float32


# -- warm-up, switch, modes ------------------------------------------------------------------------


def test_the_warm_up_goes_through_one_permutation_after_the_other():
    sampler = make_sampler(num_samples=160, warmup_epochs=2)  # ceil(2 * 400 / 160) = 5 epochs
    epochs = [run_epoch(sampler, make_data()[2]) for _ in range(6)]
    rows = np.concatenate([rows for rows, _ in epochs[:5]])
    assert (np.bincount(rows[:400], minlength=400) == 1).all()
    assert (np.bincount(rows[400:], minlength=400) == 1).all()
    assert not np.array_equal(rows[:400], rows[400:])
    assert all((weights == 1).all() for _, weights in epochs[:5])
    assert sampler.metrics()["mode"] == "sampled"
    assert epochs[5][1].std() > 0


@pytest.mark.parametrize(("warmup", "n_uniform"), [(0, 0), (0.5, 1), (1, 2), (1.01, 3)])
def test_the_warm_up_lasts_so_many_epochs(warmup, n_uniform):
    sampler, modes = make_sampler(warmup_epochs=warmup, switch=None), []
    for _ in range(4):
        run_epoch(sampler, make_data()[2])
        modes.append(sampler.metrics()["mode"])
    assert modes == ["uniform"] * n_uniform + ["sampled"] * (4 - n_uniform)


@pytest.mark.parametrize("replacement", [False, True])
def test_examples_of_high_losses_are_drawn_and_means_stay_unbiased(replacement):
    _, cluster, losses = make_data()
    sampler = make_sampler(replacement=replacement, num_samples=100, switch=None)
    for _ in range(4):
        run_epoch(sampler, losses)
    means, shares = [], []
    for _ in range(150):
        rows, weights = run_epoch(sampler, losses + np.random.default_rng(1).normal(size=N_ROWS))
        means.append([(weights * losses[rows]).mean(), weights.mean()])
        shares.append((cluster[rows] == 3).mean())
        assert replacement or len(set(rows)) == 100
    means = np.array(means)
    errors = (means.mean(axis=0) - [losses.mean(), 1]) / (means.std(axis=0) / np.sqrt(150))
    assert np.abs(errors).max() < 4
    assert np.mean(shares) > 1.5 * (cluster == 3).mean()


def test_auto_samples_only_where_it_would_have_paid():
    _, _, losses = make_data()
    noise = np.random.default_rng(0)
    cases = {
        "clusters": (losses, "sampled"),
        "all alike": (np.ones(N_ROWS), "uniform"),
        "zero": (np.zeros(N_ROWS), "uniform"),
        "unpredictable": (lambda rows: noise.exponential(size=len(rows)), "uniform"),
    }
    for reported, mode in cases.values():
        sampler = make_sampler()
        for _ in range(5):
            run_epoch(sampler, reported)
        metrics = sampler.metrics()
        assert metrics["mode"] == mode, metrics
        assert (metrics["variance_ratio"] < 0.9) == (mode == "sampled")
        assert mode == "sampled" or "would not pay" in metrics["why"] or "no losses" in metrics["why"]


def test_a_warm_up_of_one_epoch_tells_whether_sampling_pays():
    _, _, losses = make_data()
    noise = np.random.default_rng(0)
    for reported, mode in (
        (losses, "sampled"),
        (np.ones(N_ROWS), "uniform"),
        (lambda rows: noise.exponential(size=len(rows)), "uniform"),
    ):
        sampler = make_sampler(warmup_epochs=0.5, memory=None)
        run_epoch(sampler, reported)
        assert sampler.metrics()["why"] == "warm-up"
        iter(sampler)
        assert sampler.metrics()["mode"] == mode
        assert "the variance ratio was" in sampler.metrics()["why"]


def test_the_first_half_is_rehearsed_and_then_learnt_with_the_second():
    _, _, losses = make_data()
    sampler, plain = make_sampler(warmup_epochs=0.5), make_sampler(warmup_epochs=0.5)
    rows, _ = run_epoch(sampler, losses)
    run_epoch(plain, losses)
    first, second = rows[:100], rows[100:]
    predicted = plain.evidence.rehearse(first, losses[first])
    assert plain.evidence.clock == 0
    assert plain.evidence.sketch.n_samples_seen == 0
    sampler._predict_half()
    record = sampler._journal.record
    assert np.isnan(record[1, :100]).all()
    np.testing.assert_array_equal(record[1, 100:], predicted[second])
    assert np.ptp(record[2, 100:]) > 0  # weights that follow from it
    for each in (sampler, plain):
        iter(each)
    np.testing.assert_array_equal(sampler.evidence.scores(), plain.evidence.scores())


def test_a_first_epoch_without_losses_tells_nothing():
    sampler = make_sampler(warmup_epochs=0.5)
    for _ in make_loader(sampler):
        pass
    iter(sampler)
    assert sampler.metrics()["why"] == "no losses were predicted before they were seen"


def test_auto_switches_back_when_losses_become_unpredictable():
    noise = np.random.default_rng(0)
    sampler, modes = make_sampler(decay=0.01), []
    for epoch in range(16):
        run_epoch(sampler, make_data()[2] if epoch < 4 else lambda rows: noise.exponential(size=len(rows)))
        modes.append(sampler.metrics()["mode"])
    assert modes[3] == "sampled"
    assert modes[-1] == "uniform"


@pytest.mark.parametrize("switch", ["auto", None])
def test_the_gain_is_estimated_alike_from_uniform_and_from_sampled_epochs(switch):
    losses = np.array([1.0, 1.5, 2.0, 3.0])[make_data()[1]]
    sampler = make_sampler(switch=switch, warmup_epochs=2 if switch is None else 99, memory=None)
    estimates = []
    for epoch in range(40):
        run_epoch(sampler, losses)
        if epoch > 4:
            estimates.append(sampler.metrics()["variance_ratio"])
    assert sampler.metrics()["mode"] == ("uniform" if switch else "sampled")
    assert np.mean(estimates) == pytest.approx(variance_ratio(losses, sampler._policy_weights), rel=0.02)


def test_a_draw_of_all_examples_gains_nothing_and_stays_uniform():
    sampler = make_sampler(num_samples=N_ROWS)
    for _ in range(4):
        run_epoch(sampler, make_data()[2])
    metrics = sampler.metrics()
    assert metrics["mode"] == "uniform"
    assert metrics["variance_ratio"] == pytest.approx(1)


# -- what is learnt --------------------------------------------------------------------------------


def test_predictions_rank_as_the_true_losses_of_examples_never_seen():
    X, cluster, losses = make_data()
    sampler = make_sampler(X, memory=None)
    run_epoch(sampler, losses)
    iter(sampler)  # which learns
    never = sampler.evidence.seen_at < 0
    assert never.sum() == 200
    predicted = sampler.evidence.scores()[never]
    assert spearmanr(predicted, losses[never])[0] > 0.95
    for k in range(4):
        assert predicted[cluster[never] == k].mean() == pytest.approx(losses[cluster == k][0], abs=0.25)
    sampler = make_sampler(X, memory=None)
    run_epoch(sampler, np.random.default_rng(0).permutation(losses))
    run_epoch(sampler, losses)
    assert abs(sampler.metrics()["rank_correlation"]) < 0.2


@pytest.mark.parametrize("chunk_size", [2**22, 6 * 7])
def test_features_far_from_zero_are_centred(chunk_size, monkeypatch):
    monkeypatch.setattr(nwsketch.training.hashing, "CHUNK_SIZE", chunk_size)
    X, _, losses = make_data()
    sampler = make_sampler(X + 1000.0, memory=None)
    run_epoch(sampler, losses)
    iter(sampler)
    assert spearmanr(sampler.evidence.scores(), losses)[0] > 0.95


def test_metrics_report_the_rank_correlation():
    sampler = make_sampler(memory=None, switch=None)
    losses = make_data()[2] * np.random.default_rng(0).uniform(0.9, 1.1, N_ROWS)
    for _ in range(3):
        run_epoch(sampler, losses)
    assert sampler.metrics()["rank_correlation"] > 0.8


def test_labels_are_told_apart():
    X, _, _ = make_data()
    label = np.where(np.arange(N_ROWS) % 2, "hard", "easy")
    losses = np.where(label == "hard", 3.0, 0.1)
    scores = {}
    for labels in (label, None):
        sampler = make_sampler(X, labels=labels, memory=None)
        run_epoch(sampler, losses)
        iter(sampler)
        predicted = sampler.evidence.scores()
        scores[labels is None] = predicted[label == "hard"].mean() / predicted[label == "easy"].mean()
    assert scores[False] > 20
    assert scores[True] < 1.5


def test_memory_weighs_an_examples_own_loss_by_its_age():
    X = np.zeros((100, 2))  # all alike: the sketch predicts their mean
    sampler = make_sampler(X, num_samples=50, memory=0.5, decay=1.0, warmup_epochs=99)
    losses = np.arange(100.0)
    first, _ = run_epoch(sampler, losses)
    run_epoch(sampler, losses)
    iter(sampler)
    evidence = sampler.evidence
    assert evidence.clock == 100
    np.testing.assert_allclose(np.sort(evidence.ages()), np.arange(100) / 100)
    trust = 0.5 ** evidence.ages()
    np.testing.assert_allclose(evidence.scores(), trust * losses + (1 - trust) * losses.mean())
    assert evidence.ages()[first].min() >= 0.5
    alone = make_sampler(X, num_samples=50, memory=None, decay=1.0)
    run_epoch(alone, losses)
    run_epoch(alone, losses)
    iter(alone)
    np.testing.assert_allclose(alone.evidence.scores(), losses.mean())


def test_older_losses_decay():
    X = np.zeros((100, 2))
    sampler = make_sampler(X, num_samples=100, memory=None, decay=0.25)
    run_epoch(sampler, np.full(100, 4.0))
    run_epoch(sampler, np.full(100, 1.0))
    iter(sampler)
    np.testing.assert_allclose(sampler.evidence.scores(), (0.25 * 4 + 1) / 1.25)


def test_wrong_labels_are_drawn_no_more_often_by_a_sketch_of_features_alone():
    X, _, _ = make_data(2000)
    rng = np.random.default_rng(0)
    is_wrong = rng.random(2000) < 0.2
    losses = np.where(is_wrong, 5.0, 0.3)  # wrong wherever they lie: no neighbour tells

    def share_of_wrong(**parameters):
        sampler = make_sampler(X, num_samples=400, switch=None, **parameters)
        for _ in range(5):
            run_epoch(sampler, losses)
        return np.mean([is_wrong[run_epoch(sampler, losses)[0]].mean() for _ in range(5)])

    assert share_of_wrong(memory=None) == pytest.approx(is_wrong.mean(), abs=0.03)
    remembered = share_of_wrong(memory=1.0)
    assert remembered > 0.6
    assert share_of_wrong(memory=1.0, clip=0.5) < 0.5 * remembered


@pytest.mark.parametrize("n_workers", [0, 2])
def test_scores_can_be_refreshed_within_an_epoch(n_workers):
    losses, cluster = make_data()[2], make_data()[1]
    shares = {}
    for refresh in ("epoch", 50):
        sampler = make_sampler(warmup_epochs=0, switch=None, refresh=refresh, memory=None)
        loader = make_loader(sampler, num_workers=n_workers, prefetch_factor=1 if n_workers else None)
        rows, weights = run_epoch(sampler, losses, loader)
        assert len(rows) == len(sampler) == 200
        assert (weights[:50] == 1).all()  # nothing is known yet
        shares[refresh] = (cluster[rows[-50:]] == 3).mean()
    assert shares[50] > 1.4 * shares["epoch"]


def test_features_can_be_the_networks_own():
    X, _, losses = make_data()
    sampler = make_sampler(np.random.default_rng(0).normal(size=(N_ROWS, 6)), memory=None, switch=None)
    before = sampler.evidence.codes.array.copy()
    for _ in range(3):  # features of no use, then those of the clusters
        for index, _, _ in make_loader(sampler):
            sampler.update(index, torch.from_numpy(losses)[index], features=torch.from_numpy(X)[index])
    iter(sampler)
    fresh = sampler.evidence.seen_at >= 0
    expected = sampler._hasher.hash(X).array
    assert np.array_equal(sampler.evidence.codes.array[:, fresh], expected[:, fresh])
    assert np.array_equal(sampler.evidence.codes.array[:, ~fresh], before[:, ~fresh])
    assert spearmanr(sampler.evidence.scores()[fresh], losses[fresh])[0] > 0.85


@pytest.mark.parametrize("ask_between", [False, True])
def test_features_once_given_stay_until_others_come(ask_between):
    X, _, losses = make_data()
    ours, plain = make_sampler(X, switch=None), make_sampler(X, switch=None)
    new = np.random.default_rng(1).normal(size=(50, 6))
    for sampler in (ours, plain):
        rows, *_ = next(iter(make_loader(sampler)))
        sampler.update(rows, losses[rows], features=new)
    if ask_between:
        ours.metrics()
    ours.update(rows, losses[rows])  # the same examples again, in the same epoch
    iter(ours)
    iter(plain)
    assert (ours.evidence.codes.array[:, rows] == plain.evidence.codes.array[:, rows]).all()
    assert (ours.evidence.codes.array != make_sampler(X).evidence.codes.array).any()


def test_any_score_will_do():
    torch.manual_seed(0)
    logits, targets = torch.randn(N_ROWS, 3, requires_grad=True), torch.arange(N_ROWS) % 3
    sampler = make_sampler(switch=None)
    for index, _, _ in make_loader(sampler):
        sampler.update(index, gradient_norm_bound(logits[index], targets[index]))
    iter(sampler)
    assert np.isfinite(sampler.evidence.scores()).all()


def test_losses_of_half_precision_and_with_gradients_are_taken():
    sampler = make_sampler()
    for index, _, _ in make_loader(sampler):
        sampler.update(index, (index / 400).to(torch.bfloat16).requires_grad_())
    assert sampler.metrics()["n_losses"] == 200


def test_losses_are_copied():
    sampler = make_sampler()
    (index, _, _), *_ = make_loader(sampler)
    losses = torch.ones(len(index))
    sampler.update(index, losses)
    losses += 100
    sampler.metrics()
    assert (sampler._journal.news.losses == 1).all()


def test_losses_that_are_not_finite_are_skipped_and_counted():
    sampler = make_sampler()
    losses = np.ones(N_ROWS)
    losses[::4], losses[1::8], losses[5::8] = np.nan, np.inf, 1e304  # sums of the last would overflow
    run_epoch(sampler, losses)
    metrics = sampler.metrics()
    assert metrics["n_losses"] + metrics["n_skipped"] == 200
    assert 60 < metrics["n_skipped"] < 140
    iter(sampler)
    np.testing.assert_allclose(sampler.evidence.scores(), 1.0)


@pytest.mark.parametrize(
    "losses", [np.zeros(N_ROWS), -np.ones(N_ROWS), np.full(N_ROWS, np.nan), np.ones(N_ROWS)]
)
def test_losses_that_tell_nothing_leave_the_draw_uniform(losses):
    sampler = make_sampler(switch=None)
    for _ in range(4):
        _, weights = run_epoch(sampler, losses)
        np.testing.assert_allclose(weights, 1.0, rtol=1e-6)


def test_sparse_features_and_a_sketch_of_ones_own():
    rng = np.random.default_rng(0)
    X = csr_array(rng.random((N_ROWS, 50)) * (rng.random((N_ROWS, 50)) < 0.1))
    sketch = NadarayaWatsonSketchRegressor(
        kernel="laplacian", bandwidth=0.7, n_repetitions=24, random_state=5
    )
    sampler = make_sampler(X, sketch=sketch, switch=None)
    for _ in range(3):
        run_epoch(sampler, make_data()[2])
    made = sampler.evidence.sketch
    assert (made.family.name, made.n_repetitions, made.random_state) == ("laplacian", 24, 5)
    assert (made.bandwidth == 0.7).all()


def test_the_seed_decides_and_global_generators_are_left_alone():
    losses = make_data()[2]
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first, same, other = (make_sampler(seed=seed, switch=None) for seed in (3, 3, 4))
    for sampler in (first, same, other):
        for _ in range(3):
            sampler.wrap(range(N_ROWS))
            rows = np.array([drawn.row for drawn in sampler])
            sampler.update(rows, losses[rows])
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    drawn = [list(sampler) for sampler in (first, same, other)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


# -- metrics ---------------------------------------------------------------------------------------


def test_metrics_of_a_draw():
    losses = make_data()[2]
    sampler = make_sampler(switch=None, replacement=True)
    for epoch in range(4):
        rows, weights = run_epoch(sampler, losses)
        metrics = sampler.metrics()
        assert metrics["epoch"] == epoch
    weights = weights.astype(np.float64)
    assert metrics["effective_sample_size"] == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert metrics["largest_weight"] == pytest.approx(weights.max())
    assert metrics["largest_weight"] <= 10
    assert metrics["distinct_share"] == len(set(rows)) / 200 < 1
    assert metrics["n_losses"] == 800
    assert metrics["overhead_seconds"] > 0
    assert 0 < metrics["overhead_share"] < 1
    assert metrics["variance_ratio"] < 0.9
    assert 0 < metrics["evidence_age"] < 2
    assert metrics["never_seen_share"] < 0.5


def test_time_between_epochs_does_not_count(monkeypatch):
    now = 0.0
    monkeypatch.setattr(nwsketch.training.stopwatch, "perf_counter", lambda: now)
    sampler = make_sampler()
    for _ in range(3):
        now += 1000.0  # an evaluation
        for index, _, _ in make_loader(sampler):
            now += 1.0  # a step
            sampler.update(index, torch.ones(len(index)))
    assert sampler._stopwatch.training == 12
    assert sampler.metrics()["overhead_share"] == 0


def test_metrics_before_anything_happened():
    metrics = make_sampler().metrics()
    assert metrics["epoch"] == -1
    assert metrics["never_seen_share"] == 1
    for name in ("effective_sample_size", "variance_ratio", "rank_correlation"):
        assert np.isnan(metrics[name])


# -- errors before training starts -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"num_samples": 0}, ValueError, r"num_samples=0 is out of range"),
        ({"num_samples": 401}, ValueError, r"num_samples=401 exceeds the 400 examples: .* replacement=True"),
        ({"labels": np.zeros(3, int)}, ValueError, r"labels has shape \(3,\) .* one class per row"),
        ({"labels": np.zeros(400)}, ValueError, r"dtype float64: .* bin a continuous target"),
        ({"exponent": -1}, ValueError, r"exponent=-1 is out of range"),
        ({"uniform_share": 1.2}, ValueError, r"uniform_share=1\.2 is out of range"),
        ({"warmup_epochs": -1}, ValueError, r"warmup_epochs=-1 is out of range"),
        ({"warmup_epochs": np.inf}, ValueError, r"warmup_epochs=inf is out of range"),
        ({"switch": "always"}, ValueError, r"Unknown switch='always'"),
        ({"memory": 0}, ValueError, r"memory=0 is out of range"),
        ({"decay": 1.5}, ValueError, r"decay=1\.5 is out of range"),
        ({"refresh": 0}, ValueError, r"refresh=0 is out of range"),
        ({"clip": 2}, ValueError, r"quantile=2 is out of range"),
        ({"seed": None}, ValueError, r"seed=None is out of range"),
        ({"sketch": "angular"}, TypeError, r"sketch is a str"),
        ({"sketch": NadarayaWatsonSketchRegressor(bandwidth="loo")}, ValueError, r"bandwidth='loo'"),
        ({"X": np.zeros((4, 3, 2))}, ValueError, r"features has shape \(4, 3, 2\): .* flatten images"),
        ({"X": np.full((4, 3), np.nan)}, ValueError, r"X holds NaN or infinity"),
    ],
)
def test_a_set_up_that_cannot_work_is_refused(parameters, error, message):
    with pytest.raises(error, match=message):
        make_sampler(**parameters)


class Stream(IterableDataset):
    def __iter__(self):
        yield 1


def test_a_data_set_that_does_not_fit_is_refused():
    sampler = make_sampler()
    with pytest.raises(ValueError, match=r"The data set has 399 samples, but features 400 rows"):
        sampler.wrap(list(range(399)))
    with pytest.raises(TypeError, match=r"Stream has no length, .*StreamSelector"):
        sampler.wrap(Stream())


def test_a_sampler_without_wrap_and_a_wrapped_data_set_without_sampler_are_refused():
    sampler = make_sampler()
    with pytest.raises(RuntimeError, match=r"No data set was wrapped, .*sampler\.wrap\(dataset\)"):
        next(iter(DataLoader(list(range(N_ROWS)), sampler=sampler)))
    with pytest.raises(TypeError, match=r"asked for 0, which carries no weight: .* sampler=sampler"):
        next(iter(DataLoader(sampler.wrap(list(range(N_ROWS))), batch_size=4)))


@pytest.mark.parametrize(
    ("index", "losses", "features", "message"),
    [
        ([1, 2], torch.tensor(0.5), None, r"losses is a single number, as if reduced already: .*'none'"),
        ([1, 2], np.float64(0.5), None, r"losses is a single number"),
        ([1, 2], [0.5], None, r"losses has shape \(1,\), but 2 examples were named"),
        ([1, 2], torch.ones(2, 3), None, r"losses has shape \(2, 3\), .* per token or pixel"),
        ([1, 2], ["a", "b"], None, r"losses has dtype <U1"),
        ([1.0, 2.0], [0.5, 0.5], None, r"index has shape \(2,\) and dtype float64"),
        (3, [0.5], None, r"index has shape \(\)"),
        ([1, 400], [0.5, 0.5], None, r"index runs from 1 to 400, but there are 400 examples"),
        ([-1, 2], [0.5, 0.5], None, r"index runs from -1 to 2"),
        ([1, 2], [0.5, 0.5], np.ones((3, 6)), r"features has 3 rows, but 2 examples were named"),
        ([1, 2], [0.5, 0.5], np.ones((2, 5)), r"X has shape \(2, 5\), but this sketch has n_features=6"),
        ([1, 2], [0.5, 0.5], np.full((2, 6), np.inf), r"X holds NaN or infinity"),
    ],
)
def test_wrong_feedback_is_named_and_changes_nothing(index, losses, features, message):
    sampler = make_sampler()
    list(islice(make_loader(sampler), 1))
    before = sampler.state_dict()
    with pytest.raises(ValueError, match=message):
        sampler.update(index, losses, features)
    after = sampler.state_dict()
    assert after["cursor"] == before["cursor"]
    assert len(after["journal"]["losses"]) == 0


# -- scores by the last layer's gradient -----------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
def test_the_bound_is_the_norm_of_the_last_layers_gradient(soft):
    torch.manual_seed(0)
    embeddings, layer = torch.randn(20, 5), torch.nn.Linear(5, 4)
    targets = torch.softmax(torch.randn(20, 4), dim=1) if soft else torch.arange(20) % 4
    logits = layer(embeddings)
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    of_logits = torch.stack(
        [torch.autograd.grad(loss, logits, retain_graph=True)[0].norm() for loss in losses]
    )
    of_matrix = torch.stack(
        [torch.autograd.grad(loss, layer.weight, retain_graph=True)[0].norm() for loss in losses]
    )
    torch.testing.assert_close(gradient_norm_bound(logits, targets), of_logits)
    torch.testing.assert_close(gradient_norm_bound(logits, targets, embeddings), of_matrix)
    assert not gradient_norm_bound(logits, targets).requires_grad


@pytest.mark.parametrize(
    ("logits", "targets", "embeddings", "message"),
    [
        ((4,), (4,), None, r"logits has shape \(4,\)"),
        ((4, 3), (5,), None, r"targets \(5,\)"),
        ((4, 3), (4,), (3, 2), r"embeddings has shape \(3, 2\): give \(4, n_units\)"),
    ],
)
def test_wrong_shapes_for_the_bound_are_named(logits, targets, embeddings, message):
    with pytest.raises(ValueError, match=message):
        gradient_norm_bound(
            torch.zeros(logits),
            torch.zeros(targets, dtype=torch.int64),
            None if embeddings is None else torch.zeros(embeddings),
        )
