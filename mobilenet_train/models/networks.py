"""The four MobileNets, each a table to be read beside its paper."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from math import isfinite
from typing import Any, Self

from torch import Tensor, nn

from mobilenet_train.models.blocks import (
    ACTIVATIONS,
    SENET_EXCITATION,
    V3_EXCITATION,
    BottleneckShape,
    ConvNormActivation,
    DepthwiseSeparable,
    InvertedResidualV2,
    InvertedResidualV3,
    initialise,
    round_channels,
)
from mobilenet_train.models.strides import StridePlan, plan_strides

# MobileNets (arXiv:1704.04861), Table 1: the 13 depthwise-separable blocks after the 32-channel convolution.
# The table prints stride 2 for the last depthwise layer; its 7x7 input and output show that 1 is meant.
#  out  stride
V1 = [
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
]

# MobileNetV2 (arXiv:1801.04381), Table 2: the stages between the 32-channel and the 1280-channel convolution.
#  expansion (a factor)  out  repeats  stride (of a stage's first block)
V2 = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]

# Searching for MobileNetV3 (arXiv:1905.02244), Tables 1 and 2: the blocks after the 16-channel convolution.
# Expansions are channels at width 1, as printed.
#  kernel  expansion  out  SE  activation  stride
V3Table = list[tuple[int, int, int, bool, str, int]]
V3_LARGE: V3Table = [
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hard_swish", 2),
    (3, 200, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 480, 112, True, "hard_swish", 1),
    (3, 672, 112, True, "hard_swish", 1),
    (5, 672, 160, True, "hard_swish", 2),
    (5, 960, 160, True, "hard_swish", 1),
    (5, 960, 160, True, "hard_swish", 1),
]
V3_SMALL: V3Table = [
    (3, 16, 16, True, "relu", 2),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hard_swish", 2),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 120, 48, True, "hard_swish", 1),
    (5, 144, 48, True, "hard_swish", 1),
    (5, 288, 96, True, "hard_swish", 2),
    (5, 576, 96, True, "hard_swish", 1),
    (5, 576, 96, True, "hard_swish", 1),
]

STEM_STRIDE = 2


class MobileNet(nn.Module):
    """A MobileNet: (N, in_channels, H, W) float images -> (N, num_classes) logits.

    `features` makes the final maps, their mean over the positions goes through `classifier`.
    `stride_plan` is how it was built; `frozen` is how many of `features` no longer learn.
    """

    def __init__(
        self,
        features: Iterable[nn.Module],
        classifier: Iterable[nn.Module],
        stride_plan: StridePlan,
        norm_eps: float,
        norm_momentum: float,
        depthwise_init: str,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(*classifier)
        self.stride_plan = stride_plan
        self.frozen = 0
        initialise(self, norm_eps=norm_eps, norm_momentum=norm_momentum, depthwise_init=depthwise_init)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean((2, 3)))

    def freeze(self, count: int) -> None:
        """The first `count` of `features` no longer learn; their norms keep their statistics in training mode too."""
        self.frozen = count
        self.features[:count].requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.features[: self.frozen].eval()
        return self


def mobilenet_v1(
    *,
    num_classes: int = 1000,
    resolution: int = 224,
    in_channels: int = 3,
    width_mult: float = 1.0,
    stride_plan: str | int = "auto",
    dropout: float = 0.001,
    activation: str = "paper",
    norm_eps: float = 1e-5,
    norm_momentum: float = 0.1,
    depthwise_init: str = "torchvision",
    separable: bool = True,
    depth_multiplier: int = 1,
    padding: str = "symmetric",
    squeeze_excite: bool = False,
) -> MobileNet:
    """MobileNetV1 (arXiv:1704.04861, Table 1) for (N, in_channels, R, R) images.

    width_mult: scales all channels, rounded to multiples of 8.
    stride_plan: "auto", "imagenet" or how many of the earliest strides to drop (see `plan_strides`).
    dropout: share of the pooled features dropped; TF-slim keeps 0.999.
    activation: "paper" is ReLU6, as in TF-slim; else "relu", "relu6" or "hard_swish" throughout.
    norm_momentum: weight of the newest batch in batch-norm's running statistics.
    depthwise_init: of new depthwise kernels, "torchvision" or "timm" (see `initialise`).
    separable: False builds the paper's Conv MobileNet (Table 4), with standard 3x3 convolutions.
    depth_multiplier: outputs of a depthwise convolution per input channel, as in Keras.
    padding: of 3x3 convolutions at stride 2: "symmetric", or "tensorflow" as TensorFlow's `same` (see `TFConv2d`).
    squeeze_excite: SENet's squeeze-and-excite after every pointwise convolution.
    Raises ValueError for a value out of range.
    """
    _check_options(num_classes, width_mult, dropout, activation)
    _check_convolutions(separable, depth_multiplier, squeeze_excite)
    plan = plan_strides([STEM_STRIDE, *(stride for _, stride in V1)], resolution, stride_plan)
    block: Callable[..., nn.Module] = partial(ConvNormActivation, kernel=3)
    if separable:
        excitation = SENET_EXCITATION if squeeze_excite else None
        block = partial(DepthwiseSeparable, depth_multiplier=depth_multiplier, excitation=excitation)
    shared: dict[str, Any] = {"activation": "relu6" if activation == "paper" else activation, "padding": padding}
    channels = [round_channels(width_mult * out) for out in (32, *(out for out, _ in V1))]
    stem = ConvNormActivation(in_channels, channels[0], 3, stride=plan.strides[0], **shared)
    pairs = zip(pairwise(channels), plan.strides[1:], strict=True)
    blocks = [block(*pair, stride=stride, **shared) for pair, stride in pairs]
    head = [nn.Dropout(dropout), nn.Linear(channels[-1], num_classes)]
    return MobileNet([stem, *blocks], head, plan, norm_eps, norm_momentum, depthwise_init)


def _check_convolutions(separable: bool, depth_multiplier: int, squeeze_excite: bool) -> None:
    if depth_multiplier < 1:
        raise ValueError(f"depth_multiplier={depth_multiplier}: must be at least 1")
    if depth_multiplier > 1 and not separable:
        raise ValueError(f"depth_multiplier={depth_multiplier}: must be 1 where separable is False")
    if squeeze_excite and not separable:
        raise ValueError("squeeze_excite=True: must be False where separable is False")


def mobilenet_v2(
    *,
    num_classes: int = 1000,
    resolution: int = 224,
    in_channels: int = 3,
    width_mult: float = 1.0,
    stride_plan: str | int = "auto",
    dropout: float = 0.2,
    activation: str = "paper",
    norm_eps: float = 1e-5,
    norm_momentum: float = 0.1,
    depthwise_init: str = "torchvision",
    squeeze_excite: bool = False,
) -> MobileNet:
    """MobileNetV2 (arXiv:1801.04381, Table 2) for (N, in_channels, R, R) images.

    width_mult: scales all channels, rounded to multiples of 8; the last convolution's 1280 only grow.
    stride_plan: "auto", "imagenet" or how many of the earliest strides to drop (see `plan_strides`).
    dropout: share of the pooled features dropped.
    activation: "paper" is ReLU6; else "relu", "relu6" or "hard_swish" throughout.
    norm_momentum: weight of the newest batch in batch-norm's running statistics.
    depthwise_init: of new depthwise kernels, "torchvision" or "timm" (see `initialise`).
    squeeze_excite: SENet's squeeze-and-excite after every depthwise convolution.

    Parameters are named as in torchvision's `mobilenet_v2`. Raises ValueError for a value out of range.
    """
    _check_options(num_classes, width_mult, dropout, activation)
    nonlinearity = "relu6" if activation == "paper" else activation
    blocks = [(t, out, stride if repeat == 0 else 1) for t, out, repeats, stride in V2 for repeat in range(repeats)]
    plan = plan_strides([STEM_STRIDE, *(stride for _, _, stride in blocks)], resolution, stride_plan)

    channels = round_channels(32 * width_mult)
    stem = ConvNormActivation(in_channels, channels, 3, stride=plan.strides[0], activation=nonlinearity)
    features: list[nn.Module] = [stem]
    excitation = SENET_EXCITATION if squeeze_excite else None
    for (expansion, out, _), stride in zip(blocks, plan.strides[1:], strict=True):
        expanded, out_channels = expansion * channels, round_channels(out * width_mult)
        shape = BottleneckShape(channels, expanded, out_channels, stride, nonlinearity, excitation=excitation)
        features.append(InvertedResidualV2(shape))
        channels = out_channels
    last = round_channels(1280 * max(1.0, width_mult))
    features.append(ConvNormActivation(channels, last, 1, activation=nonlinearity))
    classifier = [nn.Dropout(dropout), nn.Linear(last, num_classes)]
    return MobileNet(features, classifier, plan, norm_eps, norm_momentum, depthwise_init)


def _mobilenet_v3(
    table: V3Table,
    last_table_channels: int,
    hidden_table_channels: int,
    /,
    *,
    num_classes: int = 1000,
    resolution: int = 224,
    in_channels: int = 3,
    width_mult: float = 1.0,
    stride_plan: str | int = "auto",
    dropout: float = 0.2,
    activation: str = "paper",
    norm_eps: float = 1e-3,
    norm_momentum: float = 0.01,
    depthwise_init: str = "torchvision",
    squeeze_excite: bool = True,
    wide_head: bool = False,
    kernel: str | int = "paper",
) -> MobileNet:
    """Either MobileNetV3 from its blocks, last 1x1 convolution and last hidden layer, all at width 1."""
    _check_options(num_classes, width_mult, dropout, activation)
    hard_swish = "hard_swish" if activation == "paper" else activation
    plan = plan_strides([STEM_STRIDE, *(row[-1] for row in table)], resolution, stride_plan)

    table_channels = 16
    channels = 16 if width_mult < 0.75 else round_channels(16 * width_mult)
    features: list[nn.Module] = [
        ConvNormActivation(in_channels, channels, 3, stride=plan.strides[0], activation=hard_swish)
    ]
    for (side, expansion, out, excite, printed, _), stride in zip(table, plan.strides[1:], strict=True):
        expanded, out_channels = round_channels(expansion * channels / table_channels), round_channels(out * width_mult)
        nonlinearity = printed if activation == "paper" else activation
        excitation = V3_EXCITATION if excite and squeeze_excite else None
        side = side if kernel == "paper" else int(kernel)
        shape = BottleneckShape(channels, expanded, out_channels, stride, nonlinearity, side, excitation)
        features.append(InvertedResidualV3(shape))
        table_channels, channels = out, out_channels
    last = round_channels(last_table_channels * width_mult)
    features.append(ConvNormActivation(channels, last, 1, activation=hard_swish))
    hidden = round_channels(hidden_table_channels * (max(1.0, width_mult) if wide_head else 1))
    to_hidden = [nn.Linear(last, hidden), ACTIVATIONS[hard_swish](inplace=True)]
    classifier = [*to_hidden, nn.Dropout(dropout), nn.Linear(hidden, num_classes)]
    return MobileNet(features, classifier, plan, norm_eps, norm_momentum, depthwise_init)


# partial, so that the options and their defaults stand once
mobilenet_v3_large = partial(_mobilenet_v3, V3_LARGE, 960, 1280)
mobilenet_v3_large.__doc__ = """MobileNetV3-Large (arXiv:1905.02244, Table 1) for (N, in_channels, R, R) images.

