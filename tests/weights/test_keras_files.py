"""MobileNetV1 with Keras's own files gives Keras's logits."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobilenet_train.models import mobilenet_v1
from mobilenet_train.weights.keras_files import read_keras

RESOLUTION, CLASSES = 64, 7


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ["KERAS_BACKEND"] = "torch"
    module = pytest.importorskip("keras")
    # absl's log handler, which came with it, closes its stream when Hydra configures logging; this one was pytest's
    import absl.logging

    absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__
    return module


def keras_network(keras: Any, width: float) -> Any:
    """With random weights and norms that matter; it ends in logits."""
    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNet(
        input_shape=(RESOLUTION, RESOLUTION, 3),
        alpha=width,
        weights=None,
        classes=CLASSES,
        classifier_activation=None,
    )
    random = np.random.default_rng(0)
    for layer in network.layers:
        if layer.name.endswith("_bn"):
            count = len(layer.get_weights()[0])
            uniform, normal = random.uniform(0.5, 1.5, (2, count)), random.normal(0, 0.1, (2, count))
            layer.set_weights([uniform[0], normal[0], normal[1], uniform[1]])  # gamma, beta, mean, variance
    return network


@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("file", ["model.h5", "model.weights.h5"])
def test_the_logits_are_those_of_keras(keras: Any, tmp_path: Path, width: float, file: str) -> None:
    network = keras_network(keras, width)
    (network.save_weights if file.endswith(".weights.h5") else network.save)(tmp_path / file)
    ours = mobilenet_v1(num_classes=CLASSES, resolution=RESOLUTION, stride_plan="imagenet", width_mult=width,
                        norm_eps=1e-3, padding="tensorflow").eval()  # fmt: skip
    ours.load_state_dict(read_keras(tmp_path / file), strict=False)
    images = np.random.default_rng(1).normal(size=(2, RESOLUTION, RESOLUTION, 3)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(network(images, training=False))
    with torch.inference_mode():
        logits = ours(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert expected.std() > 1e-3  # a network that maps everything to its bias would agree with any other
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


def test_the_names_of_keras_2_are_read_too(tmp_path: Path) -> None:
    """Its files have no `model_weights` around the layers, `:0` behind a variable and `depthwise_` before a kernel."""
    h5py = pytest.importorskip("h5py")
    state = mobilenet_v1(num_classes=3, resolution=32, width_mult=0.25).state_dict()
    names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    with h5py.File(tmp_path / "tf.h5", "w") as file:
        for key, value in state.items():
            part, _, leaf = key.rpartition(".")
            layer = keras_2_layer(part)
            if leaf == "num_batches_tracked":
                continue
            if part.endswith(".1") and "classifier" not in part:
                file[f"{layer}_bn/{layer}_bn/{names[leaf]}:0"] = value.numpy()
            elif leaf == "bias":
                file[f"{layer}/{layer}/bias:0"] = value.numpy()
            else:
                kernel = value[..., None, None] if value.ndim == 2 else value
                axes = (2, 3, 0, 1) if "dw" in layer else (2, 3, 1, 0)
                variable = "depthwise_kernel:0" if "dw" in layer else "kernel:0"
                file[f"{layer}/{layer}/{variable}"] = kernel.permute(axes).numpy()
    read = read_keras(tmp_path / "tf.h5")
    assert read.keys() == {key for key in state if not key.endswith("num_batches_tracked")}
    assert all(torch.equal(read[key], state[key]) for key in read)


def keras_2_layer(part: str) -> str:
    """features.3.depthwise.0 -> conv_dw_3"""
    if part.startswith("classifier"):
        return "conv_preds"
    _, block, *rest = part.split(".")
    return "conv1" if block == "0" else f"conv_{ {'depthwise': 'dw', 'pointwise': 'pw'}[rest[0]] }_{block}"


@pytest.mark.parametrize("side", [6, 7])
def test_tensorflow_padding_adds_its_pixels_below_and_to_the_right_first(side: int) -> None:
    """TensorFlow's `same` at stride 2: the output is ceil(side / 2), an even side gets one pixel at its end only."""
    from mobilenet_train.models.blocks import TFConv2d

    convolution = TFConv2d(1, 1, 3, 2, bias=False)
    torch.nn.init.ones_(convolution.weight)
    image = torch.arange(side * side, dtype=torch.float32).view(1, 1, side, side)
    padded = np.pad(image[0, 0].numpy(), ((side % 2, 1), (side % 2, 1)))
    expected = [[padded[r : r + 3, c : c + 3].sum() for c in range(0, side, 2)] for r in range(0, side, 2)]
    assert np.array_equal(convolution(image)[0, 0].detach().numpy(), np.array(expected))
