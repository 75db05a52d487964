"""The avatar file: what is written comes back, and what is not an avatar is refused in words."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import os
import pickle
import resource
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from gt_infer.avatar import (
    AudioFrontend,
    Avatar,
    CanonicalGaussians,
    TrainingPoses,
    resolve,
    save_avatar,
)
from gt_infer.avatar_file import atomic_write
from gt_infer.errors import AvatarError, GtError
from gt_infer.types import Camera
from tests.synthetic import make_avatar

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one Gaussian": {"n": 1},
    "two layers": {"layers": 2, "n_head": 4},
    "d_model 32 skips the mlps": {"d_model": 32},
    "44 channels": {"channels": 44},
    "no heads": {"heads": ()},
    "two heads": {"heads": ("quats", "sh")},
    "sh degree 0": {"sh_degree": 0},
    "no torso": {"torsos": 0},
    "two torsos": {"torsos": 2},
}

Arrays = dict[str, np.ndarray]
Manifest = dict[str, Any]


def arrays_of(part: object, prefix: str = "") -> Arrays:
    """Every array in a tree of dataclasses, by path: independent of the file's names."""
    found: Arrays = {}
    if isinstance(part, np.ndarray):
        found[prefix] = part
    elif dataclasses.is_dataclass(part):
        for field in dataclasses.fields(part):
            found |= arrays_of(getattr(part, field.name), f"{prefix}.{field.name}")
    elif isinstance(part, tuple):
        for index, item in enumerate(part):
            found |= arrays_of(item, f"{prefix}.{index}")
    elif isinstance(part, dict):
        for key, item in part.items():
            found |= arrays_of(item, f"{prefix}.{key}")
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "head.safetensors"


# What is written comes back.


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_fp32_comes_back_exactly(variant: dict[str, Any], path: Path) -> None:
    avatar = make_avatar(n=variant.get("n", 50), **{k: v for k, v in variant.items() if k != "n"})
    sha256 = save_avatar(avatar, path)
    loaded = Avatar.load(path)

    assert loaded.sha256 == sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    before, after = arrays_of(avatar), arrays_of(loaded)
    assert before.keys() == after.keys()
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
        assert array.dtype == before[name].dtype, name
        assert array.flags.c_contiguous, name
        assert not array.flags.writeable or not array.size, name
    for field in ("name", "camera", "raster", "provenance", "licence"):
        assert getattr(loaded, field) == getattr(avatar, field), field
    assert loaded.network.n_head == avatar.network.n_head
    assert list(loaded.network.heads) == list(avatar.network.heads)
    assert loaded.frontend.kind == avatar.frontend.kind
    assert loaded.storage == "fp32"


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_equal_avatars_give_equal_bytes(storage: Any, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in "abc")
    save_avatar(make_avatar(n=40, seed=3), first, storage)
    save_avatar(make_avatar(n=40, seed=3), second, storage)
    save_avatar(Avatar.load(first), third, storage)
    assert first.read_bytes() == second.read_bytes() == third.read_bytes()


def test_fp16_rounds_all_that_was_trained_but_positions(path: Path) -> None:
    avatar = make_avatar(n=60)
    save_avatar(avatar, path, "fp16")
    loaded = Avatar.load(path)
    assert loaded.storage == "fp16"
    before, after = arrays_of(avatar), arrays_of(loaded)
    for name, array in after.items():
        trained = name.startswith((".gaussians", ".network"))
        exact = not trained or name in (".gaussians.means", ".network.aabb")
        expected = before[name] if exact else before[name].astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(array, expected, err_msg=name)
        assert array.dtype == before[name].dtype, name
    with safe_open(path, framework="numpy") as file:
        stored = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert stored["gaussians.sh"] == stored["network.planes.0.xy"] == "F16"
    assert stored["gaussians.means"] == stored["network.aabb"] == stored["poses.euler"] == "F32"


def test_fp16_refuses_what_it_cannot_hold(path: Path) -> None:
    avatar = make_avatar(n=5)
    loud = np.array(avatar.gaussians.sh)
    loud[3, 2, 1] = 70000.0
    with pytest.raises(AvatarError, match=r"gaussians.sh: .* beyond float16 .*: use storage fp32"):
        save_avatar(with_gaussians(avatar, sh=loud), path, "fp16")
    tiny = np.array(avatar.gaussians.quats)
    tiny[2] = 1e-8
    with pytest.raises(AvatarError, match=r"quats\[2\].*after rounding.*use storage fp32"):
        save_avatar(with_gaussians(avatar, quats=tiny), path, "fp16")
    assert not list(path.parent.iterdir())
    save_avatar(with_gaussians(avatar, quats=tiny, sh=loud), path, "fp32")


