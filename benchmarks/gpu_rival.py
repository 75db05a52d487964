"""The research-style pipeline on the same GPU: PyTorch eager networks and a splatter.

That is gsplat, which compiles its kernels where it runs, and our own splatter in torch
(peers/torch_splatter.py) on the GPU, which stands in where gsplat is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .stream import Inputs, Stream

__all__ = ["Rival", "open_rivals"]


@dataclass(frozen=True, slots=True)
class Rival:
    """`call` draws one frame and waits for it; None with the reason why there is none."""

    name: str
    call: Callable[[], object] | None = None
    reason: str = ""


def open_rivals(stream: Stream, inputs: Inputs) -> list[Rival]:
    """Those that are installed, and why the others are not."""
    try:
        import torch
    except ImportError as err:
        return [Rival("PyTorch eager", reason=f"torch is not installed ({err})")]
    if not torch.cuda.is_available():
        return [Rival("PyTorch eager", reason="this torch has no CUDA, or finds no GPU")]
    rivals = []
    for name, make in (
        ("PyTorch eager + gsplat", _with_gsplat),
        ("PyTorch eager + our torch splatter on the GPU", _with_torch_splatter),
    ):
        try:
            call = make(stream, inputs, _networks(stream, inputs))
            call()
            rivals.append(Rival(name, call))
        except Exception as err:  # other people's code: whatever it raises, we go on
            reason = (str(err).splitlines() or [""])[0]
            rivals.append(Rival(name, reason=f"{type(err).__name__}: {reason}"))
    return rivals


def _networks(stream: Stream, inputs: Inputs) -> Callable[[], Any]:
    """Activated attributes [1, N, ...] on the GPU; static features computed once."""
    import torch
    from gt_export.reference import ReferenceNetwork

    from .peers.networks import _module

    module = _module(torch, ReferenceNetwork.from_avatar(stream.avatar).cuda()).cuda()
    window = torch.from_numpy(inputs.window[None]).pin_memory()
    camera = torch.from_numpy(inputs.pose.camera_vector()[None]).pin_memory()
    eye = torch.tensor([inputs.eye], dtype=torch.float32).pin_memory()

    def run() -> Any:
        with torch.inference_mode():
            return module(*(tensor.cuda(non_blocking=True) for tensor in (window, eye, camera)))

    return run


def _with_gsplat(
    stream: Stream, inputs: Inputs, networks: Callable[[], Any]
) -> Callable[[], object]:
    import gsplat  # type: ignore[import-not-found,unused-ignore]
    import torch

    case, raster = stream.case, stream.avatar.raster
    scale = max(case.width / stream.avatar.camera.width, case.height / stream.avatar.camera.height)
    focal = stream.avatar.camera.focal * scale
    intrinsics = torch.tensor(
        [[[focal, 0, case.width / 2], [0, focal, case.height / 2], [0, 0, 1]]], device="cuda"
    )
    view = torch.from_numpy(inputs.pose.viewmat()[None]).cuda()
    behind = torch.from_numpy(stream.background(inputs)).cuda()

    def run() -> object:
        means, quats, scales, opacities, sh = (tensor[0] for tensor in networks())
        with torch.inference_mode():
            colors, alphas, _ = gsplat.rasterization(
                means,
                quats,
                scales,
                opacities.reshape(-1),
                sh,
                view,
                intrinsics,
                case.width,
                case.height,
                near_plane=raster.near,
                eps2d=raster.eps2d,
                sh_degree=3,
            )
            image = colors[0] + (1 - alphas[0]) * behind
            levels = (image.clamp(0, 1) * 255).round().to(torch.uint8)
        torch.cuda.synchronize()
        return levels

    return run


def _with_torch_splatter(
    stream: Stream, inputs: Inputs, networks: Callable[[], Any]
) -> Callable[[], object]:
    import torch

    from .peers.torch_splatter import TorchSplatter

    splatter: Any = TorchSplatter(stream, inputs)
    splatter._view, splatter._background = splatter._view.cuda(), splatter._background.cuda()

    def run() -> object:
        with torch.device("cuda"):
            return splatter.run(*(tensor[0] for tensor in networks()))

    return run
