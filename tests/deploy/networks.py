"""Networks that int8 is tried on: lively ones of the papers, one of one's own, and a small one to train."""

import re

import torch
from torch import nn

from mobilenet_train.data.batches import EvalBatches
from mobilenet_train.data.images import Dataset, Preprocessing
from mobilenet_train.models import MobileNet
from mobilenet_train.models.blocks import ConvNormActivation, SqueezeExcitation


def lively(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """The network with norms, biases and last layers that make its activations as different as a trained one's."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
        if isinstance(module, nn.Linear):
            module.weight.data *= 10
        if isinstance(getattr(module, "bias", None), torch.Tensor):
            module.bias.data.normal_(0, 0.3)  # type: ignore[union-attr, operator]
    model.train()(images)
    return model.eval().requires_grad_(False)


def without_repeats(model: MobileNet, images: torch.Tensor) -> MobileNet:
    """The network without blocks that have the parts of an earlier one and change no shape: half as long to export."""
    kept: list[nn.Module] = []
    seen: set[str] = set()
    for block in model.eval().features:
        after, parts = block(images), re.sub(r"\d+", "", str(block))
        if after.shape != images.shape or parts not in seen:
            kept.append(block)
            images = after
        seen.add(parts)
    model.features = nn.Sequential(*kept)
    return model


class Own(nn.Module):
    """Means that meet other layers than our networks' do: kept axes, other axes, a product of two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.first(images)
        mean, kept = maps.mean((2, 3)), maps.mean((2, 3), keepdim=True)
        return self.last(mean * mean + kept.flatten(1)) + maps.mean(3).mean(2)[:, :4]


class Small(nn.Module):
    """All that XNNPACK computes of the papers' networks: hard-swish, ReLU6, a shortcut, squeeze-and-excite, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ConvNormActivation(3, 16, 3, stride=2, activation="hard_swish")
        self.second = ConvNormActivation(16, 16, 3, activation="relu6")
        self.squeeze_excite = SqueezeExcitation(16)
        self.last = ConvNormActivation(16, 64, 3, stride=2, activation="hard_swish")
        self.classifier = nn.Sequential(nn.Linear(64, 32), nn.Hardswish(), nn.Dropout(0.1), nn.Linear(32, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.first(images)
        return self.classifier(self.last(maps + self.squeeze_excite(self.second(maps))).mean((2, 3)))


def train(model: nn.Module, dataset: Dataset, preprocessing: Preprocessing) -> list[torch.Tensor]:
    """Trains it for 20 epochs and returns the batches that it was trained on."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batches = list(EvalBatches(dataset.train, preprocessing, 32, torch.contiguous_format))
    for _ in range(20):
        for images, labels in batches:
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval().requires_grad_(False)
    return [images for images, _ in batches]
