"""HybridSN, a table to be read beside its paper: 3-D convolutions over spectrum and space, then a 2-D one."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from mobilenet_train.models.blocks import SENET_EXCITATION, SqueezeExcitation

# HybridSN (Roy et al. 2020, arXiv:1902.06701), Table I: 3-D convolutions without padding, each with a ReLU.
#  out  kernel (spectral x height x width)
SPECTRAL = [
    (8, (7, 3, 3)),
    (16, (5, 3, 3)),
    (32, (3, 3, 3)),
]
SPATIAL = (64, 3)  # out and kernel of the 2-D convolution over all bands of all maps
DENSE = (256, 128)  # each with a ReLU and dropout
DROPOUT = 0.4


class HybridSN(nn.Module):
    """Windows (N, bands, resolution, resolution) -> logits (N, num_classes).

    batch_norm: after every convolution. squeeze_excite: SENet's, after the 2-D convolution.
    Raises ValueError for windows or spectra smaller than the convolutions.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        resolution: int,
        in_channels: int,
        dropout: float = DROPOUT,
        batch_norm: bool = False,
        squeeze_excite: bool = False,
    ) -> None:
        super().__init__()
        bands = in_channels - sum(kernel[0] - 1 for _, kernel in SPECTRAL)
        side = resolution - sum(kernel[1] - 1 for _, kernel in SPECTRAL) - (SPATIAL[1] - 1)
        if bands < 1 or side < 1:
            raise ValueError(
                f"HybridSN needs 13 bands and windows of 9 pixels or more, not {in_channels}, {resolution}"
            )
        spectral: list[nn.Module] = []
        maps = 1
        for out, kernel in SPECTRAL:
            norm = [nn.BatchNorm3d(out)] if batch_norm else []
            spectral += [nn.Conv3d(maps, out, kernel), *norm, nn.ReLU()]
            maps = out
        self.spectral = nn.Sequential(*spectral)
        out, kernel_size = SPATIAL
        norm_2d = [nn.BatchNorm2d(out)] if batch_norm else []
        excite = [SqueezeExcitation(out, SENET_EXCITATION)] if squeeze_excite else []
        self.spatial = nn.Sequential(nn.Conv2d(maps * bands, out, kernel_size), *norm_2d, nn.ReLU(), *excite)
        dense: list[nn.Module] = []
        features = out * side**2
        for hidden in DENSE:
            dense += [nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout)]
            features = hidden
        self.classifier = nn.Sequential(*dense, nn.Linear(features, num_classes))

    def forward(self, windows: Tensor) -> Tensor:
        maps = self.spectral(windows.unsqueeze(1).contiguous()).flatten(1, 2)  # bands of a map side by side
        return self.classifier(self.spatial(maps).flatten(1))

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As torch's; `channels_last` has four axes, so that 3-D convolutions get its form with five."""
        layout = kwargs.pop("memory_format", torch.preserve_format)
        self.spectral.to(memory_format=torch.channels_last_3d if layout == torch.channels_last else layout)
        self.spatial.to(memory_format=layout)
        return super().to(*args, **kwargs)
