"""Which strides stay, and how wide the final map is."""

import pytest
import torch

from mobilenet_train.models import NETWORKS, StridePlan
from mobilenet_train.models.strides import plan_strides

PUBLISHED = (2, 1, 2, 2, 1, 2, 2, 1)  # as in every MobileNet, five of stride 2


@pytest.mark.parametrize(
    ("resolution", "dropped", "final_map"),
    [
        *[(224, 0, 7), (192, 0, 6), (128, 0, 4), (96, 0, 3), (95, 1, 6), (64, 1, 4), (48, 2, 6), (33, 2, 5)],
        *[(32, 2, 4), (28, 2, 4), (16, 3, 4), (8, 4, 4), (4, 5, 4), (3, 5, 3), (1, 5, 1)],
    ],
)
def test_auto_keeps_published_strides_from_96_pixels_and_else_a_map_of_at_least_4(
    resolution: int, dropped: int, final_map: int
) -> None:
    plan = plan_strides(PUBLISHED, resolution, "auto")
    assert (plan.dropped, plan.final_map) == (dropped, final_map)


@pytest.mark.parametrize(
    ("resolution", "final_map"), [(224, 7), (225, 8), (33, 2), (32, 1)], ids=["224", "225", "33", "32"]
)
def test_imagenet_keeps_every_stride_and_maps_round_up(resolution: int, final_map: int) -> None:
    assert plan_strides(PUBLISHED, resolution, "imagenet") == StridePlan(0, PUBLISHED, final_map)


def test_a_number_drops_that_many_of_the_earliest_strides() -> None:
    assert plan_strides(PUBLISHED, 32, 2) == StridePlan(2, (1, 1, 1, 2, 1, 2, 2, 1), 4)
    assert plan_strides(PUBLISHED, 32, 5) == StridePlan(5, (1,) * 8, 32)


@pytest.mark.parametrize("choice", [-1, 6, "2", "keep", True, 1.0])
def test_unknown_stride_plan_is_refused_with_what_is_allowed(choice: str | int) -> None:
    with pytest.raises(ValueError, match=rf"stride_plan={choice!r}.*'auto', 'imagenet' or .* 0 to 5"):
        plan_strides(PUBLISHED, 32, choice)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("choice", ["auto", "imagenet", 0, 1, 2, 3, 4, 5])
@torch.inference_mode()
def test_network_records_the_plan_and_its_maps_have_the_promised_size(name: str, choice: str | int) -> None:
    model = NETWORKS[name](resolution=40, stride_plan=choice, num_classes=10, width_mult=0.1).eval()
    maps = model.features(torch.zeros(1, 3, 40, 40))
    assert maps.shape[2:] == (model.stride_plan.final_map,) * 2
    assert sum(stride == 2 for stride in model.stride_plan.strides) == 5 - model.stride_plan.dropped
