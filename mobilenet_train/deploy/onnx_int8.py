"""An ONNX graph quantised to int8 by onnxruntime, rewritten so that nothing between its input and output is fp32.

onnxruntime has int8 kernels neither for HardSigmoid nor for ReduceMean: each would be surrounded by conversions.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mobilenet_train.deploy.runtimes import require

POSITIONS = ([2, 3], [-2, -1], [-1, -2])  # the axes of a mean over all positions of (N, C, H, W)
MOVING = {"DequantizeLinear", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "ReorderInput", "ReorderOutput"}


def quantise(graph: bytes, calibration: Iterable[Tensor]) -> bytes:
    """The graph with int8 weights, a scale for each channel, and int8 activations (static, QDQ form).

    `calibration` are batches (N, 3, R, R) of network inputs, from whose activations the ranges are taken.
    """
    onnx = require("onnx")
    quantization = require("onnxruntime.quantization")
    shape_inference = require("onnxruntime.quantization.shape_inference")
    model = onnx.load_from_string(graph)
    means_as_pooling(model.graph)
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, result = (str(Path(folder, name)) for name in ("plain", "prepared", "int8"))
        onnx.save(model, plain)
        shape_inference.quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            result,
            _reader(calibration),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        quantised = onnx.load(result)
    hard_sigmoids_as_sums(quantised.graph)
    onnx.helper.set_model_props(quantised, {entry.key: entry.value for entry in model.metadata_props})
    return quantised.SerializeToString()


def means_as_pooling(graph: Any) -> None:
    """Every ReduceMean over the positions of (N, C, H, W) becomes a GlobalAveragePool, which has an int8 kernel."""
    onnx = require("onnx")
    values = _values(graph)
    nodes = []
    for node in graph.node:
        axes = values[node.input[1]].tolist() if node.op_type == "ReduceMean" and node.input[1:] else None
        if axes not in POSITIONS:
            nodes.append(node)
            continue
        kept, (output,) = _attributes(node).get("keepdims", 1), node.output
        pooled = output if kept else f"{output}_pooled"
        nodes.append(onnx.helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name))
        if not kept:
            nodes.append(onnx.helper.make_node("Squeeze", [pooled, node.input[1]], [output], name=f"{node.name}_flat"))
    _replace(graph, nodes)


def hard_sigmoids_as_sums(graph: Any) -> None:
    """Every HardSigmoid of a quantised graph, clip(x / 6 + 1 / 2, 0, 1), becomes an Add, which has an int8 kernel.

    x is dequantised with a sixth of its scale, and 1/2 is added; that uint8 with the scale 1/255 and the zero point 0
    ends at 0 and 1 is the clip.
    """
    onnx = require("onnx")
    make_node = onnx.helper.make_node
    producers = {output: node for node in graph.node for output in node.output}
    values = _values(graph)
    changed: dict[str, np.ndarray] = {}
    nodes = []
    for node in graph.node:
        if node.op_type != "HardSigmoid":
            nodes.append(node)
            continue
        dequantise, given, name = producers[node.input[0]], _attributes(node), node.output[0]
        scale, shift, one = f"{name}_input_scale", f"{name}_shift_scale", f"{name}_one"
        changed[scale] = np.float32(given["alpha"] * values[dequantise.input[1]])
        changed[shift] = np.float32(given["beta"])
        changed[one] = np.uint8(1)
        changed[f"{name}_scale"], changed[f"{name}_zero_point"] = np.float32(1 / 255), np.uint8(0)
        x, _, zero_point = dequantise.input
        nodes += [
            make_node("DequantizeLinear", [x, scale, zero_point], [f"{name}_scaled"], name=f"{name}_scaled"),
            make_node("DequantizeLinear", [one, shift], [f"{name}_shift"], name=f"{name}_shift"),
            make_node("Add", [f"{name}_scaled", f"{name}_shift"], [name], name=node.name),
        ]
    _replace(graph, nodes)
    kept = [tensor for tensor in graph.initializer if tensor.name not in changed]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.initializer.extend(onnx.numpy_helper.from_array(np.array(v), name) for name, v in changed.items())


def _values(graph: Any) -> Mapping[str, np.ndarray]:
    """The constants of a graph by their names."""
    to_array = require("onnx").numpy_helper.to_array
    return {tensor.name: to_array(tensor) for tensor in graph.initializer}


def _attributes(node: Any) -> dict[str, Any]:
    return {entry.name: require("onnx").helper.get_attribute_value(entry) for entry in node.attribute}


def _replace(graph: Any, nodes: list[Any]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)


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
