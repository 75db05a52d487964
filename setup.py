"""Builds the native extension by calling CMake. CMakeLists.txt is the one truth about sources and
flags; this file only says where the result goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Configures once, builds every target, installs beside the Python package."""

    def build_extension(self, ext: Extension) -> None:
        if ext.optional:
            return  # built together with the other, if at all
        destination = (ROOT / self.get_ext_fullpath(ext.name)).resolve().parent
        build_dir = Path(os.environ.get("GT_BUILD_DIR", self.build_temp)).resolve()
        build_dir.mkdir(parents=True, exist_ok=True)
        definitions = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": destination,
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
        }
        arguments = [f"-D{name}={value}" for name, value in definitions.items()]
        # Extra options for people who build by hand: GT_CMAKE_ARGS="-DGT_WERROR=ON".
        arguments += os.environ.get("GT_CMAKE_ARGS", "").split()
        subprocess.run(
            ["cmake", "-S", str(ROOT), "-B", str(build_dir), "-G", "Ninja", *arguments], check=True
        )
        subprocess.run(["cmake", "--build", str(build_dir)], check=True)


setup(
    # CMake decides whether there is a CUDA part (docs/gpu.md).
    ext_modules=[
        Extension("gt_infer._cpu", sources=[]),
        Extension("gt_infer._cuda", sources=[], optional=True),
    ],
    cmdclass={"build_ext": CMakeBuild},
)
