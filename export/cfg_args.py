"""`cfg_args`, the settings of a training run: text that looks like Python and is never run."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping

from gt_infer.avatar_file import short
from gt_infer.errors import CheckpointError

from .regular import check_is_file

__all__ = ["read_cfg_args", "take_bool", "take_int"]

_MAX_BYTES = 1 << 20  # real ones have about 3 kB


def read_cfg_args(path: str | os.PathLike[str]) -> dict[str, object]:
    """The literal settings in `Namespace(key=value, ...)`; values that are no literals are left
    out.

    Raises: CheckpointError: the file cannot be read, or is something else. FileNotFoundError.
    """
    check_is_file(path)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as err:
        raise CheckpointError(f"{path}: cannot be read as text ({err})") from err
    if len(text) > _MAX_BYTES:
        raise CheckpointError(f"{path}: longer than {_MAX_BYTES} characters, no cfg_args")
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as err:
        raise CheckpointError(f"{path}: expected Namespace(key=value, ...) ({err})") from err
    if not (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "Namespace"
        and not call.args
    ):
        raise CheckpointError(f"{path}: expected one Namespace(key=value, ...), nothing else")
    settings: dict[str, object] = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in settings:
            what = "`**`" if keyword.arg is None else f"a second {keyword.arg}="
            raise CheckpointError(f"{path}: {what} is not expected")
        try:
            settings[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue  # such as a path object: none of the settings that matter is one
    return settings


def take_bool(settings: Mapping[str, object], key: str, path: str | os.PathLike[str]) -> bool:
    """A flag, False when it is not there. Raises: CheckpointError: it is no bool."""
    value = settings.get(key, False)
    if not isinstance(value, bool):
        raise CheckpointError(f"{path}: {key} = {short(value)}: expected True or False")
    return value


def take_int(settings: Mapping[str, object], key: str, path: str | os.PathLike[str]) -> int | None:
    """A number, None when it is not there. Raises: CheckpointError: it is no integer."""
    value = settings.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise CheckpointError(f"{path}: {key} = {short(value)}: expected an integer")
    return value
