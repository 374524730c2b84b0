"""Files: what was learnt as bytes that can be trusted, or are refused.

``container`` turns values and arrays into bytes and back, ``values`` tells what a value may be, ``sketches``
what a file keeps of a sketch, ``atomic`` replaces a file as a whole, and ``storable`` makes methods of it
all.
"""

from nwsketch.storage.container import SketchFileError
from nwsketch.storage.storable import Storable

__all__ = ["SketchFileError", "Storable"]
