"""The network's windows from a stream: as in training, and a function of the sound alone."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_infer.audio import FrameWindows, LogMel, PrecomputedFeatures, stream_mono16k
from gt_infer.avatar import LogMelConstants
from gt_infer.errors import AudioError, InputError

from ..reference import audio as reference

RNG = np.random.default_rng(11)
MEAN = RNG.normal(-4.0, 1.0, 29).astype(np.float32)
STD = RNG.uniform(1.5, 3.0, 29).astype(np.float32)
CONSTANTS = LogMelConstants(mean=MEAN, std=STD)
NOISE = RNG.standard_normal(640 * 24).astype(np.float32) * np.float32(0.2)


class Counting:
    """A front-end whose step t is [t + 1, -(t + 1)]: windows show which steps they hold."""

    channels = 2

    def __init__(self, right_context_samples: int = 200) -> None:
        self.right_context_samples = right_context_samples
        self.reset()

    def reset(self) -> None:
        self.samples = 0
        self.steps = 0

    def push(self, samples: np.ndarray) -> np.ndarray:
        self.samples += len(samples)
        return self._until(max(0, (self.samples - self.right_context_samples) // 320 + 1))

    def flush(self) -> np.ndarray:
        steps = self._until(-(-self.samples // 320))
        self.reset()
        return steps

    def _until(self, stop: int) -> np.ndarray:
        numbers = np.arange(self.steps, max(stop, self.steps), dtype=np.float32) + 1
        self.steps = max(stop, self.steps)
        return np.stack([numbers, -numbers], axis=1)


def play(
    windows: FrameWindows, samples: np.ndarray, sizes: list[int]
) -> tuple[dict[int, np.ndarray], int]:
    """Every frame's window, taken as soon as it is due, and the number of frames."""
    seen: dict[int, np.ndarray] = {}
    for piece in np.split(samples, np.minimum(np.cumsum(sizes), len(samples))):
        for frame in windows.push(np.ascontiguousarray(piece)):
            assert frame not in seen
            seen[frame] = windows.window(frame)
    ready = windows.n_ready
    total = windows.flush()
    for frame in range(ready, total):
        assert frame not in seen
        seen[frame] = windows.window(frame)
    return seen, total


