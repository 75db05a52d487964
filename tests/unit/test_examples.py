"""The examples run: a small avatar, a second of sound, stand-ins for screens and sound cards."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from gt_infer import Renderer
from gt_infer.avatar import save_avatar
from tests.synthetic import make_avatar

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    """16 kHz, without a zero, at whole int16 steps: it survives any file and wire."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(1, 6000, round(seconds * 16_000)) * rng.choice([-1, 1])
    return (steps / 32768).astype(np.float32)


@pytest.fixture(scope="module")
def avatar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("avatar") / "small.safetensors"
    save_avatar(make_avatar(n=40), path)
    return path


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """0.6 s, 15 frames."""
    path = tmp_path / "sound.wav"
    soundfile.write(path, speech(0.6), 16_000)
    return path


def test_each_example_is_tested_and_listed() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    # gpu_interop: tests/gpu
    assert names == {"batch", "embed", "gpu_interop", "interop", "server", "tts", "window"}
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"[{name}.py]({name}.py)" in listed for name in names)


def test_embed(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("embed").main(str(sound))
    assert "21 pictures, the first 6 of the resting face" in capsys.readouterr().out


# batch.py


def test_batch_goes_on_after_a_broken_file(avatar: Path, sound: Path, tmp_path: Path) -> None:
    import av

    stereo, broken = tmp_path / "stereo.wav", tmp_path / "broken.wav"
    soundfile.write(stereo, np.stack([speech(1.0, 1), speech(1.0, 2)], axis=1), 16_000)
    broken.write_bytes(b"RIFF")
    folder = tmp_path / "videos"
    options = ("--output", folder, "--avatar", avatar, "--processes", 2)
    done = run("batch", sound, broken, stereo, *options)
    assert done.returncode == 1, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == f"{folder / 'sound.mp4'}: 15 frames"
    assert second.startswith(f"failed: {broken}: ")
    assert third == f"{folder / 'stereo.mp4'}: 25 frames"
    assert {path.name for path in folder.iterdir()} == {"sound.mp4", "stereo.mp4"}
    with av.open(str(folder / "stereo.mp4")) as container:
        assert container.streams.audio[0].codec_context.layout.nb_channels == 2
        assert len(list(container.decode(video=0))) == 25


def test_batch_refuses_names_that_collide(sound: Path, tmp_path: Path) -> None:
    done = run("batch", sound, tmp_path / "other" / "sound.wav")
    assert done.returncode == 2
    assert "would overwrite each other's video" in done.stderr


# tts.py


def test_tts_without_interruption(avatar: Path, sound: Path) -> None:
    screen = asyncio.run(load("tts").talk(str(avatar), sound, barge_in=60.0))
    assert screen.indices == list(range(15))
    assert screen.samples == round(0.6 * 24_000)


def test_tts_with_barge_in(
    avatar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, speech(1.0), 16_000)
    screen = asyncio.run(load("tts").talk(str(avatar), path, barge_in=0.5, listening=0.4))
    assert "interrupted after frame" in capsys.readouterr().out
    # One clock from the first answer over the silence to the whole of the second.
    assert screen.indices == list(range(len(screen.indices)))
    assert len(screen.indices) >= 25 + 1
    assert len(screen.indices) < 25 + 10 + 25
    assert screen.samples == 960 * len(screen.indices)


def test_tts_names_a_sound_that_is_not_there(avatar: Path, tmp_path: Path) -> None:
    done = run("tts", tmp_path / "none.wav", "--avatar", avatar)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path / 'none.wav'}: No such file")


# interop.py


def test_interop_shares_memory(avatar: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="torch is what it shares with")
    load("interop").main(["--avatar", str(avatar)])
    said = capsys.readouterr().out
    assert "numpy: (64, 64, 3) uint8" in said
    assert "torch: (3, 64, 64) torch.uint8, batch (4, 64, 64, 3)" in said
    assert "OpenCV: " in said


