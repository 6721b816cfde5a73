"""A network made ready to run once at a time, in PyTorch or in onnxruntime."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mobilenet_train.deploy.latency import Call
from mobilenet_train.errors import RunError

Logits = Callable[[Tensor], Tensor]  # (N, 3, R, R) fp32 -> (N, classes) fp32


def require(package: str, extra: str = "export") -> Any:
    """A module of an extra. Raises RunError that names the extra if it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise RunError(f"this needs {package}, which is not installed: pip install 'mnet-train[{extra}]'") from error


def eager_logits(model: nn.Module, device: torch.device) -> Logits:
    """The network in PyTorch as it is, in evaluation mode, in the layout that is fastest on a CPU."""
    ready = model.eval().to(device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def logits(images: Tensor) -> Tensor:
        return ready(images)

    return logits


def onnx_session(graph: bytes, threads: int) -> Any:
    """An onnxruntime session on the CPU. Raises RunError if onnxruntime cannot read the graph."""
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exception types share no base class
        raise RunError(f"onnxruntime cannot load the graph: {str(error).splitlines()[0]}") from error


def onnx_logits(session: Any) -> Logits:
    """The network of an onnxruntime session."""

    def logits(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.contiguous().numpy()})[0])

    return logits


def timed(logits: Logits, images: Tensor, threads: int) -> Call:
    """One forward pass of `images` in PyTorch, to be measured; on CUDA it waits for the result."""

    def call() -> None:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        logits(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize()

    return call


def timed_session(session: Any, images: np.ndarray) -> Call:
    """One forward pass of `images` in onnxruntime, to be measured."""
    feed: Mapping[str, np.ndarray] = {"images": images}
    return lambda: session.run(["logits"], feed)
