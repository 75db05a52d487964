"""The fused deformer against the float64 reference: every instruction set, any network shape."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gt_infer import EngineConfig, EngineError, InputError, Pose, Renderer, _native
from gt_infer.avatar import Avatar, Linear, resolve
from gt_infer.engines.cpu import CpuEngine
from tests.reference import network as reference
from tests.reference import splat
from tests.synthetic import make_avatar

EVERY_ISA = ("amx", "avx512vnni", "avx512", "avx2vnni", "avx2", "portable")
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one Gaussian": {"n": 1},
    "a full tile": {"n": 32},
    "one more than a tile": {"n": 33},
    "two layers": {"layers": 2},
    "three layers, four heads": {"layers": 3, "n_head": 4},
    "one head": {"n_head": 1},
    "d_model 32": {"d_model": 32},
    "d_model 66": {"d_model": 66},  # not whole panels of weights
    "d_model 128": {"d_model": 128},
    # 44 scores, more than a tile's lanes
    "eleven heads": {"d_model": 66, "n_head": 11, "layers": 2},
    "44 channels": {"channels": 44},
    "no offsets": {"heads": ()},
    "means alone": {"heads": ("means",)},
    "opacity and sh": {"heads": ("opacities", "sh")},
    "sh degree 1": {"sh_degree": 1},
}


@pytest.fixture(params=EVERY_ISA)
def isa(request: pytest.FixtureRequest) -> str:
    if request.param not in _native.available_isas():
        pytest.skip(f"this machine or build has no {request.param}")
    return str(request.param)


def inputs(avatar: Avatar, seed: int = 0) -> tuple[Any, float, Any]:
    rng = np.random.default_rng(seed)
    window = rng.normal(0, 1, (8, avatar.network.audio_channels, 16)).astype(np.float32)
    pose = Pose((0.05, -0.1, 0.02), (0.1, 0.0, -10.0))
    return window, float(rng.uniform()), pose.camera_vector()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda name: name.replace(" ", "-"))
def test_deform_matches_reference(isa: str, shape: str) -> None:
    avatar = make_avatar(**{"n": 70, **SHAPES[shape]})
    window, eye, camera = inputs(avatar)
    want = reference.deform(avatar.network, avatar.gaussians, window, eye, camera)
    config = EngineConfig(isa=isa, threads=2, precision="fp32")
    with Renderer(avatar, config=config) as renderer:
        got = renderer.deform(window, eye, camera, attention=True)
    for name in ("means", "scales", "quats", "opacities", "sh", "attention"):
        value, wanted = getattr(got, name), getattr(want, name)
        assert value.shape == wanted.shape, name
        assert value.dtype == np.float32
        # float32 sums of up to 128 products in a chain of eight maps, values of order 1
        np.testing.assert_allclose(value, wanted, atol=2e-5, rtol=2e-5, err_msg=name)


# Of the offset that a head adds, root mean square. In these random networks, whose weights and
# states are not small where it matters as trained ones are, 8-bit products leave 0.01 to 0.016, and
# the 14 bits of everything that leads to positions 1e-4.
FAST_ERROR = {"means": 3e-4, "scales": 0.025, "quats": 0.025, "opacities": 0.025, "sh": 0.025}
FAST_ISA = ("amx", "avx512vnni", "avx2vnni")


@pytest.mark.parametrize("isa", FAST_ISA)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda name: name.replace(" ", "-"))
def test_fast_products_stay_close_to_the_reference(isa: str, shape: str) -> None:
    if isa not in _native.available_isas():
        pytest.skip(f"this machine or build has no {isa}")
    avatar = make_avatar(**{"n": 70, **SHAPES[shape]})
    window, eye, camera = inputs(avatar)
    want = reference.deform(avatar.network, avatar.gaussians, window, eye, camera)
    still = replace(avatar.network, heads={})
    resting = reference.deform(still, avatar.gaussians, window, eye, camera)
    with Renderer(avatar, config=EngineConfig(isa=isa, precision="fast")) as renderer:
        got = renderer.deform(window, eye, camera)
    for name, limit in FAST_ERROR.items():
        error = rms(getattr(got, name) - getattr(want, name))
        offset = rms(getattr(want, name) - getattr(resting, name))
        assert error <= limit * offset + 2e-6, f"{name}: {error:.2g} of {offset:.2g}"


def test_example_frames_are_at_the_ends_of_the_poses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engine is shown, so that "fast" knows what it may leave out."""
    avatar = make_avatar(n=40)
    assert avatar.poses is not None
    seen: list[Any] = []
    engine = _native.Engine

    def spy(*args: Any, **options: Any) -> Any:
        seen.append(options["examples"])
        return engine(*args, **options)

    monkeypatch.setattr(_native, "Engine", spy)
    CpuEngine(avatar, EngineConfig())
    CpuEngine(replace(avatar, poses=None), EngineConfig())
    shown, nothing = seen
    assert nothing == []  # then it guesses
    eyes = [eye for _, eye, _, _ in shown]
    assert (min(eyes), max(eyes)) == (avatar.poses.blink.min(), avatar.poses.blink.max())
    cameras = [camera for _, _, camera, _ in shown]
    viewmats = [viewmat for _, _, _, viewmat in shown]
    angles, trans = avatar.poses.euler, avatar.poses.trans
    axis = np.ptp(angles, axis=0).argmax()
    for frame in (angles[:, axis].argmin(), angles[:, axis].argmax()):
        end = Pose.from_tracking(angles[frame], trans[frame])
        assert any(np.array_equal(end.camera_vector(), camera) for camera in cameras)
        assert any(np.array_equal(end.viewmat(), viewmat) for viewmat in viewmats)
    for audio, _, _, _ in shown:
        assert audio.shape == (8, avatar.network.audio_channels, 16)
        assert audio.dtype == np.float32
        assert np.sqrt((audio**2).mean()) == pytest.approx(1.0, rel=0.05)  # normalised features


