"""What goes wrong on a GPU is a clear error, at once; and what can go on goes on."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from gt_infer import Avatar, DeviceMemoryError, EngineConfig, EngineError, InputError, Renderer
from gt_infer.engines.cuda_api import load_cuda
from tests.synthetic import make_avatar


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return make_avatar()


def window(seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((8, 29, 16), np.float32)


def test_out_of_memory_and_on(avatar: Avatar) -> None:
    api: Any = load_cuda()
    free, _ = api.memory_info(0)
    with Renderer(avatar, engine="cuda") as renderer:
        want = renderer.render_window(window())
        with pytest.raises(api.OutOfMemoryError, match="cannot allocate device memory"):
            api.DeviceArray((2 * free,), "uint8", api.Stream(0))
        np.testing.assert_array_equal(renderer.render_window(window()), want)
        # All but a little is taken: a large picture has no room, the small one goes on.
        free, _ = api.memory_info(0)
        held = api.DeviceArray((free - 40 * 2**20,), "uint8", api.Stream(0))
        with pytest.raises(DeviceMemoryError):
            Renderer(avatar, engine="cuda", size=2048).render_window(window())
        np.testing.assert_array_equal(renderer.render_window(window()), want)
        del held
        Renderer(avatar, engine="cuda", size=2048).render_window(window())


def test_an_index_that_is_none(avatar: Avatar) -> None:
    with pytest.raises(EngineError, match=r"device 99: this machine has \d+ GPU"):
        Renderer(avatar, engine="cuda", config=EngineConfig(device=99))


def test_two_renderers_and_many_threads(avatar: Avatar) -> None:
    with Renderer(avatar, engine="cuda") as one, Renderer(avatar, engine="cuda", size=96) as two:
        want = [[r.render_window(window(seed)) for seed in range(4)] for r in (one, two)]
        wrong: list[int] = []

        def draw(which: int, seed: int) -> None:
            for _ in range(50):
                got = (one, two)[which].render_window(window(seed))
                if (got != want[which][seed]).any():
                    wrong.append(seed)

        threads = [
            threading.Thread(target=draw, args=(which, seed))
            for which in range(2)
            for seed in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_after_a_fork(avatar: Avatar) -> None:
    code = """
import os, sys, warnings
import numpy as np
from gt_infer import EngineError, Renderer
from tests.synthetic import make_avatar
warnings.simplefilter("ignore")
avatar = make_avatar()
renderer = Renderer(avatar, engine="cuda")
window = np.zeros((8, 29, 16), np.float32)
renderer.render_window(window)
child = os.fork()
if child == 0:
    said = []
    for call in (lambda: renderer.render_window(window), lambda: Renderer(avatar, engine="cuda")):
        try:
            call()
        except EngineError as err:
            said.append(str(err))
    with Renderer(avatar, engine="auto") as other:  # falls back
        cpu = other.describe()["engine"] == "cpu"
    del renderer
    os._exit(0 if len(said) == 2 and "forked" in said[0] and cpu else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
renderer.render_window(window)
sys.exit(status)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert done.returncode == 0, done.stderr


def test_a_context_that_is_lost() -> None:
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("cupy is not installed: nothing here can break a context")
    code = """
import cupy
import numpy as np
from gt_infer import EngineError, Renderer
from tests.synthetic import make_avatar
renderer = Renderer(make_avatar(), engine="cuda")
window = np.zeros((8, 29, 16), np.float32)
renderer.render_window(window)
kernel = cupy.RawKernel('extern "C" __global__ void wild(int* p) { *p = 1; }', "wild")
try:
    kernel((1,), (1,), (cupy.uint64(16),))
    cupy.cuda.Device().synchronize()
except cupy.cuda.runtime.CUDARuntimeError:
    pass
for _ in range(2):
    try:
        renderer.render_window(window)
    except EngineError as err:
        print("start the process anew" in str(err))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_a_stream_that_is_none(avatar: Avatar) -> None:
    with pytest.raises(InputError, match="expected a CUDA stream's handle"):
        Renderer(avatar, engine="cuda", config=EngineConfig(stream="default"))
