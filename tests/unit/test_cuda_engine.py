"""The CUDA engine's logic where there is no GPU: graphs, replay, growth, batches, faults.

A stand-in plays the compiled module (tests/fake_cuda.py). It draws with the CPU engine, so pictures
must be the CPU engine's to the bit, whatever the way they took.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gt_infer import (
    ClosedError,
    DeviceImage,
    DeviceMemoryError,
    EngineConfig,
    EngineError,
    GtError,
    InputError,
    Pose,
    Renderer,
)
from gt_infer.avatar import Avatar
from gt_infer.engines import create, survey
from gt_infer.engines.cuda_api import _runs_on, stream_handle
from gt_infer.engines.cuda_frames import CanvasFrames, Kind
from tests import fake_cuda
from tests.fake_cuda import FakeCuda
from tests.synthetic import make_avatar


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "gt_infer._cuda", fake)  # type: ignore[arg-type]
    return fake


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return make_avatar(n=120, torsos=2)


def open_renderer(avatar: Avatar, engine: str = "cuda", **options: Any) -> Renderer:
    config = {
        name: options.pop(name) for name in ("device_output", "device", "stream") if name in options
    }
    if engine == "cpu":
        config["precision"] = "fp32"  # as the stand-in draws
    return Renderer(avatar, engine=engine, config=EngineConfig(**config), **options)  # type: ignore[arg-type]


def window(avatar: Avatar, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((8, avatar.network.audio_channels, 16), np.float32)


def frames_of(renderer: Renderer) -> CanvasFrames:
    canvas: CanvasFrames = renderer._canvas
    return canvas


def speech(seed: int, seconds: float = 0.6) -> Any:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(16_000 * seconds))).astype("f4")


# The same pictures


@pytest.mark.parametrize("output", ["rgb8", "bgr8", "rgba8", "float32"])
@pytest.mark.parametrize("background", [None, "transparent"])
def test_pictures_are_those_of_the_drawn_frame(
    api: FakeCuda, avatar: Avatar, output: str, background: Any
) -> None:
    options: dict[str, Any] = {"output": output, "background": background}
    with (
        open_renderer(avatar, "cpu", **options) as cpu,
        open_renderer(avatar, **options) as gpu,
    ):
        for index in range(4):  # one as it is, three replayed; other inputs each time
            pose = Pose.from_degrees(yaw=3.0 * index - 4)
            planes = [np.full((64, 64), np.nan, np.float32) for _ in range(4)]
            given = {"blink": 0.2 * index}
            want = cpu.render_window(
                window(avatar, index), pose, alpha=planes[0], depth=planes[1], **given
            )
            got = gpu.render_window(
                window(avatar, index), pose, alpha=planes[2], depth=planes[3], **given
            )
            np.testing.assert_array_equal(got, want)
            np.testing.assert_array_equal(planes[2], planes[0])
            np.testing.assert_array_equal(planes[3], planes[1])


def test_every_kind_of_frame_has_its_graph(api: FakeCuda, avatar: Avatar) -> None:
    plane = np.empty((64, 64), np.float32)
    with open_renderer(avatar) as renderer:
        assert frames_of(renderer).graphs == []
        for _ in range(3):
            renderer.render_window(window(avatar))
        assert frames_of(renderer).graphs == [Kind(1, True, False, False)]
        assert [graph.launches for graph in api.graphs] == [2]
        renderer.render_window(window(avatar), alpha=plane)
        renderer.render_window(window(avatar), depth=plane)
        assert frames_of(renderer).graphs == [
            Kind(1, True, False, False),
            Kind(1, True, True, False),
            Kind(1, True, False, True),
        ]
        renderer.render_window(window(avatar))
        assert [graph.launches for graph in api.graphs] == [3, 0, 0]


def test_streams_and_flush(api: FakeCuda, avatar: Avatar) -> None:
    chunks = speech(3).reshape(-1, 640)
    with open_renderer(avatar, "cpu") as cpu, open_renderer(avatar) as gpu:
        for chunk in chunks:
            np.testing.assert_array_equal(gpu.render(chunk), cpu.render(chunk))
        for got, want in zip(gpu.flush(), cpu.flush(), strict=True):
            np.testing.assert_array_equal(got, want)


def test_deform_and_attention(api: FakeCuda, avatar: Avatar) -> None:
    low = make_avatar(n=40, sh_degree=1)
    camera = np.linspace(-1, 1, 12, dtype=np.float32)
    for head in (avatar, low):
        with open_renderer(head, "cpu") as cpu, open_renderer(head) as gpu:
            want = cpu.deform(window(head), 0.3, camera, attention=True)
            got = gpu.deform(window(head), 0.3, camera, attention=True)
            for name in ("means", "quats", "scales", "opacities", "sh", "attention"):
                np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
            assert gpu.deform(window(head), 0.3, camera).attention is None
            if head is avatar:
                maps = gpu.render_attention(window(head))
                np.testing.assert_array_equal(maps, cpu.render_attention(window(head)))
                # Gaussians that are drawn once are not worth a graph.
                assert api.graphs == []


# Lists that are too short


def test_a_frame_that_overflows_is_drawn_again(api: FakeCuda, avatar: Avatar) -> None:
    with open_renderer(avatar, "cpu") as cpu, open_renderer(avatar) as gpu:
        want = [cpu.render_window(window(avatar, i)) for i in range(4)]
        np.testing.assert_array_equal(gpu.render_window(window(avatar, 0)), want[0])
        (splatter,) = api.splatters
        api.pairs_needed = 5000  # room for 1,000
        np.testing.assert_array_equal(gpu.render_window(window(avatar, 1)), want[1])
        assert (splatter.generation, splatter.draws) == (1, 3)
        # What was captured over the old lists is gone; the new graph is replayed.
        np.testing.assert_array_equal(gpu.render_window(window(avatar, 2)), want[2])
        assert [graph.launches for graph in api.graphs] == [1, 2]
        assert frames_of(gpu).graphs == [Kind(1, True, False, False)]


def test_the_first_frame_may_overflow(api: FakeCuda, avatar: Avatar) -> None:
    api.pairs_needed = 3000
    with open_renderer(avatar, "cpu") as cpu, open_renderer(avatar) as gpu:
        np.testing.assert_array_equal(
            gpu.render_window(window(avatar)), cpu.render_window(window(avatar))
        )
        assert api.splatters[0].draws == 2


def test_lists_grow_before_they_are_full(api: FakeCuda, avatar: Avatar) -> None:
    with open_renderer(avatar) as renderer:
        renderer.render_window(window(avatar))
        api.pairs_needed = 900
        renderer.render_window(window(avatar))
        (splatter,) = api.splatters
        assert (splatter.generation, splatter.draws) == (1, 2)  # grown, nothing drawn twice
        api.pairs_needed = 1000
        renderer.render_window(window(avatar))
        assert splatter.draws == 3


def test_lists_that_cannot_grow_are_an_error(api: FakeCuda, avatar: Avatar) -> None:
    with open_renderer(avatar) as renderer:
        before = renderer.render_window(window(avatar))
        api.pairs_needed = 5000
        api.failures["grow"] = fake_cuda.OutOfMemoryError("out of memory")
        with pytest.raises(DeviceMemoryError, match="this frame cannot be drawn: out of memory"):
            renderer.render_window(window(avatar))
        api.pairs_needed = 100
        np.testing.assert_array_equal(renderer.render_window(window(avatar)), before)


def test_lists_that_never_suffice_are_an_error(
    api: FakeCuda, avatar: Avatar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_cuda.Splatter, "grow", lambda self, pairs: None)
    api.pairs_needed = 10**12
    renderer = open_renderer(avatar)
    with pytest.raises(EngineError, match="room for 1000000000000 entries"):
        renderer.render_window(window(avatar))
    renderer.close()


# Pictures that stay on the GPU


def test_device_pictures(api: FakeCuda, avatar: Avatar) -> None:
    chunks = speech(5).reshape(-1, 640)
    with open_renderer(avatar, "cpu") as cpu, open_renderer(avatar, device_output=True) as gpu:
        pictures = [(gpu.render(chunk), cpu.render(chunk)) for chunk in chunks]
        for got, want in pictures:  # later frames did not touch earlier pictures
            assert isinstance(got, DeviceImage)
            assert (got.shape, got.dtype, got.device) == ((64, 64, 3), np.uint8, 0)
            np.testing.assert_array_equal(got.to_host(), want)
            got.wait()
            assert got.is_ready()
        out = np.empty((64, 64, 3), np.uint8)
        assert got.to_host(out) is out
        with pytest.raises(InputError, match=r"^out: "):
            got.to_host(np.empty((3, 3), np.uint8))
        assert "64, 64, 3" in repr(got)


def test_device_planes_and_sessions(api: FakeCuda, avatar: Avatar) -> None:
    with open_renderer(avatar, "cpu") as cpu, open_renderer(avatar, device_output=True) as gpu:
        for renderer in (cpu, gpu):
            session = renderer.session(alpha=True, depth=True, attention=True)
            session.push(speech(1))
            session.flush()
            frames = list(session.frames())
            if renderer is cpu:
                want = frames
        assert len(frames) == 15
        for got, frame in zip(frames, want, strict=True):
            for name in ("image", "alpha", "depth"):
                picture = getattr(got, name)
                assert isinstance(picture, DeviceImage)
                np.testing.assert_array_equal(picture.to_host(), getattr(frame, name))
            np.testing.assert_array_equal(got.attention, frame.attention)


def test_drawing_into_another_librarys_array(api: FakeCuda, avatar: Avatar) -> None:
    with open_renderer(avatar, "cpu") as cpu, open_renderer(avatar, device_output=True) as gpu:
        theirs = SimpleNamespace(
            values=np.zeros((64, 64, 3), np.uint8), __cuda_array_interface__={}
        )
        picture = gpu.render_window(window(avatar), out=theirs)  # type: ignore[call-overload]
        picture.wait()
        np.testing.assert_array_equal(theirs.values, cpu.render_window(window(avatar)))
        again = gpu.render_window(window(avatar), out=picture)
        np.testing.assert_array_equal(again.to_host(), theirs.values)  # type: ignore[attr-defined]
        theirs.values = np.zeros((64, 3, 64), np.uint8)
        with pytest.raises(
            InputError, match=r"out: expected uint8 \[64, 64, 3\], got uint8 \[64, 3"
        ):
            gpu.render_window(window(avatar), out=theirs)  # type: ignore[call-overload]
        with pytest.raises(InputError, match="out: has neither __dlpack__ nor"):
            gpu.render_window(window(avatar), out=object())  # type: ignore[call-overload]


def test_streams_wait_for_pictures(api: FakeCuda, avatar: Avatar) -> None:
    with open_renderer(avatar, device_output=True) as renderer:
        picture: Any = renderer.render_window(window(avatar))
        picture.wait_on(77)
        assert api.streams[-1].handle == 77
        assert len(api.streams[-1].work) == 1
        picture.used_on(78)
        assert picture._array.readers == [78]
        for call in (picture.wait_on, picture.used_on):
            with pytest.raises(InputError, match="stream = None"):
                call(None)


# Streams of other libraries


@pytest.mark.parametrize(
    "stream, handle",
    [
        (77, 77),
        (0, 0),
        (SimpleNamespace(ptr=5), 5),
        (SimpleNamespace(cuda_stream=6), 6),
        (SimpleNamespace(handle=7), 7),
        (SimpleNamespace(handle=SimpleNamespace(value=8)), 8),
        (SimpleNamespace(handle=SimpleNamespace(value=None)), 0),
        (SimpleNamespace(__cuda_stream__=lambda: (0, 9), handle=3), 9),
    ],
)
def test_streams_of_other_libraries(stream: Any, handle: int) -> None:
    assert stream_handle(stream) == handle


@pytest.mark.parametrize("stream", [True, -1, 1.5, "stream", object(), SimpleNamespace(ptr="x")])
def test_what_is_no_stream(stream: Any) -> None:
    with pytest.raises(InputError, match="expected a CUDA stream's handle"):
        stream_handle(stream)


def test_frames_run_on_the_callers_stream(api: FakeCuda, avatar: Avatar) -> None:
    with open_renderer(avatar, device_output=True, stream=SimpleNamespace(ptr=1)) as renderer:
        mine = api.streams[0]
        assert (mine.handle, mine.is_ours) == (1, False)
        with open_renderer(avatar, "cpu") as cpu:
            for index in range(3):  # graphs are captured elsewhere: a default stream cannot be
                picture: Any = renderer.render_window(window(avatar, index))
                assert picture._array.stream is mine
                np.testing.assert_array_equal(
                    picture.to_host(), cpu.render_window(window(avatar, index))
                )
        assert [graph.launches for graph in api.graphs] == [2]
    with pytest.raises(InputError, match=r"EngineConfig.stream: the stream belongs to device 1"):
        open_renderer(avatar, stream=0xBAD)


# Several frames at once


@pytest.mark.parametrize("device_output", [False, True])
@pytest.mark.parametrize("engine", ["cpu", "cuda"])
def test_render_many_gives_the_sessions_own_frames(
    api: FakeCuda, avatar: Avatar, engine: str, device_output: bool
) -> None:
    if engine == "cpu" and device_output:
        pytest.skip("the CPU engine draws in host memory")
    count = 6
    with (
        open_renderer(avatar, "cpu") as alone,
        open_renderer(avatar, engine, device_output=device_output) as renderer,
    ):
        ours, theirs = (
            [r.session(seed=i, alpha=i == 1, depth=i == 2, attention=i == 3) for i in range(count)]
            for r in (renderer, alone)
        )
        for i in range(count):
            for session in (ours[i], theirs[i]):
                session.push(speech(i, 0.2 + 0.08 * i))
                session.flush()
        got: list[list[Any]] = [[] for _ in range(count)]
        while True:
            frames = renderer.render_many(ours)
            assert len(frames) == count
            if not any(frames):
                break
            for i, frame in enumerate(frames):
                got[i] += [frame] if frame else []
        for i in range(count):
            for mine, want in zip(got[i], theirs[i].frames(), strict=True):
                assert (mine.index, mine.pts, mine.sample_rate) == (
                    want.index,
                    want.pts,
                    want.sample_rate,
                )
                np.testing.assert_array_equal(mine.sound, want.sound)
                for name in ("image", "alpha", "depth", "attention"):
                    one, other = getattr(mine, name), getattr(want, name)
                    assert (one is None) == (other is None)
                    if one is not None:
                        one = one.to_host() if isinstance(one, DeviceImage) else one
                        np.testing.assert_array_equal(one, other)
        if engine == "cuda":
            assert max(kind.batch for kind in frames_of(renderer).graphs) == count


def test_batches_use_few_sets_of_buffers(api: FakeCuda, avatar: Avatar) -> None:
    with open_renderer(avatar) as renderer:
        sessions = [renderer.session(seed=i) for i in range(70)]
        for count in (1, 2, 3, 4, 5, 70):
            for session in sessions[:count]:
                session.push(np.zeros(640 * 7, np.float32))
            assert sum(f is not None for f in renderer.render_many(sessions[:count])) == count
            for session in sessions:
                session.interrupt()
        # 1; 2, 3, 4; 5; 64 of the 70, and 6 more
        assert sorted(splatter.batch for splatter in api.splatters) == [1, 4, 16, 64]
        assert renderer.render_many([]) == []


def test_render_many_refuses_what_is_not_its_own(api: FakeCuda, avatar: Avatar) -> None:
    with open_renderer(avatar) as one, open_renderer(avatar) as other:
        session = one.session()
        with pytest.raises(InputError, match=r"sessions\[1\]: not a session of this renderer"):
            one.render_many([session, other.session()])
        with pytest.raises(InputError, match="each may be given once"):
            one.render_many([session, session])
        session.push(speech(1))
        with pytest.raises(InputError, match="blink"):
            one.render_many([session], blink=7.0)
        (frame,) = one.render_many([session])
        assert frame is not None
        assert frame.index == 0
    with pytest.raises(ClosedError):
        one.render_many([session])


def test_an_interruption_while_frames_are_drawn(
    api: FakeCuda, avatar: Avatar, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_renderer(avatar) as renderer:
        sessions = [renderer.session(seed=i) for i in range(2)]
        for session in sessions:
            session.push(speech(1))
        draw = renderer._draw_many

        def interrupted(frames: Any) -> None:
            draw(frames)
            monkeypatch.setattr(renderer, "_draw_many", draw)
            sessions[0].interrupt()
            sessions[0].push(speech(2))

        monkeypatch.setattr(renderer, "_draw_many", interrupted)
        first, second = renderer.render_many(sessions)
        assert first is not None
        assert second is not None
        np.testing.assert_array_equal(first.sound, speech(2)[:640])
        np.testing.assert_array_equal(second.sound, speech(1)[:640])


def test_two_renderers_and_many_threads(api: FakeCuda, avatar: Avatar) -> None:
    with (
        open_renderer(avatar, "cpu") as cpu,
        open_renderer(avatar) as a,
        open_renderer(avatar) as b,
    ):
        want = [cpu.render_window(window(avatar, i)) for i in range(4)]
        wrong: list[int] = []

        def draw(renderer: Renderer, index: int) -> None:
            for _ in range(5):
                if (renderer.render_window(window(avatar, index)) != want[index]).any():
                    wrong.append(index)

        threads = [threading.Thread(target=draw, args=((a, b)[i % 2], i % 4)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


# Faults


def test_out_of_memory_leaves_the_rest_working(api: FakeCuda, avatar: Avatar) -> None:
    with open_renderer(avatar) as renderer:
        want = renderer.render_window(window(avatar))
        api.free_bytes = 100_000  # a batch of 16 needs more
        sessions = [renderer.session(seed=i) for i in range(8)]
        for session in sessions:
            session.push(speech(1))
        with pytest.raises(DeviceMemoryError, match='engine = "cuda": this frame cannot be drawn'):
            renderer.render_many(sessions)
        np.testing.assert_array_equal(renderer.render_window(window(avatar)), want)
        api.free_bytes = 10**9  # somebody let go of it
        frames = renderer.render_many(sessions)
        assert [frame.index for frame in frames if frame] == [0] * 8
    assert issubclass(DeviceMemoryError, MemoryError)
    assert issubclass(DeviceMemoryError, GtError)


def test_no_room_for_the_avatar(api: FakeCuda, avatar: Avatar) -> None:
    api.free_bytes = 10
    with pytest.raises(DeviceMemoryError, match='engine = "cuda": opening: CUDA cannot allocate'):
        open_renderer(avatar)
    with pytest.warns(RuntimeWarning, match="engine cpu is used; cuda: .*out of memory") as caught:
        renderer = open_renderer(avatar, "auto")
    assert caught[0].filename == __file__
    with renderer:
        assert renderer.describe()["engine"] == "cpu"
        assert renderer.render_window(window(avatar)).shape == (64, 64, 3)


def test_a_context_that_is_lost(api: FakeCuda, avatar: Avatar) -> None:
    with open_renderer(avatar) as renderer:
        renderer.render_window(window(avatar))
        api.loses_context_in_work = True
        for _ in range(3):  # again and again, at once, and nothing else
            with pytest.raises(EngineError, match="the context is lost"):
                renderer.render_window(window(avatar))


@pytest.mark.parametrize("where", ["Graph", "frames in a capture"])
def test_a_capture_that_fails_is_ended(api: FakeCuda, avatar: Avatar, where: str) -> None:
    with open_renderer(avatar) as renderer:
        api.failures[where] = fake_cuda.CudaError("CUDA cannot do this")
        with pytest.raises(EngineError, match="CUDA cannot do this"):
            renderer.render_window(window(avatar))
        renderer.render_window(window(avatar))
        renderer.render_window(window(avatar))
        assert api.graphs[-1].launches == 1


def test_no_driver(api: FakeCuda, avatar: Avatar) -> None:
    api.driver = 0
    status = {engine.name: engine for engine in survey()}
    assert [*status] == ["tensorrt", "cuda", "cpu"]
    assert (status["cuda"].available, status["cuda"].reason) == (False, "no NVIDIA driver")
    with pytest.raises(
        EngineError, match=r'^engine = "cuda": no NVIDIA driver. Or pass engine="cpu".$'
    ):
        open_renderer(avatar)
    with pytest.warns(RuntimeWarning, match="engine cpu is used; cuda: no NVIDIA driver"):
        open_renderer(avatar, "auto").close()
    with pytest.raises(
        EngineError, match="device_output = True needs a GPU engine; cuda: no NVIDIA"
    ):
        open_renderer(avatar, "auto", device_output=True)
    with pytest.raises(EngineError, match='engine="cpu" draws in host memory'):
        open_renderer(avatar, "cpu", device_output=True)


def test_no_device_and_an_index_that_is_none(api: FakeCuda, avatar: Avatar) -> None:
    with pytest.raises(EngineError, match=r"device 3: this machine has 1 GPU\(s\)"):
        open_renderer(avatar, device=3)
    api.devices = []
    with pytest.raises(EngineError, match=r"device 0: this machine has 0 GPU\(s\)"):
        open_renderer(avatar)
    for device in (-1, 1.0, True, "0"):
        with pytest.raises(InputError, match="must be a GPU's index, from 0"):
            EngineConfig(device=device)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="device_output = 1"):
        EngineConfig(device_output=1)  # type: ignore[arg-type]


def test_a_gpu_that_the_build_has_no_code_for(api: FakeCuda, avatar: Avatar) -> None:
    api.devices = [("Tesla T4", "7.5")]
    with pytest.raises(
        EngineError, match=r"Tesla T4 has compute capability 7.5, .* code for 80, 86"
    ):
        open_renderer(avatar)
    api.devices = [("Fake GPU", "8.9")]
    api.failures["require_kernels"] = fake_cuda.UnavailableError("This build has no code")
    with pytest.raises(EngineError, match="opening: This build has no code"):
        open_renderer(avatar)


@pytest.mark.parametrize(
    "built, here, runs",
    [
        ("86", "8.6", True),
        ("86", "8.9", True),  # code for 8.6 runs on 8.9
        ("86", "9.0", True),  # from PTX
        ("86", "8.0", False),
        ("86", "7.5", False),
        ("80;90", "8.6", True),
        ("90;80", "10.0", True),
        ("89;90", "8.6", False),
        ("86;120", "9.0", False),  # PTX is of the last, 12.0
    ],
)
def test_which_gpus_a_build_runs_on(built: str, here: str, runs: bool) -> None:
    assert _runs_on(built, here) == runs


def test_a_build_without_cuda(avatar: Avatar, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default installation: nothing to warn of."""
    monkeypatch.setitem(sys.modules, "gt_infer._cuda", None)
    monkeypatch.setattr("gt_infer.engines.has_cuda_part", lambda: False)
    with pytest.raises(EngineError, match=r"this build has no CUDA part .*GT_BUILD_CUDA=ON"):
        open_renderer(avatar)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_renderer(avatar, "auto") as renderer:
            assert renderer.describe()["engine"] == "cpu"


