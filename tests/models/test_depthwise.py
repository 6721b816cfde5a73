"""The depthwise convolution: torch's numbers, by a shorter way."""

import pytest
import torch
from torch import nn

from mobilenet_train.models import mobilenet_v3_small
from mobilenet_train.models.depthwise import DepthwiseConv2d, _SplitWeightGradient


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 4, 9])
def test_output_and_gradients_are_those_of_a_plain_convolution(kernel: int, stride: int, size: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 16, kernel, stride, kernel // 2, groups=16, bias=False)
    ours = DepthwiseConv2d(16, 16, kernel, stride, kernel // 2, groups=16, bias=False)
    ours.load_state_dict(plain.state_dict())
    images = torch.randn(4, 16, size, size + 1).to(memory_format=torch.channels_last)
    inputs = [images.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(x) for layer, x in zip((plain, ours), inputs, strict=True)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.backward(torch.cos(torch.arange(output.numel()).reshape(output.shape).float()))
    assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-5)
    assert plain.weight.grad is not None
    assert torch.allclose(plain.weight.grad, ours.weight.grad, rtol=1e-4, atol=1e-4)


def test_only_wide_kernels_at_stride_1_take_the_shorter_way(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = []
    monkeypatch.setattr(
        _SplitWeightGradient,
        "apply",
        lambda x, w, p: kernels.append(w.shape[2]) or nn.functional.conv2d(x, w, padding=p, groups=x.shape[1]),
    )
    network = mobilenet_v3_small(num_classes=10, resolution=32)
    network(torch.randn(2, 3, 32, 32))
    assert kernels == [5] * 6
    with torch.no_grad():
        network(torch.randn(2, 3, 32, 32))
    assert len(kernels) == 6
