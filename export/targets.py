"""What `gt-export --target` makes of an avatar: ONNX graphs and TensorRT engines, beside its file.

    NAME.canonical.onnx                                  positions -> tri-plane features
    NAME.deform-fp16.onnx                                a frame's inputs -> attributes
    NAME.tensorrt-rtx-portable-fp16.engine (+ .json)     the deform graph, compiled
    NAME.canonical.tensorrt-rtx-portable-fp32.engine (+ .json)

Every file appears whole or not at all. What was judged wrong by the accuracy gate is written, and
marked so that the runtime refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gt_infer.avatar import Avatar
from gt_infer.avatar_file import atomic_write
from gt_infer.engines.cache import EngineKey
from gt_infer.engines.deform_io import BATCHES, EnginePrecision, deform_tensors, padded_count
from gt_infer.engines.sidecar import write_engine
from gt_infer.engines.tensorrt_build import (
    PORTABLE,
    BuildOptions,
    Profile,
    batch_profiles,
    build_engine,
)
from gt_infer.engines.tensorrt_files import FAILED_GATE, why_invalid
from gt_infer.errors import CheckpointError

from .checkpoint import Checkpoint
from .onnx_canonical import Predictor, canonical_model, canonical_profile
from .onnx_deform import deform_model
from .planning import Build, Plan
from .verify import golden_inputs, random_inputs

if TYPE_CHECKING:  # the gate brings Polygraphy along, which --no-check does without
    from .onnx_gate import Check

__all__ = ["Outcome", "export_targets"]

_GOLDEN_FRAMES = 3  # of the golden ones, that half precision is judged on

Progress = Callable[[str], None]


@dataclass(slots=True)
class Outcome:
    """What became of a request.

    Attributes:
        files: written, in order.
        checks: of the accuracy gate.
        left_out: what could not be made or judged here, and why.
    """

    files: list[Path] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


@dataclass(frozen=True, slots=True)
class _Graph:
    """A graph and all that its engines depend on.

    Attributes:
        model: the `onnx.ModelProto`.
        checks: what the gate found.
    """

    name: Literal["canonical", "deform"]
    model: Any
    precision: EnginePrecision
    profiles: Sequence[Profile]
    attention: bool = False
    checks: list[Check] = field(default_factory=list)

    @property
    def onnx_name(self) -> str:
        return self.name if self.name == "canonical" else f"{self.name}-{self.precision}"

    def engine_name(self, build: Build) -> str:
        target = f"{build.flavour.name}-{build.sm}-{self.precision}"
        return target if self.name == "deform" else f"{self.name}.{target}"


def export_targets(
    avatar: Avatar,
    stem: Path,
    plan: Plan,
    *,
    checkpoint: Checkpoint | None = None,
    progress: Progress = lambda message: None,
) -> Outcome:
    """Make all that is planned.

    Args:
        avatar: as its file holds it: engines belong to that file.
        stem: folder and NAME of the output.
        checkpoint: where it came from, for F_can and golden vectors.

    Raises:
        EngineError: an unsupported operator, or a build that fails.
        GtError: torch cannot export a graph.
        OSError: a file cannot be written.
    """
    request = plan.request
    outcome = Outcome(left_out=list(plan.left_out))
    predictor = None
    try:
        predictor = None if checkpoint is None else Predictor.from_checkpoint(checkpoint)
    except CheckpointError as err:  # nothing that a frame needs
        outcome.left_out.append(f"F_can's attributes: {err}")

    progress("exporting the canonical graph")
    canonical = _Graph(
        "canonical", canonical_model(avatar, predictor), "fp32", [canonical_profile(avatar)]
    )
    progress(f"exporting the deform graph, {request.precision}")
    deform = _Graph(
        "deform",
        deform_model(avatar, request.precision, attention=request.attention),
        request.precision,
        batch_profiles(deform_tensors(avatar, request.precision)),
        request.attention,
    )
    if request.checks:
        progress("comparing the graphs with the torch reference")
        _check_graphs(avatar, canonical, deform, predictor, checkpoint)
        outcome.checks += canonical.checks + deform.checks
    for graph in (canonical, deform):
        _write_graph(graph, stem, outcome)
    for build in plan.builds:
        for graph in (deform, canonical):
            _build(avatar, stem, plan, build, graph, outcome, progress)
    return outcome


def _write_graph(graph: _Graph, stem: Path, outcome: Outcome) -> None:
    if not all(check.passed for check in graph.checks):
        graph.model.metadata_props.add(key="accuracy", value=FAILED_GATE)
    path = _named(stem, f"{graph.onnx_name}.onnx")
    with atomic_write(path) as file:
        file.write(graph.model.SerializeToString())
    outcome.files.append(path)


def _build(
    avatar: Avatar,
    stem: Path,
    plan: Plan,
    build: Build,
    graph: _Graph,
    outcome: Outcome,
    progress: Progress,
) -> None:
    """One engine with its facts."""
    request, flavour = plan.request, build.flavour
    path = _named(stem, f"{graph.engine_name(build)}.engine")
    options = BuildOptions(
        sm=build.sm,
        is_float32=graph.precision == "fp32",
        refittable=request.refittable,
        stripped=request.stripped,
        version_compatible=request.version_compatible and not flavour.is_rtx,
        timing_cache=None if flavour.is_rtx else _named(stem, "timing-cache"),
    )
    progress(f"building {path.name}")
    engine = build_engine(flavour, graph.model.SerializeToString(), graph.profiles, options)
    checks = list(graph.checks)
    if request.checks and graph.name == "deform" and _is_for(plan, build):
        problem = why_invalid(flavour, engine)
        if problem is None:
            progress(f"comparing {path.name} with the torch reference")
            checks.append(_check_engine(avatar, engine, graph, build, options))
            outcome.checks.append(checks[-1])
        else:
            outcome.left_out.append(f"accuracy of {path.name} on this GPU: {problem}")
    key = EngineKey(
        graph=graph.name,
        avatar=avatar.sha256,
        widths={**avatar.network.describe(), "padded": padded_count(len(avatar))},
        flavour=flavour.name,
        version=flavour.version,
        sm=build.sm,
        precision=graph.precision,
        device=build.device,
        attention=graph.attention,
    )
    accuracy = {
        "passed": all(check.passed for check in checks),
        "checks": [check.as_json() for check in checks],
    }
    facts = key.facts(
        profiles=list(BATCHES) if graph.name == "deform" else [],
        flags=options.flags(),
        accuracy=accuracy if request.checks else {},
    )
    write_engine(path, engine, facts)
    outcome.files.append(path)


def _is_for(plan: Plan, build: Build) -> bool:
    """Whether the GPU at hand may run an engine."""
    return plan.device is not None and build.sm in (PORTABLE, plan.device.sm)


def _check_graphs(
    avatar: Avatar,
    canonical: _Graph,
    deform: _Graph,
    predictor: Predictor | None,
    checkpoint: Checkpoint | None,
) -> None:
    from .onnx_gate import check_canonical, check_deform, check_golden

    canonical.checks.append(check_canonical(avatar, canonical.model, predictor))
    inputs = random_inputs(avatar.network.audio_channels)
    golden = None if checkpoint is None else checkpoint.directory / "golden_deform.npz"
    if golden is not None and golden.is_file():
        subset, frames = golden_inputs(golden, avatar)
        # A file of rounded weights computes something else than the checkpoint.
        if deform.precision == "fp32" and avatar.storage == "fp32":
            deform.checks.append(check_golden(avatar, deform.model, subset, frames))
        inputs += frames[:: max(1, len(frames) // _GOLDEN_FRAMES)]
    deform.checks.append(check_deform(avatar, deform.model, deform.precision, inputs))


def _check_engine(
    avatar: Avatar, engine: bytes, graph: _Graph, build: Build, options: BuildOptions
) -> Check:
    """The engine itself on this machine's GPU."""
    from .engine_gate import engine_function
    from .onnx_gate import check_deform

    run = engine_function(
        build.flavour,
        engine,
        avatar,
        graph.precision,
        attention=graph.attention,
        onnx=graph.model.SerializeToString() if options.stripped else None,
        allow_host_code=options.version_compatible,
    )
    inputs = random_inputs(avatar.network.audio_channels)
    by = f"{build.flavour.name} {build.flavour.version}"
    return check_deform(avatar, graph.model, graph.precision, inputs, run=run, by=by)


def _named(stem: Path, ending: str) -> Path:
    """Beside the avatar file; not `with_suffix`, which would cut a name with a dot in it."""
    return stem.with_name(f"{stem.name}.{ending}")
