"""The container of an avatar: one .safetensors file with a JSON manifest in its metadata.

This module knows bytes; what the tensors mean is `avatar.py`'s. A file comes from strangers: it is
never unpickled or evaluated, its header is bounded before it is parsed, and tensors are read one
at a time, so that a damaged or hostile file costs at most about twice its size.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

from .destination import destination
from .errors import AvatarError
from .types import FloatArray

__all__ = ["Section", "TensorFile", "atomic_write", "short", "write_tensor_file"]

# One metadata entry alone: safetensors writes several in random order, and equal avatars shall
# be equal bytes.
_MANIFEST_KEY = "gt_avatar"
# Ours are about 15 kB. The library's own limit (100 MB of JSON) would let a small file cost a lot.
_MAX_HEADER_BYTES = 1 << 20
_HASH_BLOCK = 1 << 20

_EXPORT_HINT = "Avatars are .safetensors files; gt-export makes one from a trained model directory."
# First bytes of what people pass by mistake, and what to call it.
_LOOKALIKES = (
    (b"PK\x03\x04", "a zip archive, such as PyTorch's .pth, which can hold pickled code"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"ply", "a .ply point cloud"),
    (b"\x93NUMPY", "a .npy array"),
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull` to get the file itself"),
)


class TensorFile:
    """A tensor file open for reading. A context manager.

    Attributes:
        path: as given.
        manifest: the JSON object in the metadata, parsed but not yet checked.
        sha256: hex digest of the whole file.

    Raises (on opening): AvatarError, whatever is wrong with the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from safetensors import SafetensorError, safe_open

        opener: Any = safe_open
        self.path = os.fspath(path)
        self.sha256 = _check_and_hash(self.path)
        try:
            self._file = opener(self.path, framework="numpy")
        except (SafetensorError, OSError, ValueError) as err:
            self._fail(f"damaged, or not a safetensors file ({_plain(err)}). {_EXPORT_HINT}", err)
        try:
            self.manifest = _parse_manifest(self._file.metadata())
        except ValueError as err:
            self._fail(str(err), err)
        self._left = set(self._file.keys())

    def __enter__(self) -> TensorFile:
        self._file.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.__exit__(kind, value, traceback)

    def has(self, name: str) -> bool:
        """Whether a tensor of that name was not taken yet."""
        return name in self._left

    def take_floats(self, name: str, *, half: bool = False) -> FloatArray:
        """The tensor as C-contiguous float32, stored as float16 when `half`, once."""
        return np.ascontiguousarray(self._take(name, "F16" if half else "F32"), dtype=np.float32)

    def take_bytes(self, name: str) -> npt.NDArray[np.uint8]:
        """The uint8 tensor of that name, once."""
        return np.ascontiguousarray(self._take(name, "U8"))

    def finish(self) -> None:
        """Refuse tensors that nobody took."""
        if self._left:
            names = sorted(self._left)
            self._fail(
                f"unknown tensor {names[0]!r} (and {len(names) - 1} more). The file was made by "
                "another program, or damaged; export it again."
            )

    def _take(self, name: str, dtype: str) -> npt.NDArray[Any]:
        from safetensors import SafetensorError

        if name not in self._left:
            self._fail(f"tensor {name!r} is missing. Export the avatar again.")
        self._left.remove(name)
        found = self._file.get_slice(name).get_dtype()
        if found != dtype:
            self._fail(f"tensor {name!r} is stored as {found}, expected {dtype}")
        try:
            array: npt.NDArray[Any] = self._file.get_tensor(name)
        except (SafetensorError, OSError) as err:
            self._fail(f"tensor {name!r} cannot be read ({_plain(err)})", err)
        return array

    def _fail(self, message: str, cause: BaseException | None = None) -> NoReturn:
        raise AvatarError(f"{self.path}: {message}") from cause


