"""gt-render from end to end on a small synthetic avatar."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

import gt_infer
from gt_infer import EngineConfig, Pose, Renderer
from gt_infer.avatar import save_avatar
from gt_infer.cli import render
from gt_infer.media import read_image, write_png

from ..stream.decoding import decode, lag
from ..synthetic import make_avatar

RNG = np.random.default_rng(9)

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def avatar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("avatar") / "synthetic.safetensors"
    save_avatar(make_avatar(n=60), path, storage="fp32")
    return path


@pytest.fixture(scope="module")
def feature_avatar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An avatar whose features cannot be computed from sound."""
    path = tmp_path_factory.mktemp("avatar") / "features.safetensors"
    save_avatar(make_avatar(n=60, channels=44), path, storage="fp32")
    return path


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder that the outputs go to; `gt_render` compares its content."""
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def gt_render(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = render.main([*map(str, arguments), "--threads", "1"])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def write_speech(path: Path, samples: int, rate: int = 16_000, channels: int = 1) -> np.ndarray:
    kernel = np.hanning(31) / 4
    noise = RNG.standard_normal((samples + 30, channels)) * 0.1
    sound = np.stack(
        [np.convolve(noise[:, c], kernel, "valid")[:samples] for c in range(channels)], axis=1
    ).astype(np.float32)
    soundfile.write(path, sound, rate, subtype="FLOAT")
    return sound


def write_poses(path: Path, count: int) -> list[Pose]:
    """A transforms.json of a head that turns from frame to frame."""
    frames, poses = [], []
    for i in range(count):
        pose = Pose.from_tracking((0.01 * i, 0.05 * i - 0.1, 0.02), (0.0, 0.0, -10.8))
        rotation = np.asarray(pose.rotation())
        matrix = np.eye(4)
        matrix[:3, :3] = rotation.T
        matrix[:3, 3] = -rotation.T @ np.asarray(pose.trans) / 10
        frames.append({"img_id": i, "aud_id": i, "transform_matrix": matrix.tolist()})
        poses.append(pose)
    path.write_text(json.dumps({"focal_len": 150, "cx": 32, "cy": 32, "frames": frames}))
    return poses


@pytest.mark.parametrize(
    ("rate", "samples", "channels"),
    [
        (16_000, 1, 1),
        (16_000, 639, 1),
        (16_000, 640, 1),
        (16_000, 641, 1),
        (16_000, 640 * 6, 1),
        (16_000, 640 * 7 + 1, 1),
        (44_100, 1_764, 2),
        (44_100, 1_765, 2),
        (48_000, 30_000, 1),
        (8_000, 12_345, 1),
        (96_000, 100_001, 2),
        (12_345, 20_000, 1),
        (22_050, 13_230, 6),
    ],
)
def test_one_frame_per_25th_of_a_second_begun(
    avatar: Path, work: Path, gt_render: Cli, rate: int, samples: int, channels: int
) -> None:
    sound = write_speech(work.parent / "speech.wav", samples, rate, channels)
    status, out, err = gt_render(avatar, work.parent / "speech.wav", "-o", work / "out.mp4")
    assert (status, err) == (0, "")
    expected = -(-samples * 25 // rate)
    assert f"out.mp4: {expected} frames, {expected / 25:.2f} s of video in " in out
    assert "FPS (" in out
    seen = decode(work / "out.mp4")
    assert seen.times == [Fraction(i, 25) for i in range(expected)]
    assert seen.sound is not None
    assert seen.sound_seconds is not None
    assert seen.sound_seconds >= Fraction(samples, rate)
    if rate != 12_345 and samples > 10_000:
        assert seen.sample_rate == rate
        heard = sound[:, 0] if channels <= 2 else sound.mean(axis=1)
        assert seen.sound.shape[1] == samples
        assert lag(heard, seen.sound[0]) == 0
    assert list(work.iterdir()) == [work / "out.mp4"]


def test_pictures_are_the_renderers(avatar: Path, work: Path, gt_render: Cli) -> None:
    """Every frame has its own sound, pose and blink: nothing is shifted by a frame."""
    speech, poses_file, blink_file = (work.parent / n for n in ("a.wav", "p.json", "au.csv"))
    sound = write_speech(speech, 640 * 14 + 99)[:, 0]
    poses = write_poses(poses_file, 4)
    blinks = [0.0, 2.0, 1.0]
    blink_file.write_text("frame, AU45_r\n" + "".join(f"{i},{b}\n" for i, b in enumerate(blinks)))
    options = ("--poses", poses_file, "--blink", blink_file, "--frames", work / "frames")
    status, out, err = gt_render(avatar, speech, *options, "-o", work / "out.mp4")
    assert status == 0
    assert "out.mp4 and " in out
    assert err == (
        "note: poses: 4 recorded for 15 frames, played to and fro\n"
        "note: blinks: 3 recorded for 15 frames, played to and fro\n"
    )
    names = sorted(path.name for path in (work / "frames").iterdir())
    assert names == [f"{i:06d}.png" for i in range(15)]
    assert len(decode(work / "out.mp4").images) == 15

    pose_at = [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]
    blink_at = [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]
    with Renderer(avatar, config=EngineConfig(threads=1)) as renderer:
        windows = renderer.windows()
        ready = {i: windows.window(i) for i in windows.push(sound)}
        ready.update({i: windows.window(i) for i in range(windows.n_ready, windows.flush())})
        for i, name in enumerate(names):
            pose, blink = poses[pose_at[i]], blinks[blink_at[i]] / 2
            expected = renderer.render_window(ready[i], pose, blink=blink).astype(int)
            seen = read_image(work / "frames" / name)
            # The pose went through a matrix and back: a value may round the other way.
            assert np.abs(seen - expected).max() <= 1
            assert (seen != expected).mean() < 0.01


def pictures(folder: Path) -> list[np.ndarray]:
    return [read_image(path) for path in sorted(folder.iterdir())]


def test_life_by_default_and_how_to_still_it(avatar: Path, work: Path, gt_render: Cli) -> None:
    sound = np.zeros(640 * 60, np.int16)  # a blink comes within it
    soundfile.write(work.parent / "a.wav", sound, 16_000)
    shown = {}
    for name, options in {
        "alive": (),
        "again": ("--seed", "0"),
        "other": ("--seed", "5"),
        "still": ("--poses", "still", "--blink", "none"),
    }.items():
        status, _, err = gt_render(avatar, work.parent / "a.wav", "--frames", work / name, *options)
        assert (status, err) == (0, "")
        shown[name] = pictures(work / name)
    with Renderer(avatar, config=EngineConfig(threads=1)) as renderer:
        window = renderer.windows().rest_window()
        # Windows past either end of the clip are zeros; in the middle all is silence.
        for frame in (20, 30, 40):
            want = renderer.render_window(window, frame=frame)
            np.testing.assert_array_equal(shown["alive"][frame], want)
            np.testing.assert_array_equal(shown["still"][frame], renderer.render_window(window))
    assert all(np.array_equal(a, b) for a, b in zip(shown["alive"], shown["again"], strict=True))
    assert any((a != b).any() for a, b in zip(shown["alive"], shown["other"], strict=True))


def test_attention_stands_beside_the_picture(avatar: Path, work: Path, gt_render: Cli) -> None:
    write_speech(work.parent / "a.wav", 640 * 3)
    frames, video = work / "f", work / "a.mp4"
    options = ("--attention", "--frames", frames, "-o", video)
    assert gt_render(avatar, work.parent / "a.wav", *options)[0] == 0
    wide = pictures(frames)[1]
    assert wide.shape == (64, 5 * 64, 3)
    assert decode(video).images[0].shape[:2] == (64, 5 * 64)
    plain = work / "plain"
    assert gt_render(avatar, work.parent / "a.wav", "--frames", plain)[0] == 0
    np.testing.assert_array_equal(pictures(plain)[1], wide[:, :64])


def test_backgrounds(avatar: Path, work: Path, gt_render: Cli) -> None:
    write_speech(work.parent / "a.wav", 640)
    green = np.full((10, 10, 3), (0, 255, 0), np.uint8)
    write_png(work.parent / "green.png", green)
    shown = []
    for name, background in (("a", "#00ff00"), ("b", work.parent / "green.png")):
        options = ("--frames", work / name, "--background", background)
        assert gt_render(avatar, work.parent / "a.wav", *options)[0] == 0
        shown.append(pictures(work / name)[0])
    np.testing.assert_array_equal(*shown)
    assert (shown[0] == (0, 255, 0)).all(axis=-1).any()
    options = ("--frames", work / "c", "--background", "transparent")
    assert gt_render(avatar, work.parent / "a.wav", *options)[0] == 0
    assert pictures(work / "c")[0].shape == (64, 64, 4)
    for background, complaint in (
        ("#12345", "six hexadecimal digits"),
        ("nowhere.png", "nowhere.png"),
        ("transparent", "mp4 has no alpha"),
    ):
        options = ("-o", work / "x.mp4", "--background", background)
        status, _, err = gt_render(avatar, work.parent / "a.wav", *options)
        assert status == 2
        assert complaint in err
        assert not (work / "x.mp4").exists()


def test_frames_alone(avatar: Path, work: Path, gt_render: Cli) -> None:
    write_speech(work.parent / "a.wav", 2000)
    status, _, _ = gt_render(
        avatar, work.parent / "a.wav", "--frames", work / "f", "--size", "101x99"
    )
    assert status == 0
    assert list(work.iterdir()) == [work / "f"]
    assert read_image(work / "f" / "000003.png").shape == (99, 101, 3)


def test_size(avatar: Path, work: Path, gt_render: Cli) -> None:
    write_speech(work.parent / "a.wav", 700)
    for size, shape in (("96", (96, 96, 3)), ("128x80", (80, 128, 3))):
        path = work / f"{size}.mp4"
        assert gt_render(avatar, work.parent / "a.wav", "-o", path, "--size", size)[0] == 0
        assert decode(path).images[0].shape == shape


def test_features(
    avatar: Path, feature_avatar: Path, work: Path, gt_render: Cli, tmp_path: Path
) -> None:
    """Stored windows in place of the avatar's own front-end, or where it has none."""
    speech = work.parent / "a.wav"
    sound = write_speech(speech, 640 * 9)[:, 0]
    with Renderer(avatar, config=EngineConfig(threads=1)) as renderer:
        windows = renderer.windows()
        windows.push(sound)
        total = windows.flush()
        # Window i of the file is the fifth of frame i's eight: frame i uses i-4 .. i+3.
        stored = np.stack([windows.window(i)[4].T for i in range(total)])
    np.save(tmp_path / "a.npy", stored)
    np.save(tmp_path / "wide.npy", RNG.standard_normal((11, 16, 44)))
    assert gt_render(avatar, speech, "--frames", work / "own")[0] == 0
    features = ("--features", tmp_path / "a.npy")
    assert gt_render(avatar, speech, "--frames", work / "stored", *features)[0] == 0
    for i in range(9):
        np.testing.assert_array_equal(
            read_image(work / "own" / f"{i:06d}.png"), read_image(work / "stored" / f"{i:06d}.png")
        )
    features = ("--features", tmp_path / "wide.npy")
    status, _, err = gt_render(feature_avatar, speech, "-o", work / "out.mp4", *features)
    assert status == 0
    assert "note: 11 frames of features, 9 of sound: the video is as long as the sound" in err
    assert len(decode(work / "out.mp4").images) == 9


