"""What values a file keeps, and how JSON tells them apart.

None, booleans, integers, floats (NaN and infinity too), strings and lists are JSON's own. Anything else is an
object with one name that says what it is: ``{"tuple": [...]}``, ``{"array": name}``, ``{"strings": [...]}``
(an array of strings), ``{"family": ...}``, ``{"generator": ...}`` (a RandomState) or the name of a record (a
NamedTuple) that the reader knows. Nothing is looked up but in the reader's own tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwsketch.hashing import HashFamily, get_family, registered_families
from nwsketch.storage.container import Arrays, SketchFileError

SCALARS = (type(None), bool, int, float, str)
#: Words that the state of NumPy's Mersenne Twister has.
TWISTER_WORDS = 624
MISSING = object()


def take(values: Mapping[str, Any], name: str, *types: type) -> Any:
    """Return a value of a header, if it is there and of one of these very types.

    Parameters
    ----------
    values : mapping
        Not trusted.
    name : str
    *types : type
        ``bool`` does not count as ``int``.

    Raises
    ------
    SketchFileError
        If not.
    """
    value = values.get(name, MISSING)
    if type(value) not in types:
        told = "is missing" if value is MISSING else f"is {value!r:.80}"
        raise SketchFileError(f"{name!r} {told}, not of type {' or '.join(kind.__name__ for kind in types)}.")
    return value


def scalar(value: Any) -> Any:
    """Return a scalar of NumPy as Python's own, anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


