"""A traced network in operators that XNNPACK computes as one delegate, in fp32 or in int8.

What XNNPACK leaves, ExecuTorch computes several times slower.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from mobilenet_train.errors import require

aten = torch.ops.aten
POINTWISE = {  # what is computed alike on (N, C) and on (N, C, 1, 1)
    overload
    for name in ("relu", "relu6", "hardtanh", "hardsigmoid", "hardswish", "dropout")
    for overload in (getattr(aten, name).default, getattr(aten, f"{name}_").default)
}
RELUS = {aten.relu.default, aten.relu_.default}
CONVOLUTION = aten.conv2d.default
CLAMPS = {aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default, aten.relu6_.default}


def suited_to_xnnpack(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The same network with maps where it had vectors, and hard-sigmoids as the clamps of convolutions."""
    network = program.module(check_guards=False)
    assert isinstance(network, fx.GraphModule)
    means_as_maps(network)
    hard_sigmoids_as_clamps(network)
    network.graph.eliminate_dead_code()
    network.recompile()
    return network


def means_as_maps(network: fx.GraphModule) -> None:
    """Means over the positions of (N, C, H, W), and the layers between them and the next maps, become (N, C, 1, 1).

    A fully connected layer becomes a 1x1 convolution. XNNPACK takes means only with their axes kept, and no reshaping
    of an unknown number of images.
    """
    graph = network.graph
    maps: set[fx.Node] = set()  # results that were (N, C) and are (N, C, 1, 1) now
    as_they_are: set[tuple[fx.Node, fx.Node]] = set()  # a node, and one of `maps` that it takes as (N, C, 1, 1)
    for node in list(graph.nodes):
        x = node.args[0] if node.args else None
        if node.target is aten.mean.dim and sorted(axis % 4 for axis in node.args[1]) == [2, 3]:
            maps |= set() if node.args[2:3] == (True,) else {node}
            node.args = (x, node.args[1], True)
        elif x in maps and node.target in POINTWISE:
            maps.add(node)
        elif (
            x in maps
            and node.target is aten.linear.default
            and (weight := _constant(network, node.args[1])) is not None
        ):
            kernel = _parameter(network, node, "kernel", weight[:, :, None, None])
            maps.add(_replace(node, CONVOLUTION, (x, kernel, *node.args[2:])))
        elif (vector := _unsqueezed_twice(node)) in maps:
            as_they_are |= {(user, vector) for user in node.users}
            node.replace_all_uses_with(vector)
        else:
            for vector in maps.intersection(node.all_input_nodes):
                if (node, vector) not in as_they_are:
                    with graph.inserting_before(node):
                        node.replace_input_with(vector, graph.call_function(aten.flatten.using_ints, (vector, 1)))


def hard_sigmoids_as_clamps(network: fx.GraphModule) -> None:
    """clip(x / 6 + 1 / 2, 0, 1) of a convolution: it computes x / 6 + 1 / 2 itself, and a clamp is part of it."""
    for node in list(network.graph.nodes):
        if node.target is not aten.hardsigmoid.default:
            continue
        convolution = node.args[0]
        if convolution.target is not CONVOLUTION or len(convolution.users) > 1 or len(convolution.args) < 3:
            continue
        weight, bias = (_constant(network, convolution.args[number]) for number in (1, 2))
        if weight is not None and bias is not None:
            convolution.update_arg(1, _parameter(network, convolution, "sixth", weight / 6))
            convolution.update_arg(2, _parameter(network, convolution, "shift", bias / 6 + 0.5))
            _replace(node, aten.hardtanh.default, (convolution, 0.0, 1.0))


def _faster_in_fp32(network: fx.GraphModule, convolution: fx.Node) -> bool:
    """Whether it takes the images, of few channels, or is a depthwise one of 5x5."""
    x, kernel = convolution.args[:2]
    weight = _constant(network, kernel)
    return x.op == "placeholder" or (weight is not None and weight.shape[1:] == (1, 5, 5))  # type: ignore[union-attr]


