"""The maps that detectors take: the right layers, at any resolution, with gradients."""

import pytest
import torch

from mobilenet_train.models import NETWORKS
from mobilenet_train.models.features import feature_maps


@pytest.mark.parametrize(
    ("name", "channels"),
    [("v1", [256, 512, 1024]), ("v2", [32, 96, 320]), ("v3_large", [40, 112, 160]), ("v3_small", [24, 48, 96])],
)
def test_channels_and_sizes_are_those_that_detectors_expect(name: str, channels: list[int]) -> None:
    with torch.device("meta"):
        model = NETWORKS[name]()
        maps = feature_maps(model, torch.empty(2, 3, 416, 320))
    shapes = [(2, count, 416 // stride, 320 // stride) for count, stride in zip(channels, (8, 16, 32), strict=True)]
    assert [tuple(x.shape) for x in maps] == shapes


def test_the_last_map_leads_to_the_networks_own_logits_and_gradients_flow() -> None:
    model = NETWORKS["v3_small"](num_classes=3, resolution=64, width_mult=0.25, stride_plan="imagenet").eval()
    images = torch.randn(2, 3, 64, 64)
    (last,) = feature_maps(model, images, (32,))
    logits = model.classifier(model.features[-1](last).mean((2, 3)))
    assert torch.equal(logits, model(images))
    feature_maps(model, images, (8,))[0].sum().backward()
    assert model.features[0][0].weight.grad.abs().sum() > 0


def test_maps_come_in_the_order_asked_for_and_a_missing_stride_is_named() -> None:
    model = NETWORKS["v3_small"](num_classes=3, resolution=32, width_mult=0.25)
    coarse, fine = feature_maps(model, torch.randn(1, 3, 32, 32), (8, 2))
    assert (coarse.shape[2], fine.shape[2]) == (4, 16)
    with pytest.raises(ValueError, match=r"no map of stride 16, 32; it has 1, 2, 4, 8"):
        feature_maps(model, torch.randn(1, 3, 32, 32))
