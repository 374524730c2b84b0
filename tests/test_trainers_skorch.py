"""The adapter to skorch, with the library itself: in a split, a pipeline, a search, and across files."""

import copy
import importlib
import io
import pickle
import sys

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

torch = pytest.importorskip("torch", reason="SketchSampler is a sampler of PyTorch")
skorch = pytest.importorskip("skorch", reason="skorch is not installed (the extra nwsketch[skorch])")

from skorch import NeuralNetBinaryClassifier  # noqa: E402
from skorch.callbacks import Checkpoint, EpochScoring, LoadInitState, PrintLog  # noqa: E402
from skorch.dataset import Dataset, ValidSplit  # noqa: E402
from skorch.helper import predefined_split  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, Subset  # noqa: E402

from nwsketch.training import SketchSampler  # noqa: E402
from nwsketch.training.skorch import SketchNet, SketchNetClassifier, SketchNetRegressor  # noqa: E402

N_ROWS, BATCH, N_EPOCHS = 200, 16, 4


def make_data(n_rows=N_ROWS):
    X, y = make_classification(
        n_rows, 6, n_informative=4, n_classes=3, weights=[0.6, 0.3], flip_y=0.1, random_state=0
    )
    return X.astype(np.float32), y


class Net(nn.Module):
    def __init__(self, n_outputs=3, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, n_outputs)
        )

    def forward(self, X):
        return self.layers(X)


class Recorder(SketchNet):
    """Notes what it trains on."""

    def initialize(self):
        self.seen_ = []
        return super().initialize()

    def train_step(self, batch, **fit_params):
        self.seen_.append((batch.rows.tolist(), batch.weights.tolist()))
        return super().train_step(batch, **fit_params)


class RecordingClassifier(Recorder, SketchNetClassifier):
    pass


def make_net(cls=RecordingClassifier, **parameters):
    defaults = {
        "criterion": nn.CrossEntropyLoss,
        "criterion__reduction": "none",
        "optimizer": torch.optim.SGD,
        "lr": 0.5,
        "batch_size": BATCH,
        "max_epochs": N_EPOCHS,
        "train_split": None,
        "verbose": 0,
        "sampler__warmup_epochs": 0.5,
        "sampler__switch": None,
    }
    return cls(Net, **(defaults | parameters))


def weights_of(net):
    return torch.cat([parameter.detach().flatten() for parameter in net.module_.parameters()])


