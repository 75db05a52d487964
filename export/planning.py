"""What a user asks `gt-export --target` for, and what of it can be made on this machine.

All that can be refused is refused here, before minutes are spent and before a file is written.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from gt_infer.engines.deform_io import PRECISIONS, EnginePrecision
from gt_infer.engines.tensorrt import find_device
from gt_infer.engines.tensorrt_api import (
    FLAVOURS,
    Flavour,
    FlavourName,
    installed_flavours,
    load_flavour,
)
from gt_infer.engines.tensorrt_build import PORTABLE, check_sm
from gt_infer.engines.tensorrt_files import Device
from gt_infer.errors import EngineError, GtError, InputError

__all__ = ["Build", "Plan", "Request", "Target", "plan_targets"]

Target = Literal["onnx", "tensorrt-rtx", "tensorrt", "all"]

_PACKAGES = ("torch", "onnx", "onnxscript")
_CHECK_PACKAGES = ("onnxruntime", "polygraphy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a user asked for.

    Attributes:
        sms: TensorRT-RTX only: "portable" or compute capabilities; none for one portable engine.
        attention: the deform engine also gives the attention weights.
        refittable, stripped, version_compatible, hardware_compatible: as `BuildOptions`; the last
            two are TensorRT's.
        checks: whether the accuracy gate runs.

    Raises: InputError: no such target or precision, or an option that the target does not have.
    """

    target: Target
    precision: EnginePrecision = "fp16"
    sms: Sequence[str] = ()
    attention: bool = False
    refittable: bool = False
    stripped: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    checks: bool = True

    def __post_init__(self) -> None:
        for name, choices in (("target", get_args(Target)), ("precision", PRECISIONS)):
            if (value := getattr(self, name)) not in choices:
                raise InputError(f"{name} = {value!r}: must be one of {', '.join(choices)}")
        both = ("tensorrt-rtx", "tensorrt")
        for option, is_used, flavours in (
            ("--sm", bool(self.sms), both[:1]),
            ("--refittable", self.refittable, both),
            ("--strip-weights", self.stripped, both),
            ("--version-compatible", self.version_compatible, both[1:]),
            ("--hardware-compatible", self.hardware_compatible, both[1:]),
        ):
            if is_used and self.target not in (*flavours, "all"):
                raise InputError(
                    f"{option} does nothing for target {self.target}; it is for "
                    f"{' and '.join(flavours)}"
                )

    @property
    def flavours(self) -> Sequence[FlavourName]:
        """Those that are asked for."""
        return FLAVOURS if self.target == "all" else [n for n in FLAVOURS if n == self.target]


@dataclass(frozen=True, slots=True)
class Build:
    """An engine of each graph: by what, for what.

    Attributes:
        sm: "portable" or a compute capability.
        device: the GPU and driver that the engine will be bound to; empty for none.
    """

    flavour: Flavour
    sm: str
    device: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be made of a request: the graphs, and of each these engines.

    Attributes:
        device: the GPU at hand.
        left_out: targets that cannot be made here, and why; only where all were asked for.
    """

    request: Request
    builds: Sequence[Build]
    device: Device | None
    left_out: Sequence[str] = ()


def plan_targets(request: Request) -> Plan:
    """Find out what can be made here.

    Raises:
        GtError: a package is missing.
        EngineError: a target asked for by name cannot be made here.
        InputError: no such compute capability.
    """
    _need_packages(request.checks)
    device, why_no_gpu = None, ""
    try:
        device = find_device()
    except EngineError as err:
        why_no_gpu = str(err)
    builds: list[Build] = []
    left_out = []
    for name in request.flavours:
        try:
            flavour = _usable(name, request, device, why_no_gpu)
        except EngineError as err:
            if request.target == name:
                raise EngineError(f"target {name}: {err}") from err
            left_out.append(f"{name}: {err}")
            continue
        builds += _builds(flavour, request, device)
    return Plan(request, builds, device, left_out)


def _usable(name: FlavourName, request: Request, device: Device | None, why_no_gpu: str) -> Flavour:
    """Raises: EngineError: engines of this flavour cannot be built on this machine."""
    if name == "tensorrt" and device is None:
        raise EngineError(
            f"needs the GPU that the engine is for ({why_no_gpu}). Run gt-export there, or use "
            "tensorrt-rtx, which builds without one"
        )
    if name not in installed_flavours():
        raise EngineError(f"not installed: pip install 'gt-infer[{name}]'")
    if (request.refittable or request.stripped) and device is None:
        raise EngineError(
            "engines whose weights can be refitted or are left out need the GPU that they are for "
            f"({why_no_gpu}). Run gt-export there, or without --refittable and --strip-weights"
        )
    return load_flavour(name)


def _builds(flavour: Flavour, request: Request, device: Device | None) -> list[Build]:
    if flavour.is_rtx:
        sms = list(dict.fromkeys(request.sms)) or [PORTABLE]
        for sm in sms:
            check_sm(flavour, sm)
        return [Build(flavour, sm) for sm in sms]
    assert device is not None  # else not usable
    if request.hardware_compatible:
        return [Build(flavour, PORTABLE)]
    return [Build(flavour, device.sm, str(device))]


def _need_packages(checks: bool) -> None:
    names = _PACKAGES + (_CHECK_PACKAGES if checks else ())
    try:
        for name in names:
            importlib.import_module(name)
    except ImportError as err:
        raise GtError(
            f"--target needs {', '.join(names)} ({err}): pip install 'gt-infer[export]'"
        ) from err
