"""What `import gt_infer` gives and costs, and that the stubs tell the truth."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gt_infer
from gt_infer import _native

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(gt_infer.__file__).parent


def test_public_names() -> None:
    assert set(gt_infer.__all__) == {
        "AudioError",
        "Avatar",
        "AvatarError",
        "BacklogError",
        "Camera",
        "CheckpointError",
        "ClosedError",
        "DeviceImage",
        "DeviceMemoryError",
        "EngineConfig",
        "EngineError",
        "Frame",
        "Gaussians",
        "GtError",
        "InputError",
        "LifeConfig",
        "MediaError",
        "Pacer",
        "Pose",
        "RasterConfig",
        "Renderer",
        "Session",
    }
    for name in gt_infer.__all__:
        assert getattr(gt_infer, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Render'"):
        gt_infer.Render  # noqa: B018


def test_every_error_is_a_gt_error() -> None:
    errors = [getattr(gt_infer, name) for name in gt_infer.__all__ if name.endswith("Error")]
    assert all(issubclass(error, gt_infer.GtError) for error in errors)


def test_import_is_light() -> None:
    """No torch, no media libraries, and not even numpy until something is used."""
    code = "import sys, gt_infer; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    for heavy in ("torch", "av", "soundfile", "soxr", "safetensors", "numpy", "gt_export"):
        assert heavy not in loaded


def test_rendering_does_not_import_torch() -> None:
    code = (
        "import sys, numpy, gt_infer, gt_infer.cli.render\n"
        "from tests.synthetic import make_avatar\n"
        "gt_infer.Renderer(make_avatar(n=5)).render(numpy.zeros(640, numpy.float32))\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert "gt_infer._cpu" in loaded
    for foreign in ("torch", "gt_export", "av", "soundfile"):
        assert foreign not in loaded


def test_runtime_package_imports_nothing_of_the_others() -> None:
    foreign = {"torch", "gt_export", "gt_train", "gt_bench", "tests", "export"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            assert not {name.split(".")[0] for name in names} & foreign, path


def test_version_has_one_value() -> None:
    declared = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert declared is not None
    assert gt_infer.__version__ == declared[1] == _native.build_info()["version"]


def members(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return found


def public(names: list[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def test_stubs_match_the_built_module() -> None:
    from gt_infer import _cpu

    stub = members(ast.parse((PACKAGE / "_cpu.pyi").read_text()).body)
    assert public(list(stub)) == public(dir(_cpu))
    for name, node in stub.items():
        built = getattr(_cpu, name)
        if isinstance(node, ast.ClassDef):
            declared = public(list(members(node.body)))
            # pybind11's enums bring a name and a value of their own.
            assert declared == public(list(vars(built))) - {"name", "value"}, name
            functions = {
                f"{name}.{k}": (v, vars(built).get(k)) for k, v in members(node.body).items()
            }
        else:
            functions = {name: (node, built)}
        for label, (declaration, function) in functions.items():
            if not isinstance(declaration, ast.FunctionDef) or isinstance(function, property):
                continue
            signature = inspect.getdoc(function) or ""
            arguments = [a.arg for a in declaration.args.args + declaration.args.kwonlyargs]
            for argument in arguments:
                assert f"{argument}:" in signature, f"{label}: {argument} is not in {signature!r}"


def test_each_kernel_object_exports_its_table_alone() -> None:
    """An inline function that two instruction sets share would be merged by the linker."""
    for isa in ("amx", "avx512vnni", "avx512", "avx2vnni", "avx2", "portable"):
        source = (ROOT / "csrc" / "cpu" / f"kernels_{isa}.cc").read_text()
        includes = re.findall(r'#include [<"](.+)[>"]', source)
        lanes = ["simd_avx512vnni.h", "tiles_amx.h"] if isa == "amx" else [f"simd_{isa}.h"]
        products = ["rounded_products.inl"] if isa.endswith("vnni") else []
        products = ["rounded_products.inl", "tile_products.inl"] if isa == "amx" else products
        assert includes == [
            "kernel_table.h",
            *lanes,
            "simd_math.h",
            "blend_kernels.inl",
            "deform_kernels.inl",
            *products,
        ]
    parts = [
        path
        for name in ("*.inl", "simd_*.h", "tiles_*.h")
        for path in ROOT.glob(f"csrc/cpu/{name}")
    ]
    for path in parts:
        text = path.read_text()
        assert "\nnamespace {" in text, f"{path.name} has no unnamed namespace"
        for header in ("<vector>", "<algorithm>", "<string>", "<memory>", "<functional>"):
            assert header not in text, f"{path.name} includes {header}"
