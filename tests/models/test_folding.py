"""Folding batch-norm changes the time of an evaluation, not its logits."""

from typing import Any

import pytest
import torch
from torch import nn

from mobilenet_train.models import NETWORKS, folded


def trained(name: str, **options: Any) -> nn.Module:
    """A small network in float64 whose norms have statistics, weights and biases of their own."""
    model = NETWORKS[name](num_classes=5, resolution=32, width_mult=0.25, **options).double()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
    return model


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v1", {}),
        ("v1", {"padding": "tensorflow"}),
        ("v1", {"separable": False}),
        ("v2", {}),
        ("v3_large", {}),
        ("v3_small", {"squeeze_excite": False}),
        ("v3_small", {"activation": "relu6"}),
    ],
)
def test_the_logits_stay_and_every_norm_of_our_networks_is_gone(name: str, options: dict[str, Any]) -> None:
    model = trained(name, **options).train()
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    copy = folded(model)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in copy.modules())
    assert model.training
    with torch.no_grad():
        torch.testing.assert_close(copy(images), model.eval()(images), rtol=1e-9, atol=1e-9)


def test_layers_that_are_not_ours_stay_as_they_are() -> None:
    theirs = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    copy = folded(nn.Sequential(theirs, NETWORKS["v2"](num_classes=5, resolution=32, width_mult=0.25)))
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in copy.modules()) == 1
