"""Frames that stay on the GPU, in cupy, torch, numba and pycuda without copying a pixel.

    python examples/gpu_interop.py

Needs an NVIDIA GPU and a gt_infer built with its CUDA part (docs/gpu.md). Every library that is
installed shows how it takes a frame and how a frame is drawn into its memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

import gt_infer

CHUNK = np.zeros(640, np.float32)  # 40 ms of silence
Say = Callable[[str], None]


def cupy_arrays(open_renderer: Callable[..., gt_infer.Renderer], say: Say = print) -> None:
    import cupy

    with open_renderer() as renderer:
        image: Any = renderer.render(CHUNK)
        array = cupy.from_dlpack(image)  # waits for the picture on cupy's current stream
        assert array.data.ptr == image.ptr
        mouth = array[renderer.height // 2 :]  # a view, still the same memory
        say(f"cupy: {array.shape} {array.dtype}, mean of the lower half {float(mouth.mean()):.1f}")
        mine = cupy.empty((renderer.height, renderer.width, 3), cupy.uint8)
        renderer.render(CHUNK, out=mine).wait_on(cupy.cuda.get_current_stream())  # type: ignore
        assert int(cupy.abs(mine.astype(cupy.int16) - array).max()) == 0

    # All on a stream of cupy's: nothing to wait for, the order is the stream's.
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream, open_renderer(stream=stream) as renderer:
        image = renderer.render(CHUNK)
        inverted = 255 - cupy.from_dlpack(image)
        image.used_on(stream)  # the last that reads it: its memory may go round
        say(f"cupy: on its own stream, mean {float(inverted.mean()):.1f}")


def torch_tensors(open_renderer: Callable[..., gt_infer.Renderer], say: Say = print) -> None:
    import torch

    with open_renderer() as renderer:
        image: Any = renderer.render(CHUNK)
        tensor = torch.from_dlpack(image)  # [H, W, 3] on the GPU
        assert tensor.data_ptr() == image.ptr
        planes = tensor.permute(2, 0, 1)  # [3, H, W] for networks; still the same memory
        assert planes.data_ptr() == image.ptr
        # A batch that a network will read, drawn into slot by slot.
        batch = torch.empty((4, *tensor.shape), dtype=torch.uint8, device=tensor.device)
        for slot in batch:
            drawn: Any = renderer.render(CHUNK, out=slot)  # type: ignore[arg-type]
            drawn.wait_on(torch.cuda.current_stream())
        assert bool((batch[0] == tensor).all())
        say(f"torch: {tuple(planes.shape)} {tensor.dtype}, batch {tuple(batch.shape)}")


def numba_arrays(open_renderer: Callable[..., gt_infer.Renderer], say: Say = print) -> None:
    from numba import cuda

    @cuda.jit
    def darken(pixels: Any) -> None:
        row, column = cuda.grid(2)
        if row < pixels.shape[0] and column < pixels.shape[1]:
            for channel in range(3):
                pixels[row, column, channel] //= 2

    with open_renderer() as renderer:
        image: Any = renderer.render(CHUNK)
        before = image.to_host()
        array = cuda.as_cuda_array(image)  # __cuda_array_interface__; waits for the picture
        assert array.device_ctypes_pointer.value == image.ptr
        blocks = (-(-renderer.height // 16), -(-renderer.width // 16))
        darken[blocks, (16, 16)](array)
        cuda.synchronize()
        assert (image.to_host() == before // 2).all()
        say(f"numba: a kernel darkened {array.shape} in place")


def pycuda_arrays(open_renderer: Callable[..., gt_infer.Renderer], say: Say = print) -> None:
    import pycuda.autoprimaryctx  # noqa: F401
    from pycuda import gpuarray  # in the context that gt_infer is in, too

    with open_renderer() as renderer:
        image: Any = renderer.render(CHUNK)
        image.wait()  # pycuda does not wait by itself
        array = gpuarray.GPUArray(image.shape, image.dtype, base=image, gpudata=image.ptr)
        assert (array.get() == image.to_host()).all()
        mine = gpuarray.empty(image.shape, np.uint8)
        drawn: Any = renderer.render(CHUNK, out=mine)  # type: ignore[arg-type]
        drawn.wait()
        assert (mine.get() == array.get()).all()
        say(f"pycuda: {array.shape} {array.dtype}, and drawn into a gpuarray")


LIBRARIES: dict[str, tuple[Callable[..., None], str]] = {
    "cupy": (cupy_arrays, "pip install cupy-cuda13x"),
    "torch": (torch_tensors, "pip install torch"),
    "numba": (numba_arrays, "pip install numba-cuda"),
    "pycuda": (pycuda_arrays, "pip install pycuda"),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--avatar", default="demo")
    parser.add_argument("--device", type=int, default=0, help="the GPU's index")
    arguments = parser.parse_args(argv)

    def open_renderer(stream: Any = None) -> gt_infer.Renderer:
        config = gt_infer.EngineConfig(device=arguments.device, device_output=True, stream=stream)
        return gt_infer.Renderer(arguments.avatar, config=config)

    try:
        open_renderer().close()
    except gt_infer.EngineError as err:
        raise SystemExit(f"error: {err}") from err
    for name, (show, install) in LIBRARIES.items():
        if find_spec(name):
            show(open_renderer)
        else:
            print(f"{name}: not installed ({install})")


if __name__ == "__main__":
    main()
