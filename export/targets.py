"""What `gt-export --target` makes of an avatar: ONNX graphs and TensorRT engines, beside its file.

    NAME.canonical.onnx                                  positions -> tri-plane features
    NAME.deform-fp16.onnx                                a frame's inputs -> attributes
    NAME.tensorrt-rtx-portable-fp16.engine (+ .json)     the deform graph, compiled
    NAME.canonical.tensorrt-rtx-portable-fp32.engine (+ .json)

Every file appears whole or not at all. Engines are built only from graphs that exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from gt_infer.avatar import Avatar
from gt_infer.avatar_file import atomic_write
from gt_infer.cli.machine import find_gpus
from gt_infer.engines.cache import EngineKey
from gt_infer.engines.deform_io import BATCHES, EnginePrecision, deform_tensors, padded_count
from gt_infer.engines.sidecar import write_engine
from gt_infer.engines.tensorrt_api import (
    FLAVOURS,
    Flavour,
    FlavourName,
    installed_flavours,
    load_flavour,
)
from gt_infer.engines.tensorrt_build import (
    PORTABLE,
    BuildOptions,
    Profile,
    batch_profiles,
    build_engine,
    check_sm,
)
from gt_infer.errors import EngineError, GtError, InputError

from .checkpoint import Checkpoint

__all__ = ["Outcome", "Request", "Target", "export_targets"]

Target = Literal["onnx", "tensorrt-rtx", "tensorrt", "all"]
_GOLDEN_FRAMES = 3  # of the golden ones, that half precision is judged on


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a user asked for.

    Attributes:
        sms: for TensorRT-RTX; none for one portable engine.
        checks: whether the accuracy gate runs.
    """

    target: Target
    precision: EnginePrecision = "fp16"
    sms: Sequence[str] = ()
    attention: bool = False
    refittable: bool = False
    stripped: bool = False
    version_compatible: bool = False
    checks: bool = True

    def __post_init__(self) -> None:
        if self.target not in get_args(Target):
            raise InputError(f"target = {self.target!r}: must be one of {get_args(Target)}")

    @property
    def flavours(self) -> Sequence[FlavourName]:
        return FLAVOURS if self.target == "all" else [n for n in FLAVOURS if n == self.target]