def test_poses_may_be_absent(path: Path) -> None:
    save_avatar(dataclasses.replace(make_avatar(n=3), poses=None), path)
    assert Avatar.load(path).poses is None


def test_mean_pose_is_in_double() -> None:
    poses = make_avatar(n=1).poses
    assert poses is not None
    np.testing.assert_allclose(poses.mean_euler, poses.euler.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(poses.mean_trans, poses.trans.astype(float).mean(0), rtol=1e-12)


def test_description_is_json(path: Path) -> None:
    save_avatar(make_avatar(n=12, layers=2), path, "fp16")
    description = json.loads(json.dumps(Avatar.load(path).describe(), allow_nan=False))
    assert description["gaussians"] == 12
    assert description["sh_degree"] == 3
    assert description["storage"] == "fp16"
    assert description["network"]["layers"] == 2
    assert description["network"]["plane_sizes"] == [16, 32]
    assert description["poses"]["frames"] == 8


def test_resolve_leaves_paths_alone(tmp_path: Path) -> None:
    assert resolve(str(tmp_path / "x.safetensors")) == tmp_path / "x.safetensors"
    assert resolve(Path("demo")) == Path("demo")  # a Path is a file, whatever its name


# An avatar that exists is valid.


def with_gaussians(avatar: Avatar, **changes: Any) -> Avatar:
    return dataclasses.replace(avatar, gaussians=dataclasses.replace(avatar.gaussians, **changes))


def with_poses(avatar: Avatar, **changes: Any) -> Avatar:
    assert avatar.poses is not None
    return dataclasses.replace(avatar, poses=dataclasses.replace(avatar.poses, **changes))


def with_network(avatar: Avatar, **changes: Any) -> Avatar:
    return dataclasses.replace(avatar, network=dataclasses.replace(avatar.network, **changes))


def with_constants(avatar: Avatar, **changes: Any) -> Avatar:
    assert avatar.frontend.constants is not None
    constants = dataclasses.replace(avatar.frontend.constants, **changes)
    return dataclasses.replace(avatar, frontend=AudioFrontend("logmel29", 29, constants))


def bad(array: np.ndarray, index: Any, value: float) -> np.ndarray:
    copy = np.array(array)
    copy[index] = value
    return copy


INVALID: dict[str, tuple[Callable[[Avatar], Avatar], str]] = {
    "no Gaussians": (
        lambda a: dataclasses.replace(a, gaussians=CanonicalGaussians(*_empty_gaussians())),
        "gaussians.means: zero Gaussians",
    ),
    "lengths differ": (
        lambda a: with_gaussians(a, quats=a.gaussians.quats[:-1]),
        r"gaussians.quats: expected shape \[20, 4\], got \[19, 4\]",
    ),
    "double": (
        lambda a: with_gaussians(a, means=a.gaussians.means.astype(np.float64)),
        "gaussians.means: expected float32, got float64",
    ),
    "NaN": (
        lambda a: with_gaussians(a, sh=bad(a.gaussians.sh, (7, 2, 1), np.nan)),
        r"gaussians.sh: 1 of 960 values are NaN or infinite, the first at \[7, 2, 1\]",
    ),
    "inf": (
        lambda a: with_gaussians(a, logit_opacities=bad(a.gaussians.logit_opacities, 4, np.inf)),
        r"gaussians.logit_opacities: 1 of 20 .* first at \[4\]",
    ),
    "zero quaternion": (
        lambda a: with_gaussians(a, quats=bad(a.gaussians.quats, 11, 0)),
        r"gaussians.quats\[11\]: 1 of 20 quaternions have length zero",
    ),
    "scales not logarithms": (
        lambda a: with_gaussians(a, log_scales=bad(a.gaussians.log_scales, 0, 100)),
        "gaussians.log_scales: magnitude 100 is beyond 80",
    ),
    "SH of no degree": (
        lambda a: with_gaussians(a, sh=np.ascontiguousarray(a.gaussians.sh[:, :5])),
        "gaussians.sh: 5 coefficients",
    ),
    "SH of another degree than the head": (
        lambda a: with_gaussians(a, sh=np.ascontiguousarray(a.gaussians.sh[:, :9])),
        r"network.heads.sh.1.weight: expected shape \[27, 48\], got \[48, 48\] \(and 1 more",
    ),
    "flat box": (
        lambda a: with_network(a, aabb=bad(a.network.aabb, (slice(None), 1), 2.0)),
        "network.aabb: maximum and minimum are equal",
    ),
    "n_head": (lambda a: with_network(a, n_head=3), "n_head: 3 does not divide d_model = 64"),
    "n_head 0": (lambda a: with_network(a, n_head=0), "n_head: 0 does not divide"),
    "no layers": (lambda a: with_network(a, layers=()), "network.layers.0: is missing"),
    "no planes": (lambda a: with_network(a, planes=()), "network.planes.0.xy: is missing"),
    "planes of another width": (
        lambda a: with_network(a, planes=a.network.planes[:1]),
        r"network.planes.0.xy: expected shape \[64, 16, 16\], got \[32, 16, 16\]",
    ),
    "a convolution too few": (
        lambda a: with_network(a, audio_conv=a.network.audio_conv[:3]),
        "network.audio_conv: 3 layers leave 2 of 16 steps",
    ),
    "a broken chain": (
        lambda a: with_network(a, camera_mlp=a.network.camera_mlp[::-1]),
        r"network.camera_mlp.0.weight: expected shape \[any, 12\], got \[64, 64\]",
    ),
    "a mlp that is not optional": (
        lambda a: with_network(a, eye_mlp=()),
        "network.eye_mlp.0.weight: is missing",
    ),
    "a bias too few": (
        lambda a: with_network(
            a, attention_fc=dataclasses.replace(a.network.attention_fc, bias=None)
        ),
        "network.attention_fc.bias: is missing",
    ),
    "a bias too many": (
        lambda a: with_network(a, camera_mlp=a.network.audio_fc),
        r"network.camera_mlp.0.weight: expected shape .* more problems",
    ),
    "an unknown head": (
        lambda a: with_network(a, heads={"wings": a.network.heads["means"]}),
        "network.heads.wings: not known",
    ),
    "backdrop of another size": (
        lambda a: dataclasses.replace(a, camera=Camera(60, 64, 100.0)),
        r"image.backdrop: expected uint8 \[64, 60, 3\] \(the camera's size\)",
    ),
    "camera too large": (
        lambda a: dataclasses.replace(a, camera=Camera(9000, 64, 100.0)),
        "camera size 9000x64: at most 8192",
    ),
    "torso of another size": (
        lambda a: dataclasses.replace(a, torso=a.torso[:, 1:]),
        r"image.torso: expected uint8 \[1, 64, 64, 4\]",
    ),
    "torso without pose": (
        lambda a: dataclasses.replace(a, torso_poses=np.zeros((0, 3), np.float32)),
        r"image.torso_poses: expected shape \[1, 3\], got \[0, 3\]",
    ),
    "no training frames": (
        lambda a: dataclasses.replace(
            a,
            poses=TrainingPoses(*(np.zeros(s, np.float32) for s in ((0, 3), (0, 3), (0,)))),
        ),
        "poses.euler: no training frames",
    ),
    "degrees": (lambda a: with_poses(a, euler=np.full((8, 3), 30, np.float32)), "poses.euler: val"),
    "blink above 1": (lambda a: with_poses(a, blink=np.full(8, 1.5, np.float32)), "poses.blink: "),
    "far away": (lambda a: with_poses(a, trans=np.full((8, 3), 2e4, np.float32)), "poses.trans: "),
    "channels": (
        lambda a: dataclasses.replace(a, frontend=AudioFrontend("features", 44)),
        "frontend.channels = 44, but network.audio_conv.0 takes 29",
    ),
    "logmel29 without constants": (
        lambda a: dataclasses.replace(a, frontend=AudioFrontend("logmel29", 29)),
        "frontend.constants: ",
    ),
    "another kind": (
        lambda a: dataclasses.replace(a, frontend=AudioFrontend("mfcc", 29)),  # type: ignore[arg-type]
        "frontend.kind = 'mfcc'",
    ),
    "std 0": (
        lambda a: with_constants(a, std=np.zeros(29, np.float32)),
        "frontend.std: every value must be > 0",
    ),
    "another rate": (lambda a: with_constants(a, sample_rate=8000), "sample_rate, hop = "),
    "window": (lambda a: with_constants(a, window=600), "window = 600, n_fft = 512"),
    "odd window": (lambda a: with_constants(a, window=399), "expected an even window"),
    "window of gaps": (lambda a: with_constants(a, window=318), "hop <= window"),
    "fft of no power": (lambda a: with_constants(a, n_fft=500), "must be a power of two"),
    "huge fft": (lambda a: with_constants(a, n_fft=1 << 30), "n_fft = 1073741824"),
    "band edges": (lambda a: with_constants(a, f_max=9000.0), "f_max = 9000.0"),
    "eps": (lambda a: with_constants(a, eps=0.0), "eps = 0.0"),
    "name": (lambda a: dataclasses.replace(a, name=7), "name = 7: expected text"),
}


def _empty_gaussians() -> list[np.ndarray]:
    return [np.zeros(s, np.float32) for s in ((0, 3), (0, 3), (0, 4), (0,), (0, 16, 3))]


@pytest.mark.parametrize(("change", "message"), INVALID.values(), ids=INVALID)
def test_parts_that_do_not_fit_are_refused(
    change: Callable[[Avatar], Avatar], message: str
) -> None:
    with pytest.raises(AvatarError, match=message):
        change(make_avatar(n=20))


def test_every_wrong_tensor_is_counted() -> None:
    network = make_avatar(n=5).network
    broken = dataclasses.replace(
        network,
        aabb=np.zeros((3, 2), np.float32),
        null_token=np.full(64, np.nan, np.float32),
        camera_mlp=network.camera_mlp[::-1],
    )
    names = [name for name, _ in broken.check(sh_coefficients=16).problems]
    assert names == ["network.aabb", "network.null_token", "network.camera_mlp.0.weight"]


# Files from strangers.


def rewrite(
    path: Path,
    tensors: Callable[[Arrays], None] = lambda _: None,
    manifest: Callable[[Manifest], Any] = lambda _: None,
) -> None:
    """Change a valid avatar file as a hostile or broken program would."""
    with safe_open(path, framework="numpy") as file:
        content = json.loads(file.metadata()["gt_avatar"])
    arrays = load_file(path)
    tensors(arrays)
    replaced = manifest(content)
    text = replaced if isinstance(replaced, str) else json.dumps(content)
    save_file(arrays, path, metadata={"gt_avatar": text})


def put(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], None]:
    def apply(arrays: Arrays) -> None:
        arrays[name] = np.ascontiguousarray(change(arrays[name]))

    return apply


