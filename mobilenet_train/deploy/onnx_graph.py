"""A network as an ONNX graph, exported by torch.export and labelled; its input normalised values or pixels."""

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from mobilenet_train.data.images import Preprocessing
from mobilenet_train.errors import require
from mobilenet_train.inference.onnx_file import INPUT, OUTPUT


def to_onnx(model: nn.Module, resolution: int, properties: Mapping[str, str], channels: int = 3) -> bytes:
    """The network as a serialised ONNX graph, batch-norm folded into the convolutions before it.

    Input "images" (batch, channels, resolution, resolution) and output "logits" (batch, classes), fp32, for any batch.
    `properties` become the graph's metadata.
    """
    onnx = require("onnx")
    require("onnxscript")
    images = torch.zeros(2, channels, resolution, resolution)  # one image would fix N at 1
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own internals
        program = torch.export.export(model.eval(), (images,), dynamic_shapes=({0: torch.export.Dim("N")},))
        exported = torch.onnx.export(program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False)
    assert exported is not None
    model_proto = exported.model_proto
    graph = model_proto.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:  # torch's name for it is its own
                dimension.dim_param = "batch"
    onnx.helper.set_model_props(model_proto, dict(properties))
    onnx.checker.check_model(model_proto)
    return model_proto.SerializeToString()


def taking_pixels(graph: bytes, preprocessing: Preprocessing) -> bytes:
    """The graph with normalisation in front: input "images" uint8 (batch, resolution, resolution, 3), RGB."""
    onnx = require("onnx")
    helper = onnx.helper
    model = onnx.load_from_string(graph)
    nodes, normalised = list(model.graph.node), f"{INPUT}_normalised"
    for node in nodes:
        for number, name in enumerate(node.input):
            if name == INPUT:
                node.input[number] = normalised
    side = preprocessing.resolution
    shape = ["batch", side, side, 3]
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info(INPUT, onnx.TensorProto.UINT8, shape))
    mean, std = (np.array(value, np.float32).reshape(3, 1, 1) for value in (preprocessing.mean, preprocessing.std))
    constants = {"mean_255": mean * 255, "one_by_std_255": 1 / (std * 255)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    first = [
        helper.make_node("Transpose", [INPUT], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["values"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Sub", ["values", "mean_255"], ["centred"]),
        helper.make_node("Mul", ["centred", "one_by_std_255"], [normalised]),
    ]
    del model.graph.node[:]
    model.graph.node.extend([*first, *nodes])
    onnx.checker.check_model(model)
    return model.SerializeToString()
