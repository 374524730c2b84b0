"""Training by PyTorch Lightning itself: losses reported, runs resumed, the sampler left in its place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="SketchSampler is a sampler of PyTorch")
pytest.importorskip("lightning", reason="PyTorch Lightning is not installed (the extra nwsketch[lightning])")

from lightning import Trainer  # noqa: E402
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402
from lightning.pytorch.loggers import CSVLogger  # noqa: E402
from lightning.pytorch.trainer.states import RunningStage  # noqa: E402
from lightning_job import BATCH, DATASET, N_EPOCHS, NUM_SAMPLES, STOP, Model, make_sampler  # noqa: E402
from torch.utils.data import DataLoader, DistributedSampler  # noqa: E402

from nwsketch.training import SketchSampler  # noqa: E402
from nwsketch.training.lightning import SketchCallback  # noqa: E402

# A resumed run goes on in the folder of the first.
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")

N_STEPS = NUM_SAMPLES // BATCH
#: Of every trainer: short, on this machine alone, and silent.
QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "max_epochs": N_EPOCHS,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Trained(Model):
    """A model that trains on what its callback's loader yields, with options of the loader."""

    def __init__(self, sketch, **options):
        super().__init__(sketch)
        self.options = {"batch_size": BATCH} | options

    def train_dataloader(self):
        return self.sketch.loader(DATASET, **self.options)


def fit(sampler, *, save=None, checkpoint=None, loader=None, **options):
    """Train; return the model, its callback and the trainer."""
    sketch = SketchCallback(sampler)
    model = Trained(sketch, **(loader or {}))
    callbacks = [sketch] if save is None else [sketch, ModelCheckpoint(save_top_k=-1, **save)]
    trainer = Trainer(callbacks=callbacks, **(QUIET | {"enable_checkpointing": save is not None} | options))
    trainer.fit(model, ckpt_path=checkpoint)
    return model, sketch, trainer


def test_a_trainer_draws_what_a_loop_of_ones_own_draws():
    model, sketch, _ = fit(make_sampler())
    sampler, twin = make_sampler(), Model(None)
    optimizer = twin.configure_optimizers()
    for _ in range(N_EPOCHS):
        for index, weight, batch in DataLoader(sampler.wrap(DATASET), batch_size=BATCH, sampler=sampler):
            step = twin.training_step((index, weight, batch), 0)
            optimizer.zero_grad()
            step["loss"].backward()
            optimizer.step()
            sampler.update(index, step["losses"].detach())
    assert [drawn[1:] for drawn in model.drawn] == [drawn[1:] for drawn in twin.drawn]
    assert len(model.drawn) == N_EPOCHS * N_STEPS
    assert sketch.sampler.metrics()["rank_correlation"] == sampler.metrics()["rank_correlation"]
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize(
    ("stop_at", "options"),
    [
        (2, {}),  # in the warm-up
        (2 * N_STEPS + 1, {}),  # in an epoch that was drawn by the sketch
        (2 * N_STEPS, {}),  # at the end of one
        (11, {"drop_last": True, "batch_size": 16}),  # 3 steps an epoch: one of 12 examples is left out
        (12, {"drop_last": True, "batch_size": 16}),  # there, at an epoch's end
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, stop_at, options, n_workers):
    how = {
        "save": {"dirpath": tmp_path, "filename": "{step}", "every_n_train_steps": stop_at},
        "loader": options | {"num_workers": n_workers},
        "max_epochs": 6,
    }
    whole, *_ = fit(make_sampler(), **how)
    resumed, sketch, _ = fit(make_sampler(), checkpoint=tmp_path / f"step={stop_at}.ckpt", **how)
    assert resumed.drawn == whole.drawn[stop_at:]
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert sketch.sampler.metrics()["epoch"] == 5


def test_a_checkpoint_at_the_end_of_an_epoch_begins_the_next_one(tmp_path):
    how = {"save": {"dirpath": tmp_path, "filename": "{epoch}"}, "limit_train_batches": 4}
    whole, *_ = fit(make_sampler(), **how)
    resumed, *_ = fit(make_sampler(), checkpoint=tmp_path / "epoch=1.ckpt", **how)
    assert len(whole.drawn) == 4 * N_EPOCHS
    assert resumed.drawn == whole.drawn[8:]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_iterators_that_are_made_and_not_used_cost_no_epoch(n_workers):
    whole, *_ = fit(make_sampler(), loader={"num_workers": n_workers})
    reloaded, *_ = fit(make_sampler(), loader={"num_workers": n_workers}, reload_dataloaders_every_n_epochs=1)
    assert reloaded.drawn == whole.drawn
    sketch = SketchCallback(make_sampler())
    model, trainer = Trained(sketch, num_workers=n_workers), Trainer(callbacks=[sketch], **QUIET)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model)
    trainer.fit_loop.max_epochs = N_EPOCHS
    trainer.fit(model)
    assert model.drawn == whole.drawn


