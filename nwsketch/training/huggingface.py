"""Hugging Face's Trainer with a :class:`~nwsketch.training.SketchSampler` (the extra ``huggingface``).

Index and weight of an example travel around the Trainer's own collator, so that neither the removal of unused
columns nor the padding sees them, and leave the batch before the model does. The loader is not prepared by
accelerate, which would take a shard of what is a shard already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, MutableMapping
from math import ceil, isfinite
from pathlib import Path
from typing import Any

try:
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import BatchSampler, DataLoader, Sampler
    from transformers import Trainer, TrainerCallback, TrainerState
except ImportError as error:
    raise ImportError(
        'nwsketch.training.huggingface needs Transformers and Accelerate: pip install "nwsketch[huggingface]"'
    ) from error

from nwsketch.training.dataset import WeightedCollate, WeightedDataset, WeightedIndex
from nwsketch.training.sampler import SketchSampler

#: Where a batch keeps the indices and the weights of its examples.
INDEX, WEIGHT = "nwsketch_index", "nwsketch_weight"


class SketchTrainer(Trainer):
    """A Trainer whose examples a :class:`~nwsketch.training.SketchSampler` draws.

    Losses are computed example by example, weighted, averaged over the batch, and reported to the sampler.
    An epoch has ``sampler.num_samples`` examples. Checkpoints hold the sampler's state, and a run that is
    resumed from one draws what the uninterrupted run would have drawn. At the end of every epoch the
    sampler's numbers are logged, with ``sampler_`` in front of their names.

    It mixes in: ``class MyTrainer(SketchTrainer, Seq2SeqTrainer)`` is another Trainer with a sampler. Losses
    of one's own go into :meth:`compute_example_losses`, not into ``compute_loss``.

    Parameters
    ----------
    *args, **kwargs
        As of ``transformers.Trainer``. The sampler takes the place of its strategies of sampling.
    sampler : SketchSampler
        With a row of features for every example of ``train_dataset``. In a job of several processes make it
        after the ``TrainingArguments``, which start the job; every process gets a shard of its draw.

    Attributes
    ----------
    sampler : SketchSampler

    Raises
    ------
    TypeError, ValueError
        If the training data is not what the sampler was made for, if arguments of the Trainer cannot be
        obeyed (``compute_loss_func``, ``split_batches``, ``dispatch_batches``), or if a Trainer mixed in has
        a ``compute_loss`` of its own and ``compute_example_losses`` was not overridden.

    Notes
    -----
    A sampler outlives the model: a second ``train()`` with ``model_init``, and so every trial of
    ``hyperparameter_search``, begins with the losses of the former model. Make a new trainer with a new
    sampler for each, and search by trials that do so.
    """

    def __init__(self, *args: Any, sampler: SketchSampler, **kwargs: Any) -> None:
        self.sampler = sampler
        super().__init__(*args, **kwargs)
        self._require_obeyable()
        self.add_callback(LogOfSampler(self))

    def compute_example_losses(self, outputs: Any, inputs: Any) -> torch.Tensor:
        """Compute one loss for each example of a batch: override it if examples have no classes.

        Parameters
        ----------
        outputs : ModelOutput
            What the model returned.
        inputs : mapping of str to tensors
            What the model was given, labels among it.

        Returns
        -------
        tensor of shape (n_batch,)
            Not reduced and not weighted; gradients flow through it. Here the cross entropy of the logits,
            smoothed by ``label_smoothing_factor``.

        Raises
        ------
        ValueError
            If there are no logits of shape (n_batch, n_classes > 1), or no labels of shape (n_batch,), int.
        """
        logits: Any = getattr(outputs, "logits", None)
        labels: Any = inputs.get("labels")
        shapes = [tuple(getattr(each, "shape", ())) for each in (logits, labels)]
        known = [len(shape) for shape in shapes] == [2, 1] and not labels.is_floating_point()
        if not known or shapes[0][1] < 2:
            raise ValueError(
                "The loss of an example is known here for logits (n_batch, n_classes > 1) and integer "
                f"labels (n_batch,), but there are logits {shapes[0]} and labels {shapes[1]}: override "
                "compute_example_losses."
            )
        smoothing = self.args.label_smoothing_factor
        return cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)

    # -- the Trainer's own hooks --------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of weighted batches, otherwise with the settings of the Trainer's own."""
        own = super().get_train_dataloader()
        self._batches = TrainingBatches(self.sampler, self._train_batch_size, self.args.dataloader_drop_last)
        dataset: Any = self.sampler.wrap(own.dataset)
        return DataLoader(
            dataset,
            batch_sampler=self._batches,
            collate_fn=MappingCollate(own.collate_fn),
            num_workers=own.num_workers,
            pin_memory=own.pin_memory,
            worker_init_fn=own.worker_init_fn,
            multiprocessing_context=own.multiprocessing_context,
            prefetch_factor=own.prefetch_factor,
            persistent_workers=own.persistent_workers,
        )

    def _get_train_sampler(self, *_: Any) -> SketchSampler:
        return self.sampler

    def num_examples(self, dataloader: DataLoader[Any]) -> int:
        """Return the number of examples of an epoch: of training, as many as are drawn.

        Parameters
        ----------
        dataloader : DataLoader
        """
        if isinstance(getattr(dataloader, "dataset", None), WeightedDataset):
            return self.sampler.num_samples
        return int(super().num_examples(dataloader))

    def training_step(
        self, model: torch.nn.Module, inputs: Any, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Train on a batch; losses are means, and the Trainer divides them by the batches of a step.

        Parameters
        ----------
        model, inputs
            As of ``transformers.Trainer``.
        num_items_in_batch : None
            Not used: a number of items would make the Trainer take the loss for a part of a sum.

        Raises
        ------
        TypeError
            If ``compute_loss`` was overridden, and the sampler was told nothing.
        """
        self._is_told = False
        loss = super().training_step(model, inputs)
        if not self._is_told:  # models that ignore unknown arguments would train on, without weights
            raise TypeError(
                f"The compute_loss of {type(self).__name__} does not call SketchTrainer's, so losses were "
                "not weighted and the sampler was not told: override compute_example_losses instead."
            )
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute the loss of a batch: of one that was drawn, weighted, and told to the sampler.

        Parameters
        ----------
        model, inputs, return_outputs, num_items_in_batch
            As of ``transformers.Trainer``.
        """
        if INDEX not in inputs:  # evaluation
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = {**inputs}
        index, weight = inputs.pop(INDEX), inputs.pop(WEIGHT)
        outputs = model(**inputs)
        losses = self.compute_example_losses(outputs, inputs)
        self.sampler.update(index, losses)
        self._is_told = True
        loss = (weight * losses).mean()
        return (loss, outputs) if return_outputs else loss

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        path = self._state_file(output_dir)
        path.parent.mkdir(parents=True, exist_ok=True)  # process 0 may not have come so far
        torch.save({"sampler": self.sampler.state_dict(), "loop": self._loop()}, path)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = self._state_file(checkpoint)
        if not path.is_file():
            raise FileNotFoundError(
                f"The checkpoint has no {path.name}: resume from one that a SketchTrainer of as many "
                "processes saved without save_only_model, or load its model alone and train anew."
            )
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not self.args.ignore_data_skip:
            self._require_same_loop(state["loop"])
        self.sampler.load_state_dict(state["sampler"])
        n_trained = self._batches.go_on_from(state["sampler"]["cursor"])
        if self.args.ignore_data_skip:
            self._batches.n_trained = 0
            return
        n_steps = max(ceil(len(self._batches) / self.args.gradient_accumulation_steps), 1)
        trainer_state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        n_skipped = trainer_state.global_step % n_steps * self.args.gradient_accumulation_steps
        if n_trained != n_skipped * self._train_batch_size:
            raise ValueError(
                f"The sampler has trained on {n_trained} examples of its epoch, but the Trainer would go on "
                f"after {n_skipped} batches of {self._train_batch_size}, as one does that was resumed with "
                "ignore_data_skip=True: set it again."
            )

    # -- within -------------------------------------------------------------------------------

    def _state_file(self, checkpoint: str) -> Path:
        """Return where a checkpoint keeps the state of this process's sampler."""
        of_process = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        return Path(checkpoint) / f"sketch_sampler{of_process}.pt"

    def _loop(self) -> dict[str, int]:
        """Return what tells how many steps an epoch has, apart from the sampler."""
        return {
            "batch size": self._train_batch_size,
            "gradient_accumulation_steps": self.args.gradient_accumulation_steps,
            "dataloader_drop_last": self.args.dataloader_drop_last,
        }

    def _require_same_loop(self, saved: dict[str, int]) -> None:
        """Raise unless the steps of a checkpoint are steps of this run."""
        for name, here in self._loop().items():
            if saved[name] != here:
                raise ValueError(
                    f"The checkpoint was saved with {name}={saved[name]}, but here it is {here}, and "
                    "steps are counted otherwise: resume with that of the checkpoint, or set "
                    "ignore_data_skip=True."
                )

    def _require_obeyable(self) -> None:
        """Raise unless the sampler fits the data and the processes, and nothing else is asked for."""
        if self.train_dataset is not None:
            self.sampler.wrap(self.train_dataset)
        is_own = type(self).compute_example_losses is not SketchTrainer.compute_example_losses
        if super(SketchTrainer, type(self)).compute_loss is not Trainer.compute_loss and not is_own:
            raise TypeError(
                f"{type(self).__name__} inherits another compute_loss than transformers.Trainer's, which "
                "training would not call: override compute_example_losses to compute that loss, example by "
                "example."
            )
        if self.compute_loss_func is not None:
            raise ValueError(
                "compute_loss_func returns one number for a batch, but the sampler needs one for each "
                "example: override compute_example_losses."
            )
        for name in ("split_batches", "dispatch_batches"):
            if getattr(self.args.accelerator_config, name):
                raise ValueError(
                    f"accelerator_config sets {name}, but the sampler gives every process its own shard: "
                    "leave it out."
                )
        n_processes = self.sampler.num_samples // len(self.sampler)
        if n_processes != self.args.world_size:
            raise ValueError(
                f"The sampler draws for {n_processes} process(es), but the Trainer runs in "
                f"{self.args.world_size}: make the sampler after the TrainingArguments, with ranks='auto'."
            )


class TrainingBatches(Sampler[list[WeightedIndex]]):
    """Batches of a sampler, as many in an epoch that is resumed as in any other.

    To resume, the Trainer skips the batches that it has trained on. The sampler goes on after them by itself;
    so empty batches stand in their place, and being skipped are never fetched.

    Parameters
    ----------
    sampler : SketchSampler
    batch_size : int
    drop_last : bool
        Whether the last batch is left out if it is shorter.

    Attributes
    ----------
    n_trained : int
        Empty batches that the next pass begins with.
    """

    def __init__(self, sampler: SketchSampler, batch_size: int, drop_last: bool) -> None:
        self._sampler, self._batch_size, self._drop_last = sampler, batch_size, drop_last
        self._batches: Any = BatchSampler(sampler, batch_size, drop_last)  # type: ignore[arg-type]
        self.n_trained = 0

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self._batches)

    def __iter__(self) -> Iterator[list[WeightedIndex]]:
        """Begin an epoch, or go on with one that was restored."""
        n_trained, self.n_trained = self.n_trained, 0
        yield from ([] for _ in range(n_trained))
        yield from self._batches

    def go_on_from(self, cursor: int) -> int:
        """Make the next pass go on within a restored epoch.

        Parameters
        ----------
        cursor : int
            Examples that the sampler was told the losses of, in that epoch.

        Returns
        -------
        n_trained : int
            Examples that the loader is to skip: ``cursor``, or 0 if no batch is left in the epoch.
        """
        n_left = len(self._sampler) - cursor
        if 0 < n_left < self._batch_size and self._drop_last:
            deque(self._sampler, maxlen=0)  # draws the remainder, that no batch is made of
            n_left = 0
        n_trained = cursor if n_left else 0
        self.n_trained = n_trained // self._batch_size
        return n_trained


