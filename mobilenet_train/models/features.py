"""The maps inside a MobileNet that detectors and segmenters build on."""

from collections.abc import Sequence

from torch import Tensor

from mobilenet_train.models.networks import MobileNet


def feature_maps(model: MobileNet, images: Tensor, strides: Sequence[int] = (8, 16, 32)) -> list[Tensor]:
    """The last block's output at each of `strides`, in that order: (N, 3, H, W) -> (N, C, H / stride, W / stride).

    These are the maps that YOLOv4 and SSDLite on MobileNets take; MobileNetV2's and V3's 1x1 convolution before the
    classifier comes after them. At width 1 the channels are 256, 512, 1024 (V1), 32, 96, 320 (V2), 40, 112, 160
    (V3-Large) and 24, 48, 96 (V3-Small). Any resolution is allowed. Gradients flow if the weights take any.
    Raises ValueError for a stride that the network does not have, naming those that it has.
    """
    maps: dict[int, Tensor] = {}
    stride, x = 1, images
    for block, step in zip(model.features, model.stride_plan.strides, strict=False):  # the plan ends with the blocks
        x = block(x)
        stride *= step
        maps[stride] = x
    missing = [str(stride) for stride in strides if stride not in maps]
    if missing:
        has = ", ".join(map(str, maps))
        raise ValueError(
            f"strides={tuple(strides)}: this network has no map of stride {', '.join(missing)}; it has {has}"
        )
    return [maps[stride] for stride in strides]