class Section:
    """A JSON object of the manifest, read key by key; every wrong value is named.

    Raises (all methods): AvatarError.
    """

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, dict):
            raise AvatarError(f"{where}: expected a JSON object, got {short(data)}")
        self._left = dict(data)
        self._where = where

    def take(self, key: str) -> object:
        if key not in self._left:
            raise AvatarError(f"{self._where}.{key} is missing")
        return self._left.pop(key)

    def section(self, key: str) -> Section:
        return Section(self.take(key), f"{self._where}.{key}")

    def text(self, key: str) -> str:
        value = self.take(key)
        if not isinstance(value, str):
            raise AvatarError(f"{self._where}.{key} = {short(value)}: expected text")
        return value

    def integer(self, key: str) -> int:
        value = self.take(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise AvatarError(f"{self._where}.{key} = {short(value)}: expected an integer")
        return value

    def number(self, key: str) -> float:
        value = self.take(key)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53:
            value = float(value)
        if not isinstance(value, float) or not math.isfinite(value):
            raise AvatarError(f"{self._where}.{key} = {short(value)}: expected a finite number")
        return value

    def finish(self) -> None:
        """Refuse keys that nobody took: a newer meaning must come with a newer version."""
        if self._left:
            raise AvatarError(f"{self._where}.{short(min(self._left))} is not known")


def write_tensor_file(
    path: str | os.PathLike[str],
    tensors: Mapping[str, npt.NDArray[Any]],
    manifest: Mapping[str, Any],
) -> str:
    """Write tensors and manifest; equal input gives equal bytes.

    Returns: hex sha256 of the file. Raises: AvatarError, and then nothing is left behind.
    """
    from safetensors.numpy import save

    text = json.dumps(manifest, sort_keys=True, allow_nan=False, ensure_ascii=False)
    data = save(
        {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)},
        metadata={_MANIFEST_KEY: text},
    )
    header_bytes = int.from_bytes(data[:8], "little")
    if header_bytes > _MAX_HEADER_BYTES:
        raise AvatarError(
            f"{os.fspath(path)}: the manifest would be {header_bytes} bytes long, the limit is "
            f"{_MAX_HEADER_BYTES}. Shorten provenance or licence."
        )
    try:
        with atomic_write(path) as file:
            file.write(data)
    except OSError as err:
        raise AvatarError(f"{os.fspath(path)}: cannot write ({err.strerror or err})") from err
    return hashlib.sha256(data).hexdigest()


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that appears under `path`, complete, when the block ends without an error.

    Until then it lies beside it as `.NAME.<random>.part`. A symbolic link is followed: what it
    points to is replaced. Raises: OSError, which names `path`.
    """
    target = destination(path)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException as err:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(err, OSError) and err.filename in (None, os.fspath(part)) and err.errno:
            # A full disk names no file, and nobody knows the part's name.
            raise OSError(err.errno, err.strerror, os.fspath(path)) from err
        raise


def _check_and_hash(path: str) -> str:
    """Refuse what cannot be a tensor file, in words; return the sha256 of what can."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # before open: a pipe would block it
            what = "a directory" if os.path.isdir(path) else "not a regular file"
            raise AvatarError(f"{path}: is {what}, expected an avatar file. {_EXPORT_HINT}")
        with open(path, "rb") as file:
            start = file.read(64)
            _check_start(path, start, os.fstat(file.fileno()).st_size)
            digest = hashlib.sha256(start)
            while block := file.read(_HASH_BLOCK):
                digest.update(block)
            return digest.hexdigest()
    except AvatarError:
        raise
    except FileNotFoundError as err:
        raise AvatarError(
            f"{path}: no such file. Pass the path of an avatar, or 'demo' for the built-in one."
        ) from err
    except (OSError, ValueError) as err:  # ValueError: a NUL in the path
        raise AvatarError(f"{path}: cannot read ({err})") from err


def _check_start(path: str, start: bytes, size: int) -> None:
    if size == 0:
        raise AvatarError(f"{path}: the file is empty. {_EXPORT_HINT}")
    for magic, what in _LOOKALIKES:
        if start.startswith(magic):
            raise AvatarError(f"{path}: this is {what}. {_EXPORT_HINT}")
    header_bytes = int.from_bytes(start[:8], "little")
    if len(start) < 10 or start[8:9] != b"{":
        raise AvatarError(f"{path}: not a safetensors file. {_EXPORT_HINT}")
    if header_bytes > _MAX_HEADER_BYTES:
        raise AvatarError(
            f"{path}: its header claims {header_bytes} bytes, an avatar's has at most "
            f"{_MAX_HEADER_BYTES}. The file is damaged, or no avatar."
        )
    if 8 + header_bytes > size:
        raise AvatarError(
            f"{path}: truncated: {size} bytes, the header alone needs {8 + header_bytes}. "
            "Copy or download it again."
        )


def _parse_manifest(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    text = (metadata or {}).get(_MANIFEST_KEY)
    if text is None:
        raise ValueError(
            f"a safetensors file, but no avatar: its metadata has no {_MANIFEST_KEY!r}. "
            f"{_EXPORT_HINT}"
        )
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise ValueError(f"the manifest is not valid JSON ({err})") from err
    if not isinstance(manifest, dict):
        raise ValueError(f"the manifest is {short(manifest)}, expected a JSON object")
    return manifest


def _plain(err: Exception) -> str:
    """An error's text, harmless in a terminal: it may quote the file."""
    return ascii(str(err))[1:-1]


def short(value: object) -> str:
    """A value for a message: one line, harmless in a terminal, never long."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
