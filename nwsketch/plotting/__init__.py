"""Pictures of what a sketch holds and does, in the manner of scikit-learn's displays.

``SomeDisplay.from_estimator(...)`` (or from what else it is made of) computes the numbers and draws them;
``plot`` draws them again, on axes of one's own. The numbers are attributes, so that they can be read off
without a picture; what was drawn is kept as ``ax_`` (or ``axes_``), ``figure_`` and attributes named
after it. Drawing needs matplotlib, the extra ``plot``; importing this package does not.
"""

from nwsketch.plotting.bandwidth import BandwidthDisplay
from nwsketch.plotting.coverage import CoverageDisplay
from nwsketch.plotting.error import ErrorDisplay
from nwsketch.plotting.kernel import KernelDisplay
from nwsketch.plotting.occupancy import OccupancyDisplay
from nwsketch.plotting.sampler import SamplerDisplay

__all__ = [
    "BandwidthDisplay",
    "CoverageDisplay",
    "ErrorDisplay",
    "KernelDisplay",
    "OccupancyDisplay",
    "SamplerDisplay",
]
