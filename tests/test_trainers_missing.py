"""An adapter whose library is not installed says what to install."""

import subprocess
import sys

import pytest

WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {library!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
try:
    import nwsketch.training.{adapter}
except ImportError as error:
    print(error)
"""


def message_without(library, adapter):
    """Return what importing an adapter says where a library is not installed."""
    code = WITHOUT.format(library=library, adapter=adapter)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return answer.stdout.strip()


@pytest.mark.parametrize(
    ("adapter", "library", "names"),
    [
        ("huggingface", "transformers", "Transformers and Accelerate"),
        ("lightning", "lightning", "PyTorch Lightning"),
        ("skorch", "skorch", "PyTorch and skorch"),
        ("torchdata", "torchdata", "torchdata"),
    ],
)
def test_an_adapter_names_its_extra(adapter, library, names):
    pytest.importorskip("torch", reason="the adapters are for trainers of PyTorch")
    wanted = f'nwsketch.training.{adapter} needs {names}: pip install "nwsketch[{adapter}]"'
    assert message_without(library, adapter) == wanted


@pytest.mark.parametrize("adapter", ["huggingface", "lightning", "skorch", "torchdata"])
def test_an_adapter_names_its_extra_where_torch_is_missing_too(adapter):
    assert message_without("torch", adapter).endswith(f'pip install "nwsketch[{adapter}]"')
