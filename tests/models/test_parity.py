"""The same weights give the same logits as torchvision's and timm's networks."""

import re

import pytest
import timm
import torch
import torchvision
from timm.models.mobilenetv3 import _gen_mobilenet_v3
from torch import Tensor, nn

from mobilenet_train.models import NETWORKS, MobileNet

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


# timm's name -> ours, inside a block; the block's own number comes from its position
TIMM_V1_BLOCK = {
    "conv_dw": "depthwise.0",
    "bn1": "depthwise.1",
    "conv_pw": "pointwise.0",
    "bn2": "pointwise.1",
}


def from_timm_v1(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's MobileNetV1 state under our names."""
    blocks = block_numbers(state)
    renamed = {}
    for key, value in state.items():
        if block := re.fullmatch(r"blocks\.(\d+\.\d+)\.(\w+)\.(\w+)", key):
            position, layer, tensor = block.groups()
            key = f"features.{blocks[position]}.{TIMM_V1_BLOCK[layer]}.{tensor}"
        key = key.replace("conv_stem", "features.0.0").replace("classifier.", "classifier.1.")
        renamed[re.sub(r"^bn1", "features.0.1", key)] = value
    return renamed


def from_timm_v3(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's MobileNetV3 state under our names."""
    blocks = block_numbers(state)
    last = len(blocks)
    renamed = {}
    for key, value in state.items():
        if block := re.fullmatch(r"blocks\.(\d+\.\d+)\.([\w.]+)\.(\w+)", key):
            position, layer, tensor = block.groups()
            if blocks[position] == last:
                key = f"features.{last}.{ {'conv': 0, 'bn1': 1}[layer] }.{tensor}"
            else:
                layers = timm_v3_block(
                    expands=f"blocks.{position}.conv_pwl.weight" in state,
                    excites=f"blocks.{position}.se.conv_reduce.weight" in state,
                )
                key = f"features.{blocks[position]}.block.{layers[layer]}.{tensor}"
        key = key.replace("conv_stem", "features.0.0").replace("classifier.", "classifier.3.")
        key = re.sub(r"^bn1", "features.0.1", key)
        if key.startswith("conv_head"):  # a 1x1 convolution on the pooled map: a fully connected layer
            key, value = (
                key.replace("conv_head", "classifier.0"),
                value.flatten(1) if value.ndim > 1 else value,
            )
        renamed[key] = value
    return renamed


def timm_v3_block(*, expands: bool, excites: bool) -> dict[str, str]:
    """timm's name -> ours for the layers of one block; without expansion timm numbers and names otherwise."""
    depthwise, projection = int(expands), int(expands) + 1 + int(excites)
    names = {"se.conv_reduce": f"{depthwise + 1}.fc1", "se.conv_expand": f"{depthwise + 1}.fc2"}
    convolutions = ["conv_pw", "conv_dw", "conv_pwl"] if expands else ["conv_dw", "conv_pw"]
    positions = [0, depthwise, projection] if expands else [depthwise, projection]
    for number, (convolution, position) in enumerate(zip(convolutions, positions, strict=True), start=1):
        names |= {convolution: f"{position}.0", f"bn{number}": f"{position}.1"}
    return names


def block_numbers(state: dict[str, Tensor]) -> dict[str, int]:
    """timm's "stage.block" -> our position in `features`, which counts from 1 after the stem."""
    positions = dict.fromkeys(match[1] for key in state if (match := re.match(r"blocks\.(\d+\.\d+)\.", key)))
    return {position: number for number, position in enumerate(positions, start=1)}


@pytest.mark.parametrize(("theirs", "width"), [("mobilenetv1_100", 1.0), ("mobilenetv1_125", 1.25)])
def test_v1_with_timms_weights_gives_timms_logits(theirs: str, width: float) -> None:
    torch.manual_seed(0)
    peer = timm.create_model(theirs, pretrained=False)
    randomise_norms(peer)
    model = build("v1", width_mult=width)
    model.load_state_dict(from_timm_v1(peer.state_dict()), strict=True)
    assert_same_logits(model, peer)


@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.0, 1.25, 1.5])
@pytest.mark.parametrize("ours", ["v3_large", "v3_small"])
def test_v3_of_every_width_with_timms_weights_gives_timms_logits(ours: str, width: float) -> None:
    torch.manual_seed(0)
    peer = _gen_mobilenet_v3(f"mobilenet{ours}_100", width)
    randomise_norms(peer)
    model = build(ours, width_mult=width, norm_eps=1e-5)  # timm's epsilon
    model.load_state_dict(from_timm_v3(peer.state_dict()), strict=True)
    assert_same_logits(model, peer)
