"""Batch-norm folded into the convolutions before it, for evaluation."""

from copy import deepcopy
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mobilenet_train.models.blocks import Bottleneck, ConvNormActivation


def folded(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that computes the same to rounding, without the norms of our own blocks.

    Each of these scales and shifts its channels by constants then, which the convolution's weights and bias can do.
    """
    copy = deepcopy(model).eval()
    for block in copy.modules():
        if isinstance(block, ConvNormActivation | Bottleneck):
            for (name, layer), (norm_name, norm) in pairwise(list(block.named_children())):
                if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(block, name, fuse_conv_bn_eval(layer, norm))
                    setattr(block, norm_name, nn.Identity())
    return copy