def train_by_hand(X, y, n_epochs=N_EPOCHS):
    """Train as the guide does; return what was drawn, and the weights of the module."""
    module = Net()
    sampler = SketchSampler(X, labels=y, num_samples=len(X) // 2, warmup_epochs=0.5, switch=None, seed=0)
    loader = DataLoader(sampler.wrap(Dataset(X, y)), BATCH, sampler=sampler)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    drawn = []
    for _ in range(n_epochs):
        for index, weight, (inputs, targets) in loader:
            losses = nn.functional.cross_entropy(module(inputs), targets, reduction="none")
            (weight * losses).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            sampler.update(index, losses)
            drawn.append((index.tolist(), weight.tolist()))
    return drawn, torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@pytest.mark.parametrize("options", [{}, {"iterator_train__num_workers": 2}], ids=["plain", "workers"])
def test_the_net_does_what_a_loop_of_ones_own_does(options):
    X, y = make_data()
    drawn, weights = train_by_hand(X, y)
    net = make_net(**options).fit(X, y)
    assert net.seen_ == drawn
    torch.testing.assert_close(weights_of(net), weights)
    assert max(weight for _, weights in drawn for weight in weights) > 1.2  # so they count


def test_rows_are_those_of_the_training_subset():
    X, y = make_data()
    for split in (ValidSplit(4, stratified=True), ValidSplit(0.25, random_state=0)):
        chosen, _ = split(Dataset(X, y), y)
        drawn, weights = train_by_hand(X[chosen.indices], y[chosen.indices])
        net = make_net(train_split=split).fit(X, y)
        assert net.seen_ == drawn
        torch.testing.assert_close(weights_of(net), weights)
        assert len(net.history[:, "valid_loss"]) == N_EPOCHS
    valid = Dataset(X[:50], y[:50])
    net = make_net(train_split=predefined_split(valid)).fit(X[50:], y[50:])
    assert net.seen_ == train_by_hand(X[50:], y[50:])[0]
    assert make_net().fit(Subset(Dataset(X, y), np.arange(50, 200)), None).seen_ == net.seen_


def test_the_loss_of_validation_is_the_plain_mean():
    X, y = make_data()
    net = make_net(max_epochs=1, train_split=predefined_split(Dataset(X[:50], y[:50]))).fit(X[50:], y[50:])
    expected = nn.functional.cross_entropy(net.forward(X[:50]), torch.tensor(y[:50])).item()
    assert net.history[-1, "valid_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_history_has_the_numbers_of_every_epoch(capsys):
    X, y = make_data()
    net = make_net(verbose=1, callbacks=[EpochScoring("accuracy", on_train=True, name="train_acc")]).fit(X, y)
    assert net.history[:, "event_sampled"] == [False, True, True, True]
    assert net.history[:, "sampler_n_losses"] == [100, 200, 300, 400]
    assert net.history[-1, "sampler_effective_sample_size"] < 100
    assert [sum(sizes) for sizes in net.history[:, "batches", :, "train_batch_size"]] == [100] * N_EPOCHS
    assert max(net.history[:, "train_acc"]) > 0.4
    printed = capsys.readouterr().out
    assert "sampled" in printed
    assert "sampler_" not in printed
    net = make_net(verbose=1, max_epochs=1, callbacks__print_log=PrintLog()).fit(X, y)
    assert "sampler_effective_sample_size" in capsys.readouterr().out


def test_a_search_makes_a_sampler_for_every_fit():
    X, y = make_data()
    net = make_net(cls=SketchNetClassifier, max_epochs=2)
    pipeline = make_pipeline(StandardScaler(), net)
    grid = {
        "sketchnetclassifier__sampler__num_samples": [0.25, 60],
        "sketchnetclassifier__sampler__uniform_share": [0.1, 0.5],
    }
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X, y)
    best = search.best_estimator_[-1]
    size = search.best_params_["sketchnetclassifier__sampler__num_samples"]
    assert len(best.sampler_) == (50 if size == 0.25 else 60)  # of all rows
    assert not hasattr(net, "sampler_")
    assert search.predict(X).shape == (N_ROWS,)
    twin = clone(best)
    assert not hasattr(twin, "sampler_")
    assert twin.get_params()["sampler__num_samples"] == size


def test_fitting_again_begins_anew_and_fitting_on_goes_on():
    X, y = make_data()
    for options in ({}, {"iterator_train__drop_last": True}):  # 100 rows are no whole number of batches
        whole = make_net(max_epochs=5, **options).fit(X, y)
        net = make_net(max_epochs=2, **options).fit(X, y).fit(X, y)
        assert net.seen_ == whole.seen_[: len(net.seen_)]
        net.set_params(max_epochs=3)
        net.partial_fit(X, y)
        assert net.seen_ == whole.seen_
        assert torch.equal(weights_of(net), weights_of(whole))
    before = net.sampler_
    net.partial_fit(X[:50], y[:50])
    assert net.sampler_.metrics()["n_losses"] == 3 * 25 - 3 * (25 % BATCH)
    assert net.sampler_ is not before
    net.set_params(sampler__num_samples=20, lr=0.1).partial_fit(X, y)
    assert len(net.sampler_) == 20


def test_a_checkpoint_holds_the_sampler(tmp_path):
    X, y = make_data()
    whole = make_net(max_epochs=5).fit(X, y)
    checkpoint = Checkpoint(monitor=None, dirname=str(tmp_path), f_sampler="sampler.pt")
    make_net(max_epochs=2, callbacks=[checkpoint]).fit(X, y)
    net = make_net(max_epochs=3, callbacks=[LoadInitState(checkpoint)]).fit(X, y)
    assert net.seen_ == whole.seen_[-len(net.seen_) :]
    assert torch.equal(weights_of(net), weights_of(whole))
    assert len(net.history) == 5
    other = make_net(callbacks=[LoadInitState(checkpoint)], sampler__seed=1)
    with pytest.raises(ValueError, match="The state is of another sampler"):
        other.fit(X, y)


def test_a_fitted_net_is_pickled_and_copied_with_its_sampler():
    X, y = make_data()
    whole = make_net(max_epochs=5).fit(X, y)
    net = make_net(max_epochs=3).fit(X, y)
    expected = net.predict_proba(X)
    for twin in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        np.testing.assert_array_equal(twin.predict_proba(X), expected)
        twin.set_params(max_epochs=2).partial_fit(X, y)
        assert twin.seen_ == whole.seen_
    net.trim_for_prediction()
    assert net.sampler_ is None
    with pytest.raises(ValueError, match="trim_for_prediction removed the sampler: save f_sampler before"):
        net.save_params(f_sampler=io.BytesIO())
    net.save_params(f_params=io.BytesIO())
    np.testing.assert_array_equal(net.predict(X), expected.argmax(1))


def test_predictions_are_made_of_all_rows_in_their_order():
    X, y = make_data()
    dataset = Dataset(X, y)
    net = make_net().fit(dataset, None)
    assert net.forward(dataset, training=True).shape == (N_ROWS, 3)
    np.testing.assert_array_equal(net.predict_proba(dataset), net.predict_proba(X))


class RegressionNet(Recorder, SketchNetRegressor):
    pass


def test_regression_averages_the_errors_of_several_outputs():
    X, _ = make_data()
    y = X[:, :2] * 2.0
    net = make_net(RegressionNet, criterion=nn.MSELoss, module__n_outputs=2, lr=0.05, max_epochs=1)
    seen = {}
    net.initialize()
    update = SketchSampler.update
    first = net.module_(torch.tensor(X)).detach()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            SketchSampler,
            "update",
            lambda self, index, losses: (
                seen.setdefault("first", (index, losses)),
                update(self, index, losses),
            ),
        )
        net.partial_fit(X, y)
    index, losses = seen["first"]
    torch.testing.assert_close(losses, ((first - torch.tensor(y)) ** 2).mean(1)[index])
    assert net.predict(X).shape == y.shape


