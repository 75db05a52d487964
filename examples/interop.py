"""Frames in numpy, torch and OpenCV without copying a pixel.

    python examples/interop.py

A picture is a C-contiguous numpy array that belongs to you: libraries that take numpy arrays or
DLPack share its memory. `out=` draws into memory that you bring, such as a tensor's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

import gt_infer


def numpy_views(renderer: gt_infer.Renderer, chunk: npt.NDArray[np.float32]) -> None:
    picture = renderer.render(chunk)
    mouth = picture[renderer.height // 2 :, renderer.width // 4 : -renderer.width // 4]  # a view
    assert np.shares_memory(mouth, picture)
    # A ring of pictures that are drawn into again and again: no allocation per frame.
    ring = np.empty((4, *picture.shape), np.uint8)
    for index in range(8):
        renderer.render(chunk, out=ring[index % 4])
    print(f"numpy: {picture.shape} {picture.dtype}, strides {picture.strides}")


def torch_tensors(renderer: gt_infer.Renderer, chunk: npt.NDArray[np.float32]) -> None:
    import torch

    picture = renderer.render(chunk)
    tensor = torch.from_dlpack(picture)  # [H, W, 3], the same memory
    assert tensor.data_ptr() == picture.ctypes.data
    channels_first = tensor.permute(2, 0, 1)  # [3, H, W] for torchvision; still the same memory
    assert channels_first.data_ptr() == picture.ctypes.data
    # The other way: frames drawn into a batch that a network or an encoder will read. On a machine
    # with a GPU, pin_memory=True lets the copy to it run beside the drawing of the next frame.
    batch = torch.empty((4, renderer.height, renderer.width, 3), dtype=torch.uint8)
    for slot in batch.numpy():
        renderer.render(chunk, out=slot)
    print(f"torch: {tuple(channels_first.shape)} {tensor.dtype}, batch {tuple(batch.shape)}")


def opencv_pictures(renderer: gt_infer.Renderer, chunk: npt.NDArray[np.float32]) -> None:
    import cv2

    picture = renderer.render(chunk)  # OpenCV's order is BGR: the renderer draws it so
    before = picture.copy()
    address = picture.ctypes.data
    cv2.putText(picture, "live", (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 255), 2)
    assert picture.ctypes.data == address
    assert (picture != before).any()  # drawn in place
    print(f"OpenCV: wrote on {np.count_nonzero((picture != before).any(axis=2))} pixels in place")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--avatar", default="demo")
    avatar = parser.parse_args(argv).avatar
    chunk = np.zeros(640, np.float32)
    with gt_infer.Renderer(avatar) as renderer:
        numpy_views(renderer, chunk)
        if find_spec("torch"):
            torch_tensors(renderer, chunk)
        else:
            print("torch: not installed (pip install torch)")
    with gt_infer.Renderer(avatar, output="bgr8") as renderer:
        if find_spec("cv2"):
            opencv_pictures(renderer, chunk)
        else:
            print("OpenCV: not installed (pip install opencv-python-headless)")


if __name__ == "__main__":
    main()
