"""An ONNX graph quantised to int8 by onnxruntime, rewritten so that nothing after its first convolution is fp32.

onnxruntime has int8 kernels neither for HardSigmoid nor for ReduceMean: each would be surrounded by conversions.
"""

import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mobilenet_train.errors import require

POSITIONS = ([2, 3], [-2, -1], [-1, -2])  # the axes of a mean over all positions of (N, C, H, W)
POINTWISE = {"Relu", "Clip", "HardSigmoid", "HardSwish"}
MOVING = {
    "DequantizeLinear",
    "Transpose",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "ReorderInput",
    "ReorderOutput",
}


def quantise(graph: bytes, calibration: Iterable[Tensor]) -> bytes:
    """The graph with int8 weights, a scale for each channel, and int8 activations (static, QDQ form).

    `calibration` are batches (N, 3, R, R) of network inputs, from whose activations the ranges are taken.
    """
    onnx = require("onnx")
    quantization = require("onnxruntime.quantization")
    shape_inference = require("onnxruntime.quantization.shape_inference")
    model = onnx.load_from_string(graph)
    means_as_maps(model.graph)
    hard_sigmoids_as_clips(model.graph)
    channels_in_sixteens(model.graph)
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, result = (str(Path(folder, name)) for name in ("plain", "prepared", "int8"))
        onnx.save(model, plain)
        shape_inference.quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        suited = onnx.load(prepared)
        quantization.quantize_static(
            suited,
            result,
            _reader(calibration),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=stem(suited.graph),
        )
        quantised = onnx.load(result)
    hard_sigmoids_as_sums(quantised.graph)
    onnx.helper.set_model_props(quantised, {entry.key: entry.value for entry in model.metadata_props})
    return quantised.SerializeToString()


def means_as_maps(graph: Any) -> None:
    """Means over the positions of (N, C, H, W), and the layers between them and the next maps, become (N, C, 1, 1).

    A mean becomes a GlobalAveragePool, which has an int8 kernel. A fully connected layer becomes a 1x1 convolution, or
    squeeze-and-excite's would be transposed twice: onnxruntime's int8 maps are channels-last.
    """
    values = _values(graph)
    before_maps: set[str] = set()  # from which layers lead to the next maps
    for node in reversed(graph.node):
        if _as_map(node, values) or (node.op_type in POINTWISE | {"Gemm"} and node.output[0] in before_maps):
            before_maps.add(node.input[0])
    maps: set[str] = set()  # results that were (N, C) and are (N, C, 1, 1) now
    nodes: list[Any] = []
    for node in graph.node:
        given, (x, *others), output = _attributes(node), node.input, node.output[0]
        if node.op_type == "Reshape" and x in values:
            values[output] = values[x].reshape(values[others[0]])
        if node.op_type == "ReduceMean" and others and values[others[0]].tolist() in POSITIONS:
            node = _node("GlobalAveragePool", [x], output)
            maps |= set() if given["keepdims"] else {output}
        elif x in maps and node.op_type == "Gemm" and given["transB"] and others[0] in values and output in before_maps:
            kernel = _constant(graph, f"{output}_kernel", values[others[0]][:, :, None, None])
            node = _node("Conv", [x, kernel, *others[1:]], output)
            maps.add(output)
        elif x in maps and node.op_type in POINTWISE and output in before_maps:
            maps.add(output)
        elif x in maps and _as_map(node, values):
            node = _node("Identity", [x], output)
        else:
            nodes += _flattened(graph, node, maps)
        nodes.append(node)
    _replace(graph, nodes)
    del graph.value_info[:]  # the shapes were others


def _as_map(node: Any, values: Mapping[str, np.ndarray]) -> bool:
    """Whether it makes (N, C, 1, 1) of (N, C)."""
    axes = values.get(node.input[1]) if node.op_type == "Unsqueeze" else None
    return axes is not None and axes.tolist() in POSITIONS


def _flattened(graph: Any, node: Any, maps: Collection[str]) -> Iterator[Any]:
    """What makes (N, C) again of the maps that a node takes; it takes these instead."""
    for number, name in enumerate(node.input):
        if name in maps:
            node.input[number] = f"{name}_for_{node.output[0]}_{number}"
            axes = _constant(graph, f"{node.input[number]}_axes", np.array(POSITIONS[0]))
            yield _node("Squeeze", [name, axes], node.input[number])


