"""gt-export: a trained model directory becomes one avatar file, and graphs and engines of it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gt_infer import __version__
from gt_infer.avatar import AudioFrontend, Avatar, save_avatar
from gt_infer.cli.common import printable, run
from gt_infer.cli.info import avatar_lines
from gt_infer.config import TIMING
from gt_infer.destination import destination
from gt_infer.errors import GtError, InputError

from . import cli_targets

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

_EXIT_VERIFY_FAILED = 1
_OF_CHECKPOINTS = (
    "dataset",
    "torso_bank",
    "iteration",
    "storage",
    "n_head",
    "frontend",
    "audio_encoder",
    "encoder_context",
    "name",
    "licence",
    "verify",
)
_STREAMING_TOLERANCE = 0.02  # of the features' standard deviation; more is worth a warning


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0; 1 when --verify or the accuracy gate finds too large a difference; 2
    on errors."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.list_cache:
        return run(cli_targets.list_cache)
    if arguments.clear_cache:
        return run(cli_targets.clear_cache)
    if arguments.model is None:
        parser.error("the following arguments are required: model")
    if arguments.output is None and arguments.target is None:
        parser.error("the following arguments are required: -o/--output")
    command = _compile if arguments.model.is_file() else _export
    return run(lambda: command(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gt-export",
        description="Turn a trained GaussianTalker model into one avatar file for gt_infer, and on "
        "request into graphs and engines.",
    )
    parser.add_argument(
        "model",
        type=Path,
        nargs="?",
        help="directory with cfg_args and point_cloud/; with --target also an avatar file",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="NAME.safetensors",
        help="default with --target: the model's name, in this folder",
    )
    parser.add_argument(
        "--dataset",
        type=Path,
        metavar="DIR",
        help="processed training data: camera, backdrop, torso and poses are taken from it",
    )
    parser.add_argument(
        "--torso-bank",
        type=_positive,
        default=1,
        metavar="K",
        help="torsos to keep, of the most different poses; the nearest is shown (default: 1)",
    )
    parser.add_argument("--iteration", type=int, metavar="N", help="default: the highest there is")
    parser.add_argument(
        "--storage",
        choices=("fp32", "fp16"),
        default="fp32",
        help="fp32 is exact, fp16 halves the file (default: %(default)s)",
    )
    parser.add_argument(
        "--n-head", type=int, metavar="N", help="attention heads, when cfg_args does not say it"
    )
    parser.add_argument(
        "--frontend",
        choices=("logmel29", "features"),
        help="sound features it was trained on; 'features': precomputed by another extractor, such "
        "as DeepSpeech (default: found out from the dataset)",
    )
    parser.add_argument(
        "--audio-encoder",
        type=Path,
        metavar="FILE.onnx",
        help="pack this speech encoder: 16 kHz sound [1, n] to features [1, T, C] at "
        "50 Hz (docs/speech-encoders.md)",
    )
    parser.add_argument(
        "--encoder-context",
        type=_milliseconds,
        default=(1000, 0),
        metavar="LEFT,RIGHT",
        help="sound before and after a step that the encoder needs, milliseconds (default: 1000,0)",
    )
    parser.add_argument("--name", help="for people (default: the output's file name)")
    parser.add_argument("--licence", default="", metavar="TEXT", help="of the avatar")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare checkpoint, avatar file and native engine; exit 1 when they differ",
    )
    cli_targets.add_arguments(parser)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number >= 1")
    return int(text)


def _export(arguments: argparse.Namespace) -> int:
    output = _output(arguments)
    try:
        import PIL  # noqa: F401
        import torch  # noqa: F401
    except ImportError as err:
        raise GtError(
            f"gt-export needs torch and Pillow ({err}): pip install 'gt-infer[export]'"
        ) from err
    plan = cli_targets.plan_of(arguments)
    from .checkpoint import read_checkpoint
    from .convert import DEFAULT_CAMERA, build_avatar
    from .dataset import read_dataset
    from .frontends import choose_frontend

    _progress(f"reading {arguments.model}")
    checkpoint = read_checkpoint(
        arguments.model, iteration=arguments.iteration, n_head=arguments.n_head
    )
    warnings = list(checkpoint.warnings)
    dataset = None
    if arguments.dataset is not None:
        _progress(f"reading {arguments.dataset}")
        dataset = read_dataset(arguments.dataset, torso_bank=arguments.torso_bank)
        warnings += dataset.warnings
    else:
        warnings.append(
            f"no --dataset: the camera is taken as {DEFAULT_CAMERA.width}x{DEFAULT_CAMERA.height}, "
            f"focal {DEFAULT_CAMERA.focal:g}; there is no backdrop, torso or range of poses"
        )
    if arguments.audio_encoder is not None:
        frontend, notes = _encoder_frontend(arguments, checkpoint)
    else:
        frontend, notes = choose_frontend(
            checkpoint.network.audio_channels, arguments.frontend, arguments.dataset
        )
    warnings += notes
    avatar = build_avatar(
        checkpoint,
        dataset,
        frontend,
        name=output.stem if arguments.name is None else arguments.name,
        licence=arguments.licence,
    )
    _progress(f"writing {output}")
    sha256 = save_avatar(avatar, output, arguments.storage)

    for warning in warnings:
        print(f"warning: {printable(warning)}", file=sys.stderr)
    print(
        f"{output}: {output.stat().st_size / 1e6:.2f} MB, {arguments.storage}, sha256 {sha256[:16]}"
    )
    for line in avatar_lines(avatar.describe()):
        print(f"  {printable(line)}")
    for part in checkpoint.dropped:
        print(f"  dropped    {printable(part.what)} ({part.tensors}): {part.why}")
    status = _verify(arguments, checkpoint, output) if arguments.verify else 0
    if plan is not None:
        made = cli_targets.run_targets(
            plan, Avatar.load(output), _stem(output), checkpoint, _progress
        )
        status = max(status, made)
    return status


def _encoder_frontend(
    arguments: argparse.Namespace, checkpoint: Checkpoint
) -> tuple[AudioFrontend, list[str]]:
    from .encoders import read_encoder, streaming_difference

    if arguments.frontend is not None:
        raise InputError("--frontend and --audio-encoder: pass one of them")
    _progress(f"trying {arguments.audio_encoder}")
    left, right = (
        milliseconds * TIMING.sample_rate // 1000 for milliseconds in arguments.encoder_context
    )
    channels = checkpoint.network.audio_channels
    encoder = read_encoder(
        arguments.audio_encoder, channels=channels, left_context=left, right_context=right
    )
    share = streaming_difference(encoder)
    notes = []
    if share > _STREAMING_TOLERANCE:
        notes.append(
            f"streamed features differ from those of the whole clip by {share:.1%} of their "
            "standard deviation: the encoder looks further than --encoder-context says"
        )
    return AudioFrontend("encoder", channels, encoder=encoder), notes


def _milliseconds(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: expected LEFT,RIGHT, such as 1000,40")
    return int(parts[0]), int(parts[1])


def _compile(arguments: argparse.Namespace) -> int:
    """Of an avatar that exists."""
    plan = cli_targets.plan_of(arguments)
    if plan is None:
        raise InputError(f"{arguments.model}: is a file; pass --target, or a model directory")
    defaults = _parser()
    for option in _OF_CHECKPOINTS:
        if getattr(arguments, option) != defaults.get_default(option):
            raise InputError(
                f"--{option.replace('_', '-')} is for a model directory; {arguments.model} is a "
                "file"
            )
    output = arguments.model if arguments.output is None else _output(arguments)
    avatar = Avatar.load(arguments.model)
    return cli_targets.run_targets(plan, avatar, _stem(output), None, _progress)


def _stem(output: Path) -> Path:
    return output.with_name(output.name.removesuffix(".safetensors"))


def _output(arguments: argparse.Namespace) -> Path:
    """The file to write; refuses one that cannot be written before minutes are spent on it."""
    output: Path | None = arguments.output
    if output is None:
        output = Path(f"{arguments.model.resolve().name}.safetensors")
    if output.is_dir():
        raise InputError(f"{output}: is a directory; pass the name of a file")
    if output.suffix != ".safetensors":  # nor can a slip replace a part of the checkpoint
        raise InputError(f"{output}: the avatar's name must end in .safetensors")
    try:
        folder = destination(output).parent
    except OSError as err:
        raise InputError(f"{output}: {err.strerror or err}") from err
    if not folder.is_dir():
        raise InputError(f"{folder}: no such directory")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: not writable")
    return output


def _verify(arguments: argparse.Namespace, checkpoint: Checkpoint, output: Path) -> int:
    from .verify import ATTENTION_TOLERANCE, TOLERANCE, verify

    golden = arguments.model / "golden_deform.npz"
    _progress("comparing checkpoint, avatar file and native engine")
    print(
        f"largest absolute difference (allowed: {TOLERANCE:g}, attention {ATTENTION_TOLERANCE:g}):"
    )
    failed = False
    for comparison in verify(checkpoint, output, golden=golden if golden.is_file() else None):
        verdict = "ok" if comparison.passed else "TOO LARGE"
        if not comparison.decides:
            verdict = "for information: rounded to fp16"
        values = "  ".join(f"{key} {value:.1e}" for key, value in comparison.differences.items())
        print(f"  {comparison.title:36} {values}  {verdict}")
        failed |= not comparison.passed
    if failed:
        print(f"error: {output} does not pass its verification", file=sys.stderr)
    return _EXIT_VERIFY_FAILED if failed else 0


def _progress(message: str) -> None:
    print(printable(message), file=sys.stderr, flush=True)
