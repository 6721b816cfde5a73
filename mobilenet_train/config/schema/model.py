"""The group `model`: which network, and what it is built with."""

from typing import Any

from mobilenet_train.config.fields import (
    MOST_WIDTH,
    NULL,
    Section,
    anything,
    arguments,
    factory,
    flag,
    is_whole,
    number,
    one_of,
    text,
    whole,
)


class ModelConfig(Section):
    """The network, one of the group `model`."""

    name: str = text("the choice")
    in_channels: int | None = whole(
        "of the images; null: as many as they have, grey images repeated to 3; 1 takes grey images as they are",
        1,
        1024,
        null=NULL,
    )


class NetworkConfig(ModelConfig):
    """What the four MobileNets share."""

    width_mult: float = number("thins every layer; channels are rounded to multiples of 8", above=0, most=MOST_WIDTH)
    dropout: float = number("share of the features dropped before the last layer", least=0, below=1)
    stride_plan: Any = anything(
        "auto: the paper's strides from 96 pixels, below that a final map of 4x4; imagenet: the paper's; N: drop N",
        "auto, imagenet or how many strides to drop, 0 to 5",
        lambda v: v in ("auto", "imagenet") or is_whole(v, 0, 5),
    )
    activation: str = one_of(
        "paper, or one of the others everywhere, for ablation", "paper", "relu", "relu6", "hard_swish"
    )
    norm_eps: float = number("added to the variance in batch-norm", above=0, below=1)
    norm_momentum: float = number(
        "weight of the new batch in the running statistics; V3's published 0.01 is too slow below 50 epochs",
        above=0,
        most=1,
    )
    depthwise_init: str = one_of(
        "variance of new depthwise kernels is 2 / fan-out: torchvision counts that of all groups, timm that of one",
        *("torchvision", "timm"),
    )
    weights: str | None = text(
        "start from these: a run folder, a checkpoint, a .pth, .safetensors or Keras .h5 file, torchvision or timm:NAME"
    )
    freeze: Any = anything(
        "backbone: only the classifier learns; N: all but the first N features (the first convolution, then blocks)",
        "none, backbone or how many of the first features, from 1 to 1000",
        lambda v: v in ("none", "backbone") or is_whole(v, 1, None),
        lambda v: v in ("none", "backbone") or is_whole(v, 1, 1000),
    )


class V1Config(NetworkConfig):
    """MobileNetV1."""

    separable: bool = flag("false: the paper's Conv MobileNet, standard 3x3 convolutions instead")
    depth_multiplier: int = whole("depthwise outputs per input channel, as in Keras", 1, 16)
    padding: str = one_of(
        "tensorflow: asymmetric at stride 2, as Keras's weights need (norm_eps=0.001 too)", "symmetric", "tensorflow"
    )
    squeeze_excite: bool = flag("true: SENet's squeeze-and-excitation after every pointwise convolution")


class V2Config(NetworkConfig):
    """MobileNetV2."""

    squeeze_excite: bool = flag("true: SENet's squeeze-and-excitation after every depthwise convolution")


class V3Config(NetworkConfig):
    """MobileNetV3-Large and -Small."""

    squeeze_excite: bool = flag("false: without squeeze-and-excitation, for ablation")
    wide_head: bool = flag(
        "above width 1 the last hidden layer grows too, as before 0.2.0; false: it keeps its size, as in timm"
    )
    kernel: Any = anything(
        "of the depthwise convolutions: paper (3x3 and 5x5), or 3 or 5 everywhere, for ablation",
        "paper, 3 or 5",
        lambda v: v == "paper" or (is_whole(v, 3, 5) and v != 4),
    )


class HybridSNConfig(ModelConfig):
    """HybridSN, for hyperspectral windows."""

    dropout: float = number("share of the features dropped before the last layer", least=0, below=1)
    batch_norm: bool = flag("true: batch-norm after every convolution")
    squeeze_excite: bool = flag("true: SENet's squeeze-and-excitation after the 2-D convolution")


class CustomModelConfig(ModelConfig):
    """A network of the user's own."""

    factory: str = factory(
        "package.module:function, called as function(num_classes=, resolution=, **args); in_channels= too unless 3"
    )
    args: dict[str, Any] = arguments("passed to the function, e.g. +model.args.depth=3")
