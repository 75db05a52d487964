"""Sound from files and live streams: any rate and layout, exact lengths, hostile content."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_infer.audio import Resampler, SoundReader, stream_mono16k
from gt_infer.audio.resample import RateConverter
from gt_infer.errors import AudioError, InputError

from ..stream.decoding import lag

RNG = np.random.default_rng(5)
NOISE = RNG.standard_normal((40_000, 3)).astype(np.float32) * np.float32(0.1)
RATES = [8_000, 11_025, 12_345, 16_000, 22_050, 44_100, 48_000, 96_000]


def load(path: Path) -> np.ndarray:
    return np.concatenate(list(stream_mono16k(path)))


def resampled_length(samples: int, rate: int) -> int:
    return -(-samples * 16_000 // rate)


def stream(resampler: Resampler, samples: np.ndarray, sizes: list[int]) -> np.ndarray:
    pieces = np.split(samples, np.minimum(np.cumsum(sizes), len(samples)))
    return np.concatenate([*map(resampler.push, pieces), resampler.flush()])


class TestFiles:
    @pytest.mark.parametrize("rate", RATES)
    @pytest.mark.parametrize(
        ("suffix", "subtype", "error"),
        [
            ("wav", "PCM_U8", 1 / 128),
            ("wav", "PCM_16", 1 / 32_768),
            ("wav", "PCM_24", 1e-6),
            ("wav", "PCM_32", 1e-6),
            ("wav", "FLOAT", 1e-7),
            ("wav", "DOUBLE", 1e-7),
            ("wav", "ULAW", 0.02),
            ("aiff", "PCM_16", 1 / 32_768),
            ("flac", "PCM_24", 1e-6),
        ],
    )
    def test_formats(
        self, tmp_path: Path, rate: int, suffix: str, subtype: str, error: float
    ) -> None:
        path = tmp_path / f"speech.{suffix}"
        soundfile.write(path, NOISE[:9000, :2], rate, subtype=subtype)
        sound = load(path)
        assert sound.dtype == np.float32
        assert sound.shape == (resampled_length(9000, rate),)
        expected = stream(Resampler(rate, 2), NOISE[:9000, :2], [])
        # The file's own rounding; the filter may add up several samples' worth of it.
        np.testing.assert_allclose(sound, expected, rtol=0, atol=3 * error)

    @pytest.mark.parametrize(("suffix", "subtype"), [("ogg", "VORBIS"), ("mp3", None)])
    def test_lossy_formats_keep_length_and_alignment(
        self, tmp_path: Path, suffix: str, subtype: str | None
    ) -> None:
        path = tmp_path / f"speech.{suffix}"
        smooth = np.cumsum(NOISE[:, 0], dtype=np.float32)
        smooth = (smooth - np.convolve(smooth, np.ones(400) / 400, "same")).astype(np.float32)
        smooth /= np.abs(smooth).max() * 2
        soundfile.write(path, smooth, 44_100, subtype=subtype)
        expected = stream(Resampler(44_100), smooth, [])
        sound = load(path)
        assert sound.shape == expected.shape
        assert lag(expected, sound) == 0

    @pytest.mark.parametrize("order", [1, -1], ids=["loud first", "quiet first"])
    def test_mp3_without_a_length_header(self, tmp_path: Path, order: int) -> None:
        """As speech services send it. Guessed from the size, either length would be far off."""
        path = tmp_path / "speech.mp3"
        loud = NOISE[:16_000, 0] * np.float32(3)
        sound = np.concatenate([loud, np.zeros(64_000, np.float32)])[::order]
        with av.open(str(path), "w", format="mp3", options={"write_xing": "0"}) as container:
            stream = container.add_stream("libmp3lame", rate=16_000)
            stream.codec_context.layout = "mono"
            stream.codec_context.format = "fltp"
            stream.codec_context.flags |= 2  # AV_CODEC_FLAG_QSCALE: variable bit rate
            stream.codec_context.global_quality = 2 * 118
            frame = av.AudioFrame.from_ndarray(sound[np.newaxis].copy(), "fltp", "mono")
            frame.sample_rate = 16_000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with SoundReader(path) as reader:
            once, again = (np.concatenate(list(reader.blocks())) for _ in range(2))
            assert len(once) == reader.samples
        assert len(sound) <= len(once) < len(sound) + 2 * 1152  # the encoder's padding
        np.testing.assert_allclose(once, again, atol=1e-6)

    @pytest.mark.parametrize("channels", [1, 2, 3])
    def test_channels_are_averaged(self, tmp_path: Path, channels: int) -> None:
        path = tmp_path / "speech.wav"
        soundfile.write(path, NOISE[:, :channels], 16_000, subtype="FLOAT")
        expected = NOISE[:, :channels].mean(axis=1, dtype=np.float64)
        np.testing.assert_allclose(load(path), expected, rtol=0, atol=1e-7)

    def test_reading_in_blocks(self, tmp_path: Path) -> None:
        path = tmp_path / "speech.wav"
        soundfile.write(path, NOISE, 44_100, subtype="FLOAT")
        with SoundReader(path) as sound:
            assert (sound.sample_rate, sound.channels, sound.samples) == (44_100, 3, 40_000)
            assert sound.n_frames == -(-40_000 * 25 // 44_100)
            blocks = list(sound.blocks())
            assert len(blocks) > 3
            assert max(block.size for block in blocks) <= 1 << 15
            np.testing.assert_array_equal(np.concatenate(blocks), NOISE)
            np.testing.assert_array_equal(np.concatenate(list(sound.blocks())), NOISE)

    @settings(max_examples=60)
    @given(st.integers(1, 10**9), st.integers(1_000, 768_000))
    def test_frames_by_the_file_and_by_16_khz_agree(self, samples: int, rate: int) -> None:
        assert -(-samples * 25 // rate) == -(-resampled_length(samples, rate) // 640)


class TestHostile:
    """Damaged or odd files: one AudioError that names the file."""

    @staticmethod
    def wav(samples: int = 2000) -> bytes:
        data = (RNG.standard_normal(samples) * 3000).astype("<i2").tobytes()
        return (
            b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVE"
            b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16) + b"data"
            + struct.pack("<I", len(data)) + data
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("empty.wav", b"", "the file is empty"),
            ("text.wav", b"hello there\n" * 100, "cannot be read as sound"),
            ("samples.raw", bytes(1000), "cannot be read as sound"),
            ("cut.wav", wav()[:30], "cannot be read as sound"),
            ("header.wav", wav()[:44], "holds 0 samples"),
            ("silent.wav", wav(0), "holds 0 samples"),
            ("rate.wav", wav()[:24] + bytes(4) + wav()[28:], "cannot be read as sound"),
            ("fast.wav", wav()[:24] + b"\xff\xff\xff\x7f" + wav()[28:], "claims 2147483647 Hz"),
            ("slow.wav", wav()[:24] + b"\x0a\0\0\0" + wav()[28:], "claims 10 Hz"),
            ("mono.wav", wav()[:22] + b"\0\0" + wav()[24:], "cannot be read as sound"),
            ("wide.wav", wav()[:22] + b"\xff\xff" + wav()[24:], "cannot be read as sound"),
            ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(100), "cannot be read as sound"),
        ],
    )
    def test_not_sound(self, tmp_path: Path, name: str, content: bytes, message: str) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(AudioError, match=message) as caught:
            load(path)
        assert str(path) in str(caught.value)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(AudioError, match="No such file"):
            load(tmp_path / "missing.wav")
        with pytest.raises(AudioError, match="is a folder"):
            load(tmp_path)

    def test_a_length_that_a_recorder_never_filled_in(self, tmp_path: Path) -> None:
        """Streaming recorders leave the largest length in the header: what is there is played."""
        path = tmp_path / "stream.wav"
        whole = self.wav()
        path.write_bytes(whole[:40] + b"\xff\xff\xff\xff" + whole[44:])
        assert len(load(path)) == 2000

    def test_a_flac_of_unknown_length(self, tmp_path: Path) -> None:
        path = tmp_path / "pipe.flac"
        soundfile.write(path, NOISE[:, 0], 16_000)
        header = bytearray(path.read_bytes())
        header[21] &= 0xF0  # the 36 bits of STREAMINFO that count samples
        header[22:26] = bytes(4)
        path.write_bytes(header)
        with pytest.raises(AudioError, match=r"pipe\.flac: its header does not say how long"):
            load(path)

    def test_cut_short(self, tmp_path: Path) -> None:
        path = tmp_path / "speech.flac"
        soundfile.write(path, NOISE, 16_000)
        path.write_bytes(path.read_bytes()[:-20_000])
        with pytest.raises(AudioError, match=r"speech\.flac: (damaged|ends) after"):
            load(path)

    @pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "IMA_ADPCM"])
    def test_a_wav_that_was_cut_short_is_told(self, tmp_path: Path, subtype: str) -> None:
        """libsndfile reads what is left as if that were all."""
        path = tmp_path / "speech.wav"
        soundfile.write(path, NOISE[:, :1], 16_000, subtype=subtype)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        message = r"speech\.wav: .* header promises 2\.5\d s of sound, and 1\.\d\d s are there"
        with pytest.warns(UserWarning, match=message):
            sound = load(path)
        assert 18_000 < len(sound) < 22_000

    @pytest.mark.parametrize(
        ("claimed", "extra"),
        [
            (0xFFFF_FFFF, b""),
            (0x7FFF_F000, b""),
            (80_010, b""),
            (80_000, b""),
            (80_000, b"id"),
        ],
    )
    def test_a_length_left_open_and_more_after_the_sound_are_no_cut(
        self, tmp_path: Path, claimed: int, extra: bytes
    ) -> None:
        path = tmp_path / "speech.wav"
        soundfile.write(path, NOISE[:, 0], 16_000, subtype="PCM_16")
        wav = bytearray(path.read_bytes())
        assert wav[36:40] == b"data"
        wav[40:44] = struct.pack("<I", claimed)
        path.write_bytes(wav + extra)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(load(path)) == 40_000

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, tmp_path: Path, value: float) -> None:
        path = tmp_path / "speech.wav"
        samples = NOISE.copy()
        samples[33_000, 1] = value
        soundfile.write(path, samples, 44_100, subtype="FLOAT")
        message = rf"speech\.wav: sample 33000 of channel 1 \(0\.748 s\) is {value}"
        with pytest.raises(AudioError, match=message):
            load(path)

    def test_doubles_beyond_float32(self, tmp_path: Path) -> None:
        path = tmp_path / "speech.wav"
        samples = NOISE[:100, 0].astype(np.float64)
        samples[7] = 1e300
        soundfile.write(path, samples, 16_000, subtype="DOUBLE")
        with pytest.raises(AudioError, match=r"sample 7 of channel 0 .* is inf"):
            load(path)


class TestResampler:
    @settings(deadline=None, max_examples=60)
    @given(
        st.sampled_from(RATES),
        st.integers(0, 20_000),
        st.lists(st.integers(0, 5000), max_size=8),
    )
    def test_length_and_chunking(self, rate: int, samples: int, sizes: list[int]) -> None:
        sound = NOISE[:samples, :2]
        resampler = Resampler(rate, 2)
        whole = stream(resampler, sound, [])
        assert whole.dtype == np.float32
        assert len(whole) == resampled_length(samples, rate)
        np.testing.assert_array_equal(stream(resampler, sound, sizes), whole)

    @pytest.mark.parametrize("rate", RATES)
    def test_aligned_to_the_sample(self, rate: int) -> None:
        """A tone keeps its phase: output sample j is the sound at j / 16000 s."""
        tone = np.sin(2 * np.pi * 440.3 * np.arange(2 * rate) / rate).astype(np.float32)
        result = stream(Resampler(rate), tone, [])
        expected = np.sin(2 * np.pi * 440.3 * np.arange(32_000) / 16_000)
        # The ends ring, for the tone begins and stops at once. One sample off would be 0.17.
        np.testing.assert_allclose(result[2000:-2000], expected[2000:-2000], rtol=0, atol=1e-5)

    @pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
    def test_holds_back_little(self, rate: int) -> None:
        given = len(Resampler(rate).push(NOISE[:, 0]))
        assert 0 < resampled_length(len(NOISE), rate) - given <= 800  # 50 ms

    def test_16_khz_passes_unchanged_and_at_once(self) -> None:
        resampler = Resampler(16_000)
        np.testing.assert_array_equal(resampler.push(NOISE[:640, 0]), NOISE[:640, 0])
        assert len(resampler.flush()) == 0

    def test_int16(self) -> None:
        whole = (NOISE[:, 0] * 32_768).astype(np.int16)
        as_float = stream(Resampler(44_100), whole / np.float32(32_768), [])
        np.testing.assert_array_equal(stream(Resampler(44_100), whole, [700]), as_float)

    def test_reset_forgets(self) -> None:
        resampler = Resampler(44_100)
        first = stream(resampler, NOISE[:, 0], [])
        resampler.push(NOISE[:5000, 1])
        resampler.reset()
        np.testing.assert_array_equal(stream(resampler, NOISE[:, 0], []), first)

    def test_several_channels_to_another_rate(self) -> None:
        converter = RateConverter(12_345, 48_000, 2)
        whole = np.concatenate([converter.push(NOISE[:, :2]), converter.flush()])
        assert whole.shape == (-(-40_000 * 48_000 // 12_345), 2)
        for channel in range(2):
            mono = RateConverter(12_345, 48_000, 1)
            alone = [mono.push(NOISE[:, channel : channel + 1]), mono.flush()]
            np.testing.assert_array_equal(whole[:, channel], np.concatenate(alone)[:, 0])

    @pytest.mark.parametrize("rate", [0, 999, 768_001, -16_000, 44_100.0, "48000", None])
    def test_rate_out_of_range(self, rate: object) -> None:
        with pytest.raises(InputError, match=r"sample_rate = .* integer from 1000 to 768000"):
            Resampler(rate)  # type: ignore[arg-type]

    def test_bad_input(self) -> None:
        with pytest.raises(InputError, match="channels = 0"):
            Resampler(16_000, 0)
        resampler = Resampler(44_100, 2)
        for samples, error, message in (
            (NOISE[:10, :1], InputError, r"expected \[n, 2\].*got \[10, 1\]"),
            (NOISE[:10, 0], InputError, r"expected \[n, 2\].*got \[10\]"),
            (NOISE[:10, :2].astype(np.float64), InputError, "got float64"),
            (np.zeros((2, 2, 2), np.float32), InputError, r"got \[2, 2, 2\]"),
            (np.array([[0, 1], [np.nan, 0]], np.float32), AudioError, r"samples\[1\] is"),
        ):
            with pytest.raises(error, match=message):
                resampler.push(samples)