def test_example_frames_change_what_fast_leaves_out() -> None:
    if not set(FAST_ISA) & set(_native.available_isas()):
        pytest.skip("this machine or build has no integer products: " + ", ".join(FAST_ISA))
    avatar = make_avatar(n=500)
    results = []
    for head in (avatar, replace(avatar, poses=None)):
        with Renderer(head, config=EngineConfig(precision="fast")) as renderer:
            results.append(renderer.deform(*inputs(avatar)))
    assert not np.array_equal(results[0].sh, results[1].sh)


def fast_attributes(isa: str) -> Any:
    avatar = make_avatar(n=70, layers=2)
    with Renderer(avatar, config=EngineConfig(isa=isa, precision="fast")) as renderer:
        return renderer.deform(*inputs(avatar))


@pytest.mark.parametrize("pair", [*itertools.combinations(FAST_ISA, 2)], ids="-".join)
def test_fast_products_are_the_same_on_all(pair: tuple[str, str]) -> None:
    """Sums of integers are exact, so the instruction sets differ by float32 rounding alone."""
    if not set(pair) <= set(_native.available_isas()):
        pytest.skip(f"this machine or build lacks one of {', '.join(pair)}")
    one, other = map(fast_attributes, pair)
    # AMX has the lanes of AVX-512, and so the same rounding.
    tolerance = 0 if pair == ("amx", "avx512vnni") else 3e-6
    for name in FAST_ERROR:
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), rtol=0, atol=tolerance, err_msg=name
        )


def rms(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def test_the_reference_is_not_the_canonical_head() -> None:
    """The random networks of these tests move what they should, or the tests above prove little."""
    avatar = make_avatar(n=70)
    want = reference.deform(avatar.network, avatar.gaussians, *inputs(avatar))
    assert np.abs(want.means - avatar.gaussians.means).max() > 0.01
    assert np.abs(want.sh - avatar.gaussians.sh).max() > 0.01
    assert want.attention.std() > 0.01


def test_tokens_match_reference(isa: str) -> None:
    for channels in (1, 29, 37, 44):
        avatar = make_avatar(n=40, channels=channels)
        window, eye, camera = inputs(avatar)
        want = reference.deform(avatar.network, avatar.gaussians, window, eye, camera).tokens
        model = _native.Model(avatar.gaussians, avatar.network)
        engine = _native.Engine(model, isa=isa, precision="fp32", threads=1)
        got = engine.tokens(window, eye, camera)
        np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"audio_conv": ()},
        {"audio_conv": (Linear(np.ones((4, 29, 3), np.float32), None),)},
        {"attention_fc": Linear(np.eye(9, dtype=np.float32), None)},
        {"camera_mlp": (Linear(np.ones((64, 16), np.float32), None),)},
        {"eye_mlp": ()},
        {"layers": ()},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_network_that_does_not_fit_together_is_refused(changes: dict[str, Any]) -> None:
    """`Avatar` refuses such a network before: here nobody has."""
    avatar = make_avatar(n=40)
    with pytest.raises(ValueError, match=f"{next(iter(changes))}|audio"):
        _native.Model(avatar.gaussians, replace(avatar.network, **changes))


