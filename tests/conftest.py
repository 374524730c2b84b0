"""What every test shares: settings of hypothesis, a picture backend without a screen, the real data sets."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("MPLBACKEND", "Agg")

# The first call of a jitted kernel compiles it, so the time of one example says nothing.
settings.register_profile("explore", deadline=None)
# A verdict on a commit must not depend on the draw: the same examples on every run.
settings.register_profile("repeatable", parent=settings.get_profile("explore"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "explore"))


@pytest.fixture(scope="session")
def data_folder():
    """Return the folder of the real data sets."""
    folder = os.environ.get("NWSKETCH_DATA")
    if not folder:
        pytest.skip("NWSKETCH_DATA does not name the folder of the real data sets")
    return Path(folder)
