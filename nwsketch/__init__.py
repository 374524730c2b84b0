"""Nadaraya-Watson kernel regression by locality-sensitive-hash sketches."""

from nwsketch.exact import NadarayaWatsonRegressor
from nwsketch.kernel_sampler import LSHKernelSampler
from nwsketch.regressor import NadarayaWatsonSketchRegressor
from nwsketch.scaler import KernelBandwidthScaler
from nwsketch.size import SuggestedSize, suggest_size
from nwsketch.sketch import NadarayaWatsonSketch
from nwsketch.storage import SketchFileError
from nwsketch.window import SlidingWindowRegressor

__version__ = "0.1.0.dev0"

__all__ = [
    "KernelBandwidthScaler",
    "LSHKernelSampler",
    "NadarayaWatsonRegressor",
    "NadarayaWatsonSketch",
    "NadarayaWatsonSketchRegressor",
    "SketchFileError",
    "SlidingWindowRegressor",
    "SuggestedSize",
    "suggest_size",
]
