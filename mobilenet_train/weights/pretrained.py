"""Starting from trained weights: where they come from, whether they fit, and what starts from scratch."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from mobilenet_train import checkpoint, tensor_files
from mobilenet_train.config.trained import Trained, find_trained
from mobilenet_train.disk import expanded
from mobilenet_train.errors import RunError, require
from mobilenet_train.models import MobileNet
from mobilenet_train.weights.keras_files import read_keras
from mobilenet_train.weights.timm_names import NORM_EPS as TIMMS_NORM_EPS
from mobilenet_train.weights.timm_names import from_timm, is_timms

TORCHVISION_NAMES = {"v2": "mobilenet_v2", "v3_large": "mobilenet_v3_large", "v3_small": "mobilenet_v3_small"}


@dataclass(frozen=True)
class Weights:
    """Trained weights by parameter name. `checkpoint`: whatever else one of our own files holds.

    norm_eps: batch-norm's epsilon in training, where the weights are adapted to that of the network.
    """

    state: dict[str, Tensor]
    checkpoint: dict[str, Any] | None = None
    norm_eps: float | None = None


def read_weights(network: str, source: str, width: float) -> Weights:
    """The weights that model.weights names, for this network. Raises RunError if they cannot be read."""
    if source == "torchvision":
        return _download(network)
    trained = find_trained(source, network, width)
    weights = _read(_from_hub(trained) if trained else expanded(source))
    if is_timms(weights.state):
        return Weights(from_timm(network, weights.state), norm_eps=TIMMS_NORM_EPS)
    return weights


def start_from(model: MobileNet, network: str, source: str, weights: Weights, class_names: tuple[str, ...]) -> str:
    """Copies the weights of `source` (model.weights) into `model`; returns what to log.

    The last layer starts from scratch if the weights are for other classes. Raises RunError if they do not fit.
    """
    names = weights.checkpoint["class_names"] if weights.checkpoint else None
    ours = model.state_dict()
    head = f"classifier.{len(model.classifier) - 1}"
    state = {name: value for name, value in weights.state.items() if not name.endswith("num_batches_tracked")}
    wanted = {name for name in ours if not name.endswith("num_batches_tracked")}
    if lost := sorted(wanted - state.keys()) + sorted(state.keys() - wanted):
        raise RunError(f"model.weights={source} is not a {network}: {lost[0]} is only in one of the two")
    classes = len(state[f"{head}.bias"])
    kept = classes == len(class_names) and names in (None, list(class_names))
    if not kept:
        state = {name: value for name, value in state.items() if not name.startswith(head)}
    stem, averaged = state["features.0.0.weight"], ""
    if stem.shape[1] == 3 != (channels := ours["features.0.0.weight"].shape[1]):
        state["features.0.0.weight"] = averaged_over_colours(stem, channels)
        averaged = f"; first convolution averaged over its 3 channels, for {channels}"
    for name, value in state.items():
        if value.shape != ours[name].shape:
            raise RunError(
                f"model.weights={source} does not fit: {name} has the shape {tuple(value.shape)} there and "
                f"{tuple(ours[name].shape)} here; was it trained with another model.width_mult?"
            )
        if not value.isfinite().all():
            raise RunError(
                f"model.weights={source} cannot be trained on: {name} has values that are not finite numbers"
            )
    if weights.norm_eps is not None:
        state |= _adapted(model, state, weights.norm_eps)
    model.load_state_dict(state, strict=False)
    if kept:
        return f"weights from {source}; last layer kept{averaged}"
    why = "other classes" if classes == len(class_names) else f"{classes} classes there, {len(class_names)} here"
    return f"weights from {source}; last layer from scratch ({why}){averaged}"


def averaged_over_colours(kernel: Tensor, channels: int) -> Tensor:
    """(N, 3, H, W) -> (N, channels, H, W): the same kernel for each channel, with the sum over all channels kept."""
    return (kernel.sum(1, keepdim=True) / channels).repeat(1, channels, 1, 1)


def _adapted(model: MobileNet, state: dict[str, Tensor], norm_eps: float) -> dict[str, Tensor]:
    """The norms' factors with which the network's own epsilon gives what `norm_eps` gave."""
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    return {
        f"{name}.weight": state[f"{name}.weight"]
        * ((state[f"{name}.running_var"] + norm.eps) / (state[f"{name}.running_var"] + norm_eps)).sqrt()
        for name, norm in norms.items()
    }


def freeze(model: MobileNet, choice: str | int) -> None:
    """Applies model.freeze. Raises RunError for more entries than there are."""
    count = {"none": 0, "backbone": len(model.features)}.get(str(choice), choice)
    assert isinstance(count, int)
    if count > len(model.features):
        raise RunError(f"model.freeze={choice}: the network has {len(model.features)} features to freeze")
    model.freeze(count)


def _download(network: str) -> Weights:
    """torchvision's ImageNet weights for a network at width 1. Raises RunError without network."""
    from torchvision.models import get_model_weights

    weights = get_model_weights(TORCHVISION_NAMES[network]).DEFAULT
    try:
        return Weights(dict(weights.get_state_dict(progress=False, check_hash=True)))
    except (URLError, OSError, RuntimeError) as error:
        raise RunError(
            f"model.weights=torchvision: {weights.url} could not be downloaded ({error}); "
            f"put the file into {torch.hub.get_dir()}/checkpoints, or give its path as model.weights"
        ) from error


