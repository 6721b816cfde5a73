"""The compiled kernels: torch's numbers to rounding, everywhere they take over, and torch's own everywhere else."""

import copy
import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from mobilenet_train.kernels import bindings
from mobilenet_train.models import NETWORKS, blocks, mobilenet_v3_small
from mobilenet_train.models.layers import BatchNorm2d, convolution_norm, norm_activation
from mobilenet_train.runs import announce
from mobilenet_train.runs.build import build_run
from mobilenet_train.runtime import environment
from tests.conftest import configure

pytestmark = pytest.mark.skipif(bindings.library() is None, reason="installed without a C compiler")

ACTIVATIONS = (None, nn.ReLU(), nn.ReLU6(), nn.Hardswish())


def maps(*shape: int, mean: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(*shape, generator=generator) * 4 + mean).to(memory_format=torch.channels_last)


@contextmanager
def using(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def norm_like(channels: int) -> BatchNorm2d:
    torch.manual_seed(1)
    norm = BatchNorm2d(channels, eps=1e-3, momentum=0.3)
    nn.init.uniform_(norm.weight, -2, 2)
    nn.init.uniform_(norm.bias, -3, 3)
    return norm


def through(norm: nn.Module, activation: nn.Module | None, x: Tensor) -> tuple[Tensor, ...]:
    """Output, gradients of input, weight and bias, running statistics."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = norm_activation(x, [norm, *([activation] if activation else [])])
    y.backward(torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view(y.shape))
    return y.detach(), x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var


def in_float64(norm: BatchNorm2d) -> nn.BatchNorm2d:
    reference = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum).double()
    reference.load_state_dict(norm.state_dict())
    return reference


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 8, 1, 1), (3, 24, 5, 7), (4, 72, 16, 16), (7, 20, 3, 3), (2, 1096, 4, 4)], ids=str
)
def test_norm_and_activation_are_torchs(
    shape: tuple, activation: nn.Module | None, threads: int, applied: list[str]
) -> None:
    x = maps(*shape, mean=3.0)
    norm = norm_like(shape[1])
    wanted = through(in_float64(norm), activation, x.double())
    with using(threads):
        got = through(norm, activation, x)
    assert applied == ["NormActivation"]
    for ours, exact in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=2e-4, atol=2e-4)
    assert norm.num_batches_tracked == 1


def test_a_mean_far_from_zero_does_not_cost_the_variance() -> None:
    x = maps(8, 16, 8, 8, mean=3000.0)
    wanted = through(in_float64(norm_like(16)), None, x.double())
    ours, torchs = norm_like(16), nn.BatchNorm2d(16, 1e-3, 0.3)
    torchs.load_state_dict(ours.state_dict())
    error = (through(ours, None, x)[5] - wanted[5]).abs().max()
    assert error <= 1e-4 < wanted[5].max()
    assert error <= 2 * (through(torchs, None, x)[5] - wanted[5]).abs().max() + 1e-5


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_not_a_number_is_not_lost(activation: nn.Module | None) -> None:
    x = maps(4, 16, 4, 4)
    x[1, 2, 0, 0] = torch.nan
    y = norm_activation(x.requires_grad_(), [norm_like(16), *([activation] if activation else [])])
    assert y[:, 2].isnan().all()
    assert y[:, :2].isfinite().all()
    y[0, 2].sum().backward()
    assert x.grad is not None
    assert x.grad[:, 2].isnan().any()


class Depthwise(nn.Module):
    """A depthwise convolution with its norm, after the norm and activation of an expansion or without."""

    def __init__(self, channels: int, kernel: int, stride: int, activation: str | None, *, expanded: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before = nn.ModuleList([norm_like(channels), nn.ReLU6()] if expanded else [])
        self.depthwise = blocks.ConvNormActivation(
            channels, channels, kernel, stride=stride, groups=channels, activation=activation
        )
        self.depthwise[1] = norm_like(channels)

    def forward(self, x: Tensor) -> Tensor:
        convolution, *after = self.depthwise
        return convolution_norm(x, self.before, convolution, after)


@pytest.mark.parametrize("expanded", [False, True], ids=["alone", "expanded"])
@pytest.mark.parametrize("channels", [8, 16, 40, 200])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)])
@pytest.mark.parametrize("size", [(1, 2), (2, 3), (4, 5), (9, 10), (5, 70)], ids=str)
def test_depthwise_between_norms_is_torchs(
    channels: int, kernel: int, stride: int, size: tuple[int, int], expanded: bool, applied: list[str]
) -> None:
    agree_on(Depthwise(channels, kernel, stride, "hard_swish", expanded=expanded), maps(3, channels, *size))
    assert (applied == ["DepthwiseNorm"]) == (channels >= 16 and kernel < 7)


@pytest.mark.parametrize("threads", [1, 3, 8])
@pytest.mark.parametrize("activation", [None, "relu", "relu6", "hard_swish"])
def test_depthwise_with_any_activation_and_any_threads(activation: str | None, threads: int) -> None:
    with using(threads):
        agree_on(Depthwise(24, 3, 1, activation, expanded=True), maps(4, 24, 8, 8))


def test_other_layers_around_a_depthwise_convolution_are_left_to_torch(applied: list[str]) -> None:
    silu, group = Depthwise(16, 3, 1, None, expanded=True), Depthwise(16, 3, 1, "relu", expanded=True)
    silu.before[1] = nn.SiLU()
    group.depthwise[1] = nn.GroupNorm(4, 16)
    for layer in (silu, group):
        agree_on(layer, maps(3, 16, 4, 4))
    agree_on(Depthwise(16, 3, 1, "relu", expanded=True), maps(1, 16, 4, 4))  # a single image
    assert "DepthwiseNorm" not in applied


@pytest.mark.parametrize(("channels", "size"), [(16, 1), (24, 4), (72, 16), (200, 3)])
def test_squeeze_and_excite_is_what_its_equation_defines(channels: int, size: int, applied: list[str]) -> None:
    torch.manual_seed(0)
    ours = blocks.SqueezeExcitation(channels)
    nn.init.normal_(ours.fc2.bias, std=4)  # some of the hard-sigmoids at their ends
    agree_on(ours, maps(5, channels, size, size + 1))
    assert applied == ["SqueezeExcite"]


def agree_on(layer: nn.Module, images: Tensor) -> None:
    """Output and gradients of a layer are those that torch's own operators have in float64."""
    exact = copy.deepcopy(layer).double()
    inputs = [images.clone(memory_format=torch.preserve_format).requires_grad_(), images.double().requires_grad_()]
    outputs = [network(x) for network, x in zip((layer, exact), inputs, strict=True)]
    for y in outputs:
        y.backward(torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view(y.shape))
    torch.testing.assert_close(outputs[0].double(), outputs[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(inputs[0].grad.double(), inputs[1].grad, rtol=1e-4, atol=1e-4)
    for ours, torchs in zip(layer.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.double(), torchs.grad, rtol=1e-4, atol=1e-3)
    for ours, torchs in zip(layer.buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(ours.double(), torchs.double(), rtol=1e-5, atol=1e-5)


in_bf16 = pytest.mark.skipif(bindings.library(torch.bfloat16) is None, reason="bf16 needs a CPU with AVX-512")


@in_bf16
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [(4, 5), (16, 16), (5, 70)], ids=str)
@pytest.mark.parametrize(
    "layer",
    [
        *(
            partial(Depthwise, channels, kernel, stride, "hard_swish", expanded=expanded)
            for channels, kernel, stride in [(16, 3, 1), (40, 5, 1), (72, 3, 2), (200, 5, 2)]
            for expanded in (False, True)
        ),
        partial(blocks.SqueezeExcitation, 72),
        partial(norm_like, 24),
    ],
)
def test_maps_in_bf16_cost_no_more_than_their_rounding(
    layer: partial, size: tuple[int, int], threads: int, applied: list[str]
) -> None:
    torch.manual_seed(0)
    with using(threads):
        stay_near(layer(), maps(3, layer.args[0], *size).bfloat16())
    assert len(applied) == 1


def stay_near(layer: nn.Module, images: Tensor) -> None:
    """Output and gradients of a layer for maps in bf16 are near those in float64."""
    exact = copy.deepcopy(layer).double()
    inputs = [images.clone(memory_format=torch.preserve_format).requires_grad_(), images.double().requires_grad_()]
    outputs = [network(x) for network, x in zip((layer, exact), inputs, strict=True)]
    assert outputs[0].dtype == torch.bfloat16
    gradient = torch.cos(torch.arange(outputs[0].numel())).view(outputs[0].shape).bfloat16()
    for y in outputs:
        y.backward(gradient.to(y.dtype))
    found = [outputs[0], inputs[0].grad, *(p.grad for p in layer.parameters()), *layer.buffers()]
    wanted = [outputs[1], inputs[1].grad, *(p.grad for p in exact.parameters()), *exact.buffers()]
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.double() - theirs).norm() <= 0.1 * theirs.double().norm()  # some values end up beyond a kink


@in_bf16
def test_not_a_number_is_not_lost_in_bf16() -> None:
    x = maps(4, 16, 4, 4).bfloat16()
    x[1, 2, 0, 0] = torch.nan
    assert norm_activation(x.requires_grad_(), [norm_like(16), nn.Hardswish()])[:, 2].isnan().all()


def test_a_depthwise_convolution_that_they_do_not_know_is_trained_in_fp32() -> None:
    layer, x, seen = Depthwise(8, 3, 1, "relu", expanded=True), maps(3, 8, 4, 4).requires_grad_(), []
    layer.depthwise[0].register_forward_hook(lambda _, inputs, out: seen.extend([inputs[0].dtype, out.dtype]))
    pointwise = nn.Conv2d(8, 8, 1)
    with torch.autocast("cpu", torch.bfloat16):
        images = pointwise(x)
        assert images.dtype == torch.bfloat16
        layer(images).sum().backward()
    assert seen == [torch.float32, torch.float32]
    assert x.grad is not None
    assert x.grad.isfinite().all()


def loss_and_gradients(seed: int = 0) -> tuple[Tensor, ...]:
    torch.manual_seed(seed)
    model = mobilenet_v3_small(num_classes=10, resolution=32, dropout=0.0).to(memory_format=torch.channels_last)
    loss = model(maps(8, 3, 32, 32)).square().mean()
    loss.backward()
    return loss.detach(), *(p.grad for p in model.parameters())


def test_a_whole_network_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    with_kernels = loss_and_gradients()
    monkeypatch.setattr(bindings, "library", lambda _=None: None)
    for ours, torchs in zip(with_kernels, loss_and_gradients(), strict=True):
        assert (ours - torchs).norm() <= 1e-3 * torchs.norm() + 1e-6


def test_the_same_bytes_every_time() -> None:
    for first, second in zip(loss_and_gradients(), loss_and_gradients(), strict=True):
        assert torch.equal(first, second)


def test_they_take_over_in_training_only(applied: list[str]) -> None:
    model = mobilenet_v3_small(num_classes=10, resolution=32).to(memory_format=torch.channels_last)
    model(maps(2, 3, 32, 32))
    expected = {"NormActivation": 13, "DepthwiseNorm": 11, "SqueezeExcite": 9}
    assert Counter(applied) == expected
    model.eval()(maps(2, 3, 32, 32))
    with torch.no_grad():
        model.train()(maps(2, 3, 32, 32))
    model.double()(maps(2, 3, 32, 32).double())
    mobilenet_v3_small(num_classes=10, resolution=32)(maps(2, 3, 32, 32).contiguous())
    assert Counter(applied) == expected


@pytest.mark.parametrize(("name", "depthwise"), [("v1", 13), ("v2", 17), ("v3_large", 15), ("v3_small", 11)])
def test_every_depthwise_convolution_is_trained_with_its_norms(name: str, depthwise: int, applied: list[str]) -> None:
    model = NETWORKS[name](num_classes=10, resolution=32).to(memory_format=torch.channels_last)
    model(maps(2, 3, 32, 32))
    norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    expansions = sum(isinstance(layer, blocks.Bottleneck) and layer[0][0].groups == 1 for layer in model.modules())
    assert Counter(applied)["DepthwiseNorm"] == depthwise
    assert Counter(applied)["NormActivation"] == norms - depthwise - expansions


def test_a_depth_multiplier_is_left_to_torch() -> None:
    layer = blocks.DepthwiseSeparable(8, 16, stride=1, activation="relu6", depth_multiplier=2)
    assert layer(maps(2, 8, 4, 4)).shape == (2, 16, 4, 4)


def test_a_run_reports_where_they_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = build_run(configure("dataset=digits", "model=v3_small", "model.width_mult=0.25", "device=cpu"))
    plans, environments = [], []
    for _ in range(2):
        console = Console(record=True, file=io.StringIO(), width=120)
        announce.describe(parts, console)
        plans.append("no compiled kernels" in console.export_text())
        environments.append(environment(parts.runtime)["device"])
        monkeypatch.setattr(bindings, "library", lambda _=None: None)
    assert plans == [False, True]
    assert environments[0] == f"{environments[1]}, compiled kernels"
