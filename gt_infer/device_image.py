"""A picture that stays on the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import InputError

if TYPE_CHECKING:
    from .engines.cuda_api import Array, CudaApi

__all__ = ["DeviceImage"]


class DeviceImage:
    """What `EngineConfig(device_output=True)` gives instead of a numpy array. C-contiguous.

        tensor = torch.from_dlpack(frame.image)     # or cupy.from_dlpack, cupy.asarray, ...

    Libraries share its memory without a copy. Those that speak DLPack wait for it by themselves,
    on their own stream; for others there are `wait` and `wait_on`. The memory is used again for a
    later picture once this object and everything made from it are gone. Work that still reads it
    then is waited for if it is on a default stream; if your library worked on a stream of its own,
    say so with `used_on`, or letting go of the picture waits for the whole GPU.
    """

    __slots__ = ("_api", "_array")

    def __init__(self, api: CudaApi, array: Array) -> None:
        self._api = api
        self._array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or float32."""
        return np.dtype(self._array.dtype)

    @property
    def nbytes(self) -> int:
        return self._array.nbytes

    @property
    def device(self) -> int:
        """The GPU's index."""
        return self._array.device

    @property
    def ptr(self) -> int:
        """Its address on the device."""
        return self._array.ptr

    @property
    def event(self) -> int:
        """Handle of the CUDA event after which it is drawn; valid as long as this object."""
        return self._array.ready.handle

    def is_ready(self) -> bool:
        """Whether it is drawn."""
        with self._translated("asking for a picture"):
            return self._array.ready.is_done()

    def wait(self) -> None:
        """Returns when it is drawn.

        Raises: EngineError: the GPU has failed.
        """
        with self._translated("waiting for a picture"):
            self._array.ready.synchronize()

    def wait_on(self, stream: Any) -> None:
        """Makes a stream's later work wait until it is drawn; returns at once.

        Args:
            stream: as `EngineConfig.stream`.

        Raises: InputError: not a stream.
        """
        with self._translated("stream"):
            self._array.ready.wait(self._stream(stream))

    def used_on(self, stream: Any) -> None:
        """Says that what the stream was given so far is all that will read this picture: its memory
        can then be used again behind that work, without waiting.

        Raises: InputError: not a stream.
        """
        with self._translated("stream"):
            self._array.read_on(self._stream(stream))

    def to_host(self, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """A copy as a numpy array, when it is drawn.

        Args:
            out: receives it instead of a new array.

        Raises: InputError: `out` has another shape or dtype, or is not C-contiguous.
        """
        with self._translated("out"):
            return self._array.to_host(out)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self._array.__cuda_array_interface__

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        return self._array.__dlpack__(
            stream=stream, max_version=max_version, dl_device=dl_device, copy=copy
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    def __repr__(self) -> str:
        return f"DeviceImage(shape={self.shape}, dtype={self.dtype}, device={self.device})"

    def _stream(self, stream: Any) -> Any:
        from .engines.cuda_api import stream_handle

        if stream is None:
            raise InputError("stream = None: name the stream, 0 for the default one")
        return self._api.Stream(self.device, stream_handle(stream))

    def _translated(self, doing: str) -> Any:
        from .engines.cuda_api import Translated

        return Translated(self._api, doing)
