"""A strict reader for the point clouds of trained Gaussians: binary little-endian PLY.

Reads what training code writes and refuses the rest in words; a hostile header costs nothing.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from gt_infer.errors import CheckpointError

from .regular import check_is_file

__all__ = ["read_ply"]

_MAX_HEADER_BYTES = 64 * 1024  # a Gaussian cloud's is about 1500
_MAX_COUNT = 100_000_000
_TYPES = {
    "char": "<i1",
    "int8": "<i1",
    "uchar": "<u1",
    "uint8": "<u1",
    "short": "<i2",
    "int16": "<i2",
    "ushort": "<u2",
    "uint16": "<u2",
    "int": "<i4",
    "int32": "<i4",
    "uint": "<u4",
    "uint32": "<u4",
    "float": "<f4",
    "float32": "<f4",
    "double": "<f8",
    "float64": "<f8",
}


def read_ply(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """The vertices of a binary little-endian PLY, a structured array [N >= 1] by property name.

    Raises: CheckpointError: missing, no PLY, ascii, big-endian, truncated, or without vertices.
    """
    check_is_file(path)
    try:
        with open(path, "rb") as file:
            head = file.read(_MAX_HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
            count, dtype, start = _parse_header(path, head)
            needed = start + count * dtype.itemsize
            if size < needed:
                raise CheckpointError(
                    f"{path}: truncated: {count} vertices need {needed} bytes, the file has {size}"
                )
            file.seek(start)
            return np.fromfile(file, dtype, count)
    except OSError as err:
        raise CheckpointError(f"{path}: cannot be read ({err.strerror or err})") from err


def _parse_header(path: str | os.PathLike[str], head: bytes) -> tuple[int, np.dtype[Any], int]:
    """Vertex count, vertex layout, and where the vertices begin."""
    if not head.startswith((b"ply\n", b"ply\r\n")):
        what = "the file is empty" if not head else "not a PLY file"
        raise CheckpointError(f"{path}: {what}")
    end = head.find(b"end_header")
    line_end = head.find(b"\n", end)
    if end < 0 or line_end < 0:
        raise CheckpointError(f"{path}: truncated or damaged: the header does not end")
    has_format = False
    count: int | None = None
    properties: list[tuple[str, str]] = []
    in_vertices = False
    for line in head[:end].decode("latin-1").splitlines()[1:]:
        match line.split():
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", "binary_little_endian", "1.0"]:
                has_format = True
            case ["format", kind, *_]:
                raise CheckpointError(
                    f"{path}: PLY format {kind!r}; expected binary_little_endian 1.0. Save the "
                    "point cloud as binary."
                )
            case ["element", "vertex", number] if count is None and number.isdecimal():
                count, in_vertices = int(number[:10]), True
            case ["element", name, _] if name != "vertex":
                if count is None:
                    raise CheckpointError(f"{path}: element {name!r} comes before the vertices")
                in_vertices = False
            case ["property", kind, name] if kind in _TYPES:
                if in_vertices:
                    properties.append((name, _TYPES[kind]))
            case ["property", "list", *_] if not in_vertices:
                pass
            case _:
                raise CheckpointError(f"{path}: header line {line[:60]!r} is not understood")
    if not has_format:
        raise CheckpointError(f"{path}: the header has no format line")
    if not count:
        raise CheckpointError(f"{path}: no vertices: zero Gaussians, nothing to show")
    if count > _MAX_COUNT:
        raise CheckpointError(f"{path}: {count} vertices: more than any head has; damaged")
    names = [name for name, _ in properties]
    if len(set(names)) != len(names) or not names:
        raise CheckpointError(f"{path}: no vertex properties, or one twice")
    return count, np.dtype(properties), line_end + 1
