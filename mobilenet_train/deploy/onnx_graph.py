"""A network as an ONNX graph: exported by torch.export, labelled, and quantised to int8 by onnxruntime."""

import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mobilenet_train.deploy.runtimes import require

MOVING = {"DequantizeLinear", "Transpose", "Reshape", "Unsqueeze", "Flatten", "ReorderInput", "ReorderOutput"}


def to_onnx(model: nn.Module, resolution: int, properties: Mapping[str, str]) -> bytes:
    """The network as a serialised ONNX graph, batch-norm folded into the convolutions before it.

    Input "images" (N, 3, resolution, resolution) and output "logits" (N, classes), fp32, any N. `properties` become
    the graph's metadata.
    """
    onnx = require("onnx")
    require("onnxscript")
    images = torch.zeros(2, 3, resolution, resolution)  # one image would fix N at 1
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own internals
        program = torch.export.export(model.eval(), (images,), dynamic_shapes=({0: torch.export.Dim("N")},))
        exported = torch.onnx.export(
            program, dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
        )
    assert exported is not None
    graph = exported.model_proto
    onnx.helper.set_model_props(graph, dict(properties))
    onnx.checker.check_model(graph)
    return graph.SerializeToString()


def quantise(graph: bytes, calibration: Iterable[Tensor]) -> bytes:
    """The graph with int8 weights, a scale for each channel, and int8 activations (static, QDQ form).

    `calibration` are batches (N, 3, R, R) of network inputs, from whose activations the ranges are taken.
    """
    onnx = require("onnx")
    quantization = require("onnxruntime.quantization")
    shape_inference = require("onnxruntime.quantization.shape_inference")
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, result = (str(Path(folder, name)) for name in ("plain", "prepared", "int8"))
        Path(plain).write_bytes(graph)
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
    onnx.helper.set_model_props(
        quantised, {entry.key: entry.value for entry in onnx.load_from_string(graph).metadata_props}
    )
    return quantised.SerializeToString()


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