class Leaving(Trained):
    """Leaves every epoch after three batches."""

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 3 else None


def epochs_of(model):
    """Return how many batches each epoch of Lightning trained on, and how many examples."""
    drawn = {}
    for number, rows, _ in model.drawn:
        drawn.setdefault(number, []).append(len(rows))
    return [(len(sizes), sum(sizes)) for sizes in drawn.values()]


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("reload", [0, 1])
def test_an_epoch_that_was_left_is_not_gone_on_with(tmp_path, n_workers, reload):
    def fit_leaving(checkpoint=None):
        sketch = SketchCallback(make_sampler())
        model = Leaving(sketch, num_workers=n_workers)
        keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        options = QUIET | {"enable_checkpointing": True, "reload_dataloaders_every_n_epochs": reload}
        trainer = Trainer(callbacks=[sketch, keep], **options)
        trainer.fit(model, ckpt_path=checkpoint)
        return model, sketch.sampler

    model, sampler = fit_leaving()
    assert epochs_of(model) == [(3, 3 * BATCH)] * N_EPOCHS
    assert sampler.metrics()["epoch"] == N_EPOCHS - 1
    resumed, _ = fit_leaving(tmp_path / "epoch=1.ckpt")
    assert resumed.drawn == model.drawn[6:]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_another_fit_begins_an_epoch(n_workers):
    sketch = SketchCallback(make_sampler())
    Trainer(callbacks=[sketch], **QUIET | {"max_steps": N_STEPS + 1}).fit(Trained(sketch))
    model = Trained(sketch, num_workers=n_workers)
    Trainer(callbacks=[sketch], **QUIET).fit(model)
    assert epochs_of(model) == [(N_STEPS, NUM_SAMPLES)] * N_EPOCHS
    assert sketch.sampler.metrics()["epoch"] == 2 + N_EPOCHS - 1


def test_a_fit_goes_on_with_an_epoch_that_the_sampler_was_loaded_with():
    whole, *_ = fit(make_sampler())
    _, sketch, _ = fit(make_sampler(), max_steps=N_STEPS + 2)
    sampler = make_sampler()
    sampler.load_state_dict(sketch.sampler.state_dict())
    rest, *_ = fit(sampler, max_epochs=1)
    assert [drawn[1] for drawn in rest.drawn] == [
        drawn[1] for drawn in whole.drawn[N_STEPS + 2 : 2 * N_STEPS]
    ]


