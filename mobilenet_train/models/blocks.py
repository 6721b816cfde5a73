"""The building blocks of the MobileNets; parameter names are torchvision's, so that its weights load."""

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from mobilenet_train.kernels import dispatch as kernels
from mobilenet_train.models.layers import BatchNorm2d, convolution_norm, linear, unnoticed

ACTIVATIONS: dict[str, type[nn.ReLU] | type[nn.ReLU6] | type[nn.Hardswish]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hard_swish": nn.Hardswish,
}


def round_channels(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels`, but never below 90 % of it (nor below `divisor`).

    This is the rule of Google's MobileNetV2 and V3 code; halves round up.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class TFConv2d(nn.Conv2d):
    """A convolution at stride 2 padded as TensorFlow's `same`: one pixel less above and left of an even side.

    (N, C, H, W) -> (N, out_channels, ceil(H / 2), ceil(W / 2)).
    """

    def forward(self, x: Tensor) -> Tensor:
        down, across = ((self.kernel_size[0] - 2 + side % 2) for side in x.shape[2:])  # pixels added in all
        padded = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        return F.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


class ConvNormActivation(nn.Sequential):
    """Convolution without bias, batch-norm and, unless `activation` is None, an activation.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)); `kernel` is odd.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: str | None,
        padding: str = "symmetric",
    ) -> None:
        convolution = TFConv2d if padding == "tensorflow" and stride == 2 else nn.Conv2d
        layers: list[nn.Module] = [
            convolution(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
            BatchNorm2d(out_channels),
        ]
        if activation is not None:
            # hard-swish needs its input in the backward pass, so that in place it would copy it first
            layers.append(ACTIVATIONS[activation](inplace=activation != "hard_swish"))
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        convolution, *after = self
        return convolution_norm(x, (), convolution, after)


@dataclass(frozen=True)
class Excitation:
    """Kinds of squeeze-and-excite: channels are squeezed to a share, rounded to a multiple of 8."""

    share: float
    gate: str  # "hard_sigmoid" or "sigmoid"


V3_EXCITATION = Excitation(1 / 4, "hard_sigmoid")  # MobileNetV3, section 5.3
SENET_EXCITATION = Excitation(1 / 16, "sigmoid")  # Hu et al. 2018, "Squeeze-and-Excitation Networks", section 3


class SqueezeExcitation(nn.Module):
    """Scales each channel by a number in [0, 1] computed from the means of all: (N, channels, H, W) -> the same."""

    def __init__(self, channels: int, kind: Excitation = V3_EXCITATION) -> None:
        super().__init__()
        squeezed = round_channels(channels * kind.share)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.hard = kind.gate == "hard_sigmoid"

    def forward(self, x: Tensor) -> Tensor:
        if self.hard and unnoticed(self.fc1, nn.Conv2d) and unnoticed(self.fc2, nn.Conv2d):
            trained = kernels.squeeze_excite(x, self.fc1, self.fc2)
            if trained is not None:
                return trained
        squeezed = linear(self.fc2, F.relu(linear(self.fc1, x.mean((2, 3)))))
        scale = F.hardsigmoid(squeezed) if self.hard else F.sigmoid(squeezed)
        return x * scale[:, :, None, None]


class DepthwiseSeparable(nn.Module):
    """A 3x3 depthwise and a 1x1 pointwise convolution (MobileNets, Figure 3, right).

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)). The depthwise
    convolution makes `depth_multiplier` outputs from each input channel; squeeze-and-excite, if any, comes last.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        activation: str,
        depth_multiplier: int = 1,
        padding: str = "symmetric",
        excitation: Excitation | None = None,
    ) -> None:
        super().__init__()
        depthwise_channels = in_channels * depth_multiplier
        self.depthwise = ConvNormActivation(
            in_channels,
            depthwise_channels,
            3,
            stride=stride,
            groups=in_channels,
            activation=activation,
            padding=padding,
        )
        self.pointwise = ConvNormActivation(depthwise_channels, out_channels, 1, activation=activation)
        self.squeeze_excite = SqueezeExcitation(out_channels, excitation) if excitation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.squeeze_excite(self.pointwise(self.depthwise(x)))


@dataclass(frozen=True)
class BottleneckShape:
    """What an inverted residual of MobileNetV2 or V3 is built with."""

    in_channels: int
    expanded: int  # channels of the depthwise convolution
    out_channels: int
    stride: int
    activation: str
    kernel: int = 3
    excitation: Excitation | None = None

    @property
    def shortcut(self) -> bool:
        """Whether the input is added to the output: wherever their shapes agree."""
        return self.stride == 1 and self.in_channels == self.out_channels


def bottleneck_layers(shape: BottleneckShape) -> list[ConvNormActivation | SqueezeExcitation]:
    """Expansion (unless it would not expand), depthwise convolution, squeeze-and-excite, linear projection.

    MobileNetV2, Table 1 and Figure 4; with squeeze-and-excite MobileNetV3, Figure 4.
    """
    expanded, activation = shape.expanded, shape.activation
    layers: list[ConvNormActivation | SqueezeExcitation] = []
    if expanded != shape.in_channels:
        layers.append(ConvNormActivation(shape.in_channels, expanded, 1, activation=activation))
    depthwise = ConvNormActivation(
        expanded, expanded, shape.kernel, stride=shape.stride, groups=expanded, activation=activation
    )
    layers.append(depthwise)
    if shape.excitation:
        layers.append(SqueezeExcitation(expanded, shape.excitation))
    layers.append(ConvNormActivation(expanded, shape.out_channels, 1, activation=None))
    return layers


class Bottleneck(nn.Sequential):
    """The layers that `bottleneck_layers` lists, one after the other; the projection's may be listed one by one.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def forward(self, x: Tensor) -> Tensor:
        first, second, *rest = self
        if (
            unnoticed(first, ConvNormActivation)
            and unnoticed(second, ConvNormActivation)
            and first[0].kernel_size == (1, 1)
        ):
            (expansion, *before), (depthwise, *after) = first, second
            x = convolution_norm(expansion(x), before, depthwise, after)  # the norm between them is trained with both
        else:
            x = second(first(x))
        for layer in rest:
            x = layer(x)
        return x


class InvertedResidualV2(nn.Module):
    """MobileNetV2's inverted residual with linear bottleneck.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, shape: BottleneckShape) -> None:
        super().__init__()
        *layers, projection = bottleneck_layers(shape)
        self.conv = Bottleneck(*layers, *projection.children())  # torchvision keeps the projection flat
        self.shortcut = shape.shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class InvertedResidualV3(nn.Module):
    """MobileNetV3's inverted residual: V2's with any kernel size and, if asked for, squeeze-and-excite.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, shape: BottleneckShape) -> None:
        super().__init__()
        self.block = Bottleneck(*bottleneck_layers(shape))
        self.shortcut = shape.shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.shortcut else self.block(x)


def initialise(model: nn.Module, *, norm_eps: float, norm_momentum: float, depthwise_init: str) -> None:
    """Draws new weights and sets every batch-norm's epsilon and momentum.

    Convolutions: normal with variance 2 / fan-out, biases 0. Batch-norm: 1 and 0. Fully connected
    layers: normal with standard deviation 0.01, biases 0. `norm_momentum` is the weight of the newest batch.
    A depthwise convolution's fan-out is that of all groups in torchvision, and that of one in timm
    (`depthwise_init="timm"`): its kernels start sqrt(channels) times as large.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            if depthwise_init == "timm":
                fan_out //= module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2.0) / math.sqrt(fan_out))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        elif isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = norm_eps, norm_momentum
            module.reset_parameters()
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