def test_convolutions_that_leave_several_steps_are_refused() -> None:
    """One fits its neighbours, but of a window's 16 steps it leaves eight."""
    avatar = make_avatar(n=40)
    network = avatar.network
    weight = np.ones((network.audio_fc[0].weight.shape[1], network.audio_channels, 3), np.float32)
    with pytest.raises(ValueError, match="one step"):
        _native.Model(avatar.gaussians, replace(network, audio_conv=(Linear(weight, None),)))


def test_harmonics_begin_with_a_cache_line(isa: str) -> None:
    """Elsewhere they would be right, too, but not be written past the caches."""
    avatar = make_avatar(n=70)
    with Renderer(avatar, config=EngineConfig(isa=isa)) as renderer:
        found = [renderer.deform(*inputs(avatar)).sh for _ in range(5)]
    assert all(sh.ctypes.data % 64 == 0 and sh.flags.writeable for sh in found)


def test_an_engine_needs_a_model() -> None:
    with pytest.raises(TypeError):
        _native.Engine(None, isa="", precision="fp32", threads=1)  # type: ignore[arg-type]


def test_render_is_deform_then_splat(isa: str) -> None:
    avatar = make_avatar(n=300)
    window, eye, _ = inputs(avatar)
    pose = Pose.from_degrees(yaw=5).resolve(avatar.poses.mean_euler, avatar.poses.mean_trans)  # type: ignore[union-attr]
    config = EngineConfig(isa=isa, threads=2)
    with Renderer(avatar, output="float32", background=(10, 200, 30), config=config) as renderer:
        gaussians = renderer.deform(window, eye, pose.camera_vector())
        alpha = np.full((renderer.height, renderer.width), np.nan, np.float32)
        depth = alpha.copy()
        image = renderer.render_window(window, pose, blink=eye, alpha=alpha, depth=depth)
    torso = avatar.torso[0] / 255.0
    background = splat.over(avatar.torso[0], np.broadcast_to(np.array([10, 200, 30]), (64, 64, 3)))
    assert torso[..., 3].max() > 0
    want = splat.render(gaussians, pose.viewmat(), 64, 64, avatar.camera.focal, background)
    assert want.alpha.max() > 0.5
    assert (np.abs(image - want.image).max(axis=-1) > 5e-5).sum() <= 4
    assert (np.abs(alpha - want.alpha) > 5e-5).sum() <= 4
    assert (np.abs(depth - want.depth) > 5e-5 * want.depth.max()).sum() <= 4


def test_neighbours_share_colors_where_example_frames_allow_it(isa: str) -> None:
    """In "fast", what the network adds to their colours: the demo avatar's neighbours are alike.
    Without poses there are no example frames, and everyone has their own."""
    demo = Avatar.load(resolve("demo"))
    assert demo.poses is not None
    pose = Pose.from_degrees(yaw=8).resolve(demo.poses.mean_euler, demo.poses.mean_trans)
    window, _, _ = inputs(demo)
    for avatar, shares in ((demo, isa in FAST_ISA), (replace(demo, poses=None), False)):
        config = EngineConfig(isa=isa)
        with Renderer(avatar, size=128, output="float32", config=config) as renderer:
            found = renderer.render_window(window, pose, blink=0.3)
            gaussians = renderer.deform(window, 0.3, pose.camera_vector())
            own = np.zeros_like(found)
            renderer._engine.splat(renderer._canvas, gaussians, pose.viewmat(), own)  # type: ignore[union-attr]
        error = np.abs(found - own).max()
        if shares:
            assert 1e-4 < error < 4 / 255
        else:
            assert error < 2e-5


