"""The same weights give the same logits as torchvision's and timm's networks."""

import pytest
import timm
import torch
import torchvision
from timm.models.mobilenetv3 import _gen_mobilenet_v3
from torch import nn

from mobilenet_train.models import NETWORKS, MobileNet
from mobilenet_train.weights.pretrained import Weights, start_from
from mobilenet_train.weights.timm_names import from_timm

RESOLUTION = 64


def randomise_norms(model: nn.Module) -> None:
    """Make every batch-norm matter: new ones are nearly the identity in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.1)


def build(name: str, **options: object) -> MobileNet:
    return NETWORKS[name](resolution=RESOLUTION, stride_plan="imagenet", **options)


@torch.no_grad()
def assert_same_logits(ours: nn.Module, theirs: nn.Module) -> None:
    """In float64: with random norms some networks' logits are so large that float32 rounds them by more."""
    images = torch.randn(2, 3, RESOLUTION, RESOLUTION, dtype=torch.float64)
    expected = theirs.double().eval()(images)
    assert expected.std() > 1e-3  # a network that maps everything to its bias would agree with any other
    torch.testing.assert_close(ours.double().eval()(images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs", "width"),
    [("v2", "mobilenet_v2", width) for width in (0.35, 0.5, 0.75, 1.0, 1.4)]
    + [("v3_large", "mobilenet_v3_large", 1.0), ("v3_small", "mobilenet_v3_small", 1.0)],
)
def test_torchvision_weights_load_both_ways_and_give_the_same_logits(ours: str, theirs: str, width: float) -> None:
    torch.manual_seed(0)
    peer = getattr(torchvision.models, theirs)(width_mult=width)
    randomise_norms(peer)
    model = build(ours, width_mult=width)
    model.load_state_dict(peer.state_dict(), strict=True)
    assert_same_logits(model, peer)

    model = build(ours, width_mult=width)
    randomise_norms(model)
    peer.load_state_dict(model.state_dict(), strict=True)
    assert_same_logits(model, peer)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("v2", "mobilenet_v2"), ("v3_large", "mobilenet_v3_large"), ("v3_small", "mobilenet_v3_small")],
)
def test_norms_and_dropout_have_torchvisions_settings(ours: str, theirs: str) -> None:
    def settings(model: nn.Module) -> list[tuple[str, float, float]]:
        return [
            (name, module.p, 0.0) if isinstance(module, nn.Dropout) else (name, module.eps, module.momentum)
            for name, module in model.named_modules()
            if isinstance(module, nn.BatchNorm2d | nn.Dropout)
        ]

    assert settings(build(ours)) == settings(getattr(torchvision.models, theirs)())


@pytest.mark.parametrize(
    ("ours", "theirs", "width"),
    [("v1", "mobilenetv1_100", 1.0), ("v1", "mobilenetv1_125", 1.25)]
    + [("v2", f"mobilenetv2_{round(100 * width):03}", width) for width in (0.35, 0.5, 0.75, 1.0, 1.4)]
    + [("v3_large", f"mobilenetv3_large_{round(100 * width):03}", width) for width in (0.75, 1.0)]
    + [("v3_small", f"mobilenetv3_small_{round(100 * width):03}", width) for width in (0.5, 0.75, 1.0)],
)
def test_timms_weights_give_timms_logits_whatever_the_epsilon(ours: str, theirs: str, width: float) -> None:
    torch.manual_seed(0)
    peer = timm.create_model(theirs, pretrained=False).double()
    randomise_norms(peer)
    model = build(ours, width_mult=width, norm_eps=1e-3).double()  # timm's is 1e-5
    weights = Weights(from_timm(ours, peer.state_dict()), norm_eps=1e-5)
    message = start_from(model, ours, "timm's", weights, tuple(map(str, range(1000))))
    assert message.endswith("last layer kept")
    assert_same_logits(model, peer)


@pytest.mark.parametrize("width", [0.35, 0.5, 1.25, 1.5])
@pytest.mark.parametrize("ours", ["v3_large", "v3_small"])
def test_v3_of_widths_that_timm_only_could_build_gives_timms_logits(ours: str, width: float) -> None:
    torch.manual_seed(0)
    peer = _gen_mobilenet_v3(f"mobilenet{ours}_100", width)
    randomise_norms(peer)
    model = build(ours, width_mult=width, norm_eps=1e-5)  # timm's epsilon
    model.load_state_dict(from_timm(ours, peer.state_dict()), strict=True)
    assert_same_logits(model, peer)
