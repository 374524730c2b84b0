"""The container: one JSON header and raw arrays, all under checksums.

    magic       8 bytes    "NWSKETCH"
    version     4 bytes    1; all integers are little-endian
    length      8 bytes    of the header
    checksum   32 bytes    SHA-256 of magic, version, length and header
    header                 JSON, UTF-8: values; "arrays": name, type, shape of each; "sha256": of all arrays
    arrays                 raw, C order, little-endian, one after the other, to the end of the file

Why not an archive of NumPy's (npz without pickle) or safetensors: both would do, but their checks are
others'. An npz is a zip whose entries state sizes of their own (a small file may unpack to gigabytes), its
checksum is of 32 bits and leaves names and shapes out, and NumPy reads an array's header by a parser of
Python literals. safetensors has no checksum, and would be one more dependency. Here nothing is parsed before
its checksum has been compared, no array is allocated before the shapes of all have been found to add up to
the very size of the file, and nothing in it can name code: there are numbers, strings and lists.

A checksum tells of damage, not of intent: who forges a file can forge that too. So whoever rebuilds an object
from values and arrays checks these once more (see ``sketches``).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

MAGIC, VERSION = b"NWSKETCH", 1
#: Magic, version, length of the header; the checksum follows.
PREFIX = struct.Struct("<8sIQ")
CHECKSUM_BYTES = 32
#: Longest header: that of a hundred thousand named features is a few megabytes.
MOST_HEADER_BYTES = 2**24
#: Types of arrays; no others are written or read.
TYPES = ("|b1", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<f4", "<f8")
#: Longer axes are refused, though an array with another axis of length 0 would take no memory.
LONGEST_AXIS, MOST_AXES = 2**40, 8

DAMAGED = "It was damaged or cut short: take another copy of it, or make it anew."


class SketchFileError(ValueError):
    """A file, or bytes, that no sketch can be loaded from; or a sketch that no file can keep."""


def write(file: BinaryIO, values: dict[str, Any], arrays: Arrays) -> None:
    """Write values and arrays.

    Parameters
    ----------
    file : binary file
        Open for writing.
    values : dict
        What JSON can hold, without the names ``"arrays"`` and ``"sha256"``.
    arrays : dict of str to ndarray

    Raises
    ------
    SketchFileError
        If a type of array is not among :data:`TYPES`, or the values are too long or not for JSON.
    """
    plain = {name: _little_endian(name, array) for name, array in arrays.items()}
    digest = hashlib.sha256()
    for array in plain.values():
        digest.update(_bytes_of(array))
    listing = [[name, array.dtype.str, list(array.shape)] for name, array in plain.items()]
    header = _header_bytes({**values, "arrays": listing, "sha256": digest.hexdigest()})
    prefix = PREFIX.pack(MAGIC, VERSION, len(header))
    file.write(prefix + hashlib.sha256(prefix + header).digest() + header)
    for array in plain.values():
        file.write(_bytes_of(array))


def read(file: BinaryIO, most_table_bytes: int) -> tuple[dict[str, Any], Arrays]:
    """Read what :func:`write` wrote.

    Parameters
    ----------
    file : binary file
        Open for reading, at its beginning; of known size.
    most_table_bytes : int
        A longer array called ``"tables"`` is refused before it is allocated.

    Returns
    -------
    values : dict
    arrays : dict of str to ndarray
        In the machine's own order of bytes; can be written to.

    Raises
    ------
    SketchFileError
        If the bytes are anything else. No more memory was asked for than they take.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    values = _read_header(file, size)
    layout = _layout(values.pop("arrays", None), size - file.tell())
    _require_room(layout, most_table_bytes)
    expected = values.pop("sha256", None)
    digest, arrays = hashlib.sha256(), {}
    for name, (dtype, shape) in layout.items():
        array = np.empty(shape, dtype)
        data = _bytes_of(array)
        if _read_into(file, data) < len(data):
            raise SketchFileError(f"It ends amid the array {name!r}. {DAMAGED}")
        digest.update(data)
        if dtype.kind == "b":  # a byte of which may be anything
            array = array.view(np.uint8) != 0
        arrays[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    if digest.hexdigest() != expected:
        raise SketchFileError(f"The checksum of its arrays does not match. {DAMAGED}")
    return values, arrays


def _read_header(file: BinaryIO, size: int) -> dict[str, Any]:
    prefix = file.read(PREFIX.size)
    if prefix[: len(MAGIC)] != MAGIC:
        raise SketchFileError(
            f"It begins with {prefix[: len(MAGIC)]!r}, not with {MAGIC!r}: it is no file of nwsketch. Give "
            "one that save wrote."
        )
    checksum = file.read(CHECKSUM_BYTES)
    if len(prefix) + len(checksum) < PREFIX.size + CHECKSUM_BYTES:
        raise SketchFileError(f"It has {size} bytes only. {DAMAGED}")
    _, version, length = PREFIX.unpack(prefix)
    if version > VERSION:
        raise SketchFileError(
            f"It has version {version} of the format, and this nwsketch reads up to version {VERSION}: "
            "upgrade nwsketch (pip install --upgrade nwsketch). If it was not written by a newer one, it is "
            "damaged."
        )
    if length > min(size - file.tell(), MOST_HEADER_BYTES):
        raise SketchFileError(f"Its header of {length} bytes does not fit into {size} bytes. {DAMAGED}")
    header = file.read(length)
    if hashlib.sha256(prefix + header).digest() != checksum:
        raise SketchFileError(f"The checksum of its header does not match. {DAMAGED}")
    if version < VERSION:
        raise SketchFileError(f"There is no version {version} of the format: the file is forged.")
    try:
        values = json.loads(header)
    # Brackets within brackets may go deeper than Python follows.
    except (ValueError, RecursionError) as error:
        raise SketchFileError(f"Its header is not JSON ({error}): the file is forged.") from error
    if not isinstance(values, dict):
        raise SketchFileError("Its header is not a JSON object: the file is forged.")
    return values


def _layout(listing: Any, n_bytes: int) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Return type and shape of every array, if they add up to what the file holds."""
    layout: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
    total = 0
    for entry in listing if isinstance(listing, list) else [None]:
        if not (isinstance(entry, list) and len(entry) == 3):
            raise SketchFileError("Its header lists no arrays: the file is forged.")
        name, kind, shape = entry
        if not (isinstance(name, str) and name not in layout and kind in TYPES and _is_shape(shape)):
            raise SketchFileError(
                f"Its header lists an impossible array ({entry!r:.80}): the file is forged."
            )
        layout[name] = np.dtype(kind), tuple(shape)
        total += math.prod(shape) * layout[name][0].itemsize
    if total != n_bytes:
        raise SketchFileError(
            f"Its arrays would take {total} bytes, but {n_bytes} follow its header. {DAMAGED}"
        )
    return layout


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) <= MOST_AXES
        and all(type(length) is int and 0 <= length <= LONGEST_AXIS for length in shape)
        and math.prod(max(length, 1) for length in shape) <= LONGEST_AXIS
    )


def _require_room(layout: dict[str, tuple[np.dtype[Any], tuple[int, ...]]], most_bytes: int) -> None:
    if "tables" in layout:
        dtype, shape = layout["tables"]
        n_bytes = dtype.itemsize * math.prod(shape)
        if n_bytes > most_bytes:
            raise SketchFileError(
                f"Its tables would take {n_bytes / 2**30:.3g} GiB, over the limit of "
                f"{most_bytes / 2**30:.3g} GiB: raise nwsketch.sketch.MAX_TABLE_BYTES if you trust it."
            )


def _header_bytes(values: dict[str, Any]) -> bytes:
    try:
        header = json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise SketchFileError(f"A file cannot keep this: {error}. Give numbers, strings, lists.") from error
    if len(header) > MOST_HEADER_BYTES:
        raise SketchFileError(
            f"All that is no array would take {len(header)} bytes, over the limit of {MOST_HEADER_BYTES}: "
            "give shorter names of features, or less to keep beside (extra)."
        )
    return header


def _little_endian(name: str, array: NDArray[Any]) -> NDArray[Any]:
    plain = np.ascontiguousarray(array).reshape(array.shape)  # which NumPy takes for 1-D if it is 0-D
    plain = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
    if plain.dtype.str not in TYPES:
        raise SketchFileError(f"A file cannot keep the array {name!r} of type {array.dtype}: give numbers.")
    return plain


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _read_into(file: Any, data: memoryview) -> int:
    """Fill memory from a file; return how many bytes there were."""
    done = 0
    while done < len(data):
        n_read = file.readinto(data[done:])
        if not n_read:
            break
        done += n_read
    return done
