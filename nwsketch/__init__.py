"""Nadaraya-Watson kernel regression by locality-sensitive-hash sketches."""

from nwsketch.exact import NadarayaWatsonRegressor
from nwsketch.regressor import NadarayaWatsonSketchRegressor
from nwsketch.scaler import KernelBandwidthScaler
from nwsketch.size import SuggestedSize, suggest_size
from nwsketch.sketch import NadarayaWatsonSketch
from nwsketch.storage import SketchFileError

__version__ = "0.1.0.dev0"

__all__ = [
    "KernelBandwidthScaler",
    "NadarayaWatsonRegressor",
    "NadarayaWatsonSketch",
    "NadarayaWatsonSketchRegressor",
    "SketchFileError",
    "SuggestedSize",
    "suggest_size",
]
