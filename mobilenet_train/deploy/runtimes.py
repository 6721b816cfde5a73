"""A network made ready to run once at a time, in PyTorch or in another runtime."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mobilenet_train.data.batches import Preprocessor
from mobilenet_train.data.images import Preprocessing
from mobilenet_train.deploy.latency import Call
from mobilenet_train.inference.onnx_file import INPUT, OUTPUT

INT8_PROPERTY = "precision"  # only programs in int8 have it
INT8_MARKS = {".onnx": b"QuantizeLinear", ".pte": INT8_PROPERTY.encode()}  # in the files themselves
Logits = Callable[[Tensor], Tensor]  # (N, 3, R, R) fp32 -> (N, classes) fp32


def eager_logits(model: nn.Module, device: torch.device) -> Logits:
    """The network in PyTorch as it is, in evaluation mode, in the layout that is fastest on a CPU."""
    ready = model.eval().to(device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def logits(images: Tensor) -> Tensor:
        return ready(images)

    return logits


def onnx_logits(session: Any) -> Logits:
    """The network of an onnxruntime session."""

    def logits(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.contiguous().numpy()})[0])

    return logits


@dataclass(frozen=True)
class PixelLogits:
    """A network that takes uint8 pixels, as Logits: what it is given is rounded to these again."""

    of_pixels: Logits  # uint8 (N, R, R, 3) -> (N, classes)
    preprocessing: Preprocessing

    @classmethod
    def of(cls, logits: Logits, preprocessing: Preprocessing) -> "PixelLogits":
        """One that takes normalised values, with normalisation in front."""
        prepare = Preprocessor(preprocessing, torch.device("cpu"), torch.contiguous_format)
        return cls(lambda pixels: logits(prepare(pixels)), preprocessing)

    def __call__(self, images: Tensor) -> Tensor:
        prepare = Preprocessor(self.preprocessing, images.device, torch.contiguous_format)
        pixels = prepare.undo(images).mul_(255).round_().to(torch.uint8)
        return self.of_pixels(pixels.permute(0, 2, 3, 1).contiguous())


def runtime_of_file(path: Path) -> str:
    """Which runtime an exported file (.onnx, .pte) is for, and whether it is int8."""
    name = {".onnx": "onnx", ".pte": "executorch"}[path.suffix]
    return f"{name}-int8" if INT8_MARKS[path.suffix] in path.read_bytes() else name


def timed(logits: Logits, images: Tensor, threads: int) -> Call:
    """One forward pass of `images`, to be measured; on CUDA it waits for the result. `threads` are PyTorch's."""

    def call() -> None:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        logits(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize()

    return call


def timed_session(session: Any, images: np.ndarray) -> Call:
    """One forward pass of `images` in onnxruntime, to be measured."""
    feed: Mapping[str, np.ndarray] = {INPUT: images}
    return lambda: session.run([OUTPUT], feed)
