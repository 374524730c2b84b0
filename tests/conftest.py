"""What every test shares: settings of hypothesis, a picture backend without a screen, the real data sets."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from nwsketch import backends

os.environ.setdefault("MPLBACKEND", "Agg")

# The first call of a jitted kernel compiles it, so the time of one example says nothing.
settings.register_profile("explore", deadline=None)
# A verdict on a commit must not depend on the draw: the same examples on every run.
settings.register_profile("repeatable", parent=settings.get_profile("explore"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "explore"))


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
        metafunc.fixturenames.append("backend_of_auto")
        metafunc.parametrize("backend_of_auto", backends.BACKENDS, indirect=True, scope="module")


@pytest.fixture(scope="module")
def backend_of_auto(request):
    """Let ``backend="auto"`` stand for one backend after the other."""
    if request.param == "torch":
        pytest.importorskip("torch", reason="PyTorch is not installed (the extra nwsketch[torch])")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "AUTO", request.param)
        yield request.param


@pytest.fixture(scope="session")
def data_folder():
    """Return the folder of the real data sets."""
    folder = os.environ.get("NWSKETCH_DATA")
    if not folder:
        pytest.skip("NWSKETCH_DATA does not name the folder of the real data sets")
    return Path(folder)
