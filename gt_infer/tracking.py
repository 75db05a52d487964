"""Head poses and blinks from the files of a processed recording (MODEL sections 4 to 6).

`track_params.pt` is a pickle inside a zip, and unpickling runs whatever the file says. Nothing
here unpickles: the few opcodes that `torch.save` writes for a dictionary of tensors are
interpreted as data, its globals are names that are compared and never imported, and everything
else is refused. So a file from a stranger is safe to open, and torch is not needed.
"""

from __future__ import annotations

import csv
import json
import math
import os
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .pose import Pose
from .types import FloatArray

__all__ = ["read_blink", "read_poses"]

# Limits on what a file may ask for: far above real recordings, far below a machine's memory.
_MAX_FRAMES = 1_000_000  # 11 hours at 25 fps
_MAX_PICKLE_BYTES = 256 * 1024  # real ones have about 500
_MAX_STORAGE_BYTES = 64 * 1024 * 1024  # _MAX_FRAMES rows of three float64 are 24 MB
_MAX_JSON_BYTES = 64 * 1024 * 1024  # some 200,000 frames
_MAX_LINE_CHARS = 64 * 1024  # of a csv; OpenFace's full output has about 5,000

_BLINK_COLUMN = "AU45_r"
_BLINK_FULL = 2.0  # OpenFace intensity at which an eye counts as shut

# zipfile's failures on damaged files, over the Python versions supported.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
)

_STORAGE_DTYPES = {"torch.FloatStorage": "<f4", "torch.DoubleStorage": "<f8"}


def read_poses(path: str | os.PathLike[str]) -> list[Pose]:
    """The head poses of a tracked recording, one per video frame, in order.

    Args:
        path: `track_params.pt` (its `euler` [M, 3] in radians and `trans` [M, 3]; the rest is not
            read) or `transforms_*.json` (each frame's `transform_matrix`). Told apart by content.

    Returns:
        M >= 1 absolute poses.

    Raises:
        InputError: the file is missing, damaged, not one of the two, or holds values that are
            not poses; the message names the file and the frame.
    """
    _refuse_pipe(path)
    try:
        with open(path, "rb") as file:
            start = file.read(2)
        if start == b"PK":
            return _poses_from_track_params(path)
        size = os.path.getsize(path)
    except OSError as err:
        raise InputError(f"{path}: cannot be read ({err.strerror or err})") from err
    if size == 0:
        raise InputError(f"{path}: the file is empty; expected track_params.pt or transforms.json")
    if start[:1] == b"\x80":
        raise InputError(
            f"{path}: a bare pickle, which is not safe to open. If it is a track_params.pt of "
            "torch before 1.6, load it there and save it again with a newer torch."
        )
    return _poses_from_transforms(path, size)


def read_blink(path: str | os.PathLike[str]) -> FloatArray:
    """How far the eyes are shut, per video frame, from OpenFace's `au.csv`.

    Args:
        path: a csv with a column `AU45_r` (spaces around the name are ignored); data row i is
            frame i, whatever the csv's own `frame` column says.

    Returns:
        [M] float32 in [0, 1]: AU45_r clipped to [0, 2], halved.

    Raises:
        InputError: the file is missing, has no such column, no rows, or a value is not a finite
            number; the message names the file and the line.
    """
    _refuse_pipe(path)
    try:
        # OpenFace writes ASCII; a csv that went through a spreadsheet may begin with a BOM.
        with open(path, encoding="utf-8-sig", newline="") as file:
            values = list(_blink_column(path, file))
    except OSError as err:
        raise InputError(f"{path}: cannot be read ({err.strerror or err})") from err
    except (csv.Error, UnicodeDecodeError) as err:
        raise InputError(f"{path}: not a csv text file ({err})") from err
    if not values:
        raise InputError(f"{path}: no rows under the header")
    return (np.clip(values, 0.0, _BLINK_FULL) / _BLINK_FULL).astype(np.float32)


def _refuse_pipe(path: str | os.PathLike[str]) -> None:
    """Opening a pipe would wait for its writer, and it cannot be read twice."""
    if Path(path).is_fifo():
        raise InputError(f"{path}: is a pipe, expected a file")


