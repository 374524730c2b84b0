"""What every test shares: settings of hypothesis, a picture backend without a screen, the real data sets."""

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import settings

from nwsketch import backends

os.environ.setdefault("MPLBACKEND", "Agg")
# Without it PyTorch refuses matrix products on a GPU in its deterministic mode.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# Without a GPU Triton's kernels can only be interpreted; PyTorch may import it early, which settles it.
if importlib.util.find_spec("triton") and importlib.util.find_spec("torch"):
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")

# The first call of a jitted kernel compiles it, so the time of one example says nothing.
settings.register_profile("explore", deadline=None)
# A verdict on a commit must not depend on the draw: the same examples on every run.
settings.register_profile("repeatable", parent=settings.get_profile("explore"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "explore"))


NO_TORCH = "PyTorch is not installed (the extra nwsketch[torch])"
#: The backends that the contract is run over; "cuda" is torch on a GPU, "torch" on the CPU.
BACKENDS = ("numba", "torch", pytest.param("cuda", marks=pytest.mark.gpu))
#: What holds of the estimator and the sketch holds on every backend: these modules run once for each.
CONTRACT = (
    "test_bandwidth_search",
    "test_codes",
    "test_correction",
    "test_input",
    "test_invariants",
    "test_regressor",
    "test_size",
    "test_sketch",
    "test_trend",
    "test_uncertainty",
)


def pytest_generate_tests(metafunc):
    if metafunc.module.__name__ in CONTRACT:
        metafunc.parametrize("backend_of_auto", BACKENDS, indirect=True, scope="module")


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch", reason=NO_TORCH)
        if not torch.cuda.device_count():
            pytest.skip("PyTorch finds no CUDA device")


@pytest.fixture(scope="module", autouse=True)
def backend_of_auto(request):
    """Let ``backend="auto"`` stand for one backend after the other, in the modules named above."""
    name = getattr(request, "param", backends.AUTO)
    if name == "numba":
        yield name
        return
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "AUTO", "torch")
        if name == "torch":
            patch.setattr(torch.cuda, "is_available", lambda: False)  # or torch would take a GPU
        yield name


@pytest.fixture(scope="session")
def data_folder():
    """Return the folder of the real data sets."""
    folder = os.environ.get("NWSKETCH_DATA")
    if not folder:
        pytest.skip("NWSKETCH_DATA does not name the folder of the real data sets")
    return Path(folder)
