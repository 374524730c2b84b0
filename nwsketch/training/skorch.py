"""skorch's nets with a :class:`~nwsketch.training.SketchSampler` of their rows (the extra ``skorch``).

A net is cloned, split and fitted many times, each time on other rows. So it is given the parameters of a
sampler, and makes one when its rows are known: after ``train_split``, before the first epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import ClassifierMixin

try:
    import torch
    from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
    from skorch.utils import data_from_dataset, to_numpy
    from torch.utils.data import DataLoader, Dataset, default_collate
except ImportError as error:
    raise ImportError(
        'nwsketch.training.skorch needs PyTorch and skorch: pip install "nwsketch[skorch]"'
    ) from error

from nwsketch.training.arrays import check_losses
from nwsketch.training.dataset import WeightedCollate
from nwsketch.training.sampler import SketchSampler

#: What :meth:`SketchSampler.metrics` tells that the history keeps, with ``sampler_`` in front.
RECORDED = (
    "effective_sample_size",
    "largest_weight",
    "distinct_share",
    "variance_ratio",
    "rank_correlation",
    "evidence_age",
    "never_seen_share",
    "n_losses",
    "n_skipped",
    "overhead_seconds",
    "overhead_share",
)


class SketchNet(NeuralNet):
    """A net whose training examples a :class:`~nwsketch.training.SketchSampler` draws.

    It mixes in: ``class Net(SketchNet, NeuralNetBinaryClassifier)`` is another net with a sampler.
    ``SketchNetClassifier`` and ``SketchNetRegressor`` are there already.

    Parameters
    ----------
    *args, **kwargs
        As of ``skorch.NeuralNet``. The criterion has to return one loss per example, or one per output of an
        example, which are averaged: set ``criterion__reduction="none"``. Parameters of the sampler begin with
        ``sampler__`` and may be searched as all others:

        - ``sampler__num_samples`` (0.5): a share of the training rows if it is a float, else a number;
        - ``sampler__features`` (X, flattened): a function that makes rows of numbers of X;
        - ``sampler__labels`` (the classes of y for classifiers, else None): as of the sampler, or a function
          that makes them of y;
        - ``sampler__seed`` (0) and the others of :class:`~nwsketch.training.SketchSampler`.

    Attributes
    ----------
    sampler_ : SketchSampler
        Of the rows last trained on. ``save_params(f_sampler=...)`` and ``Checkpoint(f_sampler=...)`` save
        its state, ``load_params(f_sampler=...)`` loads it for the next ``partial_fit`` on the same rows.

    Raises
    ------
    TypeError, ValueError
        When it is fitted: if the sampler's parameters are wrong, X cannot be read as rows of numbers, or the
        criterion reduces.

    Notes
    -----
    The history records, for every epoch, whether it was sampled (``event_sampled``), and the sampler's
    metrics, ``sampler_...``; the default log prints the former alone. Fitting again begins with a new
    sampler; ``partial_fit`` and a warm start go on with what is known if the rows are the same.
    """

    prefixes_: ClassVar[list[str]] = [*NeuralNet.prefixes_, "sampler"]
    # skorch takes attributes that do not end in an underscore for parameters.
    due_: Any = None
    drawn_: DrawnBatch | None = None
    losses_: torch.Tensor | None = None

    def initialize(self) -> Any:
        """Initialize the net; what its sampler knew is forgotten."""
        self.sampler_: Any = StateOfSampler()
        return super().initialize()

    def set_params(self, **params: Any) -> Any:
        """Set parameters; those of the sampler hold from the next fit on, and initialize nothing anew.

        Parameters
        ----------
        **params
            As of ``skorch.NeuralNet``, and those of the sampler.
        """
        others = {name: value for name, value in params.items() if not name.startswith("sampler__")}
        for name in params.keys() - others.keys():
            setattr(self, name, params[name])
        return super().set_params(**others)

    def trim_for_prediction(self) -> None:
        """Remove what prediction does not need, the sampler too."""
        super().trim_for_prediction()
        self.sampler_ = None

    def save_params(self, *args: Any, **kwargs: Any) -> None:
        """Save parameters, with ``f_sampler`` the state of the sampler, unless the net was trimmed.

        Parameters
        ----------
        *args, **kwargs
            As of ``skorch.NeuralNet``.
        """
        if kwargs.get("f_sampler") is not None and getattr(self, "_trimmed_for_prediction", False):
            raise ValueError(
                "trim_for_prediction removed the sampler: save f_sampler before it, or leave it out."
            )
        super().save_params(*args, **kwargs)

    def make_sampler(self, X: Any, y: Any) -> SketchSampler:
        """Make the sampler of training rows.

        Parameters
        ----------
        X, y
            Of the rows trained on, as the net was given them.

        Returns
        -------
        SketchSampler
        """
        classes = y is not None and isinstance(self, ClassifierMixin)
        defaults: dict[str, Any] = {"num_samples": 0.5, "features": flat_rows, "seed": 0}
        defaults["labels"] = class_numbers if classes else None
        parameters = defaults | self.get_params_for("sampler")
        features, labels = parameters.pop("features")(X), parameters.pop("labels")
        if isinstance(size := parameters["num_samples"], float):
            if not 0 < size <= 1:
                raise ValueError(
                    f"sampler__num_samples={size} is out of range: give a share within (0, 1] or an integer."
                )
            parameters["num_samples"] = max(round(size * features.shape[0]), 1)
        return SketchSampler(features, labels=labels(y) if callable(labels) else labels, **parameters)

    # -- the net's own hooks ------------------------------------------------------------------

    def get_split_datasets(self, X: Any, y: Any = None, **split_params: Any) -> Any:
        """Split as ever; the rows to train on are those that the sampler will be made for.

        Parameters
        ----------
        X, y, **split_params
            As of ``skorch.NeuralNet``.
        """
        dataset_train, dataset_valid = super().get_split_datasets(X, y, **split_params)
        self.due_ = dataset_train
        return dataset_train, dataset_valid

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        """Return batches of a data set; of the one that is due to be trained on, those that are drawn.

        Parameters
        ----------
        dataset, training
            As of ``skorch.NeuralNet``.
        """
        if not training or dataset is not self.due_:
            return super().get_iterator(dataset, training)
        self.due_ = None
        try:
            X, y = data_from_dataset(dataset)
        except AttributeError:  # of a kind that only the user's own function reads
            X, y = dataset, None
        before, self.sampler_ = self.sampler_, self.make_sampler(X, y)
        wrapped = self.sampler_.wrap(dataset)
        go_on(self.sampler_, before)
        options = {"batch_size": self.batch_size} | self.get_params_for("iterator_train")
        if options["batch_size"] == -1:
            options["batch_size"] = len(self.sampler_)
        options["collate_fn"] = WeightedCollate(options.get("collate_fn") or default_collate)
        return DrawnBatches(self.iterator_train(wrapped, sampler=self.sampler_, **options))

    def get_loss(self, y_pred: Any, y_true: Any, X: Any = None, training: bool = False) -> Any:
        """Compute the mean loss of a batch; of one that was drawn, weighted.

        Parameters
        ----------
        y_pred, y_true, X, training
            As of ``skorch.NeuralNet``.
        """
        losses = super().get_loss(y_pred, y_true, X=X, training=training)
        if self.drawn_ is None:
            return losses.mean()
        if losses.ndim > 1:
            losses = losses.flatten(1).mean(1)
        check_losses(losses, len(self.drawn_.rows))
        if self.losses_ is None:  # a line search asks for more than one
            self.losses_ = losses.detach()
        return (self.drawn_.weights.to(losses.device) * losses).mean()

    def train_step(self, batch: Any, **fit_params: Any) -> Any:
        """Train on a batch, and tell the sampler its losses.

        Parameters
        ----------
        batch, **fit_params
            As of ``skorch.NeuralNet``.
        """
        if not isinstance(batch, DrawnBatch):
            return super().train_step(batch, **fit_params)
        self.drawn_ = batch
        try:
            step = super().train_step(batch, **fit_params)
            self.sampler_.update(batch.rows, self.losses_)
        finally:
            self.drawn_ = self.losses_ = None
        return step

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Record what the sampler tells of the epoch.

        Parameters
        ----------
        net, **kwargs
            As of ``skorch.NeuralNet``.
        """
        super().on_epoch_end(net, **kwargs)
        metrics = self.sampler_.metrics()
        self.history.record("event_sampled", metrics["mode"] == "sampled")
        for name in RECORDED:
            self.history.record(f"sampler_{name}", metrics[name])

    def get_default_callbacks(self) -> Any:
        """Return skorch's callbacks, with a log that does not print all that is recorded."""
        callbacks = super().get_default_callbacks()
        for name, callback in callbacks:
            if name == "print_log":
                callback.keys_ignored = [f"sampler_{each}" for each in RECORDED]
        return callbacks


