"""What a compiled deform network takes and gives."""

from __future__ import annotations

import numpy as np
import pytest

from gt_infer.engines.deform_io import (
    PADDING_LOGIT,
    PRECISIONS,
    avatar_inputs,
    deform_tensors,
    padded_count,
)
from tests.reference.network import triplane_features
from tests.synthetic import make_avatar


@pytest.mark.parametrize("count, padded", [(1, 4096), (4096, 4096), (4097, 8192), (36448, 36864)])
def test_padded_count(count: int, padded: int) -> None:
    assert padded_count(count) == padded


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("degree", [1, 3])
def test_inputs_fill_their_tensors(precision: str, degree: int) -> None:
    avatar = make_avatar(n=33, sh_degree=degree)
    specs = {spec.name: spec for spec in deform_tensors(avatar, precision)}  # type: ignore[arg-type]
    inputs = avatar_inputs(avatar)
    assert list(inputs) == [name for name, spec in specs.items() if spec.role == "avatar"]
    for name, array in inputs.items():
        assert array.shape == specs[name].shape
        assert array.dtype == np.float32
    half = specs["features"]
    assert half.dtype == {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[precision]
    assert half.bytes_at(1) == 4096 * 64 * (4 if precision == "fp32" else 2)
    assert specs["sh"].bytes_at(4) == 4 * 4096 * 48 * 4


def test_padding_is_invisible_and_the_rest_untouched() -> None:
    avatar = make_avatar(n=33, sh_degree=1)
    inputs = avatar_inputs(avatar)
    np.testing.assert_array_equal(inputs["canonical_means"][:33], avatar.gaussians.means)
    np.testing.assert_array_equal(inputs["canonical_sh"][:33, :4], avatar.gaussians.sh)
    assert not inputs["canonical_sh"][:, 4:].any()
    assert (inputs["canonical_logit_opacities"][33:] == PADDING_LOGIT).all()
    np.testing.assert_array_equal(np.linalg.norm(inputs["canonical_quats"][33:], axis=1), 1.0)


def test_features_are_those_of_the_planes() -> None:
    """The native sampler's rows against float64; a third lie outside the box."""
    avatar = make_avatar(n=200)
    expected = triplane_features(avatar.network, avatar.gaussians.means)
    got = avatar_inputs(avatar)["features"][:200]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_attention_is_an_output_on_request() -> None:
    names = [spec.name for spec in deform_tensors(make_avatar(layers=2), "fp32", attention=True)]
    assert names[-1] == "attention"
    assert "attention" not in [spec.name for spec in deform_tensors(make_avatar(), "fp32")]
