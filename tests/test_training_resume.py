"""A state saved within an epoch goes on as if nothing had happened, also with prefetching workers."""

import copy
import io

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="SketchSampler is a sampler of PyTorch")

from torch.utils.data import DataLoader  # noqa: E402

from nwsketch.training import SketchSampler  # noqa: E402

N_ROWS, N_EPOCHS, BATCH = 240, 5, 16
VARIANTS = {
    "without replacement": {},
    "with replacement": {"replacement": True},
    "refreshed within epochs": {"refresh": 48},
    "sketch alone": {"memory": None},
    "auto": {"switch": "auto"},
    "labels": {"labels": np.arange(N_ROWS) % 3},
}


def make_rows():
    return np.random.default_rng(0).normal(size=(N_ROWS, 5))


def make_sampler(**parameters):
    return SketchSampler(
        make_rows(), **({"num_samples": 112, "switch": None, "seed": 0, "ranks": None} | parameters)
    )


def loss_of(index, step):
    """Losses that depend on the example and the time."""
    return 1.5 + torch.sin(index.float()) + 0.3 * np.cos(step) + 3.0 * (index % 7 == 0)


def train(sampler, *, n_workers=0, own_features=False, stop_at=None, drop_last=False):
    """Train on, up to a step: (what was drawn, state and step there).

    A step is one batch; the state is taken after its update, as a loop that saves checkpoints does.
    """
    loader = DataLoader(
        sampler.wrap(list(range(N_ROWS))),
        batch_size=BATCH,
        sampler=sampler,
        num_workers=n_workers,
        drop_last=drop_last,
    )
    drawn = []
    for epoch in range(sampler.epoch, N_EPOCHS):
        for index, weight, _ in loader:
            step = 1000 * epoch + int(index[0])
            features = torch.sin(torch.from_numpy(make_rows())[index] + step) if own_features else None
            sampler.update(index, loss_of(index, step), features)
            drawn.append((epoch, index.tolist(), weight.tolist()))
            if len(drawn) == stop_at:
                return drawn, saved(sampler)
    return drawn, saved(sampler)


def saved(sampler):
    """Return the state as a file keeps it, read without trusting code in it."""
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(state, other):
    if isinstance(state, dict):
        return state.keys() == other.keys() and all(same(state[name], other[name]) for name in state)
    if isinstance(state, torch.Tensor):
        return torch.equal(
            state.nan_to_num(-1) if state.is_floating_point() else state,
            other.nan_to_num(-1) if other.is_floating_point() else other,
        )
    return state == other


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_equals_the_uninterrupted_one(variant, n_workers):
    whole, last = train(make_sampler(**VARIANTS[variant]), n_workers=n_workers)
    assert len(whole) == N_EPOCHS * 7
    for stop_at in (1, 17, 28, 30):  # in the warm-up, in the middle of epochs, at the end of one
        first, state = train(make_sampler(**VARIANTS[variant]), n_workers=n_workers, stop_at=stop_at)
        resumed = make_sampler(**VARIANTS[variant])
        resumed.load_state_dict(state)
        rest, end = train(resumed, n_workers=n_workers)
        assert first + rest == whole
        assert same(end, last)


@pytest.mark.parametrize("stop_at", [3, 17])
def test_a_resumed_run_keeps_codes_that_were_refreshed(stop_at):
    whole, _ = train(make_sampler(), own_features=True)
    first, state = train(make_sampler(), own_features=True, stop_at=stop_at)
    resumed = make_sampler()
    resumed.load_state_dict(state)
    rest, _ = train(resumed, own_features=True)
    assert first + rest == whole
    plain, _ = train(make_sampler())
    assert plain != whole  # so the check can fail


def test_a_state_counts_what_was_trained_on_and_not_what_was_prefetched():
    first, state = train(make_sampler(), n_workers=2, stop_at=2)
    assert state["cursor"] == 2 * BATCH
    resumed = make_sampler()
    resumed.load_state_dict(state)
    assert resumed.epoch == 0
    assert len(resumed) == 112
    rest, _ = train(resumed, stop_at=5)
    rows = [row for _, index, _ in first + rest for row in index]
    assert len(set(rows)) == 112  # one pass, without an example lost or repeated


def test_a_remainder_that_a_loader_drops_is_an_empty_epoch_at_most():
    whole, _ = train(make_sampler(num_samples=120), drop_last=True)
    first, state = train(make_sampler(num_samples=120), drop_last=True, stop_at=14)
    resumed = make_sampler(num_samples=120)
    resumed.load_state_dict(state)
    assert first + train(resumed, drop_last=True)[0] == whole


