"""Packed speech encoders: streamed they equal the whole clip, however the sound is cut.

Small models with random weights of the architectures that people use: wav2vec 2.0 and HuBERT from
transformers' configurations, and a recurrent one like DeepSpeech.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gt_infer.audio import FrameWindows, frontend_from_avatar
from gt_infer.audio.encoder import OnnxEncoder, open_session, run_session
from gt_infer.avatar import AudioFrontend, Avatar, SpeechEncoder, save_avatar
from gt_infer.errors import AudioError, AvatarError, CheckpointError
from tests.synthetic import make_avatar

torch = pytest.importorskip("torch", reason="encoders are exported by torch")
pytest.importorskip("onnxruntime", reason="encoders run in ONNX Runtime")
pytest.importorskip("onnxscript", reason="torch writes ONNX through onnxscript")

from gt_export.encoders import read_encoder, streaming_difference  # noqa: E402

CHANNELS = 24
RATE = 16_000


def export(module: Any, path: Path) -> Path:
    """An encoder as docs/speech-encoders.md shows it."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    samples = torch.export.Dim("samples", min=800, max=RATE * 60)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(1, 2 * RATE),),
            path,
            dynamo=True,
            input_names=["sound"],
            output_names=["features"],
            dynamic_shapes=({1: samples},),
            opset_version=18,
            verbose=False,
            external_data=False,
        )
    return path


class Convolutional(torch.nn.Module):
    """Frames of 25 ms, then causal convolutions over 5 steps: sees 80 ms back, 5 ms ahead."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.frames = torch.nn.Conv1d(1, 32, 400, stride=320)
        self.mix = torch.nn.Conv1d(32, CHANNELS, 5)

    def forward(self, sound: Any) -> Any:
        frames = torch.tanh(self.frames(torch.nn.functional.pad(sound[:, None] * 5, (0, 80))))
        return self.mix(torch.nn.functional.pad(frames, (4, 0))).transpose(1, 2)


class Recurrent(torch.nn.Module):
    """As DeepSpeech: frames, dense layers, a bidirectional recurrence, dense layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.frames = torch.nn.Conv1d(1, 26, 400, stride=320)
        self.dense = torch.nn.Linear(26, 32)
        self.recurrent = torch.nn.LSTM(32, 16, bidirectional=True, batch_first=True)
        self.out = torch.nn.Linear(32, CHANNELS)

    def forward(self, sound: Any) -> Any:
        frames = self.frames(torch.nn.functional.pad(sound[:, None] * 5, (0, 80)))
        hidden = torch.relu(self.dense(frames.transpose(1, 2)))
        return self.out(self.recurrent(hidden)[0])


def transformer(kind: str) -> Any:
    """Wav2Vec2 or HuBERT, layer norm in the convolutions: a group norm there would take its
    statistics over the whole clip."""
    transformers = pytest.importorskip("transformers", reason="its architectures are transformers'")
    torch.manual_seed(3)
    settings = {
        "hidden_size": CHANNELS,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "conv_dim": (16,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "attn_implementation": "eager",
    }
    configuration = getattr(transformers, f"{kind}Config")(**settings)

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = getattr(transformers, f"{kind}Model")(configuration)

        def forward(self, sound: Any) -> Any:
            return self.model(sound).last_hidden_state

    return Encoder()


# Name -> maker, left and right context in samples, largest streaming difference (share of the
# features' standard deviation) and why it is not zero.
ENCODERS: dict[str, tuple[Any, int, int, float]] = {
    "convolutional": (Convolutional, 1600, 640, 1e-5),  # sees less than its context
    "recurrent": (Recurrent, 8000, 3200, 5e-3),  # what is further away fades
    "Wav2Vec2": (lambda: transformer("Wav2Vec2"), 48_000, 6400, 1e-2),  # attends to all sound
    "Hubert": (lambda: transformer("Hubert"), 48_000, 6400, 5e-2),
}


@pytest.fixture(scope="module", params=list(ENCODERS))
def encoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SpeechEncoder, float]:
    make, left, right, tolerance = ENCODERS[request.param]
    path = export(make(), tmp_path_factory.mktemp("encoder") / f"{request.param}.onnx")
    made = read_encoder(path, channels=CHANNELS, left_context=left, right_context=right)
    return made, tolerance