@dataclass(slots=True)
class Outcome:
    """What became of it.

    Attributes:
        files: written, in order.
        checks: of the accuracy gate (`onnx_gate.Check`).
        left_out: targets that cannot be made here, and why.
    """

    files: list[Path] = field(default_factory=list)
    checks: list[Any] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def export_targets(
    avatar: Avatar,
    stem: Path,
    request: Request,
    *,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Outcome:
    """Make all that is asked for and can be made.

    Args:
        avatar: as its file holds it: engines belong to that file.
        stem: folder and NAME of the output.
        checkpoint: where it came from, for F_can and golden vectors.

    Raises:
        EngineError: a target asked for by name cannot be made here; an unsupported operator.
        InputError: no such compute capability.
        GtError: a package is missing.
        OSError: a file cannot be written.
    """
    outcome = Outcome()
    # All that can be refused comes before the minutes of work.
    flavours = list(_usable(request, outcome))
    _need_onnx(request.checks)
    from .onnx_canonical import Predictor, canonical_model, canonical_tensors
    from .onnx_deform import deform_model

    predictor = None if checkpoint is None else Predictor.from_checkpoint(checkpoint)
    progress("exporting the canonical graph")
    canonical = canonical_model(avatar, predictor)
    progress(f"exporting the deform graph, {request.precision}")
    deform = deform_model(avatar, request.precision, attention=request.attention)
    if request.checks:
        progress("comparing the graphs with the torch reference")
        outcome.checks += _checks(avatar, canonical, deform, request, predictor, checkpoint)

    _write(_named(stem, ".canonical.onnx"), canonical.SerializeToString(), outcome)
    _write(_named(stem, f".deform-{request.precision}.onnx"), deform.SerializeToString(), outcome)
    positions = canonical_tensors(avatar, predictor)[0].name
    padded = padded_count(len(avatar))
    largest = max(padded, 1 << 16)
    counts: Profile = {positions: ((1, 3), (padded, 3), (largest, 3))}
    batches = batch_profiles(deform_tensors(avatar, request.precision))
    for flavour, sm in flavours:
        for graph, model, precision, profiles in (
            ("deform", deform, request.precision, batches),
            ("canonical", canonical, "fp32", [counts]),
        ):
            key = EngineKey(
                graph=graph,
                avatar=avatar.sha256,
                widths={**avatar.network.describe(), "padded": padded},
                flavour=flavour.name,
                version=flavour.version,
                sm=sm,
                precision=precision,
                device="" if flavour.is_rtx else _device(),
                attention=request.attention and graph == "deform",
            )
            middle = "" if graph == "deform" else ".canonical"
            path = _named(stem, f"{middle}.{flavour.name}-{sm}-{precision}.engine")
            progress(f"building {path.name}")
            options = BuildOptions(
                sm=sm,
                is_float32=precision == "fp32",
                refittable=request.refittable,
                stripped=request.stripped,
                version_compatible=request.version_compatible,
                timing_cache=None if flavour.is_rtx else _named(stem, ".timing-cache"),
            )
            plan = build_engine(flavour, model.SerializeToString(), profiles, options)
            found = list(outcome.checks)
            if request.checks and graph == "deform" and _runs_here(sm):
                progress(f"comparing {path.name} with the torch reference")
                found.append(_engine_check(avatar, flavour, plan, deform, request))
                outcome.checks.append(found[-1])
            accuracy = {
                "passed": all(check.passed for check in found),
                "checks": [check.as_json() for check in found],
            }
            facts = key.facts(
                profiles=list(BATCHES) if graph == "deform" else [],
                flags=options.flags(),
                accuracy=accuracy if request.checks else {},
            )
            write_engine(path, plan, facts)
            outcome.files.append(path)
    return outcome


def _usable(request: Request, outcome: Outcome) -> Iterator[tuple[Flavour, str]]:
    """Flavours that can build here, with what they build for."""
    for name in request.flavours:
        problem = _problem(name)
        if problem is not None:
            if request.target == name:
                raise EngineError(f"target {name}: {problem}")
            outcome.left_out.append(f"{name}: {problem}")
            continue
        flavour = load_flavour(name)
        sms = request.sms or [PORTABLE]
        if not flavour.is_rtx:
            sms = [_capability()]
        for sm in sms:
            check_sm(flavour, sm)
            yield flavour, sm


def _problem(name: FlavourName) -> str | None:
    """Why a flavour cannot build engines on this machine."""
    if name == "tensorrt" and not find_gpus()["devices"]:
        return (
            f"needs the GPU that the engine is for ({find_gpus()['reason']}). Run gt-export there, "
            "or use tensorrt-rtx, which builds without one"
        )
    if name not in installed_flavours():
        return f"not installed: pip install 'gt-infer[{name}]'"
    return None


def _capability() -> str:
    return str(find_gpus()["devices"][0]["compute_capability"]).replace(".", "")


def _device() -> str:
    found = find_gpus()
    return f"{found['devices'][0]['name']}, CUDA {found['driver_cuda']}"


def _need_onnx(checks: bool) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401

        if checks:
            import onnxruntime  # noqa: F401
            import polygraphy  # noqa: F401
    except ImportError as err:
        raise GtError(
            f"--target needs onnx, onnxscript, onnxruntime and polygraphy ({err}): "
            "pip install 'gt-infer[export]'"
        ) from err


def _checks(
    avatar: Avatar,
    canonical: Any,
    deform: Any,
    request: Request,
    predictor: Any,
    checkpoint: Checkpoint | None,
) -> Iterator[Any]:
    from .onnx_gate import check_canonical, check_deform, check_golden
    from .verify import golden_inputs, random_inputs

    yield check_canonical(avatar, canonical, predictor)
    inputs = random_inputs(avatar.network.audio_channels)
    golden = None if checkpoint is None else checkpoint.directory / "golden_deform.npz"
    if golden is not None and golden.is_file():
        subset, frames = golden_inputs(golden, avatar)
        # A file of rounded weights computes something else than the checkpoint.
        if request.precision == "fp32" and avatar.storage == "fp32":
            yield check_golden(avatar, deform, subset, frames)
        inputs += frames[:: max(1, len(frames) // _GOLDEN_FRAMES)]
    yield check_deform(avatar, deform, request.precision, inputs)


def _runs_here(sm: str) -> bool:
    """Whether this machine has a GPU for an engine."""
    return bool(find_gpus()["devices"]) and sm in (PORTABLE, _capability())


def _engine_check(
    avatar: Avatar, flavour: Flavour, plan: bytes, deform: Any, request: Request
) -> Any:
    """The engine itself on this machine's GPU."""
    from .engine_gate import engine_function
    from .onnx_gate import check_deform
    from .verify import random_inputs

    run = engine_function(
        flavour,
        plan,
        avatar,
        request.precision,
        attention=request.attention,
        onnx=deform.SerializeToString() if request.stripped else None,
    )
    inputs = random_inputs(avatar.network.audio_channels)
    by = f"{flavour.name} {flavour.version}"
    return check_deform(avatar, deform, request.precision, inputs, run=run, by=by)


def _named(stem: Path, ending: str) -> Path:
    """Beside the avatar file; not `with_suffix`, which would cut a name with a dot in it."""
    return stem.with_name(stem.name + ending)


def _write(path: Path, data: bytes, outcome: Outcome) -> None:
    with atomic_write(path) as file:
        file.write(data)
    outcome.files.append(path)
