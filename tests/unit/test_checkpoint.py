"""Checkpoints in the official layout: read exactly, and refused in words when they are broken."""

from __future__ import annotations

import dataclasses
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_infer.avatar import Avatar
from gt_infer.errors import CheckpointError
from tests.official_layout import State, state_dict, write_cfg_args, write_model, write_ply
from tests.synthetic import make_avatar
from tests.unit.test_avatar import arrays_of

torch = pytest.importorskip("torch", reason="reading checkpoints needs torch")

from gt_export.cfg_args import read_cfg_args  # noqa: E402
from gt_export.checkpoint import Checkpoint, read_checkpoint  # noqa: E402
from gt_export.ply import read_ply  # noqa: E402

N = 12
NET = "deformation_net."


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A valid model directory."""
    write_model(tmp_path / "model", make_avatar(n=N))
    return tmp_path / "model"


def step(model: Path) -> Path:
    return model / "point_cloud" / "iteration_10000"


def same(checkpoint: Checkpoint, avatar: Avatar) -> None:
    for part in ("gaussians", "network"):
        read, made = arrays_of(getattr(checkpoint, part)), arrays_of(getattr(avatar, part))
        assert read.keys() == made.keys()
        for name, array in read.items():
            np.testing.assert_array_equal(array, made[name], err_msg=name)
            assert array.dtype == np.float32, name
            assert array.flags.c_contiguous, name


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"layers": 2},
        {"d_model": 32},
        {"d_model": 128},
        {"channels": 44},
        {"channels": 1024},
        {"sh_degree": 1},
        {"sh_degree": 0},
    ],
    ids=str,
)
def test_all_widths_are_read_off_the_shapes(variant: dict[str, Any], tmp_path: Path) -> None:
    avatar = make_avatar(n=N, **variant)
    write_model(tmp_path, avatar)
    checkpoint = read_checkpoint(tmp_path)
    same(checkpoint, avatar)
    assert checkpoint.iteration == 10000
    assert checkpoint.network.n_head == 2
    assert checkpoint.white_background
    assert checkpoint.warnings == ()


def test_what_is_dropped_is_told_with_its_reason(tmp_path: Path) -> None:
    avatar = make_avatar(n=N, d_model=32)
    write_model(tmp_path, avatar, settings={"no_do": True})
    checkpoint = read_checkpoint(tmp_path)
    dropped = {part.what: (part.tensors, part.why) for part in checkpoint.dropped}
    assert dropped["aud_ch_att_net, enc_x_mlp, eye_att_net"][0] == 6
    heads = (f"tri_plane.{name}" for name in ("opacity", "rotations", "scales", "shs"))
    assert dropped[", ".join(["tri_plane.feature_out", *heads])][0] == 20
    assert dropped["opacity_poc, pos_poc"][0] == 2
    assert dropped["audio_mlp, eye_mlp"] == (4, "skipped by the model at d_model = 32")
    assert dropped["opacity_deform"] == (4, "switched off: no_do = True in cfg_args")
    assert "deformation_table.pth, deformation_accum.pth" in dropped
    assert checkpoint.warnings == ()


@pytest.mark.parametrize(
    ("flag", "head"),
    [
        ("no_dx", "means"),
        ("no_ds", "scales"),
        ("no_dr", "quats"),
        ("no_do", "opacities"),
        ("no_dshs", "sh"),
    ],
)
def test_a_flag_switches_its_head_off(flag: str, head: str, model: Path) -> None:
    write_cfg_args(model / "cfg_args", {flag: True})
    heads = read_checkpoint(model).network.heads
    assert set(heads) == {"means", "scales", "quats", "opacities", "sh"} - {head}


def test_a_head_that_is_off_need_not_be_stored(tmp_path: Path) -> None:
    avatar = make_avatar(n=N, heads=("means", "sh"))
    flags = {"no_ds": True, "no_dr": True, "no_do": True}
    write_model(tmp_path, avatar, settings=flags)
    same(read_checkpoint(tmp_path), avatar)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_float_types_become_float32(dtype: str, tmp_path: Path) -> None:
    avatar = make_avatar(n=N)
    state = {k: v.to(getattr(torch, dtype)) for k, v in state_dict(avatar.network).items()}
    write_model(tmp_path, avatar, state=state)
    network = read_checkpoint(tmp_path).network
    expected = torch.tensor(avatar.network.aabb).to(getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(network.aabb, expected)


# Which iteration.


def test_the_highest_iteration_is_taken_unless_asked(tmp_path: Path) -> None:
    for iteration, seed in ((9000, 1), (10000, 2), (200, 3)):
        write_model(tmp_path / str(iteration), make_avatar(n=N, seed=seed), iteration=iteration)
    model = tmp_path / "9000"
    for iteration in (10000, 200):
        name = f"point_cloud/iteration_{iteration}"
        (tmp_path / str(iteration) / name).rename(model / name)
    (model / "point_cloud" / "coarse_iteration_70000").mkdir()
    (model / "point_cloud" / "iteration_99999.zip").write_bytes(b"")
    same(read_checkpoint(model), make_avatar(n=N, seed=2))
    same(read_checkpoint(model, iteration=200), make_avatar(n=N, seed=3))
    with pytest.raises(CheckpointError, match=r"no iteration_5; there is \[200, 9000, 10000\]"):
        read_checkpoint(model, iteration=5)


def test_directories_of_another_layout(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such directory; expected MODEL_DIR/point_cloud"):
        read_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="not a trained model directory"):
        read_checkpoint(tmp_path)
    (tmp_path / "point_cloud" / "coarse_iteration_7999").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"no iteration_N inside.*stage 1"):
        read_checkpoint(tmp_path)
    (tmp_path / "point_cloud" / "iteration_7").mkdir()
    with pytest.raises(CheckpointError, match=r"point_cloud\.ply: cannot be read \(No such file"):
        read_checkpoint(tmp_path)


# n_head, which no tensor shows.


def test_n_head(model: Path) -> None:
    write_cfg_args(model / "cfg_args", {"n_head": 4})
    assert read_checkpoint(model).network.n_head == 4
    asked = read_checkpoint(model, n_head=8)
    assert asked.network.n_head == 8
    assert "cfg_args says n_head = 4; 8 is used" in asked.warnings[0]
    write_cfg_args(model / "cfg_args", {"n_head": None})
    assert "n_head is taken as 2" in read_checkpoint(model).warnings[0]
    (model / "cfg_args").unlink()
    missing = read_checkpoint(model)
    assert missing.network.n_head == 2
    assert "cfg_args is missing" in missing.warnings[0]
    assert "n_head is taken as 2" in missing.warnings[1]
    assert len(read_checkpoint(model, n_head=4).warnings) == 1
    with pytest.raises(CheckpointError, match="n_head: 5 does not divide d_model = 64"):
        read_checkpoint(model, n_head=5)


def test_another_number_of_layers_than_cfg_args_says_is_a_warning(model: Path) -> None:
    write_cfg_args(model / "cfg_args", {"n_layer": 2})
    assert "n_layer = 2, deformation.pth has 1" in read_checkpoint(model).warnings[0]


# cfg_args is data.


@pytest.mark.parametrize("flag", ["static_mlp", "empty_voxel", "apply_rotation"])
def test_unsupported_flags_are_refused(flag: str, model: Path) -> None:
    write_cfg_args(model / "cfg_args", {flag: True})
    with pytest.raises(CheckpointError, match=f"cfg_args: {flag} = True: .* not supported"):
        read_checkpoint(model)


def test_cfg_args_values_that_are_no_literals_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "cfg_args"
    path.write_text("Namespace(a=1, b=PosixPath('/x'), c=[1, {'d': (2,)}], e=inf, f=-1.5)\n")
    assert read_cfg_args(path) == {"a": 1, "c": [1, {"d": (2,)}], "f": -1.5}


CFG_ARGS = {
    "a call": ("__import__('os').mkdir('MARK')", "nothing else"),
    "a call inside": ("Namespace(n_head=__import__('os').mkdir('MARK'))", None),
    "another callable": ("print(n_head=2)", "nothing else"),
    "positional": ("Namespace(2)", "nothing else"),
    "unpacked": ("Namespace(**{'n_head': 3})", r"`\*\*`"),
    "two statements": ("Namespace(n_head=2); import os", r"expected Namespace\(key=value"),
    "nothing": ("", r"expected Namespace\(key=value"),
    "twice": ("Namespace(n_head=2, n_head=4)", "a second n_head="),
    "binary": ("Namespace(\0)", r"expected Namespace\(key=value"),
    "nested deeply": ("Namespace(a=" + "(" * 5000 + ")" * 5000 + ")", r"expected Namespace"),
    "huge": ("Namespace(a='" + "x" * (1 << 20) + "')", "longer than"),
    "n_head is text": ("Namespace(n_head='2')", "n_head = '2': expected an integer"),
    "flag is a number": ("Namespace(no_dx=1)", "no_dx = 1: expected True or False"),
}


@pytest.mark.parametrize(("text", "message"), CFG_ARGS.values(), ids=CFG_ARGS)
def test_cfg_args_is_never_run(text: str, message: str | None, model: Path) -> None:
    mark = model / "executed"
    (model / "cfg_args").write_text(text.replace("MARK", str(mark)))
    if message is None:
        assert "n_head is taken as 2" in read_checkpoint(model).warnings[0]
    else:
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(model)
    assert not mark.exists()


def test_cfg_args_that_is_not_text(model: Path) -> None:
    (model / "cfg_args").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="cannot be read as text"):
        read_checkpoint(model)
    (model / "cfg_args").unlink()
    (model / "cfg_args").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read as text"):
        read_checkpoint(model)


# deformation.pth.


def edit_state(model: Path, change: Callable[[State], Any]) -> None:
    path = step(model) / "deformation.pth"
    state = torch.load(path, weights_only=True)
    replaced = change(state)
    torch.save(state if replaced is None else replaced, path)


def drop(*names: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        for name in names:
            del state[NET + name]

    return change


def put(name: str, change: Callable[[Any], Any]) -> Callable[[State], None]:
    def apply(state: State) -> None:
        state[NET + name] = change(state[NET + name])

    return apply


def with_value(index: Any, value: float) -> Callable[[Any], Any]:
    def apply(tensor: Any) -> Any:
        tensor[index] = value
        return tensor

    return apply


STATES: dict[str, tuple[Callable[[State], Any], str]] = {
    "one key missing": (
        drop("null_vector"),
        r"missing keys \(1\): deformation_net\.null_vector\.",
    ),
    "many keys missing": (
        drop(*(f"audio_net.encoder_conv.{i}.{p}" for i in (0, 2, 4) for p in ("weight", "bias"))),
        r"missing keys \(6\): deformation_net\.audio_net\.encoder_conv\.0\.weight, .* \(and 2 more",
    ),
    "a plane missing": (
        drop("tri_plane.grid.grids.1.2"),
        r"missing keys \(1\): deformation_net\.tri_plane\.grid\.grids\.1\.2",
    ),
    "a level missing": (
        drop(*(f"tri_plane.grid.grids.1.{i}" for i in range(3))),
        r"grids\.0\.0: expected shape \[64, 16, 16\], got \[32, 16, 16\]",
    ),
    "part of a layer missing": (
        drop("transformer.layers.0.norm2.beta"),
        r"missing keys \(1\): deformation_net\.transformer\.layers\.0\.norm2\.beta",
    ),
    "empty": (lambda _: {}, r"missing keys \(.*: deformation_net\.tri_plane\.grid\.aabb"),
    "another model": (lambda _: {"a": torch.zeros(2)}, "missing keys"),
    "a list": (lambda _: [1, 2], "expected a state dict"),
    "a tensor": (lambda _: torch.zeros(3), "expected a state dict"),
    "keys are numbers": (lambda _: {1: torch.zeros(3)}, "expected a state dict"),
    "one wrong shape": (
        put("pos_deform.3.weight", lambda t: t.T.contiguous()),
        r"deformation_net\.pos_deform\.3\.weight: expected shape \[3, 48\], got \[48, 3\]",
    ),
    "many wrong shapes": (
        lambda state: state.update({k: v[..., None] for k, v in state.items() if "deform." in k}),
        r"20 tensors are wrong: deformation_net\.pos_deform\.1\.weight: .*; .* \(and 16 more\)",
    ),
    "plane without its leading axis": (
        put("tri_plane.grid.grids.0.1", lambda t: t[:, :-1]),
        r"grids\.0\.1: expected shape \[32, 16, 16\], got \[31, 16, 16\]",
    ),
    "planes of another size": (
        put("tri_plane.grid.grids.0.1", lambda t: t[..., :-1]),
        r"grids\.0\.1: expected shape \[32, 16, 16\], got \[32, 16, 15\]",
    ),
    "no width": (
        put("null_vector", lambda t: t[..., :0]),
        r"deformation_net\.null_vector: is empty",
    ),
    "NaN": (
        put("shs_deform.1.weight", with_value((3, 4), np.nan)),
        r"shs_deform\.1\.weight: 1 of 3072 values are NaN or infinite, the first at \[3, 4\]",
    ),
    "inf": (
        put("tri_plane.grid.grids.1.0", with_value((0, 1, 2, 3), np.inf)),
        r"grids\.1\.0: 1 of 32768 values .* first at \[1, 2, 3\]",
    ),
    "beyond float32": (
        put("tri_plane.grid.aabb", lambda t: t.double() * 1e300),
        r"tri_plane\.grid\.aabb: 6 of 6 values are NaN or infinite",
    ),
    "integers": (put("null_vector", lambda t: t.int()), "null_vector is no tensor of floating"),
    "no tensor": (put("null_vector", lambda _: "64"), "null_vector is no tensor of floating"),
    "an expanded view": (
        put("null_vector", lambda _: torch.zeros(1).expand(1, 1, 1 << 40)),
        "null_vector claims more values than the file holds",
    ),
    "a flat box": (
        put("tri_plane.grid.aabb", lambda t: t[:1].repeat(2, 1)),
        r"tri_plane\.grid\.aabb: maximum and minimum are equal",
    ),
}


@pytest.mark.parametrize(("change", "message"), STATES.values(), ids=STATES)
def test_broken_networks_are_refused(
    change: Callable[[State], Any], message: str, model: Path
) -> None:
    edit_state(model, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(model)
    assert str(caught.value).startswith(f"{step(model) / 'deformation.pth'}: ")
    assert "network." not in str(caught.value), "the user knows the official names, not ours"


def test_unknown_tensors_are_a_warning(model: Path) -> None:
    edit_state(model, lambda s: s.update({NET + "extra.weight": torch.zeros(1), "\x1b[2J": 1}))
    (warning,) = read_checkpoint(model).warnings
    assert "2 tensors are not known and not used: 'deformation_net.extra.weight'" in warning
    assert "\x1b" not in warning


def test_an_index_from_a_stranger_costs_nothing(model: Path) -> None:
    edit_state(model, lambda s: s.update({f"{NET}transformer.layers.999999999.x": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"missing keys .*layers\.1\.enc_dec_attention"):
        read_checkpoint(model)


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.fspath(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_never_run(zipped: bool, model: Path) -> None:
    mark = model / "executed"
    path = step(model) / "deformation.pth"
    bomb = {NET + "null_vector": _Bomb(mark)}
    torch.save(bomb, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="pickled code, which is never run"):
        read_checkpoint(model)
    path.write_bytes(pickle.dumps(bomb))
    with pytest.raises(CheckpointError, match="not a readable state dict"):
        read_checkpoint(model)
    assert not mark.exists()


def test_damaged_networks(model: Path) -> None:
    path = step(model) / "deformation.pth"
    whole = path.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated, damaged"):
            read_checkpoint(model)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"deformation\.pth: no such file"):
        read_checkpoint(model)


# point_cloud.ply.


def edit_ply(model: Path, change: Callable[[bytes], bytes]) -> None:
    path = step(model) / "point_cloud.ply"
    path.write_bytes(change(path.read_bytes()))


def replaced(old: str, new: str) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        assert old.encode() in data
        return data.replace(old.encode(), new.encode(), 1)

    return apply


def with_float(row: int, column: int, value: float) -> Callable[[bytes], bytes]:
    """Overwrites one number; the cloud has 62 columns."""

    def apply(data: bytes) -> bytes:
        start = data.index(b"end_header\n") + 11 + 4 * (62 * row + column)
        return data[:start] + struct.pack("<f", value) + data[start + 4 :]

    return apply


def zero_quaternion(data: bytes) -> bytes:
    for column in range(58, 62):
        data = with_float(5, column, 0.0)(data)
    return data


PLYS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "the file is empty"),
    "text": (lambda _: b"hello", "not a PLY file"),
    "header alone": (lambda d: d[:60], "the header does not end"),
    "header cut": (lambda d: d[: d.index(b"end_header") + 10], "the header does not end"),
    "data cut": (lambda d: d[:-1], rf"truncated: {N} vertices need \d+ bytes"),
    "no data": (lambda d: d[: d.index(b"end_header\n") + 11], "truncated"),
    "ascii": (
        replaced("binary_little_endian", "ascii"),
        "format 'ascii'; expected binary_little_endian",
    ),
    "big endian": (replaced("binary_little", "binary_big"), "format 'binary_big_endian'"),
    "no format": (replaced("format binary_little_endian 1.0\n", ""), "no format line"),
    "zero Gaussians": (
        replaced(f"vertex {N}", "vertex 0"),
        "no vertices: zero Gaussians, nothing to show",
    ),
    "no vertices": (replaced(f"element vertex {N}", f"element face {N}"), "comes before"),
    "too many": (replaced(f"vertex {N}", "vertex 9999999999999999999999"), "damaged"),
    "many": (replaced(f"vertex {N}", "vertex 99999999"), "truncated: 99999999 vertices"),
    "a negative count": (replaced(f"vertex {N}", "vertex -1"), "is not understood"),
    "a list": (replaced("float x", "list uchar int x"), "is not understood"),
    "another type": (replaced("float x", "quad x"), "header line 'property quad x' is not"),
    "twice": (replaced("float nx", "float x"), "one twice"),
    "no x": (replaced("float x", "float q"), "vertex properties are missing: x"),
    "no f_rest_7": (replaced("f_rest_7\n", "f_rest_99\n"), "missing: f_rest_7"),
    "no rotation": (replaced("rot_3", "rod_3"), "missing: rot_3"),
    "NaN": (with_float(3, 1, np.nan), r"x, y, z \(means\): 1 of 36 values .* first at \[3, 1\]"),
    "inf": (with_float(7, 54, np.inf), r"opacity \(logit_opacities\): 1 of 12 .* first at \[7\]"),
    "zero quaternion": (zero_quaternion, r"rot_3 \(quats\)\[5\]: 1 of 12 quaternions"),
    "scales not logarithms": (with_float(0, 55, 500.0), r"scale_2 \(log_scales\): magnitude 500"),
}


@pytest.mark.parametrize(("change", "message"), PLYS.values(), ids=PLYS)
def test_broken_point_clouds_are_refused(
    change: Callable[[bytes], bytes], message: str, model: Path
) -> None:
    edit_ply(model, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(model)
    assert str(caught.value).startswith(f"{step(model) / 'point_cloud.ply'}: ")


def test_harmless_variations_of_a_point_cloud(model: Path) -> None:
    before = read_checkpoint(model)

    def change(data: bytes) -> bytes:
        head, body = data.split(b"end_header\n")
        head = head.replace(b"ply\n", b"ply\ncomment made by a test\nobj_info x\n", 1)
        extra = b"element face 1\nproperty list uchar int vertex_indices\n"
        return head.replace(b"float ", b"float32 ") + extra + b"end_header\n" + body + b"\0" * 13

    edit_ply(model, change)
    same(before, dataclasses.replace(make_avatar(n=N)))
    after = read_checkpoint(model)
    for name, array in arrays_of(before.gaussians).items():
        np.testing.assert_array_equal(arrays_of(after.gaussians)[name], array)


@pytest.fixture(scope="module")
def ply_bytes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("ply") / "cloud.ply"
    write_ply(path, make_avatar(n=2).gaussians)
    return path, path.read_bytes()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_flipped_bytes_give_a_point_cloud_or_a_checkpoint_error(
    ply_bytes: tuple[Path, bytes], data: st.DataObject
) -> None:
    path, whole = ply_bytes
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        read_ply(path)
    except CheckpointError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