def test_a_remainder_that_is_left_out_does_not_end_a_cycle():
    sketch = SketchCallback(make_sampler())

    class Twofold(Model):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch["drawn"], batch_idx)

    model = Twofold(sketch)
    drawn = sketch.loader(DATASET, batch_size=16, drop_last=True)  # 3 of an epoch
    Trainer(callbacks=[sketch], **QUIET).fit(
        model, {"drawn": drawn, "other": DataLoader(DATASET, batch_size=24)}
    )
    assert epochs_of(model) == [(5, 80)] * N_EPOCHS


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")  # ModelCheckpoint
@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_a_checkpoint_restores_the_sampler_for_training_only(tmp_path, stage):
    class Evaluated(Trained):
        def test_step(self, batch, batch_idx):
            pass

        def predict_step(self, batch, batch_idx):
            return len(batch)

    fit(make_sampler(), save={"dirpath": tmp_path, "filename": "{epoch}"})
    path = tmp_path / "epoch=0.ckpt"
    _, sketch, _ = fit(make_sampler())
    trainer = Trainer(callbacks=[sketch], **QUIET)
    getattr(trainer, stage)(Evaluated(sketch), DataLoader(DATASET, batch_size=BATCH), ckpt_path=path)
    assert sketch.sampler.epoch == N_EPOCHS
    unneeded = SketchCallback(lambda: pytest.fail("a sampler was made"))
    trainer = Trainer(callbacks=[unneeded], **QUIET)
    getattr(trainer, stage)(Evaluated(unneeded), DataLoader(DATASET, batch_size=BATCH), ckpt_path=path)
    trainer = Trainer(callbacks=[sketch], **QUIET)
    trainer.fit(Trained(sketch), ckpt_path=path)  # which restores it after all
    assert sketch.sampler.metrics()["epoch"] == N_EPOCHS - 1


def test_metrics_are_logged_once_an_epoch(tmp_path):
    _, sketch, trainer = fit(make_sampler(), logger=CSVLogger(tmp_path), log_every_n_steps=1)
    trainer.logger.save()
    header, *rows = Path(trainer.logger.log_dir, "metrics.csv").read_text().splitlines()
    logged = [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
    assert [float(line["sampler/epoch"]) for line in logged] == list(range(N_EPOCHS))
    metrics = sketch.sampler.metrics()
    for name in ("effective_sample_size", "rank_correlation", "largest_weight"):
        assert float(logged[-1][f"sampler/{name}"]) == pytest.approx(metrics[name], rel=1e-5)
    assert {f"sampler/{name}" for name in metrics} - set(header.split(",")) == {"sampler/mode", "sampler/why"}


def ddp_trainer():
    """Return a trainer of two processes, of which this is to be the first; none is started."""
    return Trainer(**QUIET | {"devices": 2, "strategy": "ddp"})


def test_lightning_replaces_a_sampler_and_not_that_of_the_callback():
    sampler = make_sampler()
    connector, loader = (
        ddp_trainer()._data_connector,
        SketchCallback(sampler).loader(DATASET, batch_size=BATCH),
    )
    assert connector._prepare_dataloader(loader, shuffle=True, mode=RunningStage.TRAINING) is loader
    plain = DataLoader(sampler.wrap(DATASET), batch_size=BATCH, sampler=sampler)
    replaced = connector._prepare_dataloader(plain, shuffle=True, mode=RunningStage.TRAINING)
    assert isinstance(replaced.sampler, DistributedSampler)  # so the check can fail


@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train dataloader shuffling")
def test_a_sampler_that_was_replaced_is_told_of():
    with pytest.raises(ValueError, match=r"draws by SequentialSampler, not by .*overfit_batches=0"):
        fit(make_sampler(), overfit_batches=2)


def test_a_loader_of_ones_own_is_told_how_to_be_made():
    sampler = make_sampler()
    sketch = SketchCallback(sampler)
    loader = DataLoader(sampler.wrap(DATASET), batch_size=BATCH, sampler=sampler)
    with pytest.raises(ValueError, match=r"draws by SketchSampler, .* by SketchCallback\.loader\(dataset"):
        Trainer(callbacks=[sketch], **QUIET).fit(Model(sketch), loader)


def test_several_loaders_may_train_together():
    sketch = SketchCallback(make_sampler())

    class Twofold(Model):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch["drawn"], batch_idx)

    model = Twofold(sketch)
    loaders = {"drawn": sketch.loader(DATASET, batch_size=BATCH), "other": DataLoader(DATASET, batch_size=30)}
    Trainer(callbacks=[sketch], **QUIET).fit(model, loaders)
    assert model.drawn == fit(make_sampler())[0].drawn


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (("loss",), r"training_step returned no index and no losses: return \{"),
        (("loss", "index"), r"training_step returned no losses: return \{"),
    ],
)
def test_a_step_that_returns_no_losses_is_refused(returned, message):
    sketch = SketchCallback(make_sampler())

    class Silent(Trained):
        def training_step(self, batch, batch_idx):
            step = super().training_step(batch, batch_idx)
            return {name: step[name] for name in returned}

    with pytest.raises(ValueError, match=message):
        Trainer(callbacks=[sketch], **QUIET).fit(Silent(sketch))


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`. If this was on purpose")
def test_a_step_that_was_skipped_reports_nothing():
    sketch = SketchCallback(make_sampler())

    class Skipping(Trained):
        def training_step(self, batch, batch_idx):
            step = super().training_step(batch, batch_idx)
            return None if batch_idx == 1 else step

    Trainer(callbacks=[sketch], **QUIET).fit(Skipping(sketch))
    assert sketch.sampler.metrics()["n_losses"] == N_EPOCHS * (NUM_SAMPLES - BATCH)
    assert sketch.sampler.epoch == N_EPOCHS


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`. If this was on purpose")
def test_a_run_with_a_skipped_step_is_resumed(tmp_path):
    class Skipping(Trained):
        def training_step(self, batch, batch_idx):
            step = super().training_step(batch, batch_idx)
            return None if batch_idx == 1 else step

    def fit_skipping(checkpoint=None):
        sketch = SketchCallback(make_sampler())
        model, keep = (
            Skipping(sketch),
            ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1),
        )
        Trainer(callbacks=[sketch, keep], **QUIET | {"enable_checkpointing": True}).fit(
            model, ckpt_path=checkpoint
        )
        return model

    whole = fit_skipping()
    for stop_at in (2 * N_STEPS + 2, 2 * N_STEPS + 4):
        assert fit_skipping(tmp_path / f"step={stop_at}.ckpt").drawn == whole.drawn[stop_at:]


