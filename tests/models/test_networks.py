"""What the options of the networks do, and which values they refuse."""

import math

import pytest
import torch
from torch import nn

from mobilenet_train.models import NETWORKS, mobilenet_v1, mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small
from mobilenet_train.models.blocks import (
    SENET_EXCITATION,
    DepthwiseSeparable,
    InvertedResidualV2,
    InvertedResidualV3,
    SqueezeExcitation,
    round_channels,
)


def count(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize("options", [{}, {"width_mult": 0.25, "activation": "hard_swish"}], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_network_learns_from_a_batch_at_32_pixels(name: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name](num_classes=10, resolution=32, **options)
    logits = model(torch.randn(4, 3, 32, 32))
    nn.functional.cross_entropy(logits, torch.tensor([0, 3, 6, 9])).backward()
    assert logits.shape == (4, 10)
    assert torch.isfinite(logits).all()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", NETWORKS)
def test_same_seed_gives_the_same_weights(name: str) -> None:
    def weights() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return list(NETWORKS[name](num_classes=10, width_mult=0.25).parameters())

    assert all(torch.equal(first, second) for first, second in zip(weights(), weights(), strict=True))


def test_new_weights_have_the_documented_spread() -> None:
    torch.manual_seed(0)
    model = mobilenet_v3_large()
    expansion = model.features[15].get_submodule("block.0.0").weight
    assert expansion.std().item() == pytest.approx(math.sqrt(2 / expansion.shape[0]), rel=0.02)
    assert model.classifier[3].weight.std().item() == pytest.approx(0.01, rel=0.02)
    biases = [tensor for key, tensor in model.named_parameters() if key.endswith("bias")]
    assert all(not bias.any() for bias in biases)


def test_v3_large_has_15_bottlenecks_v3_small_11_v2_17_and_v1_13_blocks() -> None:
    with torch.device("meta"):
        assert count(mobilenet_v3_large(), InvertedResidualV3) == 15
        assert count(mobilenet_v3_small(), InvertedResidualV3) == 11
        assert count(mobilenet_v2(), InvertedResidualV2) == 17
        assert count(mobilenet_v1(), DepthwiseSeparable) == 13


@pytest.mark.parametrize(
    ("asked", "rounded"),
    [(16, 16), (11.2, 16), (12, 16), (18, 24), (19.9, 24), (20, 24), (1, 8), (33.6, 32), (44.8, 48)],
)
def test_channels_are_multiples_of_8_and_at_least_90_percent_of_the_asked(asked: float, rounded: int) -> None:
    assert round_channels(asked) == rounded


def test_squeeze_excite_off_leaves_out_every_gate_and_nothing_else() -> None:
    with torch.device("meta"):
        assert count(mobilenet_v3_large(), SqueezeExcitation) == 8
        assert count(mobilenet_v3_small(), SqueezeExcitation) == 9
        for build in (mobilenet_v3_large, mobilenet_v3_small):
            plain, excited = build(squeeze_excite=False), build()
            assert count(plain, SqueezeExcitation) == 0
            assert count(plain, nn.BatchNorm2d) == count(excited, nn.BatchNorm2d)


def test_squeeze_excitation_is_the_two_convolutions_of_its_parameters() -> None:
    torch.manual_seed(0)
    gate, maps = SqueezeExcitation(24), torch.randn(2, 24, 5, 5)
    squeezed = nn.functional.relu(gate.fc1(nn.functional.adaptive_avg_pool2d(maps, 1)))
    expected = maps * nn.functional.hardsigmoid(gate.fc2(squeezed))
    torch.testing.assert_close(gate(maps), expected)


@pytest.mark.parametrize(("activation", "kind"), [("relu", nn.ReLU), ("relu6", nn.ReLU6), ("hard_swish", nn.Hardswish)])
@pytest.mark.parametrize("name", NETWORKS)
def test_activation_replaces_every_activation_of_the_network(name: str, activation: str, kind: type[nn.Module]) -> None:
    with torch.device("meta"):
        paper, changed = NETWORKS[name](), NETWORKS[name](activation=activation)
    kinds = (nn.ReLU, nn.ReLU6, nn.Hardswish)
    found = [module for module in changed.modules() if isinstance(module, kinds)]
    assert {type(module) for module in found} == {kind}
    assert len(found) == sum(isinstance(module, kinds) for module in paper.modules())


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("v1", {nn.ReLU6}), ("v2", {nn.ReLU6}), ("v3_large", {nn.ReLU, nn.Hardswish})],
    ids=["v1", "v2", "v3_large"],
)
def test_paper_activations_are_the_papers(name: str, kinds: set[type[nn.Module]]) -> None:
    with torch.device("meta"):
        model = NETWORKS[name]()
    found = {type(module) for module in model.modules()}
    assert found & {nn.ReLU, nn.ReLU6, nn.Hardswish} == kinds


