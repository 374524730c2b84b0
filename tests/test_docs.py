"""What sphinx and doctest do not see: public names left out, blocks without prompts, README's links."""

import importlib
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    "README.md",
    *sorted(str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("docs/**/*.md")),
)
PUBLIC = ("nwsketch", "nwsketch.training", "nwsketch.hashing", "nwsketch.plotting")

#: What blocks for a GPU and many rows are run with instead.
SMALLER = {'"cuda"': '"cpu"', "1_000_000": "300", "100_000": "300"}
#: Adapters, and the libraries that their blocks need.
ADAPTERS = {
    "huggingface": "transformers",
    "lightning": "lightning",
    "skorch": "skorch",
    "tensorboard": "tensorboard",
    "torchdata": "torchdata",
}
#: What blocks on training take for granted.
SETTING = """
import pickle, warnings
import torch
from torch.nn.functional import cross_entropy
from nwsketch import NadarayaWatsonSketchRegressor

torch.manual_seed(0)
n_classes, epochs = 3, 2
features = torch.randn(600, 4)
y = torch.randint(0, n_classes, (600,))
dataset = torch.utils.data.TensorDataset(features, y)
candidates = [(torch.randn(1024, 4), torch.randint(0, n_classes, (1024,))) for _ in range(2)]
model = torch.nn.Linear(4, n_classes)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""


def blocks_without_prompts():
    """List the Python blocks of the documents that doctest does not run."""
    found = []
    for name in DOCUMENTS:
        text = (REPOSITORY / name).read_text("utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        found += [
            pytest.param(block, id=f"{name}-{number}")
            for number, block in enumerate(blocks)
            if ">>>" not in block
        ]
    return found


@pytest.mark.parametrize("block", blocks_without_prompts())
def test_blocks_without_prompts_run(block, monkeypatch, tmp_path):
    if "nwsketch.spark" in block:
        pytest.skip("needs a Spark session: tests/test_spark.py makes these calls")
    pytest.importorskip("torch", reason="PyTorch is not installed (the extra nwsketch[torch])")
    for name, library in ADAPTERS.items():
        if f"nwsketch.training.{name}" in block:
            pytest.importorskip(library, reason=f"{library} is not installed (the extra nwsketch[{name}])")
    from nwsketch.backends import torch_backend

    monkeypatch.chdir(tmp_path)  # where a trainer puts its logs and checkpoints
    monkeypatch.setattr(torch_backend, "FUSED", torch_backend.FUSED)  # a block sets it
    for large, small in SMALLER.items():
        block = block.replace(large, small)
    names = {}
    exec(SETTING, names)
    exec(block, names)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_stands_in_the_reference(module):
    listed = re.findall(r"^   ([\w.]+)$", (REPOSITORY / "docs/api/index.md").read_text("utf-8"), re.MULTILINE)
    public = importlib.import_module(module).__all__
    wanted = {f"{module}.{name}".removeprefix("nwsketch.") for name in public}
    assert wanted - set(listed) == set()


def test_links_of_the_readme_lead_somewhere():
    text = (REPOSITORY / "README.md").read_text("utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (REPOSITORY / link).exists()] == []