width_mult: scales all channels as timm does, rounded to multiples of 8. Expansions keep their ratio to
    the rounded input, the last hidden layer its 1280, the first convolution its 16 channels below 0.75.
stride_plan: "auto", "imagenet" or how many of the earliest strides to drop (see `plan_strides`).
dropout: share of the last hidden layer dropped.
activation: "paper" is ReLU and hard-swish by the table; else "relu", "relu6" or "hard_swish"
    throughout (squeeze-and-excite keeps its ReLU and hard-sigmoid).
norm_momentum: weight of the newest batch in batch-norm's running statistics.
squeeze_excite: False leaves out every squeeze-and-excite.
depthwise_init: of new depthwise kernels, "torchvision" or "timm" (see `initialise`).
wide_head: the last hidden layer grows with widths above 1.
kernel: "paper", or the side of every depthwise convolution's kernel, an odd number.

Parameters are named as in torchvision's `mobilenet_v3_large`. Raises ValueError for a value out of range.
"""

mobilenet_v3_small = partial(_mobilenet_v3, V3_SMALL, 576, 1024)
mobilenet_v3_small.__doc__ = """MobileNetV3-Small (arXiv:1905.02244, Table 2) for (N, in_channels, R, R) images.

Options as for `mobilenet_v3_large`, 1024 for 1280.
Parameters are named as in torchvision's `mobilenet_v3_small`. Raises ValueError for a value out of range.
"""


def _check_options(num_classes: int, width_mult: float, dropout: float, activation: str) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: must be at least 1")
    if not (isfinite(width_mult) and width_mult > 0):
        raise ValueError(f"width_mult={width_mult}: must be a finite number above 0")
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout={dropout}: must be from 0 to 1")
    if activation != "paper" and activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: must be one of {', '.join(['paper', *ACTIVATIONS])}")


NETWORKS: dict[str, Callable[..., MobileNet]] = {
    "v1": mobilenet_v1,
    "v2": mobilenet_v2,
    "v3_large": mobilenet_v3_large,
    "v3_small": mobilenet_v3_small,
}
