"""int8 in ONNX: every network is rewritten without changing what it computes, and nothing in it is left in fp32."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mobilenet_train.deploy.export import all_logits, top1
from mobilenet_train.deploy.onnx_graph import to_onnx
from mobilenet_train.deploy.onnx_int8 import (
    channels_in_sixteens,
    fp32_operators,
    hard_sigmoids_as_clips,
    means_as_maps,
    quantise,
)
from mobilenet_train.deploy.runtimes import onnx_logits
from mobilenet_train.inference.evaluate import load_test_data
from mobilenet_train.inference.loading import load_run
from mobilenet_train.inference.onnx_file import onnx_session
from mobilenet_train.models import NETWORKS
from mobilenet_train.models.blocks import ConvNormActivation, SqueezeExcitation
from tests.deploy.networks import Own, lively, train, without_repeats

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@dataclass(frozen=True)
class Graphs:
    """One network in fp32 and in int8, and inputs like those it was calibrated with."""

    plain: bytes
    int8: bytes
    images: torch.Tensor


@pytest.fixture(scope="module", params=list(NETWORKS))
def graphs(request: pytest.FixtureRequest) -> Graphs:
    torch.manual_seed(0)
    images = torch.randn(64, 3, 32, 32)
    whole = NETWORKS[request.param](num_classes=10, resolution=32, width_mult=0.5)
    model = lively(without_repeats(whole, images[:1]), images)
    plain = to_onnx(model, 32, {})
    return Graphs(plain, quantise(plain, [images]), images)


def logits(graph: bytes, images: torch.Tensor) -> torch.Tensor:
    return onnx_logits(onnx_session(graph, threads=1))(images)


def test_onnxruntime_runs_the_first_convolution_in_fp32_and_nothing_else(graphs: Graphs) -> None:
    assert fp32_operators(graphs.int8) == {"Conv": 1}
    assert fp32_operators(graphs.plain)["Conv"] > 0


def test_every_later_operator_lies_between_dequantise_and_quantise(graphs: Graphs) -> None:
    graph = onnx.load_from_string(graphs.int8).graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    users: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node.op_type)
    inner = [node for node in graph.node if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    second = [number for number, node in enumerate(inner) if node.op_type == "Conv"][1]
    assert len(inner[:second]) <= 3  # the first convolution, and hard-swish as a gate and a product
    for node in inner[second:]:
        assert {makers[name] for name in node.input if name in makers} == {"DequantizeLinear"}, node.name
        assert users[node.output[0]] == ["QuantizeLinear"], node.name
    assert {output for node in graph.node for output in node.output} - users.keys() == {"logits"}
    assert not {node.op_type for node in inner[second:]} & {"HardSigmoid", "HardSwish", "ReduceMean"}


def test_int8_answers_as_fp32_does(graphs: Graphs) -> None:
    plain, int8 = logits(graphs.plain, graphs.images), logits(graphs.int8, graphs.images)
    assert (plain - int8).abs().max() < 0.1 * plain.abs().max()
    assert (plain.argmax(1) == int8.argmax(1)).double().mean() >= 0.95


def test_means_as_maps_change_nothing(graphs: Graphs) -> None:
    rewritten = onnx.load_from_string(graphs.plain)
    means_as_maps(rewritten.graph)
    torch.testing.assert_close(
        logits(rewritten.SerializeToString(), graphs.images), logits(graphs.plain, graphs.images)
    )


def test_means_of_a_network_of_ones_own_are_rewritten_rightly() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 8, 8)
    model = Own()
    rewritten: Any = onnx.load_from_string(to_onnx(model, 8, {}))
    means_as_maps(rewritten.graph)
    assert [node.op_type for node in rewritten.graph.node].count("GlobalAveragePool") == 2
    torch.testing.assert_close(logits(rewritten.SerializeToString(), images), model(images))


def test_wider_channels_and_clips_change_nothing(graphs: Graphs) -> None:
    rewritten = onnx.load_from_string(graphs.plain)
    means_as_maps(rewritten.graph)
    hard_sigmoids_as_clips(rewritten.graph)
    channels_in_sixteens(rewritten.graph)
    assert "HardSigmoid" not in {node.op_type for node in rewritten.graph.node}
    kernels = [onnx.numpy_helper.to_array(tensor) for tensor in rewritten.graph.initializer if len(tensor.dims) == 4]
    assert {len(kernel) % 16 for kernel in kernels if kernel.shape[1] == 1} == {0}
    torch.testing.assert_close(
        logits(rewritten.SerializeToString(), graphs.images), logits(graphs.plain, graphs.images)
    )


class Gated(nn.Module):
    """Depthwise maps of five channels times one channel, and of seven that leave the network as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 1, 1), nn.Conv2d(5, 7, 1)
        self.depthwise, self.out = nn.Conv2d(5, 5, 3, groups=5), nn.Conv2d(7, 7, 3, groups=7)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.depthwise(self.first(images))
        return self.out(self.last(maps * self.gate(maps).relu())).flatten(1)


def test_channels_of_a_network_of_ones_own_are_left_where_others_need_them() -> None:
    torch.manual_seed(0)
    images, model = torch.randn(2, 3, 8, 8), Gated().requires_grad_(False)
    graph = onnx.load_from_string(to_onnx(model, 8, {}))
    channels_in_sixteens(graph.graph)
    torch.testing.assert_close(logits(graph.SerializeToString(), images), model(images))


def channelwise(bias: bool = False) -> nn.Conv2d:
    """A convolution that changes nothing, after which onnxruntime quantises."""
    convolution = nn.Conv2d(3, 3, 1, groups=3, bias=bias)
    convolution.weight.data.fill_(1)
    if bias:
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return convolution


@pytest.mark.parametrize(("bias", "last"), [(False, True), (False, False), (True, False)])
def test_a_hard_sigmoid_is_clipped_at_both_ends(bias: bool, last: bool) -> None:
    after = [] if last else [channelwise()]
    gate = nn.Sequential(channelwise(), channelwise(bias), nn.Hardsigmoid(), *after, nn.Flatten())  # the first in fp32
    images = torch.linspace(-8, 8, 3 * 64).reshape(1, 3, 8, 8)
    graph = quantise(to_onnx(gate, 8, {}), [images])
    assert fp32_operators(graph) == {"Conv": 1} | ({"HardSigmoid": 1} if last else {})
    found = logits(graph, images)
    assert (float(found.min()), float(found.max())) == (0, 1)
    assert (found - gate(images)).abs().max() < 0.02


def test_a_trained_network_loses_little(finished: Path) -> None:
    run = load_run(finished / "run")
    dataset = load_test_data(run, None, trust_factory=False)
    torch.manual_seed(0)
    model = nn.Sequential(
        ConvNormActivation(3, 16, 3, stride=2, activation="hard_swish"),
        SqueezeExcitation(16),
        ConvNormActivation(16, 32, 3, stride=2, activation="hard_swish"),
        SqueezeExcitation(32),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    batches = train(model, dataset, run.preprocessing)
    plain = to_onnx(model, 32, {})
    int8 = quantise(plain, batches)
    top1s = []
    for graph in (plain, int8):
        forward = onnx_logits(onnx_session(graph, threads=1))
        top1s.append(top1(all_logits(forward, dataset.test, run.preprocessing), dataset.test))
    assert top1s[0] > 70
    assert abs(top1s[0] - top1s[1]) <= 2
