"""The compiled CUDA module where there is no GPU: that it builds without a warning, loads without a
driver and says so, has the types that gt_infer expects, and exchanges arrays by the rules."""

from __future__ import annotations

import ctypes
import gc
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gt_infer.cli.machine import find_gpus
from gt_infer.engines import cuda_api
from tests.fake_cuda import FakeCuda

pytestmark = pytest.mark.slow  # the first time, it is compiled

# Class of the module -> its protocol.
CLASSES = {
    "DeviceArray": cuda_api.Array,
    "Engine": cuda_api.Core,
    "Event": cuda_api.Event,
    "Graph": cuda_api.Graph,
    "InputStage": cuda_api.InputStage,
    "LogMel": cuda_api.LogMel,
    "Model": cuda_api.Model,
    "Outputs": cuda_api.Outputs,
    "PicturePool": cuda_api.Pool,
    "Report": cuda_api.Report,
    "Splatter": cuda_api.Splatter,
    "Stream": cuda_api.Stream,
}


def members(protocol: type) -> set[str]:
    inherited = {"__init__", "__module__", "__doc__", "__dict__", "__weakref__"}
    return {
        name
        for name, value in vars(protocol).items()
        if (not name.startswith("_") or name in DUNDERS)
        and name not in inherited
        and (inspect.isfunction(value) or isinstance(value, property))
    }


DUNDERS = {"__len__", "__getitem__", "__dlpack__", "__dlpack_device__", "__cuda_array_interface__"}


def parameters(docstring: str) -> list[str]:
    """Names in pybind11's signature, but for self."""
    signature = re.search(r"\((.*)\) ->", docstring)
    assert signature is not None, docstring
    depth, name, names = 0, "", []
    for char in signature.group(1) + ",":
        depth += (char in "[(<{") - (char in "])>}")
        if char == "," and depth == 0:
            names.append(name.split(":")[0].split("=")[0].strip())
            name = ""
        else:
            name += char
    return [n for n in names if n not in ("", "self", "*")]


@pytest.mark.parametrize("name", CLASSES)
def test_classes_have_what_the_protocols_say(cuda_module: ModuleType, name: str) -> None:
    built = getattr(cuda_module, name)
    for member in members(CLASSES[name]):
        assert hasattr(built, member), member
        wanted = inspect.getattr_static(CLASSES[name], member)
        if inspect.isfunction(wanted) and member not in ("__len__", "__getitem__"):
            expected = [p for p in inspect.signature(wanted).parameters if p != "self"]
            got = [p for p in parameters(getattr(built, member).__doc__) if p != "arg0"]
            assert got == expected, member


def test_module_has_what_the_protocol_says(cuda_module: ModuleType) -> None:
    for member in members(cuda_api.CudaApi):
        assert hasattr(cuda_module, member), member
        wanted = inspect.getattr_static(cuda_api.CudaApi, member)
        if not inspect.isfunction(wanted):
            continue
        expected = [p for p in inspect.signature(wanted).parameters if p != "self"]
        built = getattr(cuda_module, member)
        docstring = built.__init__.__doc__ if inspect.isclass(built) else built.__doc__
        assert parameters(docstring) == expected, member
        fake = inspect.signature(getattr(FakeCuda, member)).parameters
        assert [p for p in fake if p != "self"] == expected, member
    assert issubclass(cuda_module.OutOfMemoryError, cuda_module.CudaError)
    assert issubclass(cuda_module.UnavailableError, cuda_module.CudaError)
    assert issubclass(cuda_module.DeviceLostError, cuda_module.CudaError)
    assert cuda_module.MAX_BATCH == FakeCuda.MAX_BATCH


def test_build_info(cuda_module: ModuleType) -> None:
    info = cuda_module.build_info()
    assert info["architectures"] == "86"
    assert info["runtime"] >= 12000
    assert (info["driver"] == 0) == (find_gpus()["driver_cuda"] is None)