def rows_of_an_epoch(sampler, n_trained):
    """Begin a pass, report the losses of the first examples, and return all of its rows."""
    sampler.wrap(range(N_ROWS))
    rows = torch.tensor([drawn.row for drawn in sampler])
    sampler.update(rows[:n_trained], loss_of(rows[:n_trained], sampler.epoch))
    return rows.tolist()


def test_an_epoch_that_was_finished_early_is_not_gone_on_with():
    sampler, left, over = make_sampler(), make_sampler(), make_sampler()
    rows_of_an_epoch(sampler, 100)
    left.load_state_dict(sampler.state_dict())
    sampler.finish_epoch()
    over.load_state_dict(sampler.state_dict())
    assert (left.epoch, len(rows_of_an_epoch(left, 12))) == (0, 12)
    assert (over.epoch, len(rows_of_an_epoch(over, 112))) == (1, 112)
    assert over.metrics()["epoch"] == 1


def test_a_new_iterator_goes_on_with_an_epoch_when_told_to():
    sampler = make_sampler()
    sampler.resume_epoch()  # there is none yet
    rows = rows_of_an_epoch(sampler, 30)
    sampler.resume_epoch()
    assert sampler.epoch == 0
    assert rows_of_an_epoch(sampler, 82) == rows[30:]
    sampler.resume_epoch()  # it is over
    assert sampler.epoch == 1
    assert len(rows_of_an_epoch(sampler, 30)) == 112


def test_saving_changes_nothing():
    quiet, busy = make_sampler(refresh=16), make_sampler(refresh=16)
    whole, _ = train(quiet)
    loader = DataLoader(busy.wrap(list(range(N_ROWS))), batch_size=BATCH, sampler=busy)
    drawn = []
    for epoch in range(N_EPOCHS):
        for index, weight, _ in loader:
            busy.update(index, loss_of(index, 1000 * epoch + int(index[0])))
            drawn.append((epoch, index.tolist(), weight.tolist()))
            busy.state_dict()
            busy.metrics()
    assert drawn == whole


def test_a_state_is_a_copy():
    sampler = make_sampler()
    train(sampler, stop_at=9)
    state = sampler.state_dict()
    before = copy.deepcopy(state)
    train(sampler)
    assert same(state, before)
    resumed = make_sampler()
    resumed.load_state_dict(state)
    train(resumed)
    assert same(state, before)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"num_samples": 100}, r"num_samples=112, here 100"),
        ({"seed": 1}, r"hashes="),
        ({"memory": None}, r"memory=True, here False"),
        ({"replacement": True}, r"replacement=False, here True"),
        ({"labels": np.arange(N_ROWS) % 2}, r"hashes="),
    ],
)
def test_a_state_of_another_sampler_is_refused(parameters, message):
    _, state = train(make_sampler(), stop_at=9)
    other = make_sampler(**parameters)
    with pytest.raises(ValueError, match=rf"The state is of another sampler: {message}"):
        other.load_state_dict(state)
    assert other.epoch == 0


def test_a_state_of_other_features_or_another_version_is_refused():
    _, state = train(make_sampler(), stop_at=9)
    other = SketchSampler(-make_rows(), num_samples=112, switch=None, seed=0, ranks=None)
    with pytest.raises(ValueError, match=r"The state is of another sampler: codes="):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"The state has version 99, but this sampler reads 1"):
        other.load_state_dict(state | {"version": 99})


@pytest.mark.parametrize("spoil", ["journal", "tables", "seen_at", "codes"])
def test_a_state_with_parts_missing_or_misshapen_is_refused_and_changes_nothing(spoil):
    _, state = train(make_sampler(), stop_at=9)
    other, evidence = make_sampler(), dict(state["evidence"])
    before = copy.deepcopy(other.state_dict())
    if spoil == "journal":
        del state["journal"]
    elif spoil == "codes":
        evidence["codes"] = torch.full(other.evidence.codes.array.shape, 2**16 - 1, dtype=torch.uint16)
    else:
        evidence[spoil] = evidence[spoil][:, :4] if spoil == "tables" else evidence[spoil][:4]
    with pytest.raises(ValueError, match=r"(lacks|The state's|These codes)"):
        other.load_state_dict(state | {"evidence": evidence})
    assert same(other.state_dict(), before)
