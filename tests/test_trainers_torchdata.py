"""torchdata's own loader, with a sampler that counts losses: a resumed run equals the uninterrupted one."""

import io

import pytest

torch = pytest.importorskip("torch", reason="SketchSampler is a sampler of PyTorch")
pytest.importorskip("torchdata", reason="torchdata is not installed (the extra nwsketch[torchdata])")

from test_training_resume import BATCH, N_EPOCHS, N_ROWS, loss_of, make_sampler, same  # noqa: E402
from torch.utils.data import RandomSampler  # noqa: E402
from torchdata.stateful_dataloader import StatefulDataLoader  # noqa: E402

from nwsketch.training.torchdata import SketchDataLoader  # noqa: E402

N_STEPS = 7  # of an epoch of 112 examples
LOADERS = {
    "no workers": {},
    "no workers, a remainder": {"drop_last": True, "batch_size": 15},
    "workers": {"num_workers": 2},
    "workers that stay": {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 3},
}


def make(loader=SketchDataLoader, dataset=range(N_ROWS), **options):
    """Return a sampler, and a loader that draws by it."""
    sampler = make_sampler(switch="auto", refresh=56)
    dataset = sampler.wrap(dataset)
    return sampler, loader(dataset, sampler=sampler, **({"batch_size": BATCH} | options))


def train(sampler, loader, stop_at=None):
    """Train on, up to a step: (what was drawn, state of the loader there)."""
    drawn = []
    for epoch in range(sampler.epoch, N_EPOCHS):
        for index, weight, _ in loader:
            sampler.update(index, loss_of(index, 1000 * epoch + int(index[0])))
            drawn.append((epoch, index.tolist(), weight.tolist()))
            if len(drawn) == stop_at:
                return drawn, saved(loader)
    return drawn, saved(loader)


def saved(loader):
    """Return the state as a file keeps it, read without trusting code in it."""
    file = io.BytesIO()
    torch.save(loader.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", LOADERS)
def test_a_resumed_run_equals_the_uninterrupted_one(name):
    whole, last = train(*make(**LOADERS[name]))
    assert len(whole) == N_EPOCHS * N_STEPS
    for stop_at in (2, 17, 21):  # in the warm-up, in the middle of an epoch, at the end of one
        first, state = train(*make(**LOADERS[name]), stop_at=stop_at)
        sampler, loader = make(**LOADERS[name])
        loader.load_state_dict(state)
        rest, end = train(sampler, loader)
        assert first + rest == whole
        assert same(end["sampler"], last["sampler"])


@pytest.mark.parametrize("name", ["no workers", "workers", "workers that stay"])
def test_a_state_between_epochs_begins_the_next_one(name):
    whole, _ = train(*make(**LOADERS[name]))
    sampler, loader = make(**LOADERS[name])
    states, drawn = [saved(loader)], []
    for epoch in range(3):
        for index, weight, _ in loader:
            sampler.update(index, loss_of(index, 1000 * epoch + int(index[0])))
            drawn.append((epoch, index.tolist(), weight.tolist()))
        states.append(saved(loader))
    assert drawn == whole[: 3 * N_STEPS]  # saving changes nothing
    for epoch in (0, 3):
        sampler, loader = make(**LOADERS[name])
        loader.load_state_dict(states[epoch])
        assert train(sampler, loader)[0] == whole[epoch * N_STEPS :]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_remainder_that_is_left_out_makes_no_pass_of_its_own(n_workers):
    options = {"drop_last": True, "batch_size": 15, "num_workers": n_workers}
    whole, _ = train(*make(**options))
    _, in_epoch = train(*make(**options), stop_at=N_STEPS)
    sampler, loader = make(**options)
    for index, _, _ in loader:
        sampler.update(index, loss_of(index, int(index[0])))
    for state in (in_epoch, saved(loader)):
        sampler, loader = make(**options)
        loader.load_state_dict(state)
        assert sampler.epoch == 1
        assert [(1, index.tolist(), weight.tolist()) for index, weight, _ in loader] == whole[N_STEPS:][
            :N_STEPS
        ]


@pytest.mark.parametrize(("options", "stop_at"), [({}, 21), ({"num_workers": 2}, 17)])
def test_torchdatas_own_loader_would_not_do(options, stop_at):
    whole, _ = train(*make())
    first, state = train(*make(StatefulDataLoader, **options), stop_at=stop_at)
    sampler, loader = make(StatefulDataLoader, **options)
    loader.load_state_dict(state)
    assert first + train(sampler, loader)[0] != whole


@pytest.mark.parametrize("n_workers", [0, 2])
def test_the_sampler_is_saved_when_asked_and_not_at_every_step(monkeypatch, n_workers):
    sampler, loader = make(num_workers=n_workers)
    calls = []
    save = sampler.state_dict
    monkeypatch.setattr(sampler, "state_dict", lambda: calls.append(1) or save())
    for index, _, _ in loader:
        sampler.update(index, loss_of(index, 0))
    loader.state_dict()
    assert len(calls) == 1


class Counting:
    """A data set that keeps count of what it was asked, as one with augmentation keeps its generator."""

    def __init__(self):
        self.asked = 0

    def __len__(self):
        return N_ROWS

    def __getitem__(self, row):
        self.asked += 1
        return self.asked

    def state_dict(self):
        return {"asked": self.asked}

    def load_state_dict(self, state):
        self.asked = state["asked"]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_state_of_the_data_set_is_kept_too(n_workers):
    def counts(loader):
        return [count.tolist() for *_, count in loader]

    _, loader = make(dataset=Counting(), num_workers=n_workers)
    whole = counts(loader)
    sampler, loader = make(dataset=Counting(), num_workers=n_workers)
    for step, (index, *_) in enumerate(loader, 1):
        sampler.update(index, loss_of(index, 0))
        if step == 3:
            break
    state = saved(loader)
    _, loader = make(dataset=Counting(), num_workers=n_workers)
    loader.load_state_dict(state)
    assert counts(loader) == whole[3:]


def test_other_samplers_and_rarer_snapshots_are_refused():
    with pytest.raises(TypeError, match=r"sampler is a RandomSampler: give a SketchSampler"):
        SketchDataLoader(range(9), sampler=RandomSampler(range(9)))
    with pytest.raises(ValueError, match=r"snapshot_every_n_steps=5 would resume .*: leave it at 1"):
        make(snapshot_every_n_steps=5)


def test_a_state_of_another_sampler_is_refused():
    _, state = train(*make(), stop_at=3)
    sampler = make_sampler(seed=1)
    loader = SketchDataLoader(sampler.wrap(range(N_ROWS)), sampler=sampler, batch_size=BATCH)
    with pytest.raises(ValueError, match=r"The state is of another sampler: hashes="):
        loader.load_state_dict(state)
