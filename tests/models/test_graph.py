"""The graph of a network: every operation, by the module that it is in, with whose results it reads."""

import torch
from torch import Tensor, nn

from mobilenet_train.models.graph import operations


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


def test_every_operation_is_there_with_its_module_and_what_it_reads() -> None:
    model = nn.Sequential(Residual(), nn.ReLU(inplace=True))
    found = {one.name: one for one in operations(model, resolution=8)}
    assert list(found) == ["images", "0/block/0/convolution", "0/block/1/native_batch_norm", "0/add", "1/relu_"]
    assert found["0/add"].inputs == ("images", "0/block/1/native_batch_norm")
    assert found["1/relu_"].inputs == ("0/add",)
    assert found["0/block/0/convolution"].shape == (2, 3, 8, 8)


def test_the_network_and_the_random_state_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Dropout(), Residual()).train()
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    operations(model, resolution=8)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())