HOSTILE_TENSORS: dict[str, tuple[Callable[[Arrays], Any], str]] = {
    "missing": (lambda t: t.pop("gaussians.quats"), "tensor 'gaussians.quats' is missing"),
    "missing weight": (
        lambda t: t.pop("network.layers.0.concat.weight"),
        "tensor 'network.layers.0.concat.weight' is missing",
    ),
    "missing backdrop": (lambda t: t.pop("image.backdrop"), "'image.backdrop' is missing"),
    "missing torso pose": (lambda t: t.pop("image.torso_poses"), "torso_poses' is missing"),
    "missing head": (lambda t: t.pop("network.heads.sh.0.weight"), "heads.sh.0.weight' is missing"),
    "unknown": (
        lambda t: t.update({"evil": np.zeros(3, np.float32)}),
        "unknown tensor 'evil'",
    ),
    "gap in a chain": (lambda t: t.pop("network.audio_conv.1.weight"), "unknown tensor|leave"),
    "double": (
        put("gaussians.means", lambda a: a.astype(np.float64)),
        "'gaussians.means' is stored as F64, expected F32",
    ),
    "half in a full file": (
        put("gaussians.sh", lambda a: a.astype(np.float16)),
        "'gaussians.sh' is stored as F16, expected F32",
    ),
    "integers": (put("image.backdrop", lambda a: a.astype(np.int32)), "stored as I32, expected U8"),
    "transposed": (put("gaussians.means", lambda a: a.T), r"gaussians.means: expected shape"),
    "scalar": (put("gaussians.means", lambda a: a[0, 0]), r"gaussians.means: expected shape"),
    "all NaN": (put("network.planes.0.xy", lambda a: a * np.nan), "planes.0.xy: 8192 of 8192"),
    "fewer than said": (
        lambda t: t.update(
            {k: np.ascontiguousarray(v[:7]) for k, v in t.items() if k.startswith("gaussians.")}
        ),
        "manifest.gaussians = 20, but gaussians.means has 7",
    ),
}