def test_after_a_fork_an_error_and_no_hang(api: FakeCuda, avatar: Avatar) -> None:
    renderer = open_renderer(avatar)
    renderer.render_window(window(avatar))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # the CPU engine's threads of other tests
        child = os.fork()
    if child == 0:
        try:
            renderer.render_window(window(avatar))
        except EngineError as err:
            os._exit(0 if "forked after the GPU was used" in str(err) else 2)
        except BaseException:
            os._exit(3)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    renderer.render_window(window(avatar))  # the parent goes on
    renderer.close()


def test_closed(api: FakeCuda, avatar: Avatar) -> None:
    renderer = open_renderer(avatar, device_output=True)
    engine: Any = renderer._engine
    canvas = renderer._canvas
    picture: Any = renderer.render_window(window(avatar))
    renderer.close()
    renderer.close()
    assert picture.to_host().shape == (64, 64, 3)  # pictures outlive their renderer
    with pytest.raises(ClosedError):
        renderer.render_window(window(avatar))
    with pytest.raises(ClosedError):
        engine.render_many(canvas, [])


def test_auto_takes_the_gpu(api: FakeCuda, avatar: Avatar) -> None:
    engine = create(avatar, "auto", EngineConfig())
    assert engine.name == "cuda"
    assert engine.describe()["gpu"] == "Fake GPU"
    assert engine.describe()["compute_capability"] == "8.9"
    engine.close()
