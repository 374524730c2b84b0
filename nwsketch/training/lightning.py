"""A callback of PyTorch Lightning that feeds, saves and logs a sampler (the extra ``lightning``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.utilities import CombinedLoader
    from torch import distributed
    from torch.utils.data import DataLoader
except ImportError as error:
    raise ImportError(
        'nwsketch.training.lightning needs PyTorch Lightning: pip install "nwsketch[lightning]"'
    ) from error

from nwsketch.training import SketchSampler
from nwsketch.training.distributed import is_distributed
from nwsketch.training.passes import Passes
from nwsketch.training.report import split_metrics


class SketchCallback(Callback):
    """Draw the examples that a ``Trainer`` of Lightning trains on by a ``SketchSampler``.

    ``training_step`` returns ``{"loss": ..., "index": index, "losses": losses}``; the callback reports the
    losses of every batch, saves the sampler in Lightning's checkpoints and restores it, within an epoch too,
    and logs its metrics at the end of every epoch, under ``sampler/``.

    Parameters
    ----------
    sampler : SketchSampler or callable
        Or a function without arguments that makes it: needed where several processes train together, as they
        must have met before. It is called when training is set up, or when :attr:`sampler` is asked for.

    Examples
    --------
    >>> import torch
    >>> from lightning import LightningModule, Trainer
    >>> from torch.nn.functional import cross_entropy
    >>> from nwsketch.training import SketchSampler
    >>> from nwsketch.training.lightning import SketchCallback
    >>> class Model(LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.linear = torch.nn.Linear(5, 2)
    ...
    ...     def training_step(self, batch, batch_idx):
    ...         index, weight, (x, y) = batch
    ...         losses = cross_entropy(self.linear(x), y, reduction="none")
    ...         return {"loss": (weight * losses).mean(), "index": index, "losses": losses}
    ...
    ...     def configure_optimizers(self):
    ...         return torch.optim.SGD(self.parameters(), lr=0.1)
    >>> x, y = torch.randn(1000, 5), torch.arange(1000) % 2
    >>> sketch = SketchCallback(SketchSampler(x, labels=y, num_samples=500, seed=0))
    >>> loader = sketch.loader(torch.utils.data.TensorDataset(x, y), batch_size=100)
    >>> quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    >>> trainer = Trainer(
    ...     max_epochs=3, callbacks=[sketch], accelerator="cpu", enable_checkpointing=False, **quiet
    ... )
    >>> trainer.fit(Model(), loader)
    >>> int(trainer.callback_metrics["sampler/epoch"])
    2
    """

    def __init__(self, sampler: SketchSampler | Callable[[], SketchSampler]) -> None:
        self._given = sampler
        self._stage = "fit"

    @property
    def sampler(self) -> SketchSampler:
        """The sampler, made by now."""
        return self._passes.sampler

    def loader(self, dataset: Any, **options: Any) -> DataLoader[Any]:
        """Return the loader to train with, whose sampler Lightning does not replace.

        Where several processes train together, call this in ``train_dataloader``.

        Parameters
        ----------
        dataset : map-style data set
            Its i-th sample belongs to row i of the sampler's features.
        **options : dict
            Of ``DataLoader``, such as ``batch_size``, ``num_workers`` and ``collate_fn``.

        Returns
        -------
        DataLoader
            Of batches (index, weight, sample).
        """
        wrapped: Any = self.sampler.wrap(dataset)
        return _Loader(wrapped, sampler=self._passes, **options)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the samplers of all processes; called by Lightning in all of them.

        Returns
        -------
        dict
        """
        state = self.sampler.state_dict()
        evidence = state.pop("evidence")  # by far the largest, and the same everywhere
        states: list[Any] = [state]
        if is_distributed():
            states = [None] * distributed.get_world_size()
            distributed.all_gather_object(states, state)
        return {"evidence": evidence, "processes": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of this process, to train on; not while a trainer validates, tests or predicts.

        Parameters
        ----------
        state : dict

        Raises
        ------
        ValueError
            If it is of another sampler, or of another number of processes.
        """
        if self._stage != "fit":
            return
        states = state["processes"]
        rank = distributed.get_rank() if is_distributed() else 0
        self.sampler.load_state_dict(states[rank % len(states)] | {"evidence": state["evidence"]})

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the sampler, now that the processes have met; a fit begins an epoch, if no state is loaded.

        Parameters
        ----------
        trainer : Trainer
        pl_module : LightningModule
        stage : str
        """
        self._stage = stage
        if stage == "fit":
            # Lightning may ask for an iterator twice before the first batch; below an epoch's end is told.
            self._passes.goes_on = True
            if not self.sampler.is_resuming:
                self.sampler.finish_epoch()  # that an earlier fit may have left in its middle

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse loaders and processes that the sampler does not draw for.

        Parameters
        ----------
        trainer : Trainer
        pl_module : LightningModule
        """
        loaders = CombinedLoader(trainer.train_dataloader).flattened
        samplers = [getattr(loader, "sampler", None) for loader in loaders]
        if self._passes not in samplers:
            names = ", ".join(type(sampler).__name__ for sampler in samplers)
            raise ValueError(
                f"The training loader draws by {names}, not by the sampler of SketchCallback: make it by "
                "SketchCallback.loader(dataset, ...), which use_distributed_sampler=True leaves alone, and "
                "keep overfit_batches=0, as Lightning replaces every sampler otherwise."
            )
        self._loader = loaders[samplers.index(self._passes)]
        n_processes = self.sampler.num_samples // len(self.sampler)
        if n_processes != trainer.world_size:
            raise ValueError(
                f"The sampler draws for {n_processes} process(es), but {trainer.world_size} train together: "
                "give SketchCallback a function that makes the sampler, and call SketchCallback.loader in "
                "train_dataloader, when the processes have met."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report the losses of a batch; if its step was skipped, only that it is over.

        Parameters
        ----------
        trainer : Trainer
        pl_module : LightningModule
        outputs : dict
            What ``training_step`` returned; empty if that was None.
        batch : object
        batch_idx : int
        """
        if outputs:
            missing = {"index", "losses"} - outputs.keys()
            if missing:
                raise ValueError(
                    f"training_step returned no {' and no '.join(sorted(missing))}: return "
                    '{"loss": (weight * losses).mean(), "index": index, "losses": losses}, with one loss per '
                    "example."
                )
            self.sampler.update(outputs["index"], outputs["losses"])
        else:
            self.sampler.skip(self._loader.batch_size or 1)
        self._passes.drop_remainder(self._loader)
        if trainer.is_last_batch:
            self.sampler.finish_epoch()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the numbers among the metrics, of several processes their means, and leave a remainder out.

        Parameters
        ----------
        trainer : Trainer
        pl_module : LightningModule
        """
        if trainer.is_last_batch:  # by on_train_batch_start, which may return -1 and no batch ends
            self.sampler.finish_epoch()
        numbers, _ = split_metrics(self.sampler.metrics(), "sampler")
        self.log_dict(numbers, sync_dist=True)

    @cached_property
    def _passes(self) -> Passes:
        return Passes(self._given() if callable(self._given) else self._given)


class _Loader(DataLoader[Any]):
    """Tells Lightning that it can resume within an epoch; the callback sees to it."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