class Binary(SketchNet, NeuralNetBinaryClassifier):
    pass


class OneOutput(Net):
    def forward(self, X):
        return super().forward(X)[:, 0]


def test_other_nets_and_other_data():
    X, y = make_data()
    binary = make_net(Binary, criterion=nn.BCEWithLogitsLoss, max_epochs=2).set_params(module=OneOutput)
    binary.fit(X, (y > 0).astype(np.float32))
    assert binary.sampler_.metrics()["n_losses"] == 200
    drawn = make_net().fit(X, y).seen_
    assert make_net().fit(sparse.csr_matrix(X), y).seen_[0] == drawn[0]
    assert make_net().fit(torch.tensor(X), torch.tensor(y)).seen_ == drawn
    net = make_net(sampler__features=lambda data: data["X"], sampler__labels=None)
    assert len(net.fit({"X": X}, y).seen_) == len(drawn)


def test_a_line_search_reports_the_losses_before_it():
    X, y = make_data()
    net = make_net(optimizer=torch.optim.LBFGS, optimizer__max_iter=3, max_epochs=1, lr=0.1).fit(X, y)
    report = net.sampler_.report()
    assert len(report.losses) == 100
    outputs = Net()(torch.tensor(X))
    losses = nn.functional.cross_entropy(outputs, torch.tensor(y), reduction="none").detach()
    np.testing.assert_allclose(report.losses[:BATCH], losses[report.rows[:BATCH]], rtol=1e-5)


def in_pairs(samples):
    return [torch.tensor(np.stack([x for x, _ in samples])) + 1, torch.tensor([y for _, y in samples])]


def test_the_parameters_of_the_iterator_hold():
    X, y = make_data()
    net = make_net(batch_size=-1).fit(X, y)
    assert [len(rows) for rows, _ in net.seen_] == [100] * N_EPOCHS
    moved = make_net(max_epochs=1, iterator_train__collate_fn=in_pairs).fit(X, y)
    plain = make_net(max_epochs=1).fit(X + 1, y)
    assert torch.equal(weights_of(moved), weights_of(plain))
    assert not torch.equal(weights_of(moved), weights_of(make_net(max_epochs=1).fit(X, y)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion__reduction": "mean"}, "losses is a single number, as if reduced already"),
        ({"sampler__num_samples": 1.5}, r"sampler__num_samples=1\.5 is out of range"),
        ({"sampler__num_samples": 300}, r"num_samples=300 exceeds the 200 examples"),
        ({"sampler__switch": "on"}, "Unknown switch='on'"),
        ({"iterator_train__shuffle": True}, "mutually exclusive with shuffle"),
    ],
    ids=["reduction", "share", "number", "switch", "shuffle"],
)
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_net(**options).fit(*make_data())


def test_misspelt_parameters_and_unreadable_data_are_refused():
    X, y = make_data()
    with pytest.raises(ValueError, match="sampler_seed, did you mean sampler__seed"):
        make_net(sampler_seed=1).fit(X, y)
    with pytest.raises(TypeError, match=r"X is a dict, .*: give sampler__features"):
        make_net().fit({"X": X}, y)
    pairs = list(zip(X, y, strict=True))
    with pytest.raises(TypeError, match=r"X is a Subset, .*: give sampler__features"):
        make_net().fit(Subset(pairs, range(10)), None)
    net = make_net(sampler__features=lambda rows: np.stack([x for x, _ in rows]))
    assert net.fit(Subset(pairs, range(10)), None).sampler_.num_samples == 5


def test_without_skorch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skorch", None)
    monkeypatch.delitem(sys.modules, "nwsketch.training.skorch")
    with pytest.raises(ImportError, match=r'needs PyTorch and skorch: pip install "nwsketch\[skorch\]"'):
        importlib.import_module("nwsketch.training.skorch")
