"""A network of four layers, for tests that are about the run around it."""

from torch import nn

from mobilenet_train.models.blocks import ConvNormActivation, DepthwiseSeparable


def small_network(num_classes: int, resolution: int) -> nn.Module:
    """With batch-norm and dropout; `model.factory=tests.small_network:small_network`."""
    del resolution
    return nn.Sequential(
        ConvNormActivation(3, 8, 3, stride=2, activation="relu6"),
        DepthwiseSeparable(8, 16, stride=2, activation="relu6"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(16, num_classes),
    )
