"""The adapter to Hugging Face's Trainer, with the library itself: a small BERT, in one process and in two."""

import importlib
import os
import socket
import sys
from functools import partial
from itertools import zip_longest
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="SketchSampler is a sampler of PyTorch")
os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("accelerate", reason="Accelerate is not installed (the extra nwsketch[huggingface])")
transformers = pytest.importorskip(
    "transformers", reason="Transformers is not installed (the extra nwsketch[huggingface])"
)

from torch import distributed, multiprocessing  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from nwsketch.training import SketchSampler, WeightedCollate  # noqa: E402
from nwsketch.training.huggingface import INDEX, SketchTrainer  # noqa: E402

N_ROWS, N_CLASSES, N_TOKENS, BATCH, N_EPOCHS = 90, 3, 20, 8, 4


def make_data():
    """Return sentences of several lengths, whose class is their first word, often; and their features."""
    rng = np.random.default_rng(0)
    words = [rng.integers(N_CLASSES, N_TOKENS, rng.integers(3, 8)) for _ in range(N_ROWS)]
    labels = rng.choice(N_CLASSES, N_ROWS, p=[0.6, 0.3, 0.1])
    samples = [
        {"row": row, "input_ids": [int(label), *each.tolist()], "labels": int(label)}
        for row, (each, label) in enumerate(zip(words, labels, strict=True))
    ]
    return samples, np.stack([np.bincount(each, minlength=N_TOKENS) for each in words]).astype(float), labels


def pad(samples, columns=("input_ids", "labels")):
    """Collate samples, which have no column that the model does not take."""
    assert all(tuple(sample) == columns for sample in samples)
    rows = [torch.tensor(sample["input_ids"]) for sample in samples]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=N_TOKENS)
    labels = torch.tensor([sample["labels"] for sample in samples])
    columns = {"input_ids": ids, "attention_mask": (ids != N_TOKENS).long(), "labels": labels}
    return transformers.BatchEncoding(columns)  # as collators of tokenizers do, and no dict


def make_model(dropout=0.0):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=N_TOKENS + 1,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=10,
        num_labels=N_CLASSES,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return transformers.BertForSequenceClassification(config)


def make_sampler(**parameters):
    _, features, labels = make_data()
    return SketchSampler(
        features,
        labels=labels,
        **({"num_samples": 44, "warmup_epochs": 0.4, "switch": None, "seed": 0} | parameters),
    )