def _blink_column(path: str | os.PathLike[str], file: TextIO) -> Iterator[float]:
    # A bounded readline: a file without line ends must not be read as one line.
    rows = csv.reader(iter(lambda: file.readline(_MAX_LINE_CHARS), ""))
    names = [name.strip() for name in next(rows, [])]
    if _BLINK_COLUMN not in names:
        raise InputError(
            f"{path}: no column {_BLINK_COLUMN} in its first line; expected OpenFace's au.csv"
        )
    column = names.index(_BLINK_COLUMN)
    frames = 0
    for row in rows:
        if not row:
            continue
        try:
            value = float(row[column])
        except (IndexError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise InputError(
                f"{path}, line {rows.line_num}: {_BLINK_COLUMN} is not a finite number"
            )
        frames += 1
        if frames > _MAX_FRAMES:
            raise InputError(f"{path}: more than {_MAX_FRAMES} rows")
        yield value


def _poses_from_transforms(path: str | os.PathLike[str], size: int) -> list[Pose]:
    if size > _MAX_JSON_BYTES:
        raise InputError(f"{path}: {size} bytes; a transforms.json has at most {_MAX_JSON_BYTES}")
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as err:
        raise InputError(f"{path}: cannot be read ({err.strerror or err})") from err
    except (ValueError, RecursionError) as err:
        raise InputError(
            f"{path}: neither a track_params.pt (zip) nor a transforms.json ({err})"
        ) from err
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames:
        raise InputError(f'{path}: a transforms.json has a list "frames" with at least one frame')
    poses = []
    for i, frame in enumerate(frames):
        if not isinstance(frame, dict) or "transform_matrix" not in frame:
            raise InputError(f'{path}: frame {i} has no "transform_matrix"')
        try:
            poses.append(Pose.from_transform_matrix(frame["transform_matrix"]))
        except InputError as err:
            raise InputError(f"{path}: frame {i}: {err}") from err
    return poses


def _poses_from_track_params(path: str | os.PathLike[str]) -> list[Pose]:
    try:
        with zipfile.ZipFile(path) as archive:
            euler, trans = _read_vectors(archive, "euler", "trans")
    except _MalformedError as err:
        raise InputError(f"{path}: not a track_params.pt that can be read: {err}") from err
    except _ZIP_ERRORS as err:
        raise InputError(f"{path}: a damaged or truncated zip ({err})") from err
    if len(euler) != len(trans):
        raise InputError(f"{path}: euler has {len(euler)} frames and trans {len(trans)}")
    poses = []
    for i, (angles, offset) in enumerate(zip(euler, trans, strict=True)):
        try:
            poses.append(Pose.from_tracking(angles, offset))
        except InputError as err:
            raise InputError(f"{path}: frame {i}: {err}") from err
    return poses


class _MalformedError(Exception):
    """The archive is not what torch.save writes for a dictionary of tensors; says why."""


@dataclass(frozen=True, slots=True)
class _Global:
    """A name that the pickle refers to. It stays a name."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """An entry data/<key> of the archive, as the pickle describes it."""

    type_name: str
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A strided view of a storage, in elements. Nothing about it has been checked yet."""

    storage: _Storage
    offset: int
    shape: tuple[object, ...]
    stride: tuple[object, ...]


def _read_vectors(archive: zipfile.ZipFile, *keys: str) -> list[npt.NDArray[np.float64]]:
    """The [M, 3] tensors under these keys of the saved dictionary."""
    names = archive.namelist()
    pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise _MalformedError(f"the zip has {len(pickles)} entries data.pkl, torch.save writes one")
    folder = pickles[0].removesuffix("data.pkl")
    byteorder = f"{folder}byteorder"
    if byteorder in names and _read_entry(archive, byteorder, 16) != b"little":
        raise _MalformedError("saved on a big-endian machine")
    content = _interpret(_read_entry(archive, pickles[0], _MAX_PICKLE_BYTES))
    if not isinstance(content, dict):
        raise _MalformedError(f"holds a {type(content).__name__}, expected a dictionary")
    return [_read_vector(archive, folder, key, content.get(key)) for key in keys]


def _read_vector(
    archive: zipfile.ZipFile, folder: str, key: str, tensor: object
) -> npt.NDArray[np.float64]:
    if not isinstance(tensor, _Tensor):
        raise _MalformedError(f'no tensor "{key}"')
    storage = tensor.storage
    dtype = _STORAGE_DTYPES.get(storage.type_name)
    if dtype is None:
        kind = ascii(storage.type_name[:80])[1:-1]
        raise _MalformedError(f'"{key}" is a {kind}, expected float32 or float64')
    match tensor.shape, tensor.stride:
        case (int(frames), 3), (int(row), int(column)):
            pass
        case _:
            raise _MalformedError(f'"{key}" does not have shape [frames, 3]')
    if not 1 <= frames <= _MAX_FRAMES:
        raise _MalformedError(f'"{key}" has {frames} frames, expected 1 to {_MAX_FRAMES}')
    last = tensor.offset + (frames - 1) * row + 2 * column
    if min(tensor.offset, row, column) < 0 or last >= storage.numel:
        raise _MalformedError(f'"{key}" reaches outside its storage of {storage.numel} values')
    data = _read_entry(archive, f"{folder}data/{storage.key}", _MAX_STORAGE_BYTES)
    if len(data) != storage.numel * np.dtype(dtype).itemsize:
        raise _MalformedError(
            f'the storage of "{key}" has {len(data)} bytes for {storage.numel} values'
        )
    index = tensor.offset + row * np.arange(frames)[:, None] + column * np.arange(3)
    vectors: npt.NDArray[np.float64] = np.frombuffer(data, dtype)[index].astype(np.float64)
    return vectors


def _read_entry(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError as err:
        raise _MalformedError(f"the zip has no entry {name!a}") from err
    # torch.save stores entries as they are. Holding it to that means that no entry can grow
    # beyond the file it came in.
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise _MalformedError(f"{name!a} is compressed, which torch.save never does")
    if info.file_size > limit:
        raise _MalformedError(f"{name!a} has {info.file_size} bytes, at most {limit} are read")
    return archive.read(info)


def _interpret(pickled: bytes) -> object:
    """What data.pkl describes, as plain dictionaries, lists, tuples, literals and `_Tensor`s.

    A stack machine for the opcodes that torch.save (pickle protocol 2) writes. Work and memory
    are linear in the length of `pickled`; no opcode imports, calls or builds anything else.
    """
    try:
        return _run(pickled)
    except (IndexError, KeyError, ValueError) as err:  # empty stack, unset memo, broken opcode
        raise _MalformedError(f"data.pkl is damaged ({type(err).__name__}: {err})") from err


def _run(pickled: bytes) -> object:
    stack: list[object] = []
    marked: list[list[object]] = []  # the stacks below each MARK
    memo: dict[int, object] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(pickled):
        match opcode.name:
            case "PROTO":
                pass
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "MARK":
                marked.append(stack)
                stack = []
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                items = [stack.pop() for _ in range(count)]
                stack.append(tuple(reversed(items)))
            case "TUPLE":
                items, stack = stack, marked.pop()
                stack.append(tuple(items))
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                items = [stack.pop()]
                _extend(stack[-1], items)
            case "APPENDS":
                items, stack = stack, marked.pop()
                _extend(stack[-1], items)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _update(stack[-1], [key, value])
            case "SETITEMS":
                items, stack = stack, marked.pop()
                _update(stack[-1], items)
            case "GLOBAL":
                stack.append(_Global(str(argument).replace(" ", ".")))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_rebuild(function, arguments))
            case "STOP":
                return stack.pop()
            case name:
                raise _MalformedError(f"data.pkl has the opcode {name}, tensors need none such")
    raise _MalformedError("data.pkl has no end")


def _extend(target: object, items: list[object]) -> None:
    if not isinstance(target, list):
        raise _MalformedError("data.pkl appends to something that is not a list")
    target.extend(items)


def _update(target: object, items: list[object]) -> None:
    keys, values = items[0::2], items[1::2]
    if not isinstance(target, dict) or len(keys) != len(values):
        raise _MalformedError("data.pkl sets items of something that is not a dictionary")
    for key, value in zip(keys, values, strict=True):
        if not isinstance(key, str | int | float):  # nested tuples hash slowly
            raise _MalformedError(f"data.pkl has a {type(key).__name__} as dictionary key")
        target[key] = value


def _storage(persistent_id: object) -> _Storage:
    match persistent_id:
        case ("storage", _Global(type_name), str(key), str(), int(numel)):
            return _Storage(type_name, key, numel)
    raise _MalformedError("data.pkl refers to an object outside it that is not a tensor's storage")


def _rebuild(function: object, arguments: object) -> object:
    match function, arguments:
        case (
            _Global("torch._utils._rebuild_tensor_v2"),
            (_Storage() as storage, int(offset), tuple(shape), tuple(stride), *_),
        ):
            return _Tensor(storage, offset, tuple(shape), tuple(stride))
        case _Global("collections.OrderedDict"), ():
            return {}
        case _Global(name), _:
            raise _MalformedError(f"data.pkl asks to call {name[:80]!a}; only tensors are read")
    raise _MalformedError("data.pkl calls something that is not a function")