class SketchNetClassifier(SketchNet, NeuralNetClassifier):
    """``skorch.NeuralNetClassifier`` with a sampler: see :class:`~nwsketch.training.skorch.SketchNet`.

    Parameters
    ----------
    *args, **kwargs
        As of ``skorch.NeuralNetClassifier`` and :class:`~nwsketch.training.skorch.SketchNet`.
    """


class SketchNetRegressor(SketchNet, NeuralNetRegressor):
    """``skorch.NeuralNetRegressor`` with a sampler: see :class:`~nwsketch.training.skorch.SketchNet`.

    Parameters
    ----------
    *args, **kwargs
        As of ``skorch.NeuralNetRegressor`` and :class:`~nwsketch.training.skorch.SketchNet`.
    """


class DrawnBatch(list[Any]):
    """A batch as skorch reads it, that knows what was drawn.

    Parameters
    ----------
    samples : list
        X and y.
    rows : tensor of shape (n_batch,), int64
    weights : tensor of shape (n_batch,), float32
    """

    def __init__(self, samples: Any, rows: torch.Tensor, weights: torch.Tensor) -> None:
        super().__init__(samples)
        self.rows, self.weights = rows, weights


class DrawnBatches:
    """Batches of (index, weight, samples), as :class:`DrawnBatch`.

    Parameters
    ----------
    loader : DataLoader
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self._loader)

    def __iter__(self) -> Iterator[DrawnBatch]:
        """Begin an epoch."""
        for index, weight, samples in self._loader:
            yield DrawnBatch(samples, index, weight)


class StateOfSampler:
    """Stands for a sampler until its rows are known: keeps the state that it is to have."""

    def __init__(self) -> None:
        self._state: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state; empty if there is none."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep a state.

        Parameters
        ----------
        state : dict
        """
        self._state = state