def noise(count: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def test_streaming_equals_the_whole_clip(encoder: tuple[SpeechEncoder, float]) -> None:
    made, tolerance = encoder
    found = streaming_difference(made)
    print(f"streaming difference {found:.2e}")
    assert found <= tolerance


def test_features_do_not_depend_on_chunking(encoder: tuple[SpeechEncoder, float]) -> None:
    stream = OnnxEncoder(encoder[0])
    sound = noise(12_345)
    whole = np.concatenate([stream.push(sound), stream.flush()])
    assert whole.shape == (-(-len(sound) // 320), CHANNELS)
    for sizes in ([640] * 20, [1, 5000, 0, 319, 7025], [12_345 - 1, 1]):
        pieces, start = [], 0
        for size in sizes:
            pieces.append(stream.push(sound[start : start + size]))
            start += size
        pieces.append(stream.flush())
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
    stream.push(noise(4000, seed=1))
    stream.reset()
    np.testing.assert_array_equal(np.concatenate([stream.push(sound), stream.flush()]), whole)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(Convolutional(), tmp_path_factory.mktemp("encoder") / "small.onnx")


def read_small(path: Path, **change: int) -> SpeechEncoder:
    settings = {"channels": CHANNELS, "left_context": 1600, "right_context": 0} | change
    return read_encoder(path, **settings)


def test_a_step_is_due_when_its_sound_has_come(small: Path) -> None:
    """As the front-end protocol says, at whole frames."""
    for right in (0, 640):
        stream = OnnxEncoder(read_small(small, right_context=right))
        given = 0
        for chunk in range(1, 12):
            given += len(stream.push(noise(640, seed=chunk)))
            due = (640 * chunk - stream.right_context_samples) // 320 + 1
            assert given == max(0, due)


def packed(small: Path, **change: Any) -> Avatar:
    encoder = read_small(small)
    avatar = make_avatar(n=20, channels=CHANNELS)
    frontend = AudioFrontend("encoder", CHANNELS, encoder=dataclasses.replace(encoder, **change))
    return dataclasses.replace(avatar, frontend=frontend)


def test_an_avatar_brings_its_encoder_along(small: Path, tmp_path: Path) -> None:
    avatar = packed(small)
    save_avatar(avatar, tmp_path / "a.safetensors")
    loaded = Avatar.load(tmp_path / "a.safetensors")
    assert loaded.describe()["format_version"] == 2
    assert loaded.frontend.encoder is not None
    assert loaded.frontend.encoder.left_context == 1600
    np.testing.assert_array_equal(loaded.frontend.encoder.model, avatar.frontend.encoder.model)  # type: ignore[union-attr]
    assert save_avatar(loaded, tmp_path / "b.safetensors") == loaded.sha256

    windows = FrameWindows(frontend_from_avatar(loaded.frontend))
    sound = noise(640 * 30)
    for frame in windows.push(sound):
        assert windows.window(frame).shape == (8, CHANNELS, 16)
    assert windows.flush() == 30


def test_an_avatar_without_encoder_is_written_as_before(tmp_path: Path) -> None:
    """Format 1, which older versions read."""
    save_avatar(make_avatar(n=20), tmp_path / "a.safetensors")
    assert Avatar.load(tmp_path / "a.safetensors").describe()["format_version"] == 1


def test_it_speaks(small: Path) -> None:
    from gt_infer import Renderer

    with Renderer(packed(small), engine="cpu") as renderer:
        pictures = [renderer.render(noise(640, seed=k)) for k in range(12)]
    assert not np.array_equal(pictures[-1], pictures[-2])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"channels": 29}, "gives 24 channels, the networks take 29"),
        ({"right_context": 9000}, "right_context = 9000"),
        ({"left_context": -1}, "left_context = -1"),
    ],
)
def test_encoders_that_do_not_fit(small: Path, change: dict[str, int], words: str) -> None:
    with pytest.raises((CheckpointError, AvatarError), match=words):
        read_small(small, **change)


def test_a_context_that_is_too_short_is_refused(tmp_path: Path) -> None:
    """wav2vec 2.0's last step lacks sound that has not come: 25 ms windows, 20 ms apart."""

    class Valid(Convolutional):
        def forward(self, sound: Any) -> Any:
            return self.frames(sound[:, None])[:, :CHANNELS].transpose(1, 2)

    path = export(Valid(), tmp_path / "valid.onnx")
    with pytest.raises(CheckpointError, match="right context is longer than declared"):
        read_small(path)
    assert read_small(path, right_context=80).right_context == 80


def test_broken_models(small: Path, tmp_path: Path) -> None:
    for name, data, words in (
        ("none.onnx", None, "no such file"),
        ("text.onnx", b"hello", "not a valid ONNX model"),
        ("cut.onnx", small.read_bytes()[:3000], "not a valid ONNX model"),
    ):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=words):
            read_small(tmp_path / name)
    with pytest.raises(AudioError, match="the speech encoder cannot be loaded"):
        OnnxEncoder(SpeechEncoder(np.zeros(9, np.uint8), 1, 0, 0))


def test_a_model_cannot_read_files(small: Path, tmp_path: Path) -> None:
    """An avatar from a stranger: weights "outside" would be any file of this machine."""
    import onnx

    secret = tmp_path / "secret"
    model = onnx.load(small)
    weights = max(model.graph.initializer, key=lambda item: len(item.raw_data))
    secret.write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", str(secret)
    with pytest.raises(AudioError):
        run_session(open_session(model.SerializeToString()), noise(1600))


def test_without_onnx_runtime(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    encoder = read_small(small)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(AudioError, match=r"pip install 'gt-infer\[encoder\]'"):
        OnnxEncoder(encoder)
