"""Reports as JSON files: written whole, read strictly."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
import typing
from pathlib import Path
from typing import Any

from gt_infer.destination import destination
from gt_infer.errors import InputError

from .report import SCHEMA, Report

__all__ = ["read_report", "to_json", "write_report"]

_DIGITS = 4  # significant digits of times and sizes: more would be noise


def to_json(report: Report) -> dict[str, Any]:
    """JSON values only, in the order of the definition."""
    data = _rounded(dataclasses.asdict(report))
    assert isinstance(data, dict)
    return {"schema": data.pop("schema"), **data}


def write_report(report: Report, path: str | os.PathLike[str]) -> None:
    """Whole or not at all. Raises: OSError."""
    target = destination(path)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(to_json(report), indent=1) + "\n", encoding="utf-8")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def read_report(path: str | os.PathLike[str]) -> Report:
    """A report that `write_report` wrote.

    Raises: InputError, one line: the file, the field, what is wrong with it. OSError.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as err:
        raise InputError(f"{path}: not a JSON file ({err})") from err
    if not isinstance(data, dict) or "schema" not in data:
        raise InputError(f"{path}: not a report of gt-bench --json")
    if data["schema"] != SCHEMA:
        raise InputError(
            f"{path}: schema = {data['schema']!r}, this gt-bench reads {SCHEMA}. Measure again."
        )
    try:
        report = _decode(Report, data, "report")
    except ValueError as err:
        raise InputError(f"{path}: {err}") from err
    assert isinstance(report, Report)
    return report


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        assert math.isfinite(value)  # JSON has no other; a bug of ours
        return float(f"{value:.{_DIGITS}g}") if value < 10**_DIGITS else round(value, 1)
    return value


def _decode(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`: a dataclass, a list or dict of something, an optional or a plain type."""
    if dataclasses.is_dataclass(kind):
        return _decode_fields(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # X | None
        return None if value is None else _decode(arguments[0], value, where)
    if origin is list and isinstance(value, list):
        return [_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value):
            return float(value)
    elif type(value) is kind:
        return value
    name = getattr(kind, "__name__", str(kind))
    raise ValueError(f"{where}: expected {name}, got {str(value)[:40]!r}")


def _decode_fields(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {str(value)[:40]!r}")
    hints = typing.get_type_hints(kind)
    names = [item.name for item in dataclasses.fields(kind)]
    for problem, found in (
        ("is missing", [name for name in names if name not in value]),
        ("is not known", [name for name in value if name not in names]),
    ):
        if found:
            raise ValueError(f"{where}.{found[0]} {problem}")
    return kind(**{name: _decode(hints[name], value[name], f"{where}.{name}") for name in names})
