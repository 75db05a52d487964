"""The numbers of docs/export.md: what float32 islands are worth, which opset, how long builds take.

    scripts/graph_numbers.py MODEL_DIR islands fp16      # or bf16
    scripts/graph_numbers.py MODEL_DIR opsets
    scripts/graph_numbers.py MODEL_DIR builds            # needs tensorrt-rtx

MODEL_DIR is a trained model with golden_deform.npz beside its cfg_args. Nothing is written.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
from gt_export.cli import main as gt_export
from gt_export.onnx_canonical import canonical_model, canonical_profile
from gt_export.onnx_deform import DeformGraph, Islands, deform_model
from gt_export.onnx_export import export_onnx
from gt_export.onnx_gate import check_canonical, check_deform, check_golden
from gt_export.verify import golden_inputs, random_inputs

from gt_infer.avatar import Avatar
from gt_infer.engines.deform_io import BATCHES, deform_tensors
from gt_infer.engines.tensorrt_api import load_flavour
from gt_infer.engines.tensorrt_build import BuildOptions, batch_profiles, build_engine

SHOWN = ("means", "opacities", "attention", "picture")
RUNS = 5


def read(model: Path) -> Avatar:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert gt_export([str(model), "-o", str(path)]) == 0
        return Avatar.load(path)


def export(avatar: Avatar, precision: Any, opset: int, islands: Islands | None = None) -> Any:
    return export_onnx(
        DeformGraph(avatar, precision, attention=True, islands=islands),
        deform_tensors(avatar, precision, attention=True),
        dynamic="batch",
        largest=BATCHES[-1],
        metadata={},
        opset=opset,
    )


def measure_islands(avatar: Avatar, golden: Path, precision: Any) -> None:
    """Without one island at a time, against the torch reference in float32."""
    _, frames = golden_inputs(golden, avatar)
    inputs = random_inputs(avatar.network.audio_channels) + frames[::4]
    names = [field.name for field in dataclasses.fields(Islands)]
    cases = {"all islands": Islands()}
    cases |= {f"without `{name}`": Islands(**{name: False}) for name in names}
    cases["none"] = Islands(**dict.fromkeys(names, False))
    print(f"| {precision} | {' | '.join(SHOWN)} |")
    for title, islands in cases.items():
        try:
            graph = export(avatar, precision, 18, islands)
        except onnx.shape_inference.InferenceError as err:  # Round has no bfloat16
            print(f"| {title} | {str(err).partition(':')[0]} |")
            continue
        check = check_deform(avatar, graph, precision, inputs)
        rows = {row.what: row for row in check.rows}
        cells = (
            f"{rows[name].largest:.1f} dB"
            if name == "picture"
            else f"{rows[name].largest:.1e} / {rows[name].mean:.1e}"
            for name in SHOWN
        )
        print(f"| {title} | {' | '.join(cells)} |", flush=True)


def measure_opsets(avatar: Avatar, golden: Path) -> None:
    """Largest difference of each graph in ONNX Runtime, and how GridSample's mode is spelt."""
    logging.disable(logging.WARNING)  # the converter tells how it fails; the version shows it
    subset, frames = golden_inputs(golden, avatar)
    for opset in range(16, 23):
        canonical, deform = canonical_model(avatar, opset=opset), export(avatar, "fp32", opset)
        modes = {
            attribute.s.decode()
            for node in canonical.graph.node
            for attribute in node.attribute
            if attribute.name == "mode" and node.op_type == "GridSample"
        }
        features = check_canonical(avatar, canonical, None).rows[0].largest
        worst = max(row.largest for row in check_golden(avatar, deform, subset, frames).rows)
        print(
            f"asked for {opset}: canonical {written(canonical)}, features {features:.1e}, "
            f"{', '.join(modes)}; deform {written(deform)}, golden vectors {worst:.1e}",
            flush=True,
        )


def written(model: Any) -> int:
    """The opset that came out."""
    (version,) = (item.version for item in model.opset_import if item.domain == "")
    return int(version)


def measure_builds(avatar: Avatar) -> None:
    """Seconds of a build, best of some."""
    rtx = load_flavour("tensorrt-rtx")
    for precision in ("fp32", "fp16", "bf16"):
        profiles = batch_profiles(deform_tensors(avatar, precision))  # type: ignore[arg-type]
        onnx = deform_model(avatar, precision).SerializeToString()  # type: ignore[arg-type]
        options = BuildOptions(is_float32=precision == "fp32")
        for count in (1, len(profiles)):
            time_build(f"deform {precision}, {count}", rtx, onnx, profiles[:count], options)
    onnx = canonical_model(avatar).SerializeToString()
    time_build("canonical, 1", rtx, onnx, [canonical_profile(avatar)], BuildOptions())


def time_build(title: str, *arguments: Any) -> None:
    seconds = []
    for _ in range(RUNS):
        start, start_cpu = time.perf_counter(), time.process_time()
        plan = build_engine(*arguments)
        seconds.append((time.perf_counter() - start, time.process_time() - start_cpu))
    best, cpu = min(seconds)
    print(
        f"{title} profile(s): {best:.2f} s, {cpu:.2f} s of CPU, {len(plan) / 1e6:.1f} MB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("what", choices=("islands", "opsets", "builds"))
    parser.add_argument("precision", nargs="?", choices=("fp16", "bf16"), default="fp16")
    arguments = parser.parse_args()
    avatar, golden = read(arguments.model), arguments.model / "golden_deform.npz"
    if arguments.what == "islands":
        measure_islands(avatar, golden, arguments.precision)
    elif arguments.what == "opsets":
        measure_opsets(avatar, golden)
    else:
        measure_builds(avatar)


if __name__ == "__main__":
    main()