def test_without_a_driver_it_loads_and_says_so(cuda_build: Path) -> None:
    if find_gpus()["driver_cuda"] is not None:
        pytest.skip("this machine has an NVIDIA driver")
    code = f"""
import sys
sys.path.insert(0, {str(cuda_build / "gt_infer")!r})
import _cuda
for call in (
    _cuda.device_count,
    lambda: _cuda.device_info(0),
    lambda: _cuda.require_kernels(0),
    lambda: _cuda.memory_info(0),
    lambda: _cuda.Stream(0),
    lambda: _cuda.Event(0),
    lambda: _cuda.pinned_empty(0, (2,), "uint8"),
    lambda: _cuda.InputStage(0, 1, channels=29),
    lambda: _cuda.Splatter(0, batch=1, n_gaussians=1, width=16, height=16),
):
    try:
        call()
    except _cuda.UnavailableError as err:
        print("Install a driver" in str(err))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True"] * 9, done.stderr


def test_cudas_symbols_stay_inside(cuda_build: Path) -> None:
    """Another library's CUDA runtime in the same process must not meet ours."""
    (path,) = (cuda_build / "gt_infer").glob("_cuda.*.so")
    listing = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("nm is not installed")
    names = [line.split()[-1] for line in listing.stdout.splitlines()]
    assert "PyInit__cuda" in names
    assert [name for name in names if re.match(r"(__)?cu(da)?[A-Z]", name)] == []
    needed = subprocess.run(["objdump", "-p", path], capture_output=True, text=True).stdout
    assert "libcuda" not in needed  # the driver's and the runtime's library alike


# Arrays of other libraries. A library that says its host memory is on a GPU is believed until
# somebody touches it, so the rules of the exchange can be tried anywhere.


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    _fields_ = (("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", Deleter))


class ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    )


KEPT: list[Any] = []  # a library's array lives until its consumer lets go


class Theirs:
    """Somebody else's array."""

    def __init__(
        self,
        shape: tuple[int, ...] = (4, 6, 3),
        *,
        versioned: bool = True,
        device: tuple[int, int] = (2, 0),
        dtype: tuple[int, int, int] = (1, 8, 1),
        strides: tuple[int, ...] | None = None,
        read_only: bool = False,
        major: int = 1,
        offset: int = 0,
    ) -> None:
        KEPT.append(self)
        self.memory = np.zeros(4096, np.uint8)
        self.deleted = 0
        self.asked: dict[str, Any] = {}
        self.place = device
        self.versioned = versioned
        # What the capsule points to lives as long as this object.
        self._shape = (ctypes.c_int64 * len(shape))(*shape)
        self._strides = None if strides is None else (ctypes.c_int64 * len(shape))(*strides)
        self._deleter = Deleter(self._delete)
        tensor = Tensor(
            self.memory.ctypes.data,
            *device,
            len(shape),
            *dtype,
            self._shape,
            self._strides,
            offset,
        )
        if versioned:
            self._managed: Any = ManagedVersioned(
                major, 0, None, self._deleter, int(read_only), tensor
            )
        else:
            self._managed = Managed(tensor, None, self._deleter)

    def _delete(self, _: int) -> None:
        self.deleted += 1

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.place

    def __dlpack__(self, **asked: Any) -> Any:
        if not self.versioned and "max_version" in asked:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.asked = asked
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = (
            ctypes.py_object,
            [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
        )
        self.name = b"dltensor_versioned" if self.versioned else b"dltensor"
        return new(ctypes.addressof(self._managed), self.name, None)


class Handed:
    """Passes a capsule on as a library would."""

    def __init__(self, array: Any, **options: Any) -> None:
        self.array, self.options = array, options

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()

    def __dlpack__(self, **asked: Any) -> Any:
        return self.array.__dlpack__(stream=-1, **self.options)


@pytest.mark.parametrize("versioned", [True, False])
def test_arrays_come_in_and_go_out(cuda_module: ModuleType, versioned: bool) -> None:
    stream = cuda_module.Stream(0, 1)  # a borrowed handle: nothing is called
    theirs = Theirs(versioned=versioned, strides=(18, 3, 1), offset=8)
    array = cuda_module.import_array(theirs, stream)
    assert theirs.asked["stream"] == 1
    assert theirs.asked.get("max_version") == ((1, 0) if versioned else None)
    assert (array.shape, array.dtype, array.device, array.nbytes) == ((4, 6, 3), "uint8", 0, 72)
    assert array.ptr == theirs.memory.ctypes.data + 8
    assert array[2].ptr == array.ptr + 2 * 18
    assert array[2].shape == (6, 3)
    with pytest.raises(IndexError):
        array[4]
    assert len(array) == 4
    assert array.__dlpack_device__() == (2, 0)
    assert array.__cuda_array_interface__ == {
        "version": 3,
        "shape": (4, 6, 3),
        "typestr": "|u1",
        "data": (array.ptr, False),
        "strides": None,
        "stream": 1,
    }
    # Out again, in either form, and in once more: the memory is the same.
    for options in ({}, {"max_version": (1, 1)}):
        again = cuda_module.import_array(Handed(array, **options), stream)
        assert (again.ptr, again.shape, again.dtype) == (array.ptr, (4, 6, 3), "uint8")
    unused = array.__dlpack__(stream=-1)
    assert "dltensor" in repr(unused)
    del array
    gc.collect()
    assert theirs.deleted == 0  # `again` and `unused` still hold it
    del again, unused
    gc.collect()
    assert theirs.deleted == 1


def test_floats(cuda_module: ModuleType) -> None:
    stream = cuda_module.Stream(0, 2)
    array = cuda_module.import_array(Theirs((5, 7), dtype=(2, 32, 1)), stream)
    assert (array.dtype, array.nbytes) == ("float32", 140)
    assert array.__cuda_array_interface__["typestr"] == "<f4"
    assert array.__cuda_array_interface__["stream"] == 2


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"device": (1, 0)}, "not in the memory of an NVIDIA GPU"),
        ({"device": (2, 1)}, "on device 1, the engine runs on device 0"),
        ({"dtype": (0, 32, 1)}, "neither uint8 nor float32"),
        ({"dtype": (2, 64, 1)}, "neither uint8 nor float32"),
        ({"dtype": (1, 8, 4)}, "neither uint8 nor float32"),
        ({"strides": (1, 4, 24)}, "not C-contiguous"),
        ({"strides": (36, 3, 1)}, "not C-contiguous"),
        ({"read_only": True}, "read-only"),
        ({"major": 2}, "another version of DLPack"),
    ],
)
def test_arrays_that_are_refused(
    cuda_module: ModuleType, options: dict[str, Any], complaint: str
) -> None:
    stream = cuda_module.Stream(0, 1)
    theirs = Theirs(**options)
    with pytest.raises(ValueError, match=complaint):
        cuda_module.import_array(theirs, stream)
    gc.collect()
    assert theirs.deleted == (0 if options.get("device") == (1, 0) else 1)


