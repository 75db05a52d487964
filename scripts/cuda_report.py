"""Compiles the CUDA part and says what its kernels use: registers, shared memory, occupancy.

    cuda_report.py 86                              one architecture, as CI does
    cuda_report.py 80 86 89 90 120 --write docs/performance-gpu.md

Warnings are errors, and everything is linked. Exits with 1 when a kernel spills or uses more
registers than is stated here. Needs cmake, ninja and nvcc; no GPU.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- cuda-report -->", "<!-- /cuda-report -->"


@dataclass(frozen=True)
class Limits:
    """Of one multiprocessor (CUDA programming guide, compute capabilities)."""

    warps: int
    blocks: int
    shared_bytes: int
    registers: int = 65536


ARCHITECTURES = {
    80: Limits(64, 32, 164 * 1024),
    86: Limits(48, 16, 100 * 1024),
    89: Limits(48, 24, 100 * 1024),
    90: Limits(64, 32, 228 * 1024),
    120: Limits(48, 32, 100 * 1024),
}

# Kernel: threads of a block, and the most registers a thread may use on any architecture.
KERNELS = {
    "logmel_steps": (256, 48),
    "encode_windows": (128, 56),
    "make_tokens": (128, 80),
    "fold_tokens": (128, 48),
    "deform_gaussians<32, false>": (128, 128),
    "deform_gaussians<64, false>": (128, 168),
    "deform_gaussians<128, false>": (128, 248),
    "deform_gaussians<32, true>": (128, 112),
    "deform_gaussians<64, true>": (128, 168),
    "deform_gaussians<128, true>": (128, 255),
    "project_attributes": (128, 64),
    "count_pairs": (256, 32),
    "write_pairs": (256, 32),
    "find_tiles": (256, 32),
    "blend_tiles": (256, 40),
}

_ENTRY = re.compile(
    r"Compiling entry function '(\w+)' for 'sm_(\d+)a?'\n"
    r"(?:.*\n)*?\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
    r".*?Used (\d+) registers(.*)\n"
)


@dataclass(frozen=True)
class Usage:
    kernel: str
    arch: int
    registers: int
    shared_bytes: int
    spill_bytes: int

    @property
    def warps(self) -> int:
        """Warps of a multiprocessor that this kernel can keep busy."""
        limits = ARCHITECTURES[self.arch]
        per_block = KERNELS[self.kernel][0] // 32
        registers = -(-self.registers * 32 // 256) * 256 * per_block  # given out by 256 per warp
        blocks = min(
            limits.blocks,
            limits.warps // per_block,
            limits.registers // registers,
            limits.shared_bytes // (self.shared_bytes + 1024),  # 1 KiB of a block is the system's
        )
        return blocks * per_block


def build(architectures: list[int], folder: Path) -> str:
    """Everything, from scratch; gives what the compilers printed."""
    options = {
        "GT_BUILD_CUDA": "ON",
        "GT_BUILD_TESTS": "ON",
        "GT_BUILD_PYTHON": "OFF",
        "GT_WERROR": "ON",
        "GT_CUDA_ARCHITECTURES": ";".join(map(str, architectures)),
        "CMAKE_CUDA_FLAGS": "-Xptxas=-v",
    }
    arguments = [f"-D{name}={value}" for name, value in options.items()]
    printed = ""
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *arguments],
        ["cmake", "--build", str(folder), "--clean-first", "--target", "gt_cuda_kernels"],
    ):
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            sys.exit(done.stdout + f"cuda_report: {' '.join(command[:2])} failed")
        printed = done.stdout
    return printed


def read_usages(printed: str) -> list[Usage]:
    """Of our kernels, in the order of KERNELS; CUB's are left out."""
    found = _ENTRY.findall(printed)
    names = subprocess.run(
        ["c++filt"], input="\n".join(entry[0] for entry in found), text=True, capture_output=True
    ).stdout.splitlines()
    usages = []
    for name, (_, arch, _, stores, loads, registers, rest) in zip(names, found, strict=True):
        # void gt::cuda::(anonymous namespace)::deform_gaussians<64, false>(gt::cuda::DeformJob)
        match = re.search(r"gt::cuda::\(anonymous namespace\)::(\w+(?:<[^>]*>)?)\(", name)
        if match is None:
            continue
        shared = re.search(r"(\d+) bytes smem", rest)
        shared_bytes = int(shared[1]) if shared else 0
        spills = int(stores) + int(loads)
        usages.append(Usage(match[1], int(arch), int(registers), shared_bytes, spills))
    order = list(KERNELS)
    unknown = sorted({usage.kernel for usage in usages} - set(order))
    if unknown:
        sys.exit(f"cuda_report: {', '.join(unknown)}: state the threads and a limit in KERNELS")
    return sorted(usages, key=lambda usage: (order.index(usage.kernel), usage.arch))


def problems(usages: list[Usage], architectures: list[int]) -> list[str]:
    seen = {(usage.kernel, usage.arch) for usage in usages}
    wrong = [
        f"{kernel} for sm_{arch}: not among what was compiled"
        for kernel in KERNELS
        for arch in architectures
        if (kernel, arch) not in seen
    ]
    for usage in usages:
        what = f"{usage.kernel} for sm_{usage.arch}"
        limit = KERNELS[usage.kernel][1]
        if usage.spill_bytes > 0:
            wrong.append(f"{what}: {usage.spill_bytes} bytes of spills")
        if usage.registers > limit:
            wrong.append(f"{what}: {usage.registers} registers, more than the {limit} stated")
    return wrong


def table(usages: list[Usage]) -> str:
    """Markdown: per architecture the registers of a thread, and the warps that fit."""
    architectures = sorted({usage.arch for usage in usages})
    heads = ["kernel", "threads", "shared memory", *(f"sm_{arch}" for arch in architectures)]
    rows = [heads, ["---"] * len(heads)]
    for kernel, (threads, _) in KERNELS.items():
        by_arch = {usage.arch: usage for usage in usages if usage.kernel == kernel}
        if not by_arch:
            continue
        shared = max(usage.shared_bytes for usage in by_arch.values())
        row = [f"`{kernel}`", str(threads), f"{shared:,}"]
        for arch in architectures:
            usage = by_arch[arch]
            row.append(f"{usage.registers}, {usage.warps} of {ARCHITECTURES[arch].warps}")
        rows.append(row)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the CUDA kernels use.")
    parser.add_argument("arch", type=int, nargs="+", choices=sorted(ARCHITECTURES))
    parser.add_argument("--write", type=Path, help="a page whose table is to be replaced")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "cuda", help="to build in")
    arguments = parser.parse_args()
    usages = read_usages(build(arguments.arch, arguments.folder))
    print(table(usages))
    if wrong := problems(usages, arguments.arch):
        sys.exit("cuda_report: " + "; ".join(wrong))
    if arguments.write is not None:
        before, _, rest = arguments.write.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        arguments.write.write_text(f"{before}{BEGIN}\n{table(usages)}\n{END}{after}")


if __name__ == "__main__":
    main()
