"""Pictures in other libraries' hands: the same memory, in the right order, and given back."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gt_infer import Avatar, DeviceImage, EngineConfig, InputError, Renderer
from tests.synthetic import make_avatar

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "gpu_interop.py"


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_interop", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return make_avatar()


@pytest.fixture
def renderer(avatar: Avatar) -> Any:
    with Renderer(avatar, engine="cuda", config=EngineConfig(device_output=True)) as opened:
        yield opened


def window(seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((8, 29, 16), np.float32)


@pytest.mark.parametrize("library", ["cupy", "torch", "numba", "pycuda"])
def test_examples(library: str, demo: Avatar) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    if library == "torch" and not importlib.import_module("torch").cuda.is_available():
        pytest.skip("this torch has no CUDA")
    example = load_example()

    def open_renderer(stream: Any = None) -> Renderer:
        return Renderer(demo, engine="cuda", config=EngineConfig(device_output=True, stream=stream))

    said: list[str] = []
    example.LIBRARIES[library][0](open_renderer, said.append)
    assert said
    assert all(line.startswith(f"{library}: ") for line in said)


def tensors(image: DeviceImage) -> Any:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    return torch, torch.from_dlpack(image)


def test_memory_in_use_is_not_drawn_over(renderer: Renderer) -> None:
    first: Any = renderer.render_window(window(0))
    torch, tensor = tensors(first)
    want = first.to_host()
    del first
    for seed in range(1, 12):  # more than the pool keeps
        renderer.render_window(window(seed))
    assert (tensor.cpu().numpy() == want).all()
    address = tensor.data_ptr()
    del tensor
    torch.cuda.synchronize()
    later: Any = [renderer.render_window(window(0)) for _ in range(6)]
    assert address in [image.ptr for image in later]  # it went round


@pytest.mark.parametrize("how", ["default", "own stream", "own stream, told"])
def test_memory_waits_for_its_readers(renderer: Renderer, how: str) -> None:
    """A long kernel still reads the picture when it is let go of, and others are drawn."""
    first: Any = renderer.render_window(window(0))
    torch, tensor = tensors(first)
    want = torch.from_numpy(first.to_host()).cuda()
    stream = torch.cuda.current_stream() if how == "default" else torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        tensor = torch.from_dlpack(first)
        torch.cuda._sleep(200_000_000)  # cycles: about 0.1 s
        copy = tensor.clone()
    if how == "own stream, told":
        first.used_on(stream)
    del tensor, first
    for seed in range(1, 6):
        renderer.render_window(window(seed))
    torch.cuda.synchronize()
    assert bool((copy == want).all())


def test_a_consumer_waits_for_the_picture(avatar: Avatar) -> None:
    """On a stream that is busy, the picture comes late; a copy on another stream must be it."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    with Renderer(avatar, engine="cuda") as plain:
        want = plain.render_window(window(3))
    busy = torch.cuda.Stream()
    config = EngineConfig(device_output=True, stream=busy)
    with Renderer(avatar, engine="cuda", config=config) as renderer:
        renderer.render_window(window(0))
        with torch.cuda.stream(busy):
            torch.cuda._sleep(100_000_000)
        image: Any = renderer.render_window(window(3))
        other = torch.cuda.Stream()
        with torch.cuda.stream(other):
            copy = torch.from_dlpack(image).clone()
        other.synchronize()
        assert (copy.cpu().numpy() == want).all()


@pytest.mark.parametrize("handle", [0, 1, 2])
def test_default_streams(avatar: Avatar, handle: int) -> None:
    with Renderer(avatar, engine="cuda") as plain:
        want = plain.render_window(window(1))
    config = EngineConfig(device_output=True, stream=handle)
    with Renderer(avatar, engine="cuda", config=config) as renderer:
        for _ in range(3):
            image: Any = renderer.render_window(window(1))
            np.testing.assert_array_equal(image.to_host(), want)


def test_arrays_that_are_refused(renderer: Renderer) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    shape = (64, 64, 3)
    make: dict[str, Callable[[], Any]] = {
        "not in the memory": lambda: torch.zeros(shape, dtype=torch.uint8),
        "neither uint8 nor float32": lambda: torch.zeros(shape, device="cuda", dtype=torch.int32),
        "not C-contiguous": lambda: torch.zeros(shape, device="cuda", dtype=torch.uint8).mT,
        "expected uint8": lambda: torch.zeros((64, 64, 4), device="cuda", dtype=torch.uint8),
    }
    for complaint, array in make.items():
        with pytest.raises(InputError, match=complaint):
            renderer.render_window(window(), out=array())


def test_events(renderer: Renderer) -> None:
    image: Any = renderer.render_window(window())
    image.wait()
    assert image.is_ready()
    assert image.event != 0
    image.wait_on(0)