class Encoder:
    """Turns values into JSON, and collects their arrays.

    Parameters
    ----------
    arrays : dict of str to ndarray
        Takes the arrays, under names of their own.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays

    def encode(self, name: str, value: Any) -> Any:
        """Return what JSON says instead of a value.

        Parameters
        ----------
        name : str
            Names the value in errors, and its arrays.
        value : object

        Raises
        ------
        SketchFileError
            If a file cannot keep it.
        """
        value = scalar(value)
        if type(value) in SCALARS:
            return value
        if type(value) in (list, tuple):
            encoded = [self.encode(f"{name}.{i}", item) for i, item in enumerate(value)]
            return encoded if type(value) is list else {"tuple": encoded}
        if hasattr(value, "_fields"):
            fields = value._asdict().items()
            return {type(value).__name__: {key: self.encode(f"{name}.{key}", item) for key, item in fields}}
        if isinstance(value, HashFamily):
            return {"family": self.family(value)}
        if isinstance(value, np.random.RandomState):
            return {"generator": self._generator(name, value)}
        if hasattr(value, "__array__"):  # of pandas, say: it comes back as NumPy's
            return self._array(name, np.asarray(value))
        raise SketchFileError(
            f"A file cannot keep {name}={value!r:.80} of type {type(value).__name__}: give numbers, strings, "
            "lists or arrays of numbers, or use pickle."
        )

    def family(self, family: HashFamily) -> dict[str, Any]:
        """Return what tells a hash family from others: its name, and attributes if it has any.

        Parameters
        ----------
        family : HashFamily
        """
        attributes = {name: self.encode(name, value) for name, value in vars(family).items()}
        return {"name": family.name, "attributes": attributes}

    def _array(self, name: str, array: NDArray[Any]) -> dict[str, Any]:
        if array.dtype.kind in "OU" and array.ndim == 1 and all(isinstance(item, str) for item in array):
            return {"strings": array.tolist()}
        self._arrays[f"value.{name}"] = array
        return {"array": f"value.{name}"}

    def _generator(self, name: str, generator: np.random.RandomState) -> dict[str, Any]:
        state = generator.get_state(legacy=False)
        if not isinstance(state, dict) or state["bit_generator"] != "MT19937":
            raise SketchFileError(
                f"A file cannot keep {name}={generator!r}: give an integer, or a RandomState made of one."
            )
        key = self._array(name, np.asarray(state["state"]["key"], dtype=np.uint32))
        parts = {"position": state["state"]["pos"], "has_gauss": state["has_gauss"], "gauss": state["gauss"]}
        return key | {part: scalar(value) for part, value in parts.items()}


class Decoder:
    """Turns what :class:`Encoder` made into values again, trusting nothing.

    Parameters
    ----------
    arrays : dict of str to ndarray
    records : dict of str to type
        Records by their names, beyond which none is made.
    family : HashFamily or None
        Takes the place of the family that a file names.
    """

    def __init__(
        self, arrays: Arrays, records: Mapping[str, type[Any]], family: HashFamily | None = None
    ) -> None:
        self._arrays, self._records, self._family = arrays, records, family
        self._readers: dict[str, Callable[[Any], Any]] = {
            "tuple": lambda items: tuple(self.decode(self._list(items))),
            "array": self._array,
            "strings": self._strings,
            "family": self.family,
            "generator": self._generator,
        }

    def decode(self, encoded: Any) -> Any:
        """Return the value.

        Parameters
        ----------
        encoded : object
            What ``json.loads`` returned.

        Raises
        ------
        SketchFileError
            If no value is encoded like this.
        """
        if type(encoded) in SCALARS:
            return encoded
        if isinstance(encoded, list):
            return [self.decode(item) for item in encoded]
        if len(encoded) == 1:
            ((kind, content),) = encoded.items()
            if kind in self._readers:
                return self._readers[kind](content)
            if kind in self._records:
                return self._record(self._records[kind], content)
        raise SketchFileError(f"No value is written as {encoded!r:.80}.")

    def family(self, told: Any) -> HashFamily:
        """Return the family that a file tells of: the given one, or the registered one of that name.

        Parameters
        ----------
        told : dict

        Raises
        ------
        SketchFileError
            If none of that name is known, or its attributes are others.
        """
        if not isinstance(told, dict):
            raise SketchFileError(f"No kernel is written as {told!r:.80}.")
        name, attributes = take(told, "name", str), take(told, "attributes", dict)
        if self._family is None and name not in registered_families():
            raise SketchFileError(
                f"Its kernel {name!r:.80} is none of {sorted(registered_families())}: import what registers "
                "it (nwsketch.hashing.register), or give an instance, load(path, kernel=...)."
            )
        family = get_family(name) if self._family is None else self._family
        known: Arrays = {}
        mine = Encoder(known).family(family)
        if mine["name"] != name or mine["attributes"] != attributes or not self._has(known):
            raise SketchFileError(
                f"Its kernel is {name!r:.80} with attributes {attributes!r:.200}, not {mine['name']!r} with "
                f"{mine['attributes']!r:.200}: give an instance like that one, load(path, kernel=...)."
            )
        return family

    def _has(self, known: Arrays) -> bool:
        return all(np.array_equal(array, self._arrays.get(name, np.nan)) for name, array in known.items())

    def _record(self, kind: type[Any], content: Any) -> Any:
        if not isinstance(content, dict) or tuple(content) != kind._fields:
            raise SketchFileError(f"A {kind.__name__} is not written as {content!r:.80}.")
        return kind(*map(self.decode, content.values()))

    def _array(self, name: Any) -> NDArray[Any]:
        array = self._arrays.get(name) if isinstance(name, str) else None
        if array is None:
            raise SketchFileError(f"There is no array {name!r:.80}.")
        return array

    def _strings(self, items: Any) -> NDArray[Any]:
        if not all(isinstance(item, str) for item in self._list(items)):
            raise SketchFileError("An array of strings holds other values.")
        return np.array(items, dtype=object)

    def _generator(self, told: Any) -> np.random.RandomState:
        if not isinstance(told, dict):
            raise SketchFileError(f"No RandomState is written as {told!r:.80}.")
        key, position = self._array(told.get("array")), take(told, "position", int)
        if key.dtype != np.uint32 or key.shape != (TWISTER_WORDS,) or not 0 <= position <= TWISTER_WORDS:
            raise SketchFileError("The state of a RandomState is out of range.")
        generator = np.random.RandomState()
        has_gauss, gauss = take(told, "has_gauss", int), take(told, "gauss", float)
        generator.set_state(("MT19937", key, position, int(has_gauss != 0), gauss))
        return generator

    @staticmethod
    def _list(items: Any) -> list[Any]:
        if not isinstance(items, list):
            raise SketchFileError(f"No list is written as {items!r:.80}.")
        return items