def hard_sigmoids_as_clips(graph: Any) -> None:
    """A HardSigmoid, clip(x / 6 + 1 / 2, 0, 1), of a convolution that nothing else takes becomes a Clip.

    The convolution computes x / 6 + 1 / 2 itself, and quantising leaves the Clip to the ends of its uint8.
    """
    values = _values(graph)
    takers = Counter(name for node in graph.node for name in node.input)
    convolutions = {
        node.output[0]: node for node in graph.node if _is_convolution(node, values) and len(node.input) == 3
    }
    nodes = []
    for node in graph.node:
        convolution = convolutions.get(node.input[0])
        if node.op_type == "HardSigmoid" and convolution and takers[node.input[0]] == 1:
            given, name = _attributes(node), node.output[0]
            kernel, bias = (values[constant] for constant in convolution.input[1:])
            convolution.input[1] = _constant(graph, f"{name}_kernel", given["alpha"] * kernel)
            convolution.input[2] = _constant(graph, f"{name}_bias", given["alpha"] * bias + np.float32(given["beta"]))
            ends = [_constant(graph, f"{name}_from_{end}", np.array(end, np.float32)) for end in (0, 1)]
            node = _node("Clip", [node.input[0], *ends], name)
        nodes.append(node)
    _replace(graph, nodes)


def channels_in_sixteens(graph: Any) -> None:
    """What a depthwise convolution takes and makes gets channels of zeros, up to a multiple of 16.

    onnxruntime's int8 kernel computes 16 channels together and what is left over one by one. Results whose channels
    belong together are widened together, by zeros in the kernels of the convolutions that make and that take them.
    """
    values = _values(graph)
    made_by = {node.output[0]: node for node in graph.node if _is_convolution(node, values)}
    together: dict[str, set[str]] = {}  # of a result, all those that have the same channels
    as_they_are = {value.name for value in (*graph.input, *graph.output)}
    for node in graph.node:
        results = {name for name in (*node.input, *node.output) if name and name not in values}
        if _keeps_channels(node, values):
            group = results.union(*(together.get(name, ()) for name in results))
            together.update(dict.fromkeys(group, group))
        elif not _is_convolution(node, values) or _attributes(node).get("group", 1) > 1:
            as_they_are |= results
    more: dict[str, int] = {}  # how many channels a result gets
    for name, node in made_by.items():
        group, channels = together.get(name, set()), len(values[node.input[1]])
        alike = {len(values[made_by[other].input[1]]) for other in group & made_by.keys()} == {channels}
        if _is_depthwise(node, values) and alike and not group & as_they_are:
            more.update(dict.fromkeys(group, -channels % 16))
    for node in made_by.values():
        made, taken = more.get(node.output[0], 0), more.get(node.input[0], 0)
        if not (made or taken):
            continue
        if _is_depthwise(node, values):
            next(entry for entry in node.attribute if entry.name == "group").i += made
            taken = 0
        for number, name in enumerate(node.input[1:], 1):
            value = values[name]
            wider = np.pad(value, [(0, made), (0, taken), *[(0, 0)] * value.ndim][: value.ndim])
            node.input[number] = _constant(graph, f"{name}_{len(wider)}_channels", wider)
    _replace(graph, list(graph.node))


def _keeps_channels(node: Any, values: Mapping[str, np.ndarray]) -> bool:
    """Whether each channel of the result is computed from the same channel of what is given."""
    constants = [values[name] for name in node.input if name in values]
    if node.op_type in POINTWISE | {"Identity", "GlobalAveragePool", "Add", "Mul"}:
        return all(constant.size == 1 for constant in constants)
    return _is_depthwise(node, values)


def _is_depthwise(node: Any, values: Mapping[str, np.ndarray]) -> bool:
    """Whether it is a convolution of one kernel for each channel."""
    if not _is_convolution(node, values):
        return False
    kernels = values[node.input[1]]
    return kernels.shape[1] == 1 and _attributes(node).get("group", 1) == len(kernels) > 1