@pytest.mark.parametrize(("change", "message"), HOSTILE_TENSORS.values(), ids=HOSTILE_TENSORS)
def test_hostile_tensors_are_refused(
    change: Callable[[Arrays], Any], message: str, path: Path
) -> None:
    save_avatar(make_avatar(n=20), path)
    rewrite(path, tensors=change)
    with pytest.raises(AvatarError, match=message) as caught:
        Avatar.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).count(str(path)) == 1


HOSTILE_MANIFESTS: dict[str, tuple[Callable[[Manifest], Any], str]] = {
    "newer": (
        lambda m: m.update(version=3),
        "version = 3: this gt_infer reads versions 1 to 2. Update",
    ),
    "older": (lambda m: m.update(version=0), "version = 0: .*Export the avatar again"),
    "no version": (lambda m: m.pop("version"), "manifest.version is missing"),
    "version is text": (lambda m: m.update(version="1"), "manifest.version = '1': expected an int"),
    "version is true": (lambda m: m.update(version=True), "manifest.version = True"),
    "storage": (lambda m: m.update(storage="int4"), "manifest.storage = 'int4'"),
    "storage unlike the tensors": (lambda m: m.update(storage="fp16"), "stored as F32, expected"),
    "unknown key": (lambda m: m.update(run="rm -rf /"), "manifest.'run' is not known"),
    "no camera": (lambda m: m.pop("camera"), "manifest.camera is missing"),
    "camera is a list": (lambda m: m.update(camera=[512, 512]), "manifest.camera: expected a JSON"),
    "camera too small": (lambda m: m["camera"].update(width=0), "camera size 0x64"),
    "camera huge": (lambda m: m["camera"].update(width=10**30), "camera size"),
    "focal is huge": (lambda m: m["camera"].update(focal=10**400), "manifest.camera.focal"),
    "focal is NaN": (lambda m: m["camera"].update(focal=float("nan")), "manifest.camera.focal"),
    "focal is text": (lambda m: m["camera"].update(focal="1"), "manifest.camera.focal = '1'"),
    "raster out of range": (lambda m: m["raster"].update(near=-1.0), "near"),
    "raster incomplete": (lambda m: m["raster"].pop("eps2d"), "manifest.raster.eps2d is missing"),
    "another frame rate": (lambda m: m["timing"].update(fps=30), "manifest.timing"),
    "widths": (lambda m: m["network"].update(d_model=32), "manifest.network = .*tensors say"),
    "n_head": (lambda m: m["network"].update(n_head=5), "n_head: 5 does not divide"),
    "heads are a list": (lambda m: m["network"].update(heads=["means"]), "unknown tensor"),
    "network is text": (lambda m: m.update(network="big"), "manifest.network: expected a JSON"),
    "unknown frontend": (lambda m: m["frontend"].update(kind="mfcc"), "frontend.kind = 'mfcc'"),
    "constants gone": (lambda m: m["frontend"].update(constants=None), "frontend.constants"),
    "provenance": (lambda m: m.update(provenance=[]), "manifest.provenance"),
    "not JSON": (lambda _: "{", "not valid JSON"),
    "a list": (lambda _: "[1]", r"manifest is \[1\], expected a JSON object"),
    "nested deeply": (lambda _: "[" * 100_000, "not valid JSON"),
    "control characters": (
        lambda m: m.update({"\x1b[2J": 1}),
        r"manifest.'\\x1b\[2J' is not known",
    ),
}