def test_depth_multiplier_multiplies_the_outputs_of_depthwise_convolutions_only() -> None:
    with torch.device("meta"):
        single, double = mobilenet_v1(), mobilenet_v1(depth_multiplier=2)
    block = double.features[1]
    assert block.depthwise[0].weight.shape == (64, 1, 3, 3)
    assert block.pointwise[0].weight.shape == (64, 64, 1, 1)

    def weights(model: nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    # Each block's depthwise convolution, its norm (scale and bias) and its pointwise inputs once more.
    blocks = [child for child in single.features if isinstance(child, DepthwiseSeparable)]
    extra = sum(weights(block.depthwise) + block.pointwise[0].weight.numel() for block in blocks)
    assert weights(double) - weights(single) == extra


def test_depth_multiplied_network_gives_logits() -> None:
    model = mobilenet_v1(num_classes=7, resolution=32, width_mult=0.25, depth_multiplier=2)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_standard_convolutions_replace_each_separable_block_by_one() -> None:
    with torch.device("meta"):
        model = mobilenet_v1(separable=False)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 14
    assert {(layer.kernel_size, layer.groups) for layer in convolutions} == {((3, 3), 1)}


def test_norm_and_dropout_options_reach_their_layers() -> None:
    with torch.device("meta"):
        models = [build(norm_eps=1e-4, norm_momentum=0.05, dropout=0.4) for build in NETWORKS.values()]
    for model in models:
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-4, 0.05)}
        assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.4]


def test_timms_depthwise_kernels_start_larger_by_the_root_of_their_channels() -> None:
    """timm counts the outputs of one group: 9 for a 3x3 kernel, where torchvision counts 9 x 512."""
    stds = []
    for rule in ("torchvision", "timm"):
        torch.manual_seed(0)
        model = mobilenet_v1(num_classes=2, resolution=32, depthwise_init=rule)
        stds.append((model.features[8].depthwise[0].weight.std().item(), model.features[8].pointwise[0].weight.std()))
    (torchvisions, pointwise), (timms, same) = stds
    assert torchvisions == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.05)
    assert timms == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert pointwise == same


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("width", [0.01, 0.33, 1.1, 2.0, 3])
def test_any_positive_width_builds_channels_in_multiples_of_8(name: str, width: float) -> None:
    with torch.device("meta"):
        model = NETWORKS[name](width_mult=width)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(layer.out_channels % 8 == 0 for layer in convolutions)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width_mult": 0}, "width_mult=0: must be a finite number above 0"),
        ({"width_mult": -1.0}, "width_mult=-1.0: must be"),
        ({"width_mult": math.nan}, "width_mult=nan: must be"),
        ({"width_mult": math.inf}, "width_mult=inf: must be"),
        ({"activation": "gelu"}, "activation='gelu': must be one of paper, relu, relu6, hard_swish"),
        ({"num_classes": 0}, "num_classes=0: must be at least 1"),
        ({"resolution": 0}, "resolution=0: must be at least 1 pixel"),
        ({"stride_plan": 6}, "stride_plan=6: must be 'auto', 'imagenet' or a number from 0 to 5"),
        ({"dropout": 1.5}, "dropout=1.5: must be from 0 to 1"),
    ],
    ids=str,
)
def test_value_out_of_range_is_refused_by_name_with_what_is_allowed(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        NETWORKS[name](**options)


def test_depth_multiplier_is_refused_below_1_or_without_depthwise_convolutions() -> None:
    with pytest.raises(ValueError, match="depth_multiplier=0: must be at least 1"):
        mobilenet_v1(depth_multiplier=0)
    with pytest.raises(ValueError, match="depth_multiplier=2: must be 1 where separable is False"):
        mobilenet_v1(depth_multiplier=2, separable=False)


# counted by hand: of C channels squeezed to S = C / 16, a multiple of 8, there are 2 C S + C + S parameters a gate
@pytest.mark.parametrize(
    ("name", "options", "gates", "parameters"),
    [
        ("v1", {}, 0, 4_231_976),
        ("v1", {"squeeze_excite": True}, 13, 4_718_560),
        ("v2", {}, 0, 3_504_872),
        ("v2", {"squeeze_excite": True}, 17, 4_122_816),
        ("v3_small", {"kernel": 3}, 9, 2_506_376),
    ],
)
def test_ablations_have_the_parameters_counted_by_hand(
    name: str, options: dict[str, object], gates: int, parameters: int
) -> None:
    with torch.device("meta"):
        model = NETWORKS[name](**options)
    assert count(model, SqueezeExcitation) == gates
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_senets_gate_is_a_sigmoid_of_a_sixteenth_of_the_channels() -> None:
    gate, maps = SqueezeExcitation(256, SENET_EXCITATION), torch.randn(2, 256, 3, 3)
    assert gate.fc1.out_channels == 16
    squeezed = nn.functional.relu(gate.fc1(nn.functional.adaptive_avg_pool2d(maps, 1)))
    assert torch.allclose(gate(maps), maps * gate.fc2(squeezed).sigmoid(), atol=1e-6)


def test_squeeze_excite_stands_where_senet_has_it() -> None:
    v1, v2 = mobilenet_v1(squeeze_excite=True), mobilenet_v2(squeeze_excite=True)
    assert v1.features[1].squeeze_excite.fc1.in_channels == 64  # what the pointwise convolution gives
    assert [type(layer).__name__ for layer in v2.features[2].conv] == [
        *("ConvNormActivation", "ConvNormActivation", "SqueezeExcitation", "Conv2d", "BatchNorm2d")
    ]
    with pytest.raises(ValueError, match="squeeze_excite=True: must be False where separable is False"):
        mobilenet_v1(squeeze_excite=True, separable=False)
