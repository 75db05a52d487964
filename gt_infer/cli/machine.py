"""Facts about this machine that no library is imported for."""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import sys
from importlib import metadata
from typing import Any

__all__ = ["cpu_model", "find_gpus", "installed_version"]

_NAME_BYTES = 256
_COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


def cpu_model() -> str:
    """The processor's name, as its maker writes it where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def installed_version(module: str) -> str | None:
    """Version of an installed module, without importing it; None when it is not there."""
    try:
        if importlib.util.find_spec(module) is None:
            return None
    except (ImportError, ValueError):
        return None
    for distribution in (module, module.replace("_", "-")):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "unknown version"


def find_gpus() -> dict[str, Any]:
    """NVIDIA GPUs as the driver lists them.

    Returns: `devices`, each with name, memory_bytes and compute_capability; `driver_cuda`, the
        CUDA version that the driver supports, or None; `reason` why there are none, or None.
    """
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return _no_gpus(f"no NVIDIA driver ({library} is not there)")
    status = driver.cuInit(0)
    if status:
        return _no_gpus(f"the NVIDIA driver does not start (cuInit gives error {status})")
    number = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(number))
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    driver.cuDeviceGetCount(ctypes.byref(number))
    devices = [_device(driver, index) for index in range(number.value)]
    return {
        "devices": devices,
        "driver_cuda": version,
        "reason": None if devices else "the NVIDIA driver lists no device",
    }


def _no_gpus(reason: str) -> dict[str, Any]:
    return {"devices": [], "driver_cuda": None, "reason": reason}


def _device(driver: ctypes.CDLL, index: int) -> dict[str, Any]:
    handle, part = ctypes.c_int(), ctypes.c_int()
    memory = ctypes.c_size_t()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    driver.cuDeviceGet(ctypes.byref(handle), index)
    driver.cuDeviceGetName(name, _NAME_BYTES, handle)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    capability = []
    for attribute in _COMPUTE_CAPABILITY:
        driver.cuDeviceGetAttribute(ctypes.byref(part), attribute, handle)
        capability.append(str(part.value))
    return {
        "name": name.value.decode("utf-8", "replace"),
        "memory_bytes": memory.value,
        "compute_capability": ".".join(capability),
    }
