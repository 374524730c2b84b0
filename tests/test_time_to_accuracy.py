"""The benchmark of time to accuracy: what could go wrong in it without anybody noticing."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, balanced_accuracy_score, log_loss

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra nwsketch[torch])")

# What follows imports torch itself, so it comes after the look for it: hence E402.
import ablation  # noqa: E402
import time_to_accuracy  # noqa: E402
import where_it_pays  # noqa: E402
from trials import arms, clock, data, evaluation, records, training  # noqa: E402
from trials.reports import Comparison, is_sooner, print_tables  # noqa: E402
from trials.settings import Settings  # noqa: E402
from trials.statistics import interval, speed_up, target_of, time_to, value_at  # noqa: E402
from trials.stress import Stress  # noqa: E402

SETTINGS = Settings("balanced_accuracy", 50, [1e-3, 1e-2], share=0.5, epochs=4, evaluations=4, seeds=3)
STREAM = replace(SETTINGS, epochs=1, n_candidates=200, share=0.25, sketch={"warmup": 100})
NO_STRESS = Stress()
BUDGETED = [name for name in arms.MAP_ARMS if name not in ("uniform", "InfoBatch")]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small batches on several threads wait for each other where the machine does other work too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """Have 1,200 made-up rows, of which about 720 are trained on."""
    monkeypatch.setitem(data.LOADERS, "made_up", lambda folder: data.make_up(folder, 1_200))


@pytest.fixture
def task():
    return data.load(None, "made_up", SETTINGS, NO_STRESS)


@pytest.fixture
def time(monkeypatch):
    """Stop time; return a function that lets seconds pass."""
    now = [0.0]
    for name in ("perf_counter", "process_time"):
        monkeypatch.setattr(clock, name, lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_the_clock_charges_all_but_evaluations(task, time, monkeypatch):
    class Slow(arms.Arm):
        def __init__(self, context):
            time(100.0)  # hashing
            super().__init__(context, 0.5)

        def plan(self, epoch):
            time(10.0)  # scoring and drawing
            return super().plan(epoch)

        def observe(self, rows, losses):
            time(1.0)

        def metrics(self):
            time(1e6)
            return {}

    def evaluate(model, part):
        time(1e6)
        return {"balanced_accuracy": 0.0}

    def change(self, inputs, rng):
        time(0.25)  # loading
        return inputs

    monkeypatch.setitem(arms.MAP_ARMS, "slow", Slow)
    monkeypatch.setattr(training, "evaluate", evaluate)
    monkeypatch.setattr(Stress, "change", change)
    result = training.run(task, SETTINGS, "slow", 1e-3, 0, NO_STRESS)
    n_steps = 4 * 7  # 350 rows in batches of 50, four times
    assert result["overhead_seconds"] == pytest.approx(100 + 4 * 10 + n_steps)
    assert result["points"][-1]["seconds"] == pytest.approx(140 + 1.25 * n_steps)
    assert result["points"][0]["seconds"] == pytest.approx(100)  # nothing trained, but hashed


def test_selective_arms_see_as_many_rows(task):
    assert 700 <= len(task.train.labels) < 750
    for name in BUDGETED:
        result = training.run(task, SETTINGS, name, 1e-3, 0, NO_STRESS)
        assert result["points"][-1]["samples"] == 4 * 350, name
    assert training.run(task, SETTINGS, "uniform", 1e-3, 0, NO_STRESS)["points"][-1]["samples"] == 4 * 700


def test_arms_of_a_stream_see_as_many_rows(task):
    seen = {}
    for name in training.arms_of(STREAM):
        seen[name] = training.run(task, STREAM, name, 1e-3, 0, NO_STRESS)["points"][-1]["samples"]
    assert seen.pop("uniform") == 600  # three batches of candidates
    assert set(seen.values()) == {150}


@pytest.mark.parametrize("name", arms.MAP_ARMS)
def test_the_rate_decays_to_zero_over_the_arms_own_rows(name, task, monkeypatch):
    rates = []

    class Noting(torch.optim.SGD):
        def step(self):
            rates.append(self.param_groups[0]["lr"])
            super().step()

    monkeypatch.setattr(
        training, "make_optimiser", lambda model, _, rate: Noting(model.parameters(), lr=rate)
    )
    training.run(task, SETTINGS, name, 0.1, 0, NO_STRESS)
    assert rates[0] == 0.1
    assert rates[-1] < 0.001
    assert (np.diff(rates) < 0).all()


def test_pairs_start_from_the_same_net(task):
    first = [training.run(task, SETTINGS, name, 1e-3, 5, NO_STRESS)["points"][0] for name in arms.MAP_ARMS]
    assert len({point["log_loss"] for point in first}) == 1
    assert {point["samples"] for point in first} == {0}


def test_infobatch_weighs_up_what_it_keeps():
    settings = replace(SETTINGS, batch_size=1, epochs=8)
    context = arms.Context(settings, None, torch.zeros(4_000), 2, None, None, 0, {})
    arm = arms.InfoBatch(context)
    rows, weights = arm.plan(0)
    assert len(rows) == 4_000 and (weights == 1).all()
    losses = torch.linspace(0, 1, 4_000)
    arm.observe(np.arange(4_000), losses)
    rows, weights = arm.plan(1)
    is_easy = losses.numpy()[rows] < 0.5
    assert (weights == np.where(is_easy, 2, 1)).all()
    assert abs(is_easy.sum() - 1_000) < 5 * np.sqrt(2_000 * 0.25)
    assert (~is_easy).sum() == 2_000
    assert arm.n_planned == len(rows)
    assert len(arm.plan(7)[0]) == 4_000  # the last eighth


def test_a_variant_may_have_a_budget_of_its_own(task):
    for settings, end in ((SETTINGS, 4 * 550), (STREAM, 450)):
        variants = {"more": {"of": "uniform at budget", "budget": 0.75 + 0.04 * (settings is SETTINGS)}}
        result = training.run(task, replace(settings, variants=variants), "more", 1e-3, 0, NO_STRESS)
        assert result["points"][-1]["samples"] == end


def test_backward_passes_are_for_rows_of_high_loss(task):
    settings = replace(SETTINGS, variants={"skip": {"of": "skip backward"}})
    make, options = training.arms_of(settings)["skip"]
    is_hard = np.arange(len(task.train.labels)) % 5 == 0
    context = arms.Context(
        settings, *task.train, 4, None, lambda rows: torch.from_numpy(is_hard[rows] + 0.01), 0, options
    )
    batches = list(make(context).batches(0))
    assert [len(rows) for rows, _ in batches] == [50] * 7
    rows, weights = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert is_hard[rows].mean() > 1.5 * is_hard.mean()
    assert (weights * is_hard[rows]).mean() == pytest.approx(is_hard.mean(), abs=0.05)


def test_codes_of_a_selection_are_learnt_batch_by_batch(task):
    settings = replace(STREAM, batch_size=20)  # 50 of 200 candidates: batches of 20, 20 and 10
    result = training.run(task, settings, "sketch", 1e-3, 0, NO_STRESS)
    assert result["points"][-1]["samples"] == 150


def test_scores_are_compared_with_true_losses(task):
    settings = replace(SETTINGS, variants={"watched": {"of": "watched"}})
    told = training.run(task, settings, "watched", 1e-2, 0, NO_STRESS, tuning=True)["told"]
    assert told[-1]["true losses"]["rank correlation with losses"] == pytest.approx(1)
    assert told[-1]["true gradient norms"]["with gradient norms"] == pytest.approx(1)
    assert told[0]["last losses"]["never seen"] == pytest.approx(0.5, abs=0.02)
    assert told[1]["last losses"]["never seen"] < 0.05
    ratios = {name: found["variance ratio"] for name, found in told[-1].items() if isinstance(found, dict)}
    assert min(ratios, key=ratios.get) == "true gradient norms"
    assert ratios["sketch"] < 1


@pytest.mark.parametrize("name", ["last losses", "true losses", "sketch alone", "sketch and last losses"])
def test_a_variant_may_leave_out_the_weights(name, task):
    settings = replace(
        SETTINGS,
        sketch={"switch": "off", "warmup_epochs": 0.5},
        variants={"biased": {"of": name, "weight_power": 0.0}},
    )
    shares = [
        training.run(task, settings, arm, 1e-2, 0, NO_STRESS)["effective_share"] for arm in (name, "biased")
    ]
    assert shares[0] < 0.99 < shares[1]


def test_metrics_are_those_of_scikit_learn(task):
    model = task.make_net()
    found = evaluation.evaluate(model, task.test)
    logits = evaluation.predict(model, task.test.inputs)
    labels = task.test.labels.numpy()
    chances = torch.softmax(logits.double(), 1).numpy()
    assert found["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(labels, chances.argmax(axis=1))
    )
    assert found["log_loss"] == pytest.approx(log_loss(labels, chances), rel=1e-4)
    precision = average_precision_score(np.eye(4)[labels], chances, average="macro")
    assert found["average_precision"] == pytest.approx(precision, rel=1e-4)
    tied = np.round(chances[:, 0], 1)
    expected = average_precision_score(labels == 0, tied)
    assert evaluation.average_precision(labels == 0, tied) == pytest.approx(expected)


def test_targets_times_and_moments():
    assert target_of([0.7, 0.8, 0.9], "accuracy") == pytest.approx(0.7)
    assert target_of([0.7, 0.8, 0.9], "log_loss") == pytest.approx(0.9)
    times, values = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.1, 0.6, 0.5, 0.9])
    assert time_to(times, values, 0.55, "accuracy") == 1.0
    assert time_to(times, values, 0.7, "accuracy") == 3.0
    assert np.isnan(time_to(times, values, 0.95, "accuracy"))
    assert time_to(times, values, 0.1, "log_loss") == 0.0
    assert value_at(times, values, 2.9) == 0.5
    assert value_at(times, values, 100.0) == 0.9
    assert np.isnan(value_at(times, values, -1.0))


def test_intervals_are_those_of_student():
    values = [1.0, 2.0, 4.0]
    mean, half = interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((expected.low, expected.high))
    assert np.isnan(interval([3.0])[1])
    ratio, low, high, n_pairs = speed_up([1.0, 2.0, np.nan, 1.0], [2.0, 16.0, 5.0, np.nan])
    assert (ratio, n_pairs) == (pytest.approx(4.0), 2)
    assert low < 4.0 < high


def made_up_record(arm, seed, ends, rate=0.001, phase="timed"):
    """Return a record whose metric rises by a tenth with every second, up to ``ends``."""
    points = [{"samples": i, "seconds": float(i), "accuracy": i / 10} for i in range(ends + 1)]
    points[-1] |= {"balanced_accuracy": 0.5, "average_precision": 0.5, "log_loss": 1.0}
    return {
        "set": "made_up",
        "stress": {},
        "threads": 1,
        "phase": phase,
        "arm": arm,
        "seed": seed,
        "rate": rate,
        "points": points,
        "overhead_seconds": 0.0,
        "effective_share": 1.0,
        "corrupt_share": None,
        "told": [],
    }


def test_a_comparison_of_records_with_known_answers(capsys):
    settings = replace(SETTINGS, metric="accuracy")
    found = [made_up_record("uniform", seed, ends) for seed, ends in enumerate((7, 8, 9))]
    found += [made_up_record("sketch", seed, ends) for seed, ends in ((0, 6), (2, 8))]
    comparison = Comparison(found, settings)
    assert comparison.target == pytest.approx(0.7)
    np.testing.assert_array_equal(comparison.times("sketch", [0, 2]), [np.nan, 7.0])
    assert comparison.pairs("sketch", "uniform") == [0, 2]
    assert comparison.gaps("sketch", "accuracy") == pytest.approx([-0.1, -0.1])
    assert comparison.at("sketch", 0.5) == pytest.approx([0.3, 0.4])  # 3.5 and 4.5 seconds
    print_tables(found, {"made_up": settings})
    row = next(line for line in capsys.readouterr().out.splitlines() if "1 of 2" in line)
    assert row.startswith("| sketch | 2 | 7.0 | 1 of 2 | 1.00 (1), first 0 of 2 |")


def test_a_speed_up_is_claimed_only_where_runs_show_it():
    def compare(ours, theirs):
        found = [made_up_record("uniform", seed, 9) for seed in range(6)]  # the target is .9
        for arm, times in (("sketch", ours), ("dynamic random", theirs)):
            for seed, moment in enumerate(times):
                record = made_up_record(arm, seed, 9 if moment else 8)
                record["points"][-1]["seconds"] = moment or 8.5
                found.append(record)
        return is_sooner(Comparison(found, replace(SETTINGS, metric="accuracy")), "sketch", "dynamic random")

    assert compare((8.1, 8.2, 8.3), (9.1, 9.2, 9.4)) is True
    assert compare((8.1, 8.2, 9.9), (9.1, 9.2, 9.4)) is False  # the interval holds 1
    assert compare((9.1, 9.2, 9.4), (8.1, 8.2, 8.3)) is False
    assert compare((8.1, 8.2, None), (9.1, 9.2, 9.4)) is False  # missed by a run of ours alone
    assert compare((8.1, 8.2, 8.3), (None, None, None)) is False  # too few to tell
    assert compare((8.1, 8.2, 8.3, 8.4, 8.5), (None, None, 9.1, None, None)) is True  # first in all of five
    assert compare((8.1, 8.2, 8.3, 8.4, None), (None,) * 5) is False
    assert compare((8.1,), (9.1,)) is False


def test_the_best_rate_is_of_the_tuning_seed_and_never_nan():
    settings = replace(SETTINGS, metric="accuracy", rates=[0.1, 0.2, 0.3])
    tuned = [made_up_record("a", 1000, end, rate, "tune") for rate, end in ((0.1, 3), (0.2, 5))]
    assert records.best_rate(tuned, settings, "a") is None
    tuned.append(made_up_record("a", 1000, 4, 0.3, "tune"))
    tuned.append(made_up_record("a", 0, 9, 0.3))
    assert records.best_rate(tuned, settings, "a") == 0.2
    tuned[0]["points"][-1]["accuracy"] = float("nan")
    assert records.best_rate(tuned, settings, "a") == 0.2
    assert records.TUNING_SEED not in range(settings.seeds)


def test_records_are_kept_short():
    told = [{"seconds": 1 / 3, "why": "warm-up", "variance_ratio": 2 / 3}]
    record = {
        "rate": 0.003,
        "points": [{"samples": 1_234_567, "accuracy": 1 / 7}],
        "told": told,
        "none": None,
    }
    assert records.slim(record) == {
        "rate": 0.003,
        "points": [{"samples": 1_234_567, "accuracy": 0.142857}],
        "told": [{"seconds": 0.333333, "variance_ratio": 0.666667}],
        "none": None,
    }


def test_timed_runs_are_interleaved():
    rates = dict.fromkeys("abc", 0.1)
    keys = records.timed_keys(replace(SETTINGS, first_seed=100), list("abc"), rates)
    assert [(arm, seed) for _, arm, seed, _ in keys] == [
        (arm, 100 + i) for i, order in enumerate(("abc", "bca", "cab")) for arm in order
    ]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    settings = replace(SETTINGS, epochs=1, rates=[1e-3], seeds=2)
    file, names = tmp_path / "results.jsonl", ["uniform", "dynamic random"]
    whole = time_to_accuracy.measure(None, "made_up", settings, names, NO_STRESS, 1, file)
    assert len(whole) == 6
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:3]) + "\n" + lines[3][:40])
    again = time_to_accuracy.measure(None, "made_up", settings, names, NO_STRESS, 1, file)
    assert again[:3] == [json.loads(line) for line in lines[:3]]
    assert sorted(map(records.key_of, again)) == sorted(map(records.key_of, whole))
    ends = [{records.key_of(run): run["points"][-1]["log_loss"] for run in runs} for runs in (whole, again)]
    assert ends[0] == ends[1]
    assert len(time_to_accuracy.read_results(file)) == 6
    with pytest.raises(SystemExit, match="other settings"):
        time_to_accuracy.measure(None, "made_up", replace(settings, share=0.3), names, NO_STRESS, 1, file)


def test_stress_spoils_the_training_part_alone(task):
    settings = replace(SETTINGS, n_train=None)
    noisy = data.load(None, "made_up", settings, Stress(label_noise=0.4))
    is_wrong = (noisy.train.labels != task.train.labels).numpy()
    np.testing.assert_array_equal(is_wrong, noisy.is_corrupt)
    assert abs(is_wrong.mean() - 0.4) < 5 * np.sqrt(0.24 / 720)
    assert torch.equal(noisy.test.labels, task.test.labels)
    assert torch.equal(noisy.tune.labels, task.tune.labels)
    rare = data.load(None, "made_up", settings, Stress(imbalance=10.0))
    counts = [np.bincount(part.labels, minlength=4) for part in (rare.train, task.train)]
    assert counts[0][0] == counts[1][0]
    assert 0 < counts[0][2] < 0.5 * counts[1][2]
    share = training.run(noisy, settings, "uniform", 1e-3, 0, Stress(label_noise=0.4))["corrupt_share"]
    assert share == pytest.approx(is_wrong.mean(), abs=0.02)


# -- beside it: remedies, and where it pays --------------------------------------------------------


def test_remedies_change_one_thing():
    settings, stress = ablation.prepare(
        SETTINGS, "less", {"settings": {"share": 0.2}, "stress": {"label_noise": 0.1}, "exponent": 0.5}
    )
    assert settings == replace(
        SETTINGS, share=0.2, variants={"less": {"of": "sketch and last losses", "exponent": 0.5}}
    )
    assert stress == Stress(label_noise=0.1)
    assert ablation.prepare(STREAM, "same", {})[0].variants == {"same": {"of": "sketch"}}


def test_every_remedy_is_of_a_known_set_and_arm():
    settings = time_to_accuracy.read_settings(time_to_accuracy.SETTINGS)
    for name, (remedies, _) in ablation.read_remedies(ablation.REMEDIES).items():
        for title, options in remedies.items():
            assert title in training.arms_of(ablation.prepare(settings[name], title, options)[0])


def test_remedies_are_tried_once_each(tmp_path):
    remedies = {"uniform": {"of": "uniform"}, "less": {"settings": {"share": 0.25}}}
    file = tmp_path / "remedies.jsonl"
    arguments = (None, "made_up", SETTINGS, remedies, [1e-3], 2, file)
    first = ablation.measure(*arguments)
    assert [(record["remedy"], record["seed"]) for record in first] == [
        (title, ablation.FIRST_SEED + i) for i in range(2) for title in remedies
    ]
    assert ablation.measure(*arguments) == first
    remedies["less"] = {"settings": {"share": 0.3}}
    assert len(ablation.measure(*arguments)) == 6


def test_a_speed_up_on_made_up_data_with_known_answers():
    def end(log_loss, rows):
        return {
            "log_loss": log_loss,
            "balanced_accuracy": 1 - log_loss,
            "cpu_seconds": rows / 10,
            "samples": rows,
        }

    losses = {0.25: 0.4, 0.5: 0.2, 1.0: 0.1}
    runs = [
        {"arm": f"uniform {budget}", "rate": rate, "end": end(loss + (rate > 0.01), 100 * budget)}
        for budget, loss in losses.items()
        for rate in where_it_pays.RATES
    ]
    with_ours = [*runs, {"arm": "sketch", "rate": 0.005, "end": end(0.15, 50) | {"cpu_seconds": 10}}]
    for metric in where_it_pays.METRICS:
        found = where_it_pays.speed_up(with_ours, "sketch", metric)
        # Half-way between 50 and 100 rows, on a scale of logarithms; a row takes uniform a tenth of a second.
        assert found == pytest.approx((np.sqrt(5000) / 100, np.sqrt(2), True))
    with_ours[-1]["end"]["log_loss"] = 0.01
    assert where_it_pays.speed_up(with_ours, "sketch", "log_loss") == pytest.approx((1, 2, False))


def test_made_up_rows_are_as_the_case_says():
    middle = where_it_pays.MIDDLE
    for case, share in ((middle, 0.5), (middle | {"redundancy": 0.9}, 0.9)):
        train, _ = where_it_pays.make_up(case, 40_000, 0)
        assert len(train.labels) == 10_000
        near = torch.cdist(train.inputs, train.inputs[:500]).T < 3.5  # rows of the same cluster, mostly
        sizes = near.float().mean(dim=1)
        assert (sizes > 0.03).float().mean() == pytest.approx(share, abs=0.08)
    labels = where_it_pays.make_up(middle | {"imbalance": 100.0}, 40_000, 0)[0].labels
    counts = np.bincount(labels)
    assert counts[0] / counts[9] == pytest.approx(100, rel=0.4)
    task, _ = where_it_pays.prepare(middle | {"label noise": 0.2}, 40_000, 0)
    assert task.is_corrupt.mean() == pytest.approx(0.2, abs=0.02)
    assert len(where_it_pays.all_cases()) == sum(map(len, where_it_pays.LEVELS.values())) - 3


@pytest.mark.parametrize(
    ("case", "is_sampled"),
    [
        ({"label noise": 0.9}, False),
        ({"label noise": 0.6, "redundancy": 0.1}, False),
        ({"imbalance": 100.0}, True),
    ],
)
def test_auto_samples_in_training_only_where_losses_can_be_told_apart(case, is_sampled):
    task, settings = where_it_pays.prepare(where_it_pays.MIDDLE | case, 16_000, 0)
    told = training.run(task, settings, where_it_pays.SKETCH, 0.005, 0, NO_STRESS, tuning=True)["told"]
    assert [epoch["mode"] for epoch in told[1:]] == ["sampled" if is_sampled else "uniform"] * 3