def _from_hub(trained: Trained) -> Path:
    """timm's weights on huggingface.co, or in the cache of its library. Raises RunError if they are in neither."""
    hub, utils = require("huggingface_hub", "timm"), require("huggingface_hub.utils", "timm")
    utils.disable_progress_bars()
    utils.logging.set_verbosity_error()  # it logs each of its five attempts
    try:
        return Path(hub.hf_hub_download(trained.repository, "model.safetensors"))
    except Exception as error:  # the library's and its HTTP client's exceptions share no base class
        away = isinstance(error, utils.LocalEntryNotFoundError)
        reason = "huggingface.co cannot be reached" if away else str(error).splitlines()[0]
        raise RunError(
            f"model.weights={trained.source}: {reason}; get model.safetensors of huggingface.co/{trained.repository} "
            "elsewhere and give its path as model.weights, or set HF_HOME to a cache that has it"
        ) from error


def _read(path: Path) -> Weights:
    """A run folder, one of our checkpoints, a state dict (.pt, .pth, .safetensors), or a Keras file (.h5)."""
    if path.is_dir():
        path = path / "checkpoints/last.pt"
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return Weights(load_file(path))
        if path.suffix in (".h5", ".hdf5"):
            return Weights(read_keras(path))
        saved = tensor_files.read(path)
    except FileNotFoundError as error:
        raise RunError(f"model.weights={path} does not exist") from error
    except ImportError as error:
        raise RunError(f"model.weights={path} needs h5py to be read: pip install h5py") from error
    except KeyError as error:
        raise RunError(
            f"model.weights={path} is not a MobileNetV1 of Keras with its last layer: {error} is missing"
        ) from error
    except pickle.UnpicklingError as error:
        raise RunError(f"model.weights={path} is damaged, or holds more than tensors, which could run code") from error
    except Exception as error:
        raise RunError(f"model.weights={path} cannot be read: {str(error).splitlines()[0]}") from error
    if isinstance(saved, dict) and "format" in saved:
        saved = checkpoint.load(path)
        return Weights(saved["model"], saved)
    return Weights(_state_dict(saved, path))


def _state_dict(saved: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a plain state dict, or of one under "state_dict" or "model" as trainers nest it."""
    for key in ("state_dict", "model"):
        if isinstance(saved, dict) and isinstance(saved.get(key), dict):
            saved = saved[key]
    if not isinstance(saved, dict) or not all(isinstance(value, Tensor) for value in saved.values()):
        raise RunError(f"model.weights={path} holds no weights: give a state dict (name -> tensor)")
    return saved
