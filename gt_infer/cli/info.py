"""gt-info: what an avatar is, and what this machine can run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .. import __version__
from ..avatar import Avatar, resolve
from .common import printable, run
from .machine import cpu_model, find_gpus, installed_version

__all__ = ["avatar_lines", "main"]

_TENSORRT_FLAVOURS = ("tensorrt", "tensorrt_rtx")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0, or 2 on errors."""
    parser = argparse.ArgumentParser(
        prog="gt-info",
        description="Describe an avatar file, or without one this machine: instruction sets, GPU, "
        "and the engine that a renderer takes by itself.",
    )
    parser.add_argument("avatar", nargs="?", help="an avatar file, or 'demo'")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    arguments = parser.parse_args(argv)
    return run(lambda: _info(arguments))


def _info(arguments: argparse.Namespace) -> int:
    if arguments.avatar is not None:
        path = resolve(arguments.avatar)
        avatar = Avatar.load(path)
        report = {"file": os.fspath(path), "bytes": path.stat().st_size, **avatar.describe()}
        lines = [
            f"{report['file']}: {report['bytes'] / 1e6:.2f} MB, {report['storage']}, "
            f"sha256 {report['sha256'][:16]}",
            *(f"  {line}" for line in avatar_lines(report)),
        ]
    else:
        report = _machine()
        lines = list(_machine_lines(report))
    if arguments.json:
        json.dump(report, sys.stdout, indent=2, sort_keys=True)
        print()
    else:
        print("\n".join(printable(line) for line in lines))
    return 0


def avatar_lines(report: Mapping[str, Any]) -> Iterable[str]:
    """`Avatar.describe()` for people. Not yet made printable."""
    network, camera = report["network"], report["camera"]
    sizes = ", ".join(f"{size}x{size}" for size in network["plane_sizes"])
    yield f"name       {report['name']}"
    yield f"licence    {report['licence'] or '(not stated)'}"
    yield f"gaussians  {report['gaussians']:,}, SH degree {report['sh_degree']}"
    yield (
        f"network    {network['layers']} attention layer(s) of {network['n_head']} heads, "
        f"{network['d_model']} wide; tri-plane {network['plane_channels']} x ({sizes})"
    )
    yield f"moves      {', '.join(network['heads']) or 'nothing'}"
    frontend = report["frontend"]
    needs = " (precomputed: gt-render --features)" if frontend["kind"] == "features" else ""
    yield f"sound      {frontend['kind']}, {frontend['channels']} channels{needs}"
    yield f"camera     {camera['width']}x{camera['height']}, focal {camera['focal']:g} px"
    yield f"torso      {report['torsos'] or 'none'}"
    poses = report["poses"]
    if poses is None:
        yield "poses      unknown: no dataset at export"
    else:
        ranges = ", ".join(
            f"{axis} {limits['min']:+.0f} to {limits['max']:+.0f}"
            for axis, limits in poses["degrees"].items()
        )
        yield f"poses      {poses['frames']} training frames: {ranges} degrees"
    for key, value in sorted(report["provenance"].items()):
        yield from (f"made from  {line}" for line in _flat(key, value))


def _flat(key: str, value: object) -> Iterable[str]:
    """A JSON value as `key.key: value` lines."""
    if isinstance(value, dict):
        for name, part in sorted(value.items()):
            yield from _flat(f"{key}.{name}", part)
    else:
        yield f"{key}: {value if isinstance(value, str) else json.dumps(value)}"


def _machine() -> dict[str, Any]:
    """What matters for running here. Imports nothing heavy."""
    from .. import _native
    from ..engines import survey

    engines = [
        {"name": engine.name, "available": engine.available, "reason": engine.reason}
        for engine in survey()
    ]
    chosen = next((engine for engine in engines if engine["available"]), None)
    return {
        "gt_infer": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "usable_cores": _native.usable_cores(),
        "instruction_sets": _native.available_isas(),
        "build": _native.build_info(),
        "gpu": find_gpus(),
        "tensorrt": {name: installed_version(name) for name in _TENSORRT_FLAVOURS},
        "engines": engines,
        "auto": chosen,
    }


def _machine_lines(report: Mapping[str, Any]) -> Iterable[str]:
    yield f"gt_infer   {report['gt_infer']}, Python {report['python']}, {report['platform']}"
    yield f"cpu        {report['cpu']}, {report['usable_cores']} usable core(s)"
    yield f"           instruction sets, the default first: {', '.join(report['instruction_sets'])}"
    for key, value in sorted(report["build"].items()):
        yield f"build      {key}: {value}"
    gpu = report["gpu"]
    for device in gpu["devices"]:
        yield (
            f"gpu        {device['name']}, {device['memory_bytes'] / 2**30:.0f} GiB, compute "
            f"capability {device['compute_capability']}, driver for CUDA {gpu['driver_cuda']}"
        )
    if not gpu["devices"]:
        yield f"gpu        none: {gpu['reason']}"
    for name, found in report["tensorrt"].items():
        yield f"tensorrt   {name}: {found or 'not installed'}"
    for engine in report["engines"]:
        state = "available" if engine["available"] else "not available"
        yield f"engine     {engine['name']}: {state}, {engine['reason']}"
    auto = report["auto"]
    yield (
        f'auto       takes "{auto["name"]}": the first that is available'
        if auto
        else "auto       finds no engine on this machine"
    )