class Recorder(SketchTrainer):
    """Notes what it trains on."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.drawn = []

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.drawn.append((inputs[INDEX].tolist(), inputs["nwsketch_weight"].tolist()))
        return super().training_step(model, inputs, num_items_in_batch)


def make_arguments(folder, **options):
    defaults = {
        "output_dir": str(folder),
        "num_train_epochs": N_EPOCHS,
        "per_device_train_batch_size": BATCH,
        "optim": "sgd",
        "learning_rate": 0.5,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return transformers.TrainingArguments(**(defaults | options))


def make_trainer(folder, sampler=None, dropout=0.0, cls=Recorder, **options):
    samples, *_ = make_data()
    arguments = make_arguments(folder, **options)
    return cls(
        make_model(dropout),
        arguments,
        data_collator=pad,
        train_dataset=samples,
        eval_dataset=samples[:10],
        sampler=make_sampler() if sampler is None else sampler,
    )


def parameters_of(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def train_by_hand(n_batches=1):
    """Train as the guide does, in steps of so many batches; return what was drawn, and the parameters."""
    samples, *_ = make_data()
    model, sampler = make_model(), make_sampler()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    collate = WeightedCollate(partial(pad, columns=("row", "input_ids", "labels")))
    loader = DataLoader(sampler.wrap(samples), BATCH, sampler=sampler, collate_fn=collate)
    drawn = []
    for _ in range(N_EPOCHS):
        batches = list(zip_longest(*[iter(loader)] * n_batches))
        for step in batches:
            step = [batch for batch in step if batch is not None]
            for index, weight, inputs in step:
                losses = cross_entropy(model(**inputs).logits, inputs["labels"], reduction="none")
                ((weight * losses).mean() / len(step)).backward()
                sampler.update(index, losses)
                drawn.append((index.tolist(), weight.tolist()))
            optimizer.step()
            optimizer.zero_grad()
    return drawn, parameters_of(model)


@pytest.mark.parametrize(
    ("n_batches", "options"),
    [(1, {}), (4, {}), (1, {"dataloader_num_workers": 2, "dataloader_persistent_workers": True})],
    ids=["plain", "accumulated", "workers"],
)
def test_the_trainer_does_what_a_loop_of_ones_own_does(n_batches, options, tmp_path):
    drawn, parameters = train_by_hand(n_batches)
    trainer = make_trainer(tmp_path, gradient_accumulation_steps=n_batches, **options)
    result = trainer.train()
    assert trainer.drawn == drawn
    torch.testing.assert_close(parameters_of(trainer.model), parameters)
    assert max(weight for _, weights in drawn for weight in weights) > 1.2  # so they count
    assert result.metrics["train_samples_per_second"] * result.metrics["train_runtime"] == pytest.approx(
        44 * N_EPOCHS, rel=0.01
    )


class SaveAt(transformers.TrainerCallback):
    """Saves after certain steps."""

    def __init__(self, steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step in self.steps


@pytest.mark.parametrize(
    ("options", "steps"),  # in the warm-up, in the middle of epochs, at the end of one, right after it
    [
        ({}, (1, 17, 18, 19)),
        ({"gradient_accumulation_steps": 4}, (1, 4, 7)),
        ({"dataloader_drop_last": True}, (1, 15, 16)),
        ({"dataloader_num_workers": 2}, (20,)),
    ],
    ids=["plain", "accumulated", "drop_last", "workers"],
)
def test_a_resumed_run_equals_the_uninterrupted_one(options, steps, tmp_path):
    make = partial(make_trainer, dropout=0.1, optim="adamw_torch", **options)
    whole = make(tmp_path)
    whole.add_callback(SaveAt(steps))
    whole.train()
    n_steps = whole.state.global_step
    for step in steps:
        resumed = make(tmp_path / "resumed")
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert resumed.state.global_step == n_steps
        assert 0 < len(resumed.drawn) < len(whole.drawn)
        assert resumed.drawn == whole.drawn[-len(resumed.drawn) :]
        assert torch.equal(parameters_of(resumed.model), parameters_of(whole.model))
        assert resumed.sampler.epoch == whole.sampler.epoch


def test_data_skip_may_be_ignored(tmp_path):
    whole = make_trainer(tmp_path, save_strategy="steps", save_steps=8)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", ignore_data_skip=True, per_device_train_batch_size=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    rows = [row for index, _ in resumed.drawn for row in index]
    # After two of six batches, the other four of that epoch come first.
    assert rows[: 44 - 2 * BATCH] == [row for index, _ in whole.drawn[8:12] for row in index]


def test_losses_are_those_of_the_model_and_of_the_trainer(tmp_path):
    samples, *_ = make_data()
    inputs = pad([{name: sample[name] for name in ("input_ids", "labels")} for sample in samples])
    for smoothing in (0.0, 0.2):
        trainer = make_trainer(tmp_path, label_smoothing_factor=smoothing)
        outputs = trainer.model(**inputs)
        losses = trainer.compute_example_losses(outputs, inputs)
        assert losses.shape == (N_ROWS,)
        expected = trainer.label_smoother(outputs, inputs["labels"]) if smoothing else outputs.loss
        torch.testing.assert_close(losses.mean(), expected)


def test_evaluation_is_left_alone(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.model.eval()
    samples = [{name: sample[name] for name in ("input_ids", "labels")} for sample in make_data()[0][:10]]
    loss = trainer.model(**pad(samples)).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-5)
    assert trainer.sampler.metrics()["n_losses"] == 0


def test_numbers_of_the_sampler_are_logged_once_an_epoch(tmp_path):
    trainer = make_trainer(tmp_path, eval_strategy="epoch")
    trainer.train()
    logs = [log for log in trainer.state.log_history if "sampler_n_losses" in log]
    assert [(log["epoch"], log["sampler_n_losses"]) for log in logs] == [
        (epoch + 1, 44 * (epoch + 1)) for epoch in range(N_EPOCHS)
    ]
    assert [log["sampler_sampled"] for log in logs] == [0, 1, 1, 1]
    assert logs[-1]["sampler_effective_sample_size"] < 44
    assert all(
        isinstance(value, int | float) and np.isfinite(value) for log in logs for value in log.values()
    )


class SquaredErrors(SketchTrainer):
    def compute_example_losses(self, outputs, inputs):
        return (outputs.logits[:, 0] - inputs["labels"]).square()


def test_losses_of_ones_own(tmp_path):
    trainer = make_trainer(tmp_path, cls=SquaredErrors)
    trainer.train()
    assert trainer.sampler.metrics()["n_losses"] == 44 * N_EPOCHS
    inputs = pad([{"input_ids": [1, 2], "labels": 0}])
    inputs["labels"] = inputs["labels"].float()
    with pytest.raises(
        ValueError, match=r"logits \(1, 3\) and labels \(1,\): override compute_example_losses"
    ):
        SketchTrainer.compute_example_losses(trainer, trainer.model(inputs["input_ids"]), inputs)
    one_class = SimpleNamespace(logits=torch.zeros(1, 1))  # whose cross entropy would be 0
    with pytest.raises(ValueError, match=r"logits \(1, 1\) and labels \(1,\): override"):
        SketchTrainer.compute_example_losses(trainer, one_class, {"labels": torch.tensor([0])})
    with pytest.raises(ValueError, match=r"logits \(\) and labels \(\): override"):
        SketchTrainer.compute_example_losses(trainer, (), {})


def loss_of_ones_own(self, model, inputs, return_outputs=False, num_items_in_batch=None):
    """Compute the loss as many a Trainer does: BERT ignores arguments that it does not know."""
    outputs = model(**inputs)
    loss = cross_entropy(outputs.logits, inputs["labels"], weight=torch.tensor([1.0, 3.0, 3.0]))
    return (loss, outputs) if return_outputs else loss


class OwnLoss(SketchTrainer):
    compute_loss = loss_of_ones_own


class WeightedTrainer(transformers.Trainer):
    compute_loss = loss_of_ones_own


class WeightedFirst(WeightedTrainer, SketchTrainer):
    pass


class SketchFirst(SketchTrainer, WeightedTrainer):
    pass


class SketchFirstOwnLosses(SquaredErrors, WeightedTrainer):
    pass


class CallsOn(SketchTrainer):
    def compute_loss(self, *args, **kwargs):
        return 2 * super().compute_loss(*args, **kwargs)


@pytest.mark.parametrize("cls", [OwnLoss, WeightedFirst])
def test_a_loss_that_leaves_the_sampler_out_is_refused_at_the_first_batch(cls, tmp_path):
    trainer = make_trainer(tmp_path, cls=cls)
    before = parameters_of(trainer.model)
    with pytest.raises(
        TypeError, match=rf"compute_loss of {cls.__name__} .*: override compute_example_losses"
    ):
        trainer.train()
    assert torch.equal(parameters_of(trainer.model), before)


def test_a_mixed_in_loss_that_training_would_drop_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"SketchFirst inherits another compute_loss .*: override"):
        make_trainer(tmp_path, cls=SketchFirst)


class Sequences(SketchTrainer, transformers.Seq2SeqTrainer):
    pass


@pytest.mark.parametrize("cls", [CallsOn, SketchFirstOwnLosses])
def test_losses_that_reach_the_sampler_are_trained_on(cls, tmp_path):
    trainer = make_trainer(tmp_path, cls=cls, num_train_epochs=1)
    trainer.train()
    assert trainer.sampler.metrics()["n_losses"] == 44


def test_a_trainer_without_a_loss_of_its_own_is_mixed_in(tmp_path):
    arguments = transformers.Seq2SeqTrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    trainer = Sequences(make_model(), arguments, train_dataset=make_data()[0], sampler=make_sampler())
    assert isinstance(trainer, transformers.Seq2SeqTrainer)


class TwoProcesses:
    rank, size = 0, 2

    def gather(self, array):
        return array


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_loss_func": cross_entropy}, "compute_loss_func returns one number .*: override"),
        ({"accelerator_config": {"split_batches": True}}, "sets split_batches, .*: leave it out"),
        ({"accelerator_config": {"dispatch_batches": True}}, "sets dispatch_batches, .*: leave it out"),
        ({"train_dataset": [{}] * 7}, "The data set has 7 samples, but features 90 rows"),
        (
            {"ranks": TwoProcesses()},
            r"draws for 2 process\(es\), but the Trainer runs in 1: make the sampler",
        ),
    ],
    ids=["loss", "split", "dispatch", "length", "processes"],
)
def test_what_cannot_be_obeyed_is_refused_before_training(options, message, tmp_path):
    samples, *_ = make_data()
    sampler = make_sampler(ranks=options.pop("ranks", None))
    arguments = make_arguments(
        tmp_path, **{name: options.pop(name) for name in ["accelerator_config"] if name in options}
    )
    options = {"train_dataset": samples} | options
    with pytest.raises(ValueError, match=message):
        SketchTrainer(make_model(), arguments, sampler=sampler, **options)


@pytest.mark.parametrize(
    ("step", "options", "message"),
    [
        # All but the last would have the Trainer skip as many batches as the sampler has trained on.
        (4, {"per_device_train_batch_size": 7}, "batch size=8, but here it is 7"),
        (12, {"per_device_train_batch_size": 22}, "batch size=8, but here it is 22"),
        (12, {"gradient_accumulation_steps": 2}, "gradient_accumulation_steps=1, but here it is 2"),
        (12, {"dataloader_drop_last": True}, "dataloader_drop_last=False, but here it is True"),
    ],
    ids=["batch", "epoch", "accumulation", "drop_last"],
)
def test_a_checkpoint_of_other_steps_is_refused(step, options, message, tmp_path):
    make_trainer(tmp_path, save_strategy="steps", save_steps=4, max_steps=12).train()
    resumed = make_trainer(tmp_path / "other", **options)
    with pytest.raises(ValueError, match=f"{message}, .*: resume with that of the checkpoint, or set ignore"):
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert resumed.sampler.metrics()["n_losses"] == 0


def test_a_checkpoint_out_of_step_is_refused(tmp_path):
    make_trainer(tmp_path, save_strategy="steps", save_steps=2, max_steps=2).train()
    make = partial(make_trainer, per_device_train_batch_size=7, save_strategy="steps", save_steps=1)
    folder = tmp_path / "other"
    make(folder, ignore_data_skip=True, max_steps=3).train(str(tmp_path / "checkpoint-2"))
    with pytest.raises(  # 23 // 7 is 3
        ValueError, match=r"has trained on 23 examples .* but the Trainer would go on after 3 batches of 7"
    ):
        make(tmp_path / "third").train(str(folder / "checkpoint-3"))


def test_a_checkpoint_without_a_sampler_is_refused(tmp_path):
    make_trainer(tmp_path, save_strategy="steps", save_steps=2, max_steps=2).train()
    (tmp_path / "checkpoint-2" / "sketch_sampler.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no sketch_sampler\.pt: resume from one that"):
        make_trainer(tmp_path / "other").train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_run_whose_sampler_has_trained_before_is_resumed(tmp_path):
    """As after auto_find_batch_size has begun anew, or in a second stage of training."""
    sampler = make_sampler()
    make_trainer(tmp_path, sampler, num_train_epochs=1).train()
    whole = make_trainer(tmp_path, sampler, save_strategy="steps", save_steps=8)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert resumed.drawn == whole.drawn[8:]
    assert torch.equal(parameters_of(resumed.model), parameters_of(whole.model))


def test_a_collator_that_makes_no_mapping_is_refused(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.data_collator = len
    with pytest.raises(TypeError, match="data_collator returned a int, but a batch is a dictionary"):
        trainer.train()


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "nwsketch.training.huggingface")
    with pytest.raises(ImportError, match=r'pip install "nwsketch\[huggingface\]"'):
        importlib.import_module("nwsketch.training.huggingface")


# -- two processes --------------------------------------------------------------------------------


def work(rank, port, folder):
    """Train in one of two processes; then resume."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    make = partial(make_trainer, per_device_train_batch_size=BATCH // 2, ddp_backend="gloo")
    make_arguments(folder, ddp_backend="gloo")  # which starts the job: samplers are made later
    whole = make(folder, save_strategy="steps", save_steps=2)
    whole.train()
    resumed = make(folder / "resumed")
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-8"))
    answer = (whole.drawn, parameters_of(whole.model), resumed.drawn, parameters_of(resumed.model))
    torch.save(answer, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not distributed.is_available(), reason="this PyTorch has no distributed part")
def test_two_processes_train_as_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(work, (port, tmp_path), nprocs=2)
    answers = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    drawn, parameters = train_by_hand()
    for step, (index, weight) in enumerate(drawn):
        shards = [answer[0][step] for answer in answers]
        assert shards[0][0] + shards[1][0] == index[::2] + index[1::2]
        np.testing.assert_allclose(shards[0][1] + shards[1][1], weight[::2] + weight[1::2], rtol=1e-4)
    for whole, trained, resumed, trained_then in answers:
        assert len(whole) == len(drawn)
        torch.testing.assert_close(trained, parameters, rtol=1e-3, atol=1e-4)
        assert resumed == whole[8:]
        assert torch.equal(trained, trained_then)
