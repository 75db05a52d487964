"""Every test here needs a GPU and a build with the CUDA part."""

from __future__ import annotations

import os

import pytest

from gt_infer import Avatar
from gt_infer.avatar import resolve
from gt_infer.engines.cuda_api import unavailable_reason


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(autouse=True, scope="session")
def _gpu() -> None:
    reason = unavailable_reason()
    if reason is None:
        return
    if os.environ.get("GT_REQUIRE_GPU"):
        pytest.fail(f"no GPU engine: {reason}")
    pytest.skip(f"no GPU engine: {reason}")


@pytest.fixture(scope="session")
def demo() -> Avatar:
    return Avatar.load(resolve("demo"))
