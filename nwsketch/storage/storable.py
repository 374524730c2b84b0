"""The methods by which a sketch, or an estimator, goes to a file and comes back."""

from __future__ import annotations

import io
import json
import os
from abc import abstractmethod
from typing import Any, BinaryIO, ClassVar, Self

from nwsketch.hashing import HashFamily
from nwsketch.storage.atomic import replace_file
from nwsketch.storage.container import Arrays, SketchFileError, read, write
from nwsketch.storage.values import take


class Storable:
    """What can be saved and loaded, without pickle.

    A file holds numbers and strings alone: to load one runs no code of its writer's. It has a version,
    checksums, and the hashes themselves, so that later versions read it and answer by the same bits. See
    :mod:`nwsketch.storage.container` for its form.
    """

    # A class that can be stored also has the method ``to``, which moves it to a device.
    _file_kind: ClassVar[str]

    def save(self, path: str | os.PathLike[str], extra: dict[str, Any] | None = None) -> None:
        """Write all that was learnt to a file, which replaces an old one as a whole.

        The file appears when it is on the disk, complete: a crash on the way leaves the old one.

        Parameters
        ----------
        path : path-like
        extra : dict or None, default=None
            What is to be kept with it, such as the position in a stream: strings as names, and what JSON
            holds as values. :meth:`load_with_extra` returns it.

        Raises
        ------
        SketchFileError
            If it holds what a file does not keep: a hash family with attributes that are no numbers or
            strings, an attribute of a user's own.
        OSError
            If the file cannot be written.

        Notes
        -----
        Other threads may go on learning: what is written is what was learnt by the time of the call.
        """
        values, arrays = self._contents(extra)
        replace_file(path, lambda file: write(file, values, arrays))

    def to_bytes(self, extra: dict[str, Any] | None = None) -> bytes:
        """Return what :meth:`save` writes.

        Parameters
        ----------
        extra : dict or None, default=None
            See :meth:`save`.

        Returns
        -------
        bytes

        Raises
        ------
        SketchFileError
            As :meth:`save` does.
        """
        file = io.BytesIO()
        write(file, *self._contents(extra))
        return file.getvalue()

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, kernel: HashFamily | None = None, device: str | None = None
    ) -> Self:
        """Return what :meth:`save` wrote; it predicts, and goes on learning, by the same bits.

        Parameters
        ----------
        path : path-like
        kernel : HashFamily or None, default=None
            The instance to hash with, if the file's kernel is not registered here or has attributes.
        device : str or None, default=None
            Where to compute. None takes the device that it was saved on, or the CPU where there is none of
            that name.

        Returns
        -------
        object of this class

        Raises
        ------
        SketchFileError
            If the file is damaged, cut short, forged, too large (:data:`nwsketch.sketch.MAX_TABLE_BYTES`), of
            a newer version, of something else, or needs a kernel that is not known here. The message tells.
        OSError
            If the file cannot be read.
        ValueError
            If the device is not there.
        """
        return cls.load_with_extra(path, kernel=kernel, device=device)[0]

    @classmethod
    def load_with_extra(
        cls, path: str | os.PathLike[str], *, kernel: HashFamily | None = None, device: str | None = None
    ) -> tuple[Self, dict[str, Any]]:
        """Return what :meth:`load` does, and what was saved with it.

        Parameters
        ----------
        path, kernel, device
            See :meth:`load`.

        Returns
        -------
        loaded : object of this class
        extra : dict
            Empty if nothing was.

        Raises
        ------
        SketchFileError, OSError, ValueError
            As :meth:`load` does.
        """
        with open(path, "rb") as file:
            return cls._read(file, os.fspath(path), kernel, device)

    @classmethod
    def from_bytes(cls, data: bytes, *, kernel: HashFamily | None = None, device: str | None = None) -> Self:
        """Return what :meth:`to_bytes` told of.

        Parameters
        ----------
        data : bytes
        kernel, device
            See :meth:`load`.

        Returns
        -------
        object of this class

        Raises
        ------
        SketchFileError, ValueError
            As :meth:`load` does.
        """
        return cls._read(io.BytesIO(data), f"{len(data)} bytes", kernel, device)[0]

    def _contents(self, extra: dict[str, Any] | None) -> tuple[dict[str, Any], Arrays]:
        extra = {} if extra is None else extra
        try:
            same = isinstance(extra, dict) and json.loads(json.dumps(extra)) == extra
        except (TypeError, ValueError):
            same = False
        if not same:
            raise SketchFileError(
                f"A file cannot keep extra={extra!r:.200}: give a dict of strings to what JSON holds "
                "(numbers but NaN, strings, None, lists and such dicts)."
            )
        values, arrays = self._file_values()
        return {"kind": self._file_kind, "extra": extra, self._file_kind: values}, arrays

    @classmethod
    def _read(
        cls, file: BinaryIO, source: str, kernel: HashFamily | None, device: str | None
    ) -> tuple[Self, dict[str, Any]]:
        try:
            values, arrays = read(file, cls._most_table_bytes())
            kind = take(values, "kind", str)
            if kind != cls._file_kind:
                raise SketchFileError(
                    f"It holds a {kind:.80}, not a {cls._file_kind}: load it by that class."
                )
            extra = take(values, "extra", dict)
            loaded: Any = cls._from_file(take(values, kind, dict), arrays, kernel, device)
        # Numbers of hundreds of digits, and lists within lists, pass JSON and then exceed what Python can do.
        except (ValueError, OverflowError, RecursionError) as error:
            raise SketchFileError(f"Cannot load {source}: {error}") from error
        return (loaded if device is None else loaded.to(device)), extra

    @abstractmethod
    def _file_values(self) -> tuple[dict[str, Any], Arrays]:
        """Return all that is to be kept, for JSON and as arrays."""

    @classmethod
    @abstractmethod
    def _from_file(
        cls, values: dict[str, Any], arrays: Arrays, kernel: HashFamily | None, device: str | None
    ) -> Self:
        """Return the object (on the CPU if a device is given) or raise ValueError."""

    @staticmethod
    @abstractmethod
    def _most_table_bytes() -> int:
        """Return the limit of tables."""