class MappingCollate(WeightedCollate):
    """Make batches as the Trainer's collator does, with indices and weights among their columns.

    Parameters
    ----------
    collate_fn : callable
        Makes a mapping of a list of samples.
    """

    def __call__(self, batch: Any) -> Any:
        """Return what ``collate_fn`` makes of the samples, with the columns of indices and weights."""
        index, weight, columns = super().__call__(batch)
        if not isinstance(columns, MutableMapping):
            raise TypeError(
                f"The data_collator returned a {type(columns).__name__}, but a batch is a dictionary of the "
                "model's arguments: let it return one."
            )
        # As an array, the index stays on the host, where the sampler wants it.
        columns[INDEX], columns[WEIGHT] = index.numpy(), weight
        return columns


class LogOfSampler(TrainerCallback):
    """Log what the sampler tells of an epoch: those of its metrics that are finite numbers.

    Parameters
    ----------
    trainer : SketchTrainer
    """

    def __init__(self, trainer: SketchTrainer) -> None:
        self._trainer = trainer

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log, after the last batch of an epoch.

        Parameters
        ----------
        args, state, control, **kwargs
            As of ``transformers.TrainerCallback``.
        """
        metrics = self._trainer.sampler.metrics()
        metrics["sampled"] = float(metrics.pop("mode") == "sampled")
        numbers = {name: value for name, value in metrics.items() if name != "why" and isfinite(value)}
        self._trainer.log({f"sampler_{name}": value for name, value in numbers.items()})
