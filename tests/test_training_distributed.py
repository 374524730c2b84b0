"""Two processes over gloo: one draw, shared by both, and one sketch."""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="Ranks are processes of torch.distributed")

from torch import distributed, multiprocessing  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from nwsketch.training import Ranks, SketchSampler  # noqa: E402

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="this PyTorch has no distributed part")

N_ROWS, NUM_SAMPLES, N_EPOCHS, BATCH = 120, 40, 6, 10


def make_sampler(seed=0, n_rows=N_ROWS, **parameters):
    X = np.random.default_rng(1).normal(size=(n_rows, 4))
    sampler = SketchSampler(X, seed=seed, **({"num_samples": NUM_SAMPLES, "switch": None} | parameters))
    sampler.wrap(range(n_rows))
    return sampler


def loss_of(rows):
    return 1.0 + rows % 5 + 4.0 * (rows % 11 == 0)


def train(sampler, stop_at=None, own_features=False):
    """Report losses; return (epoch, row, weight) of all that was drawn, and the state at a step."""
    loader = DataLoader(sampler.wrap(range(N_ROWS)), batch_size=BATCH, sampler=sampler)
    drawn, n_steps = [], 0
    for epoch in range(sampler.epoch, N_EPOCHS):
        for index, weight, _ in loader:
            features = np.cos(np.outer(index + epoch, [1, 2, 3, 4])) if own_features else None
            sampler.update(index, loss_of(index), features)
            drawn += [(epoch, *pair) for pair in zip(index.tolist(), weight.tolist(), strict=True)]
            n_steps += 1
            if n_steps == stop_at:
                return drawn, sampler.state_dict()
    iter(sampler)  # which learns the last epoch
    return drawn, sampler.state_dict()


def run(parameters, **how):
    sampler = make_sampler(**parameters)
    assert len(sampler) == NUM_SAMPLES // 2
    return train(sampler, **how)


def resume(stop_at):
    first, state = train(make_sampler(), stop_at=stop_at)
    resumed = make_sampler()
    resumed.load_state_dict(state)
    return first + train(resumed)[0]


def fail(rank, parameters):
    try:
        make_sampler(**{name: value[rank] for name, value in parameters.items()})
    except ValueError as error:
        return str(error)
    return "no error"


#: What is run in both processes: parameters of the sampler, and of the training loop.
RUNS = {
    "plain": ({}, {}),
    "replacement": ({"switch": "auto", "replacement": True}, {}),
    "refreshed": ({"refresh": 20, "memory": None}, {}),
    "own features": ({}, {"own_features": True}),
}
#: Parameters of the two samplers, and what is wrong with them.
FAILURES = [
    ({"num_samples": (47, 47)}, "num_samples=47 is not divisible by the 2 processes, .*: give 46"),
    ({"refresh": (15, 15)}, "refresh=15 is not divisible by the 2 processes"),
    ({"seed": (0, 1)}, "The processes have different samplers"),
    ({"n_rows": (120, 122)}, "The processes have different samplers"),
]
STOPS = (3, 9)


def work(rank, folder):
    """Run everything, in one of the two processes: starting them takes most of the time."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        alone = make_sampler(seed=rank, ranks=None)
        answers = {
            "runs": {name: run(parameters, **how) for name, (parameters, how) in RUNS.items()},
            "resumed": {stop_at: resume(stop_at) for stop_at in STOPS},
            "failures": [fail(rank, parameters) for parameters, _ in FAILURES],
            "alone": (len(alone), [drawn.row for drawn in alone]),
        }
        torch.save(answers, folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Return what both processes found."""
    folder = tmp_path_factory.mktemp("job")
    multiprocessing.spawn(work, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("name", RUNS)
def test_shards_are_disjoint_parts_of_one_draw_and_the_sketch_is_that_of_one_process(answers, name):
    parameters, how = RUNS[name]
    (first, state), (second, other) = (answer["runs"][name] for answer in answers)
    alone, single = train(make_sampler(**parameters, ranks=None), **how)
    for epoch in range(N_EPOCHS):
        shards = [[pair[1:] for pair in drawn if pair[0] == epoch] for drawn in (first, second)]
        assert [len(shard) for shard in shards] == [NUM_SAMPLES // 2] * 2
        both = sorted(shards[0] + shards[1])
        if name in ("plain", "own features"):
            assert len({row for row, _ in both}) == NUM_SAMPLES
        expected = sorted(pair[1:] for pair in alone if pair[0] == epoch)
        assert [row for row, _ in both] == [row for row, _ in expected]
        np.testing.assert_allclose([w for _, w in both], [w for _, w in expected], rtol=1e-6)
    # The same on both, and up to the order of summation that of one process with the same losses.
    for part, values in state["evidence"].items():
        theirs, ones = other["evidence"][part], single["evidence"][part]
        if isinstance(values, torch.Tensor):
            assert torch.equal(values.nan_to_num(-1), theirs.nan_to_num(-1))
            torch.testing.assert_close(values, ones, equal_nan=True)
        else:
            assert values == theirs == ones


@pytest.mark.parametrize("stop_at", STOPS)
def test_a_resumed_job_equals_the_uninterrupted_one(answers, stop_at):
    for answer in answers:
        assert answer["resumed"][stop_at] == answer["runs"]["plain"][0]


@pytest.mark.parametrize("case", range(len(FAILURES)))
def test_a_job_that_cannot_work_is_refused_by_all(answers, case):
    for answer in answers:
        assert re.search(FAILURES[case][1], answer["failures"][case])


def test_a_process_may_stay_alone(answers):
    (length, rows), (_, others) = (answer["alone"] for answer in answers)
    assert length == len(rows) == NUM_SAMPLES
    assert rows != others


def test_ranks_without_a_job_are_refused():
    with pytest.raises(RuntimeError, match=r"torch\.distributed is not initialised: .* ranks=None"):
        Ranks()
