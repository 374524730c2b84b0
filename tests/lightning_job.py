"""Two processes of Lightning's strategy "ddp", which starts this script once more itself.

``python lightning_job.py folder``, run by test_trainers_lightning.py, writes to the folder what each drew.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import cross_entropy

from nwsketch.training import SketchSampler
from nwsketch.training.lightning import SketchCallback

N_ROWS, NUM_SAMPLES, N_EPOCHS, BATCH, STOP = 120, 60, 4, 10, 7

X = torch.from_numpy(np.random.default_rng(0).normal(size=(N_ROWS, 5)).astype(np.float32))
Y = (X[:, 0] > 0.5).long()
DATASET = torch.utils.data.TensorDataset(X, Y)


class Model(LightningModule):
    """Notes what it was trained on."""

    def __init__(self, sketch):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.sketch, self.drawn = torch.nn.Linear(5, 2), sketch, []

    def train_dataloader(self):
        return self.sketch.loader(DATASET, batch_size=BATCH)

    def val_dataloader(self):
        return torch.utils.data.DataLoader(DATASET, batch_size=BATCH)

    def training_step(self, batch, batch_idx):
        index, weight, (x, y) = batch
        self.drawn.append((self.current_epoch, index.tolist(), weight.tolist()))
        losses = cross_entropy(self.linear(x), y, reduction="none")
        return {"loss": (weight * losses).mean(), "index": index, "losses": losses}

    def validation_step(self, batch, batch_idx):
        assert len(batch[0]) <= BATCH

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_sampler():
    return SketchSampler(X, labels=Y, num_samples=NUM_SAMPLES, switch=None, seed=0)


def train(folder, sampler, checkpoint=None):
    """Return the model, with what it was trained on, and the trainer."""
    sketch = SketchCallback(sampler)
    model = Model(sketch)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=N_EPOCHS,
        logger=False,
        callbacks=[sketch, ModelCheckpoint(folder, "{step}", every_n_train_steps=STOP, save_top_k=-1)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, ckpt_path=checkpoint)
    return model, trainer


def main(folder):
    model, trainer = train(folder, make_sampler)
    answers = {
        "drawn": model.drawn,
        "train sampler": type(trainer.train_dataloader.sampler).__name__,
        "val sampler": type(trainer.val_dataloaders.sampler).__name__,
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
    }
    resumed, _ = train(folder, make_sampler, folder / f"step={STOP}.ckpt")
    answers["resumed"] = resumed.drawn
    answers["equal"] = all(
        torch.equal(one, other) for one, other in zip(model.parameters(), resumed.parameters(), strict=True)
    )
    alone = SketchSampler(X, num_samples=NUM_SAMPLES, switch=None, seed=0, ranks=None)
    try:
        train(folder, alone)
    except ValueError as error:
        answers["alone"] = str(error)
    torch.save(answers, folder / f"{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
