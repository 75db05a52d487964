"""gt-export end to end: exit codes, one line per error, a file that is whole or not there."""

from __future__ import annotations

import dataclasses
import os
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gt_infer import Avatar
from gt_infer.errors import CheckpointError
from tests.official_layout import write_cfg_args, write_dataset, write_model
from tests.synthetic import make_avatar
from tests.unit.test_avatar import arrays_of

torch = pytest.importorskip("torch", reason="gt-export needs torch")
pytest.importorskip("PIL.Image", reason="reading datasets needs Pillow")

from gt_export import checkpoint as checkpoint_module  # noqa: E402
from gt_export import verify as verify_module  # noqa: E402
from gt_export.checkpoint import read_checkpoint  # noqa: E402
from gt_export.cli import main  # noqa: E402
from gt_export.frontends import LOGMEL29, choose_frontend  # noqa: E402
from gt_export.reference import ReferenceNetwork  # noqa: E402

AVATAR = {"n": 40}


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Forty Gaussians gain nothing from more, and waiting threads starve the engine's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", make_avatar(**AVATAR))
    return tmp_path / "model"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "anna")
    return tmp_path / "anna"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """In a folder of its own, so that leftovers show."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "anna.safetensors"


def export(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_an_export_says_what_it_did(
    model: Path, dataset: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(model, "-o", output, "--dataset", dataset, "--licence", "CC0") == 0
    said = capsys.readouterr()
    avatar = Avatar.load(output)
    for fact in (
        f"{output}: {output.stat().st_size / 1e6:.2f} MB, fp32, sha256 {avatar.sha256[:16]}",
        "gaussians  40, SH degree 3",
        "1 attention layer(s) of 2 heads, 64 wide",
        "licence    CC0",
        "F_can predicts canonical attributes in training stage 1",
        "training leftovers",
    ):
        assert fact in said.out
    for step in ("reading", "writing"):
        assert step in said.err
    assert list(output.parent.iterdir()) == [output]

    assert avatar.name == "anna"
    assert avatar.provenance["iteration"] == 10000
    assert avatar.provenance["model"] == "model"
    made = make_avatar(**AVATAR)
    for part in ("gaussians", "network"):
        for name, array in arrays_of(getattr(avatar, part)).items():
            np.testing.assert_array_equal(array, arrays_of(getattr(made, part))[name])
    assert avatar.frontend.kind == "logmel29"
    assert avatar.poses is not None
    assert len(avatar.poses.euler) == 5
    assert avatar.camera.focal == 150.0


def test_equal_exports_are_equal_files(model: Path, dataset: Path, output: Path) -> None:
    other = output.with_name("other.safetensors")
    for path in (output, other):
        assert export(model, "-o", path, "--dataset", dataset, "--name", "a") == 0
    assert output.read_bytes() == other.read_bytes()
    assert str(model.parent) not in output.read_bytes()[:20_000].decode("latin-1"), "a private path"


def test_without_a_dataset_the_defaults_are_told(
    model: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(model, "-o", output, "--storage", "fp16", "--name", "Anna Ö.") == 0
    err = capsys.readouterr().err
    assert "warning: no --dataset: the camera is taken as 512x512, focal 1200" in err
    assert "warning: the checkpoint does not say which 29 sound features" in err
    avatar = Avatar.load(output)
    assert avatar.name == "Anna Ö."
    assert (avatar.camera.width, avatar.camera.height, avatar.camera.focal) == (512, 512, 1200.0)
    assert avatar.backdrop.min() == 255
    assert len(avatar.torso) == 0
    assert avatar.poses is None
    assert avatar.storage == "fp16"
    write_cfg_args(model / "cfg_args", {"white_background": False})
    assert export(model, "-o", output) == 0
    assert Avatar.load(output).backdrop.max() == 0


def test_iteration_and_n_head_are_passed_on(tmp_path: Path, output: Path) -> None:
    write_model(tmp_path / "model", make_avatar(**AVATAR, seed=1), iteration=7)
    write_model(tmp_path / "other", make_avatar(**AVATAR, seed=2), iteration=8)
    (tmp_path / "other/point_cloud/iteration_8").rename(tmp_path / "model/point_cloud/iteration_8")
    assert export(tmp_path / "model", "-o", output, "--iteration", 7, "--n-head", 4) == 0
    avatar = Avatar.load(output)
    assert avatar.network.n_head == 4
    assert avatar.provenance["iteration"] == 7
    np.testing.assert_array_equal(
        avatar.gaussians.means, make_avatar(**AVATAR, seed=1).gaussians.means
    )


# Which sound features.


def test_logmel29_constants_are_the_published_ones(shared: Path) -> None:
    published = np.load(shared / "checkpoints" / "logmel29_consts.npz")
    np.testing.assert_array_equal(LOGMEL29.mean, published["mean"].astype(np.float32))
    np.testing.assert_array_equal(LOGMEL29.std, published["std"].astype(np.float32))
    for ours, theirs in (
        ("sample_rate", "sr"),
        ("hop", "hop"),
        ("window", "win"),
        ("n_fft", "nfft"),
    ):
        assert getattr(LOGMEL29, ours) == published[theirs]
    assert published["eps"] == LOGMEL29.eps
    edges = published["edges_hz"]
    assert (LOGMEL29.f_min, LOGMEL29.f_max) == pytest.approx((edges[0], edges[-1]))


def test_the_features_of_a_recording_tell_the_front_end(shared: Path, tmp_path: Path) -> None:
    anna = shared / "dataset" / "anna"
    frontend, notes = choose_frontend(29, None, anna)
    assert (frontend.kind, notes) == ("logmel29", [])
    for name in ("aud.wav", "aud_ds.npy"):
        (tmp_path / name).write_bytes((anna / name).read_bytes())
    features = np.load(tmp_path / "aud_ds.npy")
    features[100:] += 0.02
    np.save(tmp_path / "aud_ds.npy", features)
    frontend, notes = choose_frontend(29, None, tmp_path)
    assert frontend.kind == "features"
    assert "aud_ds.npy is not logmel29 of aud.wav (they differ by up to 0.02)" in notes[0]
    assert choose_frontend(29, "logmel29", tmp_path)[0].kind == "logmel29"


def test_other_channels_are_precomputed_features(tmp_path: Path, output: Path) -> None:
    write_model(tmp_path / "model", make_avatar(n=5, channels=44))
    assert export(tmp_path / "model", "-o", output) == 0
    frontend = Avatar.load(output).frontend
    assert (frontend.kind, frontend.channels, frontend.constants) == ("features", 44, None)
    with pytest.raises(CheckpointError, match="take 44 audio channels, logmel29 has 29"):
        choose_frontend(44, "logmel29", None)
    assert choose_frontend(29, "features", None)[0].kind == "features"


# --verify.


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("variant", "flags"),
    [({}, {}), ({"layers": 2, "d_model": 32}, {"no_dx": True}), ({"channels": 44}, {})],
    ids=["plain", "two layers, a head off", "44 channels"],
)
def test_verify_passes(
    storage: str,
    variant: dict[str, Any],
    flags: dict[str, object],
    tmp_path: Path,
    output: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_model(tmp_path / "model", make_avatar(n=40, **variant), settings=flags)
    assert export(tmp_path / "model", "-o", output, "--storage", storage, "--verify") == 0
    said = capsys.readouterr().out
    assert "largest absolute difference (allowed: 0.0002, attention 0.0001)" in said
    (file_line,) = (line for line in said.splitlines() if "avatar file - checkpoint" in line)
    (engine_line,) = (line for line in said.splitlines() if "engine - avatar file" in line)
    assert engine_line.endswith("ok")
    if storage == "fp32":
        assert file_line.endswith("ok")
        assert file_line.count("0.0e+00") == 6
    else:
        assert file_line.endswith("for information: rounded to fp16")
    assert "golden" not in said


def write_golden(model: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """Golden vectors of the reference network itself, then changed."""
    checkpoint = read_checkpoint(model)
    rng = np.random.default_rng(0)
    audio = rng.standard_normal((2, 8, 29, 16), np.float32)
    eye, cam = rng.random((2, 1), np.float32), rng.standard_normal((2, 12), np.float32)
    subset = np.array([3, 30, 7])
    network = ReferenceNetwork.from_checkpoint(checkpoint)
    with torch.inference_mode():
        out = network(torch.tensor(audio), torch.tensor(eye[:, 0]), torch.tensor(cam))
    golden = {
        "audio": audio,
        "eye": eye,
        "cam": cam,
        "subset": subset,
        "N": np.array(40),
        "means": out.means.numpy()[:, subset],
        "scales": out.scales.numpy()[:, subset],
        "rotations": out.quats.numpy()[:, subset],
        "opacity": out.opacities.numpy()[:, subset, None],
        "shs": out.sh.numpy()[:, subset],
        "attention": out.attention.numpy()[:, :, subset],
    }
    change(golden)
    np.savez(model / "golden_deform.npz", **golden)


def test_verify_takes_golden_vectors_that_lie_in_the_model(
    model: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_golden(model, lambda g: None)
    assert export(model, "-o", output, "--verify") == 0
    said = capsys.readouterr().out
    assert "golden: checkpoint - golden vectors" in said
    assert "golden: engine - golden vectors" in said


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("means", 3e-4),
        ("scales", 3e-4),
        ("rotations", 3e-4),
        ("opacity", 3e-4),
        ("shs", 3e-4),
        ("attention", 1.5e-4),
        ("means", np.nan),
    ],
)
def test_verify_fails_past_the_tolerance(
    key: str, error: float, model: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def disturb(golden: dict[str, np.ndarray]) -> None:
        golden[key].flat[4] += error

    write_golden(model, disturb)
    assert export(model, "-o", output, "--verify") == 1
    said = capsys.readouterr()
    assert "TOO LARGE" in said.out
    assert "does not pass its verification" in said.err


def test_verify_of_a_rounded_file_still_judges_the_checkpoint(model: Path, output: Path) -> None:
    def disturb(golden: dict[str, np.ndarray]) -> None:
        golden["means"].flat[4] += 3e-4

    write_golden(model, disturb)
    assert export(model, "-o", output, "--verify", "--storage", "fp16") == 1


def test_verify_catches_an_engine_that_computes_something_else(
    model: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(verify_module.Renderer):  # type: ignore[misc]
        def deform(self, *args: Any, **kwargs: Any) -> Any:
            right = super().deform(*args, **kwargs)
            return dataclasses.replace(right, quats=-right.quats)

    monkeypatch.setattr(verify_module, "Renderer", Wrong)
    assert export(model, "-o", output, "--verify") == 1


GOLDEN_FILES: dict[str, tuple[Callable[[dict[str, np.ndarray]], Any], str]] = {
    "a key missing": (lambda g: g.pop("attention"), "attention"),
    "another N": (lambda g: g.update(N=np.array(41)), "made for 41 Gaussians, the checkpoint has"),
    "another shape": (lambda g: g.update(means=g["means"][:, :2]), r"means has shape \[2, 2, 3\]"),
    "other Gaussians": (lambda g: g.update(subset=np.array([1, 2, 99])), "made for 40 Gaussians"),
    "objects": (
        lambda g: g.update(means=np.array([{}], object)),
        "golden_deform.npz: not golden vectors",
    ),
}


@pytest.mark.parametrize(("change", "message"), GOLDEN_FILES.values(), ids=GOLDEN_FILES)
def test_golden_vectors_of_something_else_are_an_error(
    change: Callable[[dict[str, np.ndarray]], Any],
    message: str,
    model: Path,
    output: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_golden(model, change)
    assert export(model, "-o", output, "--verify") == 2
    assert one_error(capsys, message)


# Errors: exit 2, one line, nothing left behind.


def one_error(capsys: pytest.CaptureFixture[str], message: str) -> bool:
    """The last line on stderr is the error, the only one, and there is no traceback."""
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert not any("Traceback" in line for line in lines)
    assert re.search(message, lines[-1]), lines[-1]
    return True


def break_ply(model: Path, dataset: Path) -> None:
    path = model / "point_cloud/iteration_10000/point_cloud.ply"
    path.write_bytes(path.read_bytes()[:-5])


def break_pth(model: Path, dataset: Path) -> None:
    path = model / "point_cloud/iteration_10000/deformation.pth"
    path.write_bytes(path.read_bytes()[:500])


FAILURES: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "truncated cloud": (break_ply, r"point_cloud\.ply: truncated"),
    "truncated networks": (break_pth, r"deformation\.pth: not a readable state dict"),
    "unsupported flag": (
        lambda m, d: write_cfg_args(m / "cfg_args", {"static_mlp": True}),
        "static_mlp = True",
    ),
    "no model": (lambda m, d: m.rename(m.with_name("gone")), "no such directory"),
    "no dataset": (lambda m, d: d.rename(d.with_name("gone")), "no such directory"),
    "no backdrop": (lambda m, d: (d / "bc.jpg").unlink(), r"bc\.jpg: no such file"),
    "damaged sound": (
        lambda m, d: [(d / n).write_bytes(b"noise") for n in ("aud.wav", "aud_ds.npy")],
        r"aud_ds\.npy",
    ),
}


PIPES = {
    "cfg_args": "model/cfg_args",
    "cloud": "model/point_cloud/iteration_10000/point_cloud.ply",
    "networks": "model/point_cloud/iteration_10000/deformation.pth",
    "camera": "anna/transforms_train.json",
    "blinks": "anna/au.csv",
    "backdrop": "anna/bc.jpg",
    "sound": "anna/aud.wav",
}


@pytest.mark.parametrize("name", PIPES.values(), ids=PIPES)
def test_a_pipe_is_no_file(
    name: str, model: Path, dataset: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Opening one would wait for a writer that never comes."""
    path = model.parent / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    # Comes and goes as a writer, so that a reader that waits for one does not wait for ever.
    hang = threading.Timer(20, lambda: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK)))
    hang.start()
    try:
        code = export(model, "-o", output, "--dataset", dataset)
        assert hang.is_alive(), "waited for a writer"
    finally:
        hang.cancel()
    if name != PIPES["sound"]:  # which is only needed to tell the features
        assert code == 2
        assert one_error(capsys, re.escape(path.name))
        assert not list(output.parent.iterdir())