def go_on(sampler: SketchSampler, before: SketchSampler | StateOfSampler) -> None:
    """Give a sampler the state of the one before it, at the end of its epoch: skorch has no others.

    Parameters
    ----------
    sampler : SketchSampler
        New; its data set is wrapped.
    before : SketchSampler or StateOfSampler
        A sampler of other rows has nothing to tell; a state that was loaded must fit.
    """
    state = before.state_dict()
    with suppress(ValueError) if isinstance(before, SketchSampler) else nullcontext():
        if state:
            sampler.load_state_dict(state)
            if state["n_begun"] > 0 and state["cursor"] < len(sampler):
                deque(sampler, maxlen=0)


def flat_rows(X: Any) -> Any:
    """Return data as rows of numbers, (n_samples, n_features); sparse ones as they are."""
    if sparse.issparse(X):
        return X
    if isinstance(X, dict | list | tuple | Dataset):
        raise TypeError(
            f"X is a {type(X).__name__}, and what of it tells which rows are alike is not known: give "
            "sampler__features, a function that makes an array (n_samples, n_features) of it."
        )
    rows = to_numpy(X)
    return rows.reshape(len(rows), -1)


def class_numbers(y: Any) -> NDArray[np.int64]:
    """Return the classes of targets, numbered in ascending order: (n_samples,)."""
    return np.unique(to_numpy(y), return_inverse=True)[1]