def in_chunks(samples: np.ndarray) -> list[int]:
    return [640] * (len(samples) // 640)


@pytest.mark.parametrize("samples", [1, 200, 639, 640, 641, 1280, 3000, 640 * 7, 640 * 13 + 77])
def test_windows_are_those_of_training(samples: int) -> None:
    clip = NOISE[:samples]
    seen, total = play(FrameWindows(LogMel(CONSTANTS)), clip, in_chunks(clip))
    assert total == reference.frame_count(samples)
    stored = reference.clip_windows(reference.logmel(clip, MEAN, STD), total)
    for frame in range(total):
        window = seen[frame]
        assert window.dtype == np.float32
        assert window.flags.c_contiguous
        expected = reference.frame_window(stored, frame)
        np.testing.assert_allclose(window, expected, rtol=0, atol=1e-6)
        # Zeros are exact zeros: the network sees padding, not features of silence.
        np.testing.assert_array_equal(window == 0, expected == 0)


def test_golden_inputs(shared: Path) -> None:
    constants = np.load(shared / "checkpoints" / "logmel29_consts.npz")
    golden = np.load(shared / "checkpoints" / "A" / "golden_deform.npz")
    logmel = LogMel(
        LogMelConstants(
            mean=constants["mean"].astype(np.float32), std=constants["std"].astype(np.float32)
        )
    )
    windows = FrameWindows(logmel)
    sound = np.concatenate(list(stream_mono16k(shared / "dataset" / "anna" / "aud.wav")))
    seen, total = play(windows, sound, in_chunks(sound))
    assert total == 1700
    frames = golden["frames"].tolist()
    assert frames[0] == 0  # the clip's start
    assert frames[-1] == total - 1  # and its end
    for frame, expected in zip(frames, golden["audio"], strict=True):
        np.testing.assert_allclose(seen[frame], expected, rtol=0, atol=2e-6)


@settings(deadline=None)
@given(
    st.integers(0, 6),
    st.integers(1, len(NOISE)),
    st.lists(st.integers(0, 3000), max_size=10),
)
def test_windows_do_not_depend_on_chunking(lookahead: int, length: int, sizes: list[int]) -> None:
    clip = NOISE[:length]
    windows = FrameWindows(LogMel(CONSTANTS), lookahead_frames=lookahead)
    whole, total = play(windows, clip, [])
    windows.reset()
    pieces, total_in_pieces = play(windows, clip, sizes)
    assert total_in_pieces == total == -(-length // 640)
    assert pieces.keys() == whole.keys()
    assert set(range(total)) <= whole.keys()
    for frame, window in whole.items():
        np.testing.assert_array_equal(pieces[frame], window)


@pytest.mark.parametrize("lookahead", range(7))
def test_a_frame_uses_just_the_sound_before_it_is_due(lookahead: int) -> None:
    rng = np.random.default_rng(lookahead)
    whole, total = play(FrameWindows(LogMel(CONSTANTS), lookahead_frames=lookahead), NOISE, [])
    for frame in (0, 3, total - lookahead - 1):
        due = 640 * (frame + lookahead + 1)
        other = NOISE.copy()
        other[due:] = rng.standard_normal(len(NOISE) - due)
        windows = FrameWindows(LogMel(CONSTANTS), lookahead_frames=lookahead)
        assert frame not in windows.push(other[: due - 1])
        assert windows.push(other[due - 1 :])[0] == frame
        np.testing.assert_array_equal(windows.window(frame), whole[frame])


def test_chunk_k_gives_frame_k_minus_lookahead() -> None:
    for lookahead in range(7):
        windows = FrameWindows(Counting(), lookahead_frames=lookahead)
        for k in range(10):
            (frame,) = windows.push(np.zeros(640, np.float32))
            assert frame == k - lookahead
            assert windows.n_ready == max(0, k - lookahead + 1)
        assert windows.flush() == 10
        assert windows.n_ready == 10


def numbers(window: np.ndarray) -> list[list[int]]:
    """Of `Counting`'s windows: the step numbers, from 1, 0 where there is none."""
    np.testing.assert_array_equal(window[:, 0], -window[:, 1])
    return window[:, 0].astype(int).tolist()


def test_full_lookahead_sees_all_its_steps() -> None:
    seen, _ = play(FrameWindows(Counting()), np.zeros(640 * 30, np.float32), [640] * 30)
    for frame in (8, 15, 23):
        first = 2 * frame - 16 + 1
        assert numbers(seen[frame]) == [
            list(range(first + 2 * w, first + 2 * w + 16)) for w in range(8)
        ]


def test_shorter_lookahead_repeats_the_newest_step() -> None:
    sound = np.zeros(640 * 30, np.float32)
    for lookahead in range(6):
        seen, _ = play(FrameWindows(Counting(), lookahead_frames=lookahead), sound, [640] * 30)
        frame = 12
        newest = 2 * (frame + lookahead) + 1 + 1  # its window ends 440 samples before the due time
        first = 2 * frame - 16 + 1
        assert numbers(seen[frame]) == [
            [min(step, newest) for step in range(first + 2 * w, first + 2 * w + 16)]
            for w in range(8)
        ]


def test_at_the_end_nothing_is_repeated() -> None:
    """The frames that flush makes due are the same for any lookahead: zeros follow the end."""
    sound = np.zeros(640 * 20 + 100, np.float32)
    trained, total = play(FrameWindows(Counting()), sound, [])
    for lookahead in range(6):
        windows = FrameWindows(Counting(), lookahead_frames=lookahead)
        windows.push(sound)
        ready = windows.n_ready
        assert ready == 20 - lookahead
        assert windows.flush() == total == 21
        for frame in range(ready, total):
            np.testing.assert_array_equal(windows.window(frame), trained[frame])
    last = numbers(trained[total - 1])
    assert last[4] == [*range(33, 42), 0, 0, 0, 0, 0, 0, 0]  # its own window: 41 steps exist
    assert not any(map(any, last[5:]))  # windows past the last frame


def test_windows_before_the_first_frame_are_zero_even_where_steps_exist() -> None:
    seen, _ = play(FrameWindows(Counting()), np.zeros(640 * 12, np.float32), [])
    first = numbers(seen[0])
    assert not any(map(any, first[:4]))
    assert first[4] == [0] * 8 + list(range(1, 9))


def test_a_slow_front_end_is_held_not_waited_for() -> None:
    """A front-end that needs 100 ms of future: its newest step is repeated, wherever it is cut."""
    sound = np.zeros(640 * 30, np.float32)
    seen, _ = play(FrameWindows(Counting(1600), lookahead_frames=0), sound, [640] * 30)
    again, _ = play(FrameWindows(Counting(1600), lookahead_frames=0), sound, [])
    for frame, window in seen.items():
        np.testing.assert_array_equal(again[frame], window)
    known = (640 * 21 - 1600) // 320 + 1
    assert numbers(seen[20])[7] == [min(s, known) for s in range(39, 55)]


def test_before_the_first_sound_the_face_rests() -> None:
    windows = FrameWindows(LogMel(CONSTANTS))
    (frame,) = windows.push(NOISE[:640])
    assert frame == -6
    rest = windows.rest_window()
    floor = (np.log(1e-6) - MEAN.astype(np.float64)) / STD
    assert rest.shape == (8, 29, 16)
    assert rest.flags.c_contiguous
    expected = np.broadcast_to(floor[:, np.newaxis], rest.shape)
    np.testing.assert_allclose(rest, expected, rtol=1e-6)
    np.testing.assert_array_equal(windows.window(frame), rest)


def test_windows_can_be_had_until_the_next_push() -> None:
    windows = FrameWindows(LogMel(CONSTANTS))
    ready = windows.push(NOISE[: 640 * 9])
    assert list(ready) == [*range(-6, 3)]
    first = windows.window(0)
    np.testing.assert_array_equal(windows.window(0), first)
    with pytest.raises(InputError, match="frame 3 is not due yet: now there are -6 to 2"):
        windows.window(3)
    assert list(windows.push(NOISE[640 * 9 : 640 * 10])) == [3]
    with pytest.raises(InputError, match="frame 2 is gone since the last push"):
        windows.window(2)
    assert windows.flush() == 10
    assert windows.flush() == 10
    windows.window(3)
    windows.window(9)
    with pytest.raises(InputError, match="push after flush"):
        windows.push(NOISE[:640])
    windows.reset()
    np.testing.assert_array_equal(play(windows, NOISE[: 640 * 9], [])[0][0], first)


def test_memory_is_bounded() -> None:
    windows = FrameWindows(Counting())
    chunk = np.zeros(640, np.float32)
    for _ in range(2000):
        windows.push(chunk)
        assert len(windows._steps) <= 40


def test_no_sound_no_frames() -> None:
    windows = FrameWindows(LogMel(CONSTANTS))
    assert windows.flush() == 0
    assert windows.n_ready == 0


def test_int16_is_scaled() -> None:
    halves = (NOISE * 16384).astype(np.int16)
    floats = halves.astype(np.float32) / 32768
    as_int, _ = play(FrameWindows(LogMel(CONSTANTS)), halves, in_chunks(halves))
    as_float, _ = play(FrameWindows(LogMel(CONSTANTS)), floats, [])
    for frame, window in as_float.items():
        np.testing.assert_array_equal(as_int[frame], window)


def test_bad_sound_is_refused_and_changes_nothing() -> None:
    windows = FrameWindows(LogMel(CONSTANTS))
    nan, inf = NOISE[:640].copy(), NOISE[:640].copy()
    nan[17], inf[3] = np.nan, -np.inf
    windows.push(NOISE[:320])
    for samples, error, message in (
        (nan, AudioError, r"samples\[17\] is nan"),
        (inf, AudioError, r"samples\[3\] is -inf"),
        (NOISE[:640].astype(np.float64), InputError, r"got float64.*astype\(np.float32\)"),
        (NOISE[:640].tolist(), InputError, "got list"),
        (NOISE[:640].reshape(-1, 2), InputError, r"expected \[n\], mono, got \[320, 2\]"),
    ):
        with pytest.raises(error, match=message):
            windows.push(samples)  # type: ignore[arg-type]
    windows.push(NOISE[320:])
    whole, _ = play(FrameWindows(LogMel(CONSTANTS)), NOISE, [])
    np.testing.assert_array_equal(windows.window(0), whole[0])


@pytest.mark.parametrize("lookahead", [-1, 7, 2.0, None])
def test_lookahead_out_of_range(lookahead: object) -> None:
    with pytest.raises(InputError, match=r"lookahead_frames = .* must be 0 to 6"):
        FrameWindows(Counting(), lookahead_frames=lookahead)  # type: ignore[arg-type]


def test_a_front_end_that_loses_steps_is_found_out() -> None:
    class Lossy(Counting):
        def flush(self) -> np.ndarray:
            return super().flush()[:-1]

    windows = FrameWindows(Lossy())
    windows.push(np.zeros(1000, np.float32))
    with pytest.raises(AudioError, match="Lossy gave 3 steps for 1000 samples"):
        windows.flush()


class TestPrecomputed:
    """Features computed elsewhere, in the official file layout."""

    STORED = np.random.default_rng(3).standard_normal((20, 16, 5)).astype(np.float32)

    def save(self, folder: Path, array: np.ndarray) -> Path:
        np.save(folder / "features.npy", array)
        return folder / "features.npy"

    def test_windows(self, tmp_path: Path) -> None:
        for dtype in ("float32", "float64", "float16", ">f4"):
            stored = self.STORED.astype(dtype)
            features = PrecomputedFeatures(self.save(tmp_path, stored), channels=5)
            assert (features.n_frames, features.channels) == (20, 5)
            for frame in (*range(20), 23, 24, 1000):
                window = features.window(frame)
                expected = reference.frame_window(stored.transpose(0, 2, 1), frame)
                assert window.dtype == np.float32
                assert window.flags.c_contiguous
                np.testing.assert_array_equal(window, expected.astype(np.float32))
        with pytest.raises(InputError, match="frame = -1"):
            features.window(-1)

    def test_a_recordings_file_gives_what_its_sound_gives(self, shared: Path) -> None:
        golden = np.load(shared / "checkpoints" / "A" / "golden_deform.npz")
        features = PrecomputedFeatures(shared / "dataset" / "anna" / "aud_ds.npy", channels=29)
        for frame, expected in zip(golden["frames"], golden["audio"], strict=True):
            np.testing.assert_array_equal(features.window(int(frame)), expected)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (STORED[0], r"holds float32 \[16, 5\], expected floats \[frames, 16, channels\]"),
            (STORED.transpose(0, 2, 1), r"\[20, 5, 16\]"),
            (STORED.astype(np.int32), "holds int32"),
            (STORED.astype(np.complex64), "holds complex64"),
            (STORED[:, :, :0], "expected floats|not a plain .npy"),
            (STORED[:0], "expected floats|not a plain .npy"),
            (np.zeros((2, 16, 4), np.float32), "has 4 channels, but .* with 5"),
            (np.array([{"a": 1}], dtype=object), "not a plain .npy"),
        ],
        ids=["2-D", "transposed", "int", "complex", "no channel", "no frame", "channels", "pickle"],
    )
    def test_wrong_content(self, tmp_path: Path, array: np.ndarray, message: str) -> None:
        path = self.save(tmp_path, array)
        with pytest.raises(AudioError, match=message) as caught:
            PrecomputedFeatures(path, channels=5)
        assert str(path) in str(caught.value)

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
    def test_not_finite(self, tmp_path: Path, value: float) -> None:
        stored = self.STORED.astype(np.float64)
        stored[17, 4, 2] = value
        with pytest.raises(AudioError, match=r"the value at \[17, 4, 2\] is"):
            PrecomputedFeatures(self.save(tmp_path, stored))

    def test_a_pipe_is_refused_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.npy")
        with pytest.raises(AudioError, match="is a pipe"):
            PrecomputedFeatures(tmp_path / "a.npy")

    def test_damaged_files(self, tmp_path: Path) -> None:
        whole = self.save(tmp_path, self.STORED).read_bytes()
        archive = io.BytesIO()
        np.savez(archive, features=self.STORED)
        huge = whole.replace(b"(20, 16, 5)", b"(2**60,16,)", 1)
        assert huge != whole
        for content in (
            b"",
            whole[:5],
            whole[:60],
            whole[: len(whole) // 2],
            huge,
            b"\x80\x04K\x01.",  # a pickle
            b"PK\x03\x04",  # the start of a zip
            archive.getvalue(),
            b"0.1 0.2 0.3\n",
        ):
            path = tmp_path / "damaged.npy"
            path.write_bytes(content)
            with pytest.raises(AudioError, match=r"damaged\.npy: "):
                PrecomputedFeatures(path)
        for path in (tmp_path / "missing.npy", tmp_path):
            with pytest.raises(AudioError, match=r"No such file|Is a directory"):
                PrecomputedFeatures(path)