@pytest.mark.parametrize(("change", "message"), FAILURES.values(), ids=FAILURES)
def test_errors_leave_no_output(
    change: Callable[[Path, Path], Any],
    message: str,
    model: Path,
    dataset: Path,
    output: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(model, dataset)
    assert export(model, "-o", output, "--dataset", dataset) == 2
    assert one_error(capsys, message)
    assert not list(output.parent.iterdir())


def test_unwritable_outputs_are_refused_before_the_work(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export(model, "-o", tmp_path / "nowhere" / "x.safetensors") == 2
    assert one_error(capsys, "nowhere: no such directory")
    assert export(model, "-o", model) == 2
    assert one_error(capsys, "model: is a directory")
    assert export(model, "-o", model / "cfg_args") == 2
    assert one_error(capsys, r"cfg_args: the avatar's name must end in \.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert export(model, "-o", tmp_path / "pipe.safetensors") == 2
    assert one_error(capsys, r"pipe\.safetensors: .*not a file, but a device, a pipe or a socket")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert export(model, "-o", tmp_path / "x.safetensors") == 2
    assert one_error(capsys, "not writable")


def test_a_full_disk_leaves_the_old_file(
    model: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        assert export(model, "-o", output) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert one_error(capsys, r"anna\.safetensors: cannot write \(File too large\)")
    assert output.read_bytes() == b"old"
    assert list(output.parent.iterdir()) == [output]


def test_a_value_beyond_fp16_is_an_error(
    tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    avatar = make_avatar(n=5)
    sh = np.array(avatar.gaussians.sh)
    sh[0, 0, 0] = 1e6
    loud = dataclasses.replace(avatar, gaussians=dataclasses.replace(avatar.gaussians, sh=sh))
    write_model(tmp_path / "model", loud)
    assert export(tmp_path / "model", "-o", output, "--storage", "fp16") == 2
    assert one_error(capsys, "gaussians.sh: .*use storage fp32")
    assert not list(output.parent.iterdir())


def test_ctrl_c(model: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_module, "read_ply", interrupt)
    assert export(model, "-o", output) == 130
    assert not list(output.parent.iterdir())


@pytest.mark.parametrize(
    "arguments", [[], ["model", "-o", "x", "--storage", "int8"], ["m", "-o", "x", "--n"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_a_missing_library_is_named(
    model: Path, output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert export(model, "-o", output) == 2
    assert one_error(capsys, r"needs torch and Pillow .*pip install 'gt-infer\[export\]'")


def test_as_a_process(model: Path, output: Path) -> None:
    """The status reaches the shell, and warnings of torch or pickle do not reach the user."""
    command = [sys.executable, "-c", "import sys; from gt_export.cli import main; sys.exit(main())"]
    path = model / "point_cloud/iteration_10000/deformation.pth"
    torch.save([1], path, pickle_protocol=4)
    done = subprocess.run(
        [*command, str(model), "-o", str(output)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert [line.split(" ")[0] for line in done.stderr.splitlines()] == ["reading", "error:"]
