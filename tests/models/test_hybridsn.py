"""HybridSN is the network of its paper."""

import pytest
import torch
from torch import nn

from mobilenet_train.models import count_costs
from mobilenet_train.models.hybridsn import HybridSN

PUBLISHED = {"num_classes": 16, "resolution": 25, "in_channels": 30}


def test_it_has_the_parameters_of_table_1() -> None:
    with torch.device("meta"):
        assert count_costs(HybridSN(**PUBLISHED), 25, 30).parameters == 5_122_176  # type: ignore[arg-type]


def test_the_maps_have_the_sizes_of_table_1() -> None:
    model, windows = HybridSN(**PUBLISHED).eval(), torch.zeros(2, 30, 25, 25)  # type: ignore[arg-type]
    shapes = []
    for layer in (*model.spectral, *model.spatial):
        if isinstance(layer, nn.Conv3d | nn.Conv2d):
            layer.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape[1:])))
    assert model(windows).shape == (2, 16)
    assert shapes == [(8, 24, 23, 23), (16, 20, 21, 21), (32, 18, 19, 19), (64, 17, 17)]


def test_batch_norm_and_squeeze_excite_are_added_where_they_are_asked_for() -> None:
    plain = count_costs(HybridSN(**PUBLISHED), 25, 30).parameters  # type: ignore[arg-type]
    norms = count_costs(HybridSN(**PUBLISHED, batch_norm=True), 25, 30).parameters  # type: ignore[arg-type]
    gates = count_costs(HybridSN(**PUBLISHED, squeeze_excite=True), 25, 30).parameters  # type: ignore[arg-type]
    assert norms - plain == 2 * (8 + 16 + 32 + 64)
    assert gates - plain == 2 * 64 * 8 + 8 + 64


def test_channels_last_reaches_the_3d_convolutions_and_changes_no_result() -> None:
    torch.manual_seed(0)
    model, windows = HybridSN(num_classes=16, resolution=9, in_channels=13).eval(), torch.randn(2, 13, 9, 9)
    before = model(windows)
    model.to(memory_format=torch.channels_last)
    assert model.spectral[2].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert model.spatial[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(windows.contiguous(memory_format=torch.channels_last)), before)


@pytest.mark.parametrize(("resolution", "bands"), [(8, 30), (25, 12)])
def test_windows_or_spectra_that_are_too_small_are_refused(resolution: int, bands: int) -> None:
    with pytest.raises(ValueError, match="needs 13 bands and windows of 9 pixels or more"):
        HybridSN(num_classes=16, resolution=resolution, in_channels=bands)