def test_objects_that_are_no_arrays(cuda_module: ModuleType) -> None:
    stream = cuda_module.Stream(0, 1)
    with pytest.raises(ValueError, match="has neither __dlpack__ nor __cuda_array_interface__"):
        cuda_module.import_array(object(), stream)
    with pytest.raises(ValueError, match="not in the memory of an NVIDIA GPU"):
        cuda_module.import_array(np.zeros(3, np.uint8), stream)


def test_what_consumers_may_ask_for(cuda_module: ModuleType) -> None:
    array = cuda_module.import_array(Theirs(), cuda_module.Stream(0, 1))
    for stream in (0, -2):
        with pytest.raises(ValueError, match="0 is ambiguous"):
            array.__dlpack__(stream=stream)
    with pytest.raises(BufferError, match="stays on its own GPU"):
        array.__dlpack__(stream=-1, dl_device=(1, 0))
    with pytest.raises(BufferError, match="the picture is shared"):
        array.__dlpack__(stream=-1, copy=True)
    assert array.__dlpack__(stream=-1, dl_device=(2, 0), copy=False) is not None
    assert array.__dlpack__() is not None  # None: the legacy default stream; nothing to wait for


def test_arguments_are_checked(cuda_module: ModuleType) -> None:
    stream = cuda_module.Stream(0, 1)
    images = cuda_module.import_array(Theirs((1, 4, 6, 3)), stream)
    from gt_infer.config import RasterConfig

    given: dict[str, Any] = {
        "width": 6,
        "height": 4,
        "raster": RasterConfig(),
        "format": "rgb8",
        "is_transparent": False,
        "background": None,
        "images": images,
    }
    cuda_module.Outputs(**given)
    for name, value, complaint in (
        ("width", 7, "images: expected"),
        ("format", "rgba8", "images: expected"),
        ("format", "float32", "images: of another dtype"),
        ("format", "gif", "format: "),
        ("background", images, "background: expected"),
        ("alphas", images, "alphas: of another dtype or too small"),
        ("images", None, "incompatible constructor arguments"),
    ):
        kind = TypeError if value is None else ValueError
        with pytest.raises(kind, match=complaint):
            cuda_module.Outputs(**{**given, name: value})