def test_a_checkpoint_of_another_sampler_is_refused(tmp_path):
    how = {"save": {"dirpath": tmp_path, "filename": "last"}, "max_epochs": 1}
    fit(make_sampler(), **how)
    other = SketchSampler(DATASET.tensors[0], num_samples=NUM_SAMPLES, seed=0)
    with pytest.raises(ValueError, match=r"The state is of another sampler: hashes="):
        fit(other, checkpoint=tmp_path / "last.ckpt", **how)


@pytest.mark.slow
def test_two_processes_share_one_draw_and_resume(tmp_path):
    job = Path(__file__).with_name("lightning_job.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    subprocess.run([sys.executable, job, tmp_path], check=True, timeout=120, env=environment)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for answer in (first, second):
        assert answer["train sampler"] == "Passes"
        assert answer["val sampler"] == "DistributedSampler"  # use_distributed_sampler is at work
        assert answer["resumed"] == answer["drawn"][STOP:]
        assert answer["equal"]
        assert "The sampler draws for 1 process(es), but 2 train together" in answer["alone"]
    assert first["metrics"] == second["metrics"]
    for epoch in range(N_EPOCHS):
        shards = [
            [row for number, rows, _ in answer["drawn"] if number == epoch for row in rows]
            for answer in (first, second)
        ]
        assert [len(shard) for shard in shards] == [NUM_SAMPLES // 2] * 2
        assert len(set(shards[0] + shards[1])) == NUM_SAMPLES
