"""MobileNetV1 weights as Keras saves them, under our names."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import h5py

BLOCKS = 13
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
NORM_ORDER, WEIGHT_ORDER = tuple(NORM), ("kernel", "bias")  # how `.weights.h5` numbers a layer's variables

Layer = dict[str, np.ndarray]  # variables by Keras's name


def read_keras(path: Path) -> dict[str, Tensor]:
    """A state dict from `.h5` (by layer name, Keras 1 to 3) or `.weights.h5` (by layer order, Keras 3).

    Raises ImportError without h5py, OSError if the file is not an HDF5 file, KeyError for a layer that is missing.
    """
    import h5py

    with h5py.File(path) as file:
        layers = _by_order(file) if "layers" in file else _by_name(file.get("model_weights", file))
    state: dict[str, Tensor] = {}
    for name, convolution, norm in _positions():
        state[f"{name}.0.weight"] = _kernel(layers[convolution]["kernel"], depthwise="dw" in convolution)
        state |= {f"{name}.1.{ours}": torch.from_numpy(layers[norm][theirs]) for theirs, ours in NORM.items()}
    head = layers["conv_preds"]
    return {
        **state,
        "classifier.1.weight": _kernel(head["kernel"], depthwise=False).flatten(1),
        "classifier.1.bias": torch.from_numpy(head["bias"]),
    }


def _positions() -> Iterator[tuple[str, str, str]]:
    """(our name, Keras's convolution, Keras's norm) in the order of the network."""
    yield "features.0", "conv1", "conv1_bn"
    for block in range(1, BLOCKS + 1):
        for ours, theirs in (("depthwise", "dw"), ("pointwise", "pw")):
            yield f"features.{block}.{ours}", f"conv_{theirs}_{block}", f"conv_{theirs}_{block}_bn"


def _kernel(values: np.ndarray, *, depthwise: bool) -> Tensor:
    """(height, width, in, out) -> (out, in, height, width); depthwise (h, w, in, multiplier) -> (-1, 1, h, w)."""
    height, width, *_ = values.shape
    kernel = values.reshape(height, width, 1, -1) if depthwise else values
    return torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))


def _by_name(group: "h5py.Group") -> dict[str, Layer]:
    """Layer -> variables; they lie below the layer as `LAYER/kernel:0`, `kernel` or `depthwise_kernel:0`."""
    layers: dict[str, Layer] = {}

    def visit(path: str, item: "h5py.Dataset | h5py.Group") -> None:
        if hasattr(item, "shape"):
            layer, variable = path.split("/")[0], path.split("/")[-1].split(":")[0]
            layers.setdefault(layer, {})[variable.removeprefix("depthwise_")] = item[()]

    group.visititems(visit)
    return layers


def _by_order(file: "h5py.File") -> dict[str, Layer]:
    """The same from Keras 3's `layers/KIND_NUMBER/vars/NUMBER`, where layers of a kind are numbered as they come."""

    def variables(kind: str, number: int, names: tuple[str, ...]) -> Layer:
        group = file[f"layers/{kind}{f'_{number}' if number else ''}/vars"]
        return {name: group[str(index)][()] for index, name in enumerate(names) if str(index) in group}

    layers: dict[str, Layer] = {"conv_preds": variables("conv2d", BLOCKS + 1, WEIGHT_ORDER)}
    seen = {"conv2d": 0, "depthwise_conv2d": 0}
    for number, (_, convolution, norm) in enumerate(_positions()):
        kind = "depthwise_conv2d" if "dw" in convolution else "conv2d"
        layers[convolution] = variables(kind, seen[kind], WEIGHT_ORDER)
        layers[norm] = variables("batch_normalization", number, NORM_ORDER)
        seen[kind] += 1
    return layers