def test_interop_without_the_libraries(
    avatar: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interop = load("interop")
    monkeypatch.setattr(interop, "find_spec", lambda name: None)
    interop.main(["--avatar", str(avatar)])
    said = capsys.readouterr().out
    assert "torch: not installed" in said
    assert "OpenCV: not installed" in said


# server.py


def served(renderer: Renderer, talk: Callable[[ModuleType, int], Any]) -> Any:
    """What `talk(server module, port)` gives, with a server of that renderer on a free port."""
    module = load("server")

    async def both() -> Any:
        handler = module.Server(renderer).handle
        async with await asyncio.start_server(handler, "127.0.0.1", 0) as server:
            return await talk(module, server.sockets[0].getsockname()[1])

    return asyncio.run(asyncio.wait_for(both(), 60))


@pytest.fixture(scope="module")
def renderer(avatar: Path) -> Iterator[Renderer]:
    with Renderer(avatar, size=256) as renderer:  # frames that no socket takes in one piece
        yield renderer


def wire(module: ModuleType, kind: bytes, sound: np.ndarray | None = None) -> bytes:
    payload = b"" if sound is None else (sound * 32768).astype("<i2").tobytes()
    return bytes(module.MESSAGE.pack(kind, len(payload)) + payload)


def test_server_gives_each_client_its_own_frames(renderer: Renderer) -> None:
    lengths = (0.4, 0.28, 0.5)

    async def client(module: ModuleType, port: int, seconds: float) -> list[Any]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(wire(module, b"S", speech(seconds)) + wire(module, b"E"))
        frames: list[Any] = []
        async for frame in module.receive(reader):
            frames.append(frame)
            if len(frames) == -(-round(seconds * 16_000) // 640):
                break
        writer.close()
        return frames

    async def talk(module: ModuleType, port: int) -> Any:
        return await asyncio.gather(*(client(module, port, length) for length in lengths))

    for seconds, frames in zip(lengths, served(renderer, talk), strict=True):
        session = renderer.session()
        session.push((speech(seconds) * 32768).astype(np.int16))
        session.flush()
        for (index, pts, image, sound), want in zip(frames, session.frames(), strict=True):
            assert (index, pts) == (want.index, want.pts)
            np.testing.assert_array_equal(image, want.image)
            np.testing.assert_array_equal(sound, want.sound)


def test_server_is_interrupted_and_speaks_again(renderer: Renderer) -> None:
    first, second = speech(8.0, 1), speech(0.2, 2)

    async def talk(module: ModuleType, port: int) -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(wire(module, b"S", first) + wire(module, b"E"))
        frames: list[Any] = []
        heard = 0
        async for frame in module.receive(reader):
            frames.append(frame)
            if len(frames) == 3:
                writer.write(wire(module, b"I") + wire(module, b"S", second) + wire(module, b"E"))
            is_new = np.isin(frame[3], (second * 32768).astype(np.int16)).all()
            heard += len(frame[3]) if is_new else 0
            if heard == len(second):
                return frames

    frames = served(renderer, talk)
    assert [frame[0] for frame in frames] == list(range(len(frames)))
    assert len(frames) < 100  # of the 200 that the first speech has
    said = np.concatenate([frame[3] for frame in frames[-5:]])
    np.testing.assert_array_equal(said, (second * 32768).astype(np.int16))


@pytest.mark.parametrize(
    "message, complaint",
    [
        (b"X\0\0\0\0", "not a message: b'X' of 0 bytes"),
        (b"S\xff\xff\xff\xff", "not a message: b'S' of 4294967295 bytes"),
        (b"S\3\0\0\0abc", "not a message: b'S' of 3 bytes"),
        (b"S\2", None),  # goes away within a message: nothing to say
    ],
)
def test_server_sends_a_bad_client_away(
    renderer: Renderer,
    capsys: pytest.CaptureFixture[str],
    message: bytes,
    complaint: str | None,
) -> None:
    async def talk(module: ModuleType, port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(message)
        writer.write_eof()
        return await reader.read()

    assert len(served(renderer, talk)) == 4  # the size of the pictures, then the end
    assert capsys.readouterr().out == (
        f"a client was sent away: {complaint}\n" if complaint else ""
    )


def test_server_has_a_limit_on_clients(
    renderer: Renderer, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(module: ModuleType, port: int) -> list[int]:
        module.MAX_CLIENTS = 2
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        return [len(await reader.read(4)) for reader, _ in connections]

    assert served(renderer, talk) == [4, 4, 0]
    assert not caplog.records


def test_server_and_client_from_the_command_line(avatar: Path, sound: Path) -> None:
    command = [sys.executable, EXAMPLES / "server.py", "--avatar", avatar, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            said, _, port = server.stdout.readline().rpartition(":")
            assert said == "serving synthetic-0 on 127.0.0.1"
            done = run("server", "--send", sound, "--port", int(port))
        finally:
            server.terminate()
    assert done.stdout == "15 frames of 0.60 s of sound\n", done.stderr
    refused = run("server", "--send", sound, "--port", int(port))
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert "Traceback" not in refused.stderr


# window.py, with stand-ins for pygame and sounddevice


class Screen:
    """What window.py uses of pygame; closes after so many looks at its events."""

    QUIT, KEYDOWN, K_ESCAPE = 256, 768, 27

    def __init__(self, events: int = 10**9) -> None:
        self.pictures: list[np.ndarray] = []
        self.on_show: Callable[[], None] = lambda: None
        self.is_quit = False
        self._left = events
        self.display = SimpleNamespace(
            init=lambda: None,
            set_mode=lambda size: SimpleNamespace(blit=lambda picture, at: self._shown(picture)),
            set_caption=lambda title: None,
            flip=lambda: None,
        )
        self.image = SimpleNamespace(frombuffer=lambda image, size, order: image)
        self.event = SimpleNamespace(get=self._events)

    def _shown(self, picture: np.ndarray) -> None:
        self.pictures.append(picture)
        self.on_show()

    def _events(self) -> list[Any]:
        self._left -= 1
        return [] if self._left > 0 else [SimpleNamespace(type=self.KEYDOWN, key=27)]

    def quit(self) -> None:
        self.is_quit = True


class Card:
    """What window.py uses of sounddevice: a card that plays in real time, and a microphone."""

    class PortAudioError(Exception):
        pass

    def __init__(self) -> None:
        self.heard: list[np.ndarray] = []
        self.microphone_hears = np.zeros((0, 1), np.float32)

    def OutputStream(self, **options: Any) -> Any:  # noqa: N802
        is_closed = threading.Event()

        def play() -> None:
            block = options["blocksize"]
            while not is_closed.wait(block / options["samplerate"]):
                out = np.full((block, options["channels"]), np.nan, np.float32)
                options["callback"](out, block, None, None)
                self.heard.append(out)

        thread = threading.Thread(target=play, daemon=True)
        return SimpleNamespace(start=thread.start, close=is_closed.set, latency=0.3)

    def query_devices(self, kind: str) -> dict[str, float]:
        return {"default_samplerate": 48_000.0}

    def InputStream(self, **options: Any) -> Any:  # noqa: N802
        card = self

        class Stream:
            def __enter__(self) -> None:
                for block in np.array_split(card.microphone_hears, 10):
                    options["callback"](block, len(block), None, None)

            def __exit__(self, *error: object) -> None:
                pass

        return Stream()


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen()
    monkeypatch.setitem(sys.modules, "pygame", screen)  # type: ignore[arg-type]
    return screen


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card()
    monkeypatch.setitem(sys.modules, "sounddevice", card)  # type: ignore[arg-type]
    return card


def show(*arguments: object) -> None:
    load("window").main([*map(str, arguments)])


def test_window_shows_each_frame_when_its_sound_is_heard(
    avatar: Path, sound: Path, screen: Screen, card: Card, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a card that plays later (0.3 s) than frames are drawn ahead (0.2 s)."""
    played: list[int] = []
    screen.on_show = lambda: played.append(sum(map(len, card.heard)))
    show(sound, "--avatar", avatar)
    assert capsys.readouterr().out == "15 frames shown\n"
    assert screen.is_quit
    heard = np.concatenate(card.heard)[:, 0]
    np.testing.assert_array_equal(heard[heard != 0], speech(0.6))
    for index, samples in enumerate(played):
        assert samples >= index * 640
    assert (screen.pictures[0] != screen.pictures[-1]).any()


def test_window_without_a_sound_card(
    avatar: Path,
    sound: Path,
    screen: Screen,
    card: Card,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_card(**options: Any) -> Any:
        raise Card.PortAudioError("no default output device")

    monkeypatch.setattr(card, "OutputStream", no_card)
    start = time.monotonic()
    show(sound, "--avatar", avatar)
    assert time.monotonic() - start >= 0.56  # from the first frame to the last
    assert capsys.readouterr().out == "no sound: no default output device\n15 frames shown\n"
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    show(sound, "--avatar", avatar)
    said = capsys.readouterr().out
    assert said == "no sound: pip install sounddevice\n15 frames shown\n"


def test_window_closes_when_asked(
    avatar: Path,
    sound: Path,
    card: Card,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "pygame", Screen(events=4))  # type: ignore[arg-type]
    show(sound, "--avatar", avatar)
    assert capsys.readouterr().out == "4 frames shown\n"


def test_window_shows_what_the_microphone_hears(
    avatar: Path, card: Card, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card.microphone_hears = np.zeros((48_000, 1), np.float32)
    monkeypatch.setitem(sys.modules, "pygame", Screen(events=3))  # type: ignore[arg-type]
    show("--avatar", avatar)
    # Of a second: 25 frames but the 6 of the lookahead; the resampler holds back part of one.
    assert capsys.readouterr().out in ("18 frames shown\n", "19 frames shown\n")


@pytest.mark.parametrize(
    "missing, arguments, complaint",
    [
        ("pygame", ["sound.wav"], "this example needs pygame: pip install pygame"),
        ("sounddevice", [], "Name a sound file instead"),
    ],
)
def test_window_says_what_to_install(
    avatar: Path,
    screen: Screen,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    arguments: list[str],
    complaint: str,
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit, match=complaint):
        show(*arguments, "--avatar", avatar)


def test_window_with_the_real_pygame(avatar: Path, sound: Path) -> None:
    if importlib.util.find_spec("pygame") is None:
        pytest.skip("pygame is not installed (pip install 'gt-infer[examples]')")
    environment = {"SDL_VIDEODRIVER": "dummy"}
    done = run("window", sound, "--avatar", avatar, **environment)
    assert done.stdout.endswith("15 frames shown\n"), done.stderr
