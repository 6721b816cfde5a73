"""The plan that a run prints before it starts."""

import io

import numpy as np
import pytest
from rich.console import Console
from torch import nn

from mobilenet_train.data import ImageData
from mobilenet_train.runs.announce import class_counts, describe, plan_rows
from mobilenet_train.runs.build import build_run
from tests.conftest import TINY, configure

HERE = __name__


def own_network(num_classes: int, resolution: int) -> nn.Module:  # noqa: ARG001
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))


def own_images() -> ImageData:
    images, labels = np.zeros((100, 16, 16, 3), np.uint8), np.repeat([0, 1, 2], [3, 36, 61])
    return ImageData(images, labels, images[:36], np.arange(36) % 3, ["ant", "bee", "cow"])


def printed(*typed: str, width: int = 120) -> str:
    parts = build_run(configure(*TINY))
    console = Console(file=io.StringIO(), width=width)
    describe(parts, console, typed)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_small_final_map_is_warned_of_only_where_the_user_chose_it() -> None:
    assert "warning" not in printed("epochs")
    assert "warning: the last stage sees a 1x1 map" in printed("model.stride_plan")
    assert "warning" in printed("dataset.resolution")


def test_what_is_ones_own_is_named_by_its_functions_and_counts_are_told_by_their_extremes() -> None:
    own = (f"model.factory={HERE}:own_network", f"dataset.factory={HERE}:own_images")
    config = configure("model=custom", "dataset=custom", *own, "batch_size=32", "device.threads=1", "epochs=1")
    assert config.title == f"{HERE}:own_network on {HERE}:own_images"
    rows = dict(plan_rows(build_run(config)))
    assert rows["per class"] == '3 ("ant") to 61 ("cow"; median 36) for training, 12 for testing'
    assert rows["left out"] == "4 images of each epoch, too few for another batch"
    assert rows["training"] == "1 epoch, 3 updates of 32 images"
    assert rows["device"].startswith("cpu, 1 thread, ")


def test_nothing_is_left_out_of_whole_batches() -> None:
    parts = build_run(configure(*TINY))
    assert len(parts.dataset.train) % 32 == 0
    assert "left out" not in dict(plan_rows(parts))
    assert class_counts(parts.dataset) == "16 for training, 16 for testing"


@pytest.mark.parametrize(
    ("words", "length"),
    [
        (["budget=10m"], "10m in updates of 32 images"),
        (["budget=10m", "max_updates=3"], "10m or 1 epoch, 3 updates of 32 images"),
    ],
)
def test_the_length_of_a_run_with_a_budget_is_its_time_and_what_else_limits_it(words: list[str], length: str) -> None:
    typed = [word for word in TINY if not word.startswith("epochs")]
    assert dict(plan_rows(build_run(configure(*typed, *words))))["training"] == length