def _unsqueezed_twice(node: fx.Node) -> Any:
    """x of x[:, :, None, None], from whose flattening `node` makes (N, C, 1, 1)."""
    found = node
    for axes in ((3, -1), (2, -1)):
        if found.target is not aten.unsqueeze.default or found.args[1] not in axes:
            return None
        found = found.args[0]  # type: ignore[assignment]
    return found.args[0] if found.target is aten.flatten.using_ints else None


def _constant(network: fx.GraphModule, node: Any) -> Tensor | None:
    """A parameter, perhaps flattened; None for what is computed from the images, or in another way."""
    if not isinstance(node, fx.Node):
        return None
    if node.target is aten.flatten.using_ints and (value := _constant(network, node.args[0])) is not None:
        return value.flatten(*node.args[1:])  # type: ignore[arg-type]
    return network.get_parameter(str(node.target)).detach() if node.op == "get_attr" else None


def _parameter(network: fx.GraphModule, node: fx.Node, suffix: str, value: Tensor) -> fx.Node:
    """A new constant for `node`."""
    name = f"{node.name}_{suffix}"
    network.register_parameter(name, nn.Parameter(value.contiguous(), requires_grad=False))
    with network.graph.inserting_before(node):
        return network.graph.get_attr(name)


def _replace(node: fx.Node, target: Any, arguments: tuple[Any, ...]) -> fx.Node:
    with node.graph.inserting_before(node):
        new = node.graph.call_function(target, arguments)
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)
    return new


# --- int8


def quantise(network: nn.Module, calibration: Iterable[Tensor]) -> nn.Module:
    """A traced network with int8 weights, a scale for each channel, and int8 activations (static).

    `calibration` are batches (N, 3, R, R) of network inputs, from whose activations the ranges are taken.
    """
    pt2e = require("torchao.quantization.pt2e.quantize_pt2e", "executorch")
    prepared = pt2e.prepare_pt2e(network, _quantizer())
    for images in calibration:
        prepared(images.contiguous())
    return pt2e.convert_pt2e(prepared)


def _quantizer() -> Any:
    """ExecuTorch's quantiser for XNNPACK.

    A convolution's range is taken after the clamp that is part of it. The convolution of the images and the depthwise
    ones of 5x5 stay in fp32, in which XNNPACK computes them faster.
    """
    xnnpack = require("executorch.backends.xnnpack.quantizer.xnnpack_quantizer", "executorch")
    base: Any = xnnpack.XNNPACKQuantizer
    pt2e = require("torchao.quantization.pt2e.quantizer", "executorch")
    key = pt2e.quantizer.Q_ANNOTATION_KEY
    int8 = xnnpack.get_symmetric_quantization_config(is_per_channel=True)

    class Quantizer(base):
        def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
            for node in super().annotate(model).graph.nodes:
                x: Any = node.args[0] if node.args else None
                if node.target is CONVOLUTION and _faster_in_fp32(model, node):
                    clamps = [user for user in node.users if user.target in CLAMPS | RELUS]
                    for part in (node, *clamps):
                        part.meta.pop(key, None)
                        if any(key in user.meta for user in part.users if user not in clamps):
                            part.meta[key] = pt2e.QuantizationAnnotation(
                                output_qspec=int8.output_activation, _annotated=True
                            )
                elif node.target in CLAMPS and x.target is CONVOLUTION and key in x.meta and len(x.users) == 1:
                    after = pt2e.QuantizationAnnotation(output_qspec=x.meta[key].output_qspec, _annotated=True)
                    node.meta[key], x.meta[key].output_qspec = after, None
                elif node.target is aten.flatten.using_ints:  # not a part of the delegate
                    node.meta.pop(key, None)
            return model

    return Quantizer().set_global(int8)