def test_quiet(avatar: Path, work: Path, gt_render: Cli) -> None:
    write_speech(work.parent / "a.wav", 2000)
    write_poses(work.parent / "p.json", 1)
    options = ("--poses", work.parent / "p.json", "-o", work / "out.mp4", "--quiet")
    assert gt_render(avatar, work.parent / "a.wav", *options) == (0, "", "")


def test_a_terminal_sees_the_rate(
    avatar: Path, work: Path, gt_render: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_speech(work.parent / "a.wav", 20_000)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    status, _, err = gt_render(avatar, work.parent / "a.wav", "-o", work / "out.mp4")
    assert status == 0
    assert "/32 [" in err
    assert "frame/s" in err


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_to_and_fro_has_no_jump(length: int) -> None:
    played = [render._to_and_fro(i, length) for i in range(40)]
    assert played[:length] == list(range(length))
    assert set(played) == set(range(length))
    assert all(abs(a - b) == (length > 1) for a, b in itertools.pairwise(played))


class TestBadInput:
    """One line that says what is wrong, status 2, and not a byte of output."""

    @pytest.fixture
    def refuse(self, avatar: Path, work: Path, gt_render: Cli) -> Callable[..., str]:
        write_speech(work.parent / "good.wav", 3000)

        def call(*options: object, avatar: object = avatar, audio: object = None) -> str:
            audio = work.parent / "good.wav" if audio is None else audio
            if "--frames" not in options and "-o" not in options:
                options = (*options, "-o", work / "out.mp4")
            status, out, err = gt_render(avatar, audio, *options)
            assert status == 2
            assert out == ""
            *notes, error = err.splitlines()
            assert all(note.startswith("note: ") for note in notes)
            assert error.startswith("error: ")
            assert "Traceback" not in err
            assert list(work.iterdir()) == []
            return error

        return call

    def test_sound(self, refuse: Callable[..., str], tmp_path: Path) -> None:
        soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
        (tmp_path / "text.wav").write_text("not sound" * 100)
        late = np.zeros(100_000, np.float32)
        late[99_000] = np.nan
        soundfile.write(tmp_path / "nan.wav", late, 16_000, subtype="FLOAT")
        assert "none.wav: holds 0 samples" in refuse(audio=tmp_path / "none.wav")
        assert "text.wav: cannot be read as sound" in refuse(audio=tmp_path / "text.wav")
        assert "missing.wav: No such file" in refuse(audio=tmp_path / "missing.wav")
        assert "nan.wav: sample 99000 of channel 0" in refuse(audio=tmp_path / "nan.wav")

    def test_avatar(
        self, refuse: Callable[..., str], avatar: Path, feature_avatar: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "cut.safetensors").write_bytes(avatar.read_bytes()[:5000])
        assert "cut.safetensors" in refuse(avatar=tmp_path / "cut.safetensors")
        assert "missing.safetensors" in refuse(avatar=tmp_path / "missing.safetensors")
        assert "--features" in refuse(avatar=feature_avatar)

    def test_features(self, refuse: Callable[..., str], tmp_path: Path) -> None:
        for name, frames, channels in (("long", 50, 29), ("wide", 5, 44)):
            np.save(tmp_path / f"{name}.npy", np.zeros((frames, 16, channels), np.float32))
        error = refuse("--features", tmp_path / "long.npy")
        assert "long.npy does not belong to " in error
        assert "50 frames of features, 5 of sound" in error
        assert "has 44 channels" in refuse("--features", tmp_path / "wide.npy")
        assert "No such file" in refuse("--features", tmp_path / "missing.npy")

    def test_recordings(self, refuse: Callable[..., str], tmp_path: Path) -> None:
        (tmp_path / "bad.json").write_text("{}")
        assert "bad.json" in refuse("--poses", tmp_path / "bad.json")
        assert "missing.pt" in refuse("--poses", tmp_path / "missing.pt")
        assert "bad.json" in refuse("--blink", tmp_path / "bad.json")

    def test_output(self, refuse: Callable[..., str], tmp_path: Path) -> None:
        assert "No such file" in refuse("-o", tmp_path / "missing" / "out.mp4")
        assert "must end in .mp4" in refuse("-o", tmp_path / "out.mkv")
        (tmp_path / "folder.mp4").mkdir()
        assert "is a folder" in refuse("-o", tmp_path / "folder.mp4")
        assert "not an empty folder" in refuse("--frames", tmp_path)
        assert "must be even" in refuse("--size", "65x64")

    def test_options(self, refuse: Callable[..., str]) -> None:
        assert "3000" in refuse("--size", "3000")
        assert "isa" in refuse("--isa", "mmx")

    def test_disk_full(self, refuse: Callable[..., str], tmp_path: Path) -> None:
        """Fails in the encoder's thread; the message reaches the user all the same."""
        write_speech(tmp_path / "long.wav", 640 * 200)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
        try:
            error = refuse(audio=tmp_path / "long.wav")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "out.mp4: cannot write it (File too large)" in error

    def test_nothing_to_write(
        self, avatar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_speech(tmp_path / "a.wav", 3000)
        assert render.main([str(avatar), str(tmp_path / "a.wav")]) == 2
        assert capsys.readouterr().err == (
            "error: nothing to write: give -o OUT.mp4, --frames DIR, or both\n"
        )

    @pytest.mark.parametrize(
        "options",
        [["--size", "big"], ["--size", "1x2x3"], ["--engine", "gpu"], ["--threads", "x"], []],
    )
    def test_usage(self, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        positional = ["demo", "a.wav"] if options else ["demo"]
        with pytest.raises(SystemExit) as caught:
            render.main([*positional, "-o", "out.mp4", *options])
        assert caught.value.code == 2
        assert "gt-render: error: " in capsys.readouterr().err

    def test_threads(
        self, avatar: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_speech(tmp_path / "a.wav", 3000)
        arguments = [avatar, tmp_path / "a.wav", "-o", work / "out.mp4", "--threads", "0"]
        assert render.main(list(map(str, arguments))) == 2
        assert capsys.readouterr().err.startswith("error: threads = 0: ")

    def test_an_avatar_without_poses_needs_some(
        self, refuse: Callable[..., str], tmp_path: Path
    ) -> None:
        path = tmp_path / "bare.safetensors"
        save_avatar(dataclasses.replace(make_avatar(n=60), poses=None), path)
        assert "Give --poses FILE" in refuse(avatar=path)

    def test_outputs_replace_no_input_nor_each_other(
        self, avatar: Path, work: Path, gt_render: Cli
    ) -> None:
        sound = work.parent / "speech.mp4"  # libsndfile goes by the content
        write_speech(work.parent / "speech.wav", 3000)
        (work.parent / "speech.wav").rename(sound)
        before = sound.read_bytes()
        status, _, err = gt_render(avatar, sound, "-o", sound)
        assert (status, "is the sound itself" in err) == (2, True)
        assert sound.read_bytes() == before
        same = work / "out.mp4"
        status, _, err = gt_render(avatar, sound, "-o", same, "--frames", same)
        assert (status, "need different names" in err) == (2, True)
        assert list(work.iterdir()) == []


class TestInterrupted:
    """A run that is stopped leaves nothing that looks complete."""

    @pytest.fixture
    def running(self, avatar: Path, work: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
        """gt-render, well into a long file."""
        write_speech(tmp_path / "long.wav", 16_000 * 120)
        (work / "out.mp4").write_bytes(b"an older video")
        # A shell starts its background jobs with Ctrl-C ignored; this one shall hear it anyway.
        script = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from gt_infer.cli.render import main; raise SystemExit(main())"
        )
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", script, avatar, tmp_path / "long.wav", "--threads", "1"),
                *("-o", work / "out.mp4", "--frames", work / "frames"),
            ],
            env={**os.environ, "PYTHONPATH": str(Path(gt_infer.__file__).parents[1])},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 30
        while not any(work.glob("frames.*.part/000020.png")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process
        if process.poll() is None:
            process.kill()
        process.communicate()

    @pytest.mark.parametrize(
        ("number", "status"), [(signal.SIGTERM, 128 + 15), (signal.SIGINT, 130)]
    )
    def test_tidies_up(
        self, running: subprocess.Popen[str], work: Path, number: int, status: int
    ) -> None:
        running.send_signal(number)
        _, err = running.communicate(timeout=30)
        assert running.returncode == status
        assert "Traceback" not in err
        assert list(work.iterdir()) == [work / "out.mp4"]
        assert (work / "out.mp4").read_bytes() == b"an older video"

    def test_killed(self, running: subprocess.Popen[str], work: Path) -> None:
        running.kill()
        running.communicate(timeout=30)
        assert (work / "out.mp4").read_bytes() == b"an older video"
        others = {path.suffix for path in work.iterdir() if path.name != "out.mp4"}
        assert others == {".part"}


def test_memory_does_not_grow(
    avatar: Path, work: Path, gt_render: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two minutes take no more than half a minute did: the sound, 10 MB decoded, is streamed."""
    write_speech(work.parent / "a.wav", 22_050 * 120, 22_050)
    resident: list[int] = []

    class Probe:
        def __enter__(self) -> Probe:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self) -> None:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident.append(pages * resource.getpagesize())

        def close(self) -> None:
            pass

    monkeypatch.setattr(render, "_progress_bar", lambda n_frames, quiet: Probe())
    still = np.zeros((64, 64, 3), np.uint8)
    monkeypatch.setattr(Renderer, "render_window", lambda *_, **__: still)
    assert gt_render(avatar, work.parent / "a.wav", "-o", work / "out.mp4")[0] == 0
    assert len(resident) == 3000
    assert max(resident[750:]) - max(resident[:750]) < 4e6