@pytest.mark.parametrize(("change", "message"), HOSTILE_MANIFESTS.values(), ids=HOSTILE_MANIFESTS)
def test_hostile_manifests_are_refused(
    change: Callable[[Manifest], Any], message: str, path: Path
) -> None:
    save_avatar(make_avatar(n=20), path)
    rewrite(path, manifest=change)
    with pytest.raises(AvatarError, match=message) as caught:
        Avatar.load(path)
    assert str(caught.value).startswith(f"{path}: ")


class _Bomb:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.fspath(self.mark),)


def test_pickles_are_recognised_and_never_run(path: Path) -> None:
    mark = path.parent / "executed"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(_Bomb(mark), protocol))
        with pytest.raises(AvatarError, match=r"Python pickle|not a safetensors file"):
            Avatar.load(path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Bomb(mark)))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(AvatarError, match=r"zip archive, such as PyTorch's \.pth.*gt-export"):
        Avatar.load(path)
    assert not mark.exists()


LOOKALIKES = {
    "empty": (b"", "the file is empty"),
    "short": (b"ab", "not a safetensors file"),
    "text": (b"hello, this is a text file", "not a safetensors file"),
    "point cloud": (b"ply\nformat binary_little_endian 1.0\n", "a .ply point cloud"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "huge header": ((1 << 40).to_bytes(8, "little") + b"{" * 64, "header claims 1099511627776"),
    "long header": ((9 << 20).to_bytes(8, "little") + b"{" * 64, "header claims 9437184 bytes"),
    "truncated header": ((5000).to_bytes(8, "little") + b"{" * 64, "truncated: 72 bytes"),
    "another tensor file": (
        (2).to_bytes(8, "little") + b"{}",
        "a safetensors file, but no avatar",
    ),
}


@pytest.mark.parametrize(("content", "message"), LOOKALIKES.values(), ids=LOOKALIKES)
def test_other_files_are_recognised(content: bytes, message: str, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(AvatarError, match=message) as caught:
        Avatar.load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(AvatarError, match="no such file"):
        Avatar.load(tmp_path / "nowhere")
    with pytest.raises(AvatarError, match="is a directory"):
        Avatar.load(tmp_path)
    with pytest.raises(AvatarError, match="cannot read"):
        Avatar.load("nul\0byte")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AvatarError, match="not a regular file"):  # and does not wait for a writer
        Avatar.load(tmp_path / "pipe")


def test_truncation_is_seen_at_any_length(path: Path) -> None:
    save_avatar(make_avatar(n=20), path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    lengths = {0, 7, 8, 9, 100, header - 1, header, header + 1, len(whole) // 2, len(whole) - 1}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        with pytest.raises(AvatarError):
            Avatar.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(AvatarError):
        Avatar.load(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_flipped_bytes_give_an_avatar_or_an_avatar_error(
    small_file: tuple[Path, bytes], data: st.DataObject
) -> None:
    path, whole = small_file
    header = 8 + int.from_bytes(whole[:8], "little")
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, header + 2000))
        damaged[where] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        Avatar.load(path)
    except AvatarError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("avatar") / "small.safetensors"
    save_avatar(make_avatar(n=10, d_model=32), path)
    return path, path.read_bytes()


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_loading_takes_about_twice_the_file_at_most(storage: Any, path: Path) -> None:
    save_avatar(make_avatar(n=20_000, size=256), path, storage)
    Avatar.load(path)  # imports
    tracemalloc.start()
    try:
        Avatar.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.4 * path.stat().st_size


# Whole or not at all.


def test_a_full_disk_leaves_nothing(path: Path) -> None:
    """RLIMIT_FSIZE makes the write itself fail in the middle, as a full disk does."""
    save_avatar(make_avatar(n=5), path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(AvatarError, match=r"head.safetensors: cannot write \(File too large\)"):
            save_avatar(make_avatar(n=500), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_disk_that_fills_up_late_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AvatarError, match="No space left on device"):
        save_avatar(make_avatar(n=5), path)
    assert not list(path.parent.iterdir())


def test_an_interrupted_write_leaves_the_old_file(path: Path) -> None:
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:  # noqa: PT012
        file.write(b"new")
        assert path.read_bytes() == b"old"
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_unwritable_outputs_are_named(tmp_path: Path) -> None:
    avatar = make_avatar(n=5)
    with pytest.raises(AvatarError, match=r"nowhere/x: cannot write \(No such file"):
        save_avatar(avatar, tmp_path / "nowhere" / "x")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AvatarError, match="cannot write"):
        save_avatar(avatar, tmp_path / "file" / "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(AvatarError, match="cannot write"):
        save_avatar(avatar, tmp_path / "folder")
    with pytest.raises(AvatarError, match="storage = 'int8'"):
        save_avatar(avatar, tmp_path / "x", "int8")  # type: ignore[arg-type]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_a_manifest_too_long_to_be_read_is_not_written(path: Path) -> None:
    long = dataclasses.replace(make_avatar(n=5), licence="x" * (1 << 20))
    with pytest.raises(AvatarError, match="Shorten provenance or licence"):
        save_avatar(long, path)
    assert not path.exists()


def test_errors_are_gt_errors_and_value_errors() -> None:
    assert issubclass(AvatarError, GtError)
    assert issubclass(AvatarError, ValueError)