def _is_convolution(node: Any, values: Mapping[str, np.ndarray]) -> bool:
    """Whether it is one whose weights are constants."""
    return node.op_type == "Conv" and values.keys() >= set(node.input[1:])


def stem(graph: Any) -> list[str]:
    """The names of the convolutions of the images, and of what activates their results; every node gets one.

    They stay in fp32: of few channels, onnxruntime's int8 kernel takes twice as long to collect its windows.
    """
    values, images = _values(graph), {value.name for value in graph.input}
    names: list[str] = []
    results: set[str] = set()
    for number, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
        first = node.op_type == "Conv" and node.input[0] in images
        if first or (node.op_type in POINTWISE | {"Mul"} and set(node.input) - values.keys() <= results):
            names.append(node.name)
            results.add(node.output[0])
    return names


def hard_sigmoids_as_sums(graph: Any) -> None:
    """Every HardSigmoid that is left in a quantised graph becomes an Add, which has an int8 kernel.

    x is dequantised with a sixth of its scale, and 1/2 is added. The clip is where the result's uint8 end: its zero
    point is 0, for nothing below was seen in calibration, and nothing above 1 was. One that is not quantised stays.
    """
    dequantised = {node.output[0]: node.input for node in graph.node if node.op_type == "DequantizeLinear"}
    unclipped = {name for node in graph.node if node.op_type != "QuantizeLinear" for name in node.input}
    unclipped |= {output.name for output in graph.output}
    values = _values(graph)
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type == "HardSigmoid" and node.input[0] in dequantised and node.output[0] not in unclipped:
            given, name = _attributes(node), node.output[0]
            x, scale, zero_point = dequantised[node.input[0]]
            smaller = _constant(graph, f"{name}_input_scale", given["alpha"] * values[scale])
            one = _constant(graph, f"{name}_one", np.array(1, np.uint8))
            shift = _constant(graph, f"{name}_shift", np.array(given["beta"], np.float32))
            nodes.append(_node("DequantizeLinear", [x, smaller, zero_point], f"{name}_scaled"))
            nodes.append(_node("DequantizeLinear", [one, shift], f"{name}_shifted_by"))
            node = _node("Add", [f"{name}_scaled", f"{name}_shifted_by"], name)
        nodes.append(node)
    _replace(graph, nodes)


def _node(kind: str, inputs: Sequence[str], output: str) -> Any:
    return require("onnx").helper.make_node(kind, inputs, [output], name=f"{kind}_{output}")


def _constant(graph: Any, name: str, value: np.ndarray) -> str:
    graph.initializer.append(require("onnx").numpy_helper.from_array(value, name))
    return name


def _values(graph: Any) -> dict[str, np.ndarray]:
    """The constants of a graph by their names."""
    to_array = require("onnx").numpy_helper.to_array
    return {tensor.name: to_array(tensor) for tensor in graph.initializer}


def _attributes(node: Any) -> dict[str, Any]:
    return {entry.name: require("onnx").helper.get_attribute_value(entry) for entry in node.attribute}


def _replace(graph: Any, nodes: Sequence[Any]) -> None:
    """Gives the graph those of the nodes, in their order, that its results need, and leaves it their constants."""
    used = {output.name for output in graph.output}
    needed: list[Any] = []
    for node in reversed(nodes):
        if used.intersection(node.output):
            used.update(node.input)
            needed.insert(0, node)
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    del graph.node[:]
    graph.node.extend(needed)


def _reader(batches: Iterable[Tensor]) -> Any:
    """The batches as onnxruntime's calibration wants them."""
    base: Any = require("onnxruntime.quantization").CalibrationDataReader

    class Reader(base):
        def __init__(self) -> None:
            self.feeds: Iterator[dict[str, Any]] = ({"images": batch.contiguous().numpy()} for batch in batches)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    return Reader()


def fp32_operators(graph: bytes) -> dict[str, int]:
    """How many operators of each kind onnxruntime still computes in fp32 when it runs a quantised graph here."""
    onnx, onnxruntime = require("onnx"), require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder, "as_run"))
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(options.optimized_model_filepath).graph.node
    return dict(Counter(node.op_type for node in nodes if node.op_type not in MOVING and node.op_type[0] != "Q"))
