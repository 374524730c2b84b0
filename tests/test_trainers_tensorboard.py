"""What the standard SummaryWriter writes of a sampler, read back from the file."""

import math

import pytest

torch = pytest.importorskip("torch", reason="SketchSampler is a sampler of PyTorch")
pytest.importorskip("tensorboard", reason="TensorBoard is not installed (the extra nwsketch[tensorboard])")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402
from test_training_resume import loss_of, make_sampler  # noqa: E402
from torch.utils.tensorboard import SummaryWriter  # noqa: E402

from nwsketch.training.tensorboard import log_metrics  # noqa: E402


def read(folder):
    """Return what a folder of events tells: scalars and texts, each as {name: [(step, value), ...]}."""
    events = EventAccumulator(str(folder)).Reload()
    tags = events.Tags()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]}
    texts = {
        tag.removesuffix("/text_summary"): [
            (event.step, event.tensor_proto.string_val[0].decode()) for event in events.Tensors(tag)
        ]
        for tag in tags["tensors"]
    }
    return scalars, texts


def test_metrics_of_every_epoch_are_read_back(tmp_path):
    sampler, told = make_sampler(), []
    with SummaryWriter(tmp_path) as writer:
        for epoch in range(4):
            for drawn in sampler_passes(sampler):
                sampler.update(drawn, loss_of(drawn, epoch))
            log_metrics(writer, sampler, epoch)
            told.append(sampler.metrics())
    scalars, texts = read(tmp_path)
    assert told[0]["mode"] == "uniform"
    assert told[3]["mode"] == "sampled"
    assert math.isnan(told[0]["rank_correlation"])
    for name in told[0]:
        values = [(epoch, metrics[name]) for epoch, metrics in enumerate(told)]
        if name in ("mode", "why"):
            assert texts[f"sampler/{name}"] == values
        elif not name.startswith("overhead"):  # which grows from call to call
            known = [(epoch, pytest.approx(value)) for epoch, value in values if not math.isnan(value)]
            assert scalars[f"sampler/{name}"] == known
    assert len(scalars["sampler/overhead_seconds"]) == 4


def sampler_passes(sampler, batch=28):
    """Yield the rows of one epoch, in batches."""
    sampler.wrap(range(240))
    rows = torch.tensor([drawn.row for drawn in sampler])
    yield from rows.split(batch)


def test_metrics_may_be_given_themselves_under_a_name_of_ones_own(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        log_metrics(writer, {"largest_weight": 2, "mode": "sampled", "gain": float("nan")}, 7, prefix="mine")
    assert read(tmp_path) == ({"mine/largest_weight": [(7, 2.0)]}, {"mine/mode": [(7, "sampled")]})