def test_a_head_without_sh_keeps_its_colors(isa: str) -> None:
    avatar = make_avatar(n=70, heads=("means", "opacities"))
    window, _, _ = inputs(avatar)
    pose = Pose.from_degrees(yaw=5).resolve(avatar.poses.mean_euler, avatar.poses.mean_trans)  # type: ignore[union-attr]
    config = EngineConfig(isa=isa)
    with Renderer(avatar, output="float32", background=(0, 0, 0), config=config) as renderer:
        found = renderer.render_window(window, pose, blink=0.3)
        gaussians = renderer.deform(window, 0.3, pose.camera_vector())
        wanted = np.zeros_like(found)
        renderer._engine.splat(renderer._canvas, gaussians, pose.viewmat(), wanted)  # type: ignore[union-attr]
    np.testing.assert_array_equal(gaussians.sh, avatar.gaussians.sh)
    assert np.abs(found - wanted).max() < 2e-5


def test_threads_do_not_change_a_bit(isa: str) -> None:
    avatar = make_avatar(n=700)
    window, eye, _ = inputs(avatar)
    pictures = []
    for threads in (1, 2, 5):
        config = EngineConfig(isa=isa, threads=threads)
        with Renderer(avatar, config=config) as renderer:
            pictures += [renderer.render_window(window, blink=eye) for _ in range(3)]
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])


def test_one_engine_serves_many_threads() -> None:
    avatar = make_avatar(n=200)
    with Renderer(avatar, config=EngineConfig(threads=2)) as renderer:
        cases = [inputs(avatar, seed)[:2] for seed in range(4)]
        alone = [renderer.render_window(window, blink=eye) for window, eye in cases]
        wrong: list[int] = []

        def work(case: int) -> None:
            window, eye = cases[case]
            for _ in range(20):
                if not np.array_equal(renderer.render_window(window, blink=eye), alone[case]):
                    wrong.append(case)

        workers = [threading.Thread(target=work, args=(case,)) for case in range(len(cases))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not wrong


def test_too_many_tiles_are_refused_not_counted_round() -> None:
    """Gaussians of a hostile avatar that each cover the picture: their lists would need gigabytes,
    and with ten times as many a 32-bit count would wrap and writes go anywhere."""
    avatar = make_avatar(33_000, heads=())
    wide = np.full_like(avatar.gaussians.log_scales, 5.0)
    avatar = replace(avatar, gaussians=replace(avatar.gaussians, log_scales=wide))
    with Renderer(avatar, size=2048) as renderer:
        window = renderer.windows().rest_window()
        with pytest.raises(EngineError, match="cannot be drawn: the Gaussians cover more than"):
            renderer.render_window(window)


def test_amx_has_to_be_asked_for() -> None:
    if "amx" not in _native.available_isas():
        pytest.skip("this machine or build has no amx")
    assert CpuEngine(make_avatar(n=5), EngineConfig()).describe()["isa"] == "avx512vnni"


def test_unknown_instruction_set_names_those_there_are() -> None:
    with pytest.raises(InputError, match=r"isa = .sse9.: this machine and build have .*portable"):
        CpuEngine(make_avatar(n=5), EngineConfig(isa="sse9"))


def test_a_forked_child_renders_with_the_parents_renderer() -> None:
    """multiprocessing forks by default on Linux up to Python 3.13: no hang, the same picture."""
    import os

    avatar = make_avatar(n=100)
    window, eye, _ = inputs(avatar)
    with Renderer(avatar, config=EngineConfig(threads=2)) as renderer:
        want = renderer.render_window(window, blink=eye)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                same = np.array_equal(renderer.render_window(window, blink=eye), want)
                renderer.close()
                os.write(writer, b"y" if same else b"n")
            finally:
                os._exit(0)
        os.close(writer)
        assert os.read(reader, 1) == b"y"
        os.close(reader)
        os.waitpid(child, 0)
        np.testing.assert_array_equal(renderer.render_window(window, blink=eye), want)


def test_closing_while_others_render_is_a_clear_error() -> None:
    from gt_infer import ClosedError

    avatar = make_avatar(n=300)
    window, eye, _ = inputs(avatar)
    renderer = Renderer(avatar, config=EngineConfig(threads=2))
    outcomes: list[object] = []

    def work() -> None:
        try:
            while True:
                renderer.render_window(window, blink=eye)
        except BaseException as error:
            outcomes.append(error)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    renderer.close()
    for worker in workers:
        worker.join(timeout=30)
    assert len(outcomes) == 4
    assert all(isinstance(outcome, ClosedError) for outcome in outcomes), outcomes
