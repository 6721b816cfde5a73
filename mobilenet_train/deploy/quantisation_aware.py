"""Fine-tuning with weights and activations rounded to int8, so that a network loses less when it is quantised."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from mobilenet_train.config.schema import TrainConfig
from mobilenet_train.data.balance import class_weights
from mobilenet_train.data.batches import make_batches
from mobilenet_train.data.images import Dataset
from mobilenet_train.inference.loading import TrainedRun
from mobilenet_train.runtime import set_up
from mobilenet_train.training.step import training_loss

PEAK_LEARNING_RATE = 0.001  # of SGD; falls to 0 by a cosine
MOMENTUM = 0.9
CLIP_NORM = 1.0

aten = torch.ops.aten
WEIGHTED = {"conv2d", "linear"}
FUSED = {"batch_norm", "relu", "relu6", "hardtanh"}  # onnxruntime computes them together with what is before them
ROUNDED = WEIGHTED | FUSED | {"hardsigmoid", "add", "mul", "mean"}  # their results are uint8 in the quantised graph


def fine_tuned(run: TrainedRun, dataset: Dataset, epochs: int, log: Callable[[str], None]) -> nn.Module:
    """A copy of the run's network, in evaluation mode on the CPU, that has learnt to be rounded to int8.

    It is trained for `epochs` on the run's training images with the run's augmentation, batch size, loss and seed, at
    the resolution of evaluation; batch-norm keeps its statistics. `log` gets a line for each epoch.
    """
    config = _for_fine_tuning(run)
    runtime = set_up(config.device)
    data = replace(dataset, preprocessing=run.preprocessing).to(runtime.device)
    weights = class_weights(data.train.labels, len(data.class_names)) if config.balance == "loss" else None
    batches = make_batches(config, data, runtime.memory_format, runtime.ranks).train
    model = deepcopy(run.model).requires_grad_(True)
    model.to(runtime.device).to(memory_format=runtime.memory_format)
    network = rounded(model, run.preprocessing.resolution, run.preprocessing.channels)
    optimizer = torch.optim.SGD(network.parameters(), lr=PEAK_LEARNING_RATE, momentum=MOMENTUM, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    for epoch in range(epochs):
        losses = torch.zeros((), device=runtime.device)
        for images, labels in batches.epoch(run.checkpoint.epoch + epoch):  # draws that the run has not seen
            loss = training_loss(network(images), labels, config.label_smoothing, weights)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            losses += loss.detach()
        log(f"quantisation-aware epoch {epoch + 1} of {epochs}: training loss {losses / len(batches):.3f}")
    model.load_state_dict({name: network.state_dict()[name] for name in model.state_dict()})
    return model.requires_grad_(False).cpu()


def _for_fine_tuning(run: TrainedRun) -> TrainConfig:
    """The run's configuration at evaluation's resolution, in fp32, on whichever device there is."""
    config = run.config
    return replace(
        config,
        device=replace(config.device, name="auto", precision="fp32", compile=None, sync_batch_norm=False),
        dataset=replace(config.dataset, resolution=run.preprocessing.resolution),
    )


def rounded(model: nn.Module, resolution: int, channels: int = 3) -> fx.GraphModule:
    """The network with weights and activations rounded where `onnx_int8.quantise` has onnxruntime round them.

    XNNPACK rounds nearly all of them too.

    (N, channels, resolution, resolution) -> (N, classes). The parameters are named as the model's. A weight is rounded
    as it is before batch-norm is folded into it: that only scales output channels, and each has a scale of its own.
    """
    parameter = next(model.parameters())
    images = torch.zeros(2, channels, resolution, resolution, device=parameter.device)
    program = torch.export.export(model.eval(), (images,), dynamic_shapes=({0: torch.export.Dim("N")},))
    network = program.module(check_guards=False)
    assert isinstance(network, fx.GraphModule)
    graph = network.graph
    for node in list(graph.nodes):
        if _kind(node) == "hardswish":  # x * hard-sigmoid(x) in ONNX
            with graph.inserting_before(node):
                gate = graph.call_function(aten.hardsigmoid.default, (node.args[0],))
                product = graph.call_function(aten.mul.Tensor, (node.args[0], gate))
            node.replace_all_uses_with(product)
            graph.erase_node(node)
    stem = _stem(graph)
    for node in list(graph.nodes):
        if _kind(node) in WEIGHTED and node not in stem:
            with graph.inserting_before(node):
                node.update_arg(1, graph.call_function(round_weights, (node.args[1],)))
        if _kind(node) in ROUNDED and not _fused_with_next(node) and not (node in stem and stem >= node.users.keys()):
            with graph.inserting_after(node):
                result = graph.call_function(round_activations, (node,))
            node.replace_all_uses_with(result, delete_user_cb=lambda user, result=result: user is not result)
    network.recompile()
    return network


def _kind(node: fx.Node) -> str:
    """The operator's name, in place or not; empty for what is not an operator of PyTorch."""
    target = node.target
    return target.overloadpacket.__name__.rstrip("_") if isinstance(target, torch._ops.OpOverload) else ""


def _fused_with_next(node: fx.Node) -> bool:
    """Whether the result is only used by an operator that is computed together with this one."""
    kind = _kind(next(iter(node.users))) if len(node.users) == 1 else ""
    return kind in FUSED or (kind == "hardsigmoid" and _kind(node) in WEIGHTED)


def _stem(graph: fx.Graph) -> set[fx.Node]:
    """The images, their convolutions and what activates the results: all in fp32."""
    stem: set[fx.Node] = set()
    for node in graph.nodes:
        given = [x for x in node.args if isinstance(x, fx.Node) and x.op != "get_attr"]
        activates = _kind(node) in FUSED | {"hardsigmoid", "mul"} and stem.issuperset(given)
        if node.op == "placeholder" or activates or (_kind(node) == "conv2d" and given[0].op == "placeholder"):
            stem.add(node)
    return stem


def round_weights(weights: Tensor) -> Tensor:
    """To 255 steps, symmetric about 0, of an output channel's own (the first axis) largest weight."""
    largest = weights.detach().abs().flatten(1).amax(1)
    return StraightThrough.apply(weights, (largest / 127).reshape(-1, *[1] * (weights.ndim - 1)))


def round_activations(x: Tensor) -> Tensor:
    """To 256 steps from the lowest to the highest value of the batch, one of them at 0."""
    seen = x.detach()
    return StraightThrough.apply(x, (seen.amax().clamp_min(0) - seen.amin().clamp_max(0)) / 255)


class StraightThrough(torch.autograd.Function):
    """Rounding to multiples of `scale` whose gradient is 1. PyTorch's fake_quantize takes three times as long."""

    @staticmethod
    def forward(_: Any, x: Tensor, scale: Tensor) -> Tensor:
        scale = scale.clamp_min(torch.finfo(x.dtype).tiny)
        return x.div(scale).round_().mul_(scale)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
