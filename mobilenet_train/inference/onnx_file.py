"""A file of `mnet-export` as a classifier; ONNX files are run by onnxruntime. Imports no torch."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mobilenet_train.data.decode import decode, fill_without_torch
from mobilenet_train.errors import RunError, require
from mobilenet_train.inference.prediction import ImageLike, Prediction, Ranked, pixels_of, predictions

INPUT, OUTPUT = "images", "logits"


def onnx_session(graph: bytes, threads: int) -> Any:
    """An onnxruntime session on the CPU; 0 threads are one a core. Raises RunError if it cannot read the graph."""
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exception types share no base class
        raise RunError(f"onnxruntime cannot load the graph: {str(error).splitlines()[0]}") from error


def takes_pixels(session: Any) -> bool:
    """Whether its input is uint8 (N, H, W, 3), not normalised fp32 (N, 3, H, W)."""
    return session.get_inputs()[0].type == "tensor(uint8)"


@dataclass(frozen=True)
class FileClassifier:
    """What an exported file holds: the network, its classes, and how images become its input."""

    forward: Callable[[np.ndarray], np.ndarray]  # inputs (N, ...) -> logits fp32 (N, classes)
    pixels: bool  # inputs are uint8 (N, R, R, 3), not normalised fp32 (N, C, R, R)
    network: str
    width: float
    class_names: tuple[str, ...]
    resolution: int
    mean: np.ndarray  # fp32 (C,), of values divided by `scale`
    std: np.ndarray
    stored: tuple[int, int]  # height and width to which an image is cut and scaled first
    crop_ratio: float  # the central share of each side that is used then
    scale: float  # 255 for uint8 images, 1 for floating-point ones

    def stream(self, images: Sequence[ImageLike], top: int = 5, batch_size: int = 64) -> Iterator[Prediction]:
        """A Prediction for each image, in order, a batch at a time; one that cannot be read has an `error`."""
        return predictions(images, batch_size, self._pixels, lambda pixels: self._rank(pixels, top))

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Stored images (N, H, W, C) -> fp32 (N, classes)."""
        return self.forward(self._inputs(pixels))

    def _pixels(self, image: ImageLike) -> np.ndarray:
        read = lambda data: decode(data, *self.stored, fill_without_torch)  # noqa: E731
        return pixels_of(image, len(self.mean), self.scale, read, self._fill)

    def _fill(self, pixels: np.ndarray) -> np.ndarray:
        return fill_without_torch(pixels, *self.stored)

    def _rank(self, pixels: np.ndarray, top: int) -> list[Ranked]:
        logits = self.logits(pixels).astype(np.float64)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        order = np.argsort(-shares, axis=1, kind="stable")[:, :top]
        return [
            tuple((self.class_names[c], float(row[c])) for c in best) for row, best in zip(shares, order, strict=True)
        ]

    def _inputs(self, pixels: np.ndarray) -> np.ndarray:
        """As training evaluates: the centre, scaled if need be; normalised unless the network does that itself."""
        height, width = (round(self.crop_ratio * side) for side in pixels.shape[1:3])
        top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
        part = pixels[:, top : top + height, left : left + width]
        if self.pixels:
            return np.ascontiguousarray(np.stack([_resized(image, self.resolution) for image in part]))
        values = (part.astype(np.float32) - self.mean * self.scale) * (1 / (self.std * self.scale))
        planes = [[_resized(plane, self.resolution) for plane in image.transpose(2, 0, 1)] for image in values]
        return np.array(planes, np.float32)


def _resized(pixels: np.ndarray, side: int) -> np.ndarray:
    """uint8 (H, W, 3) or (H, W), or fp32 (H, W) -> `side` pixels a side, bilinear, antialiased where it shrinks."""
    if pixels.shape[:2] == (side, side):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))


def load_onnx(path: Path, threads: int = 0) -> FileClassifier:
    """A classifier from a file that `mnet-export --to onnx` or `onnx-int8` wrote.

    Raises RunError if it cannot be read, is damaged, or holds no labels and preprocessing.
    """
    try:
        session = onnx_session(path.read_bytes(), threads)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    except RunError as error:
        raise RunError(f"{path}: {error}") from error
    return classifier_of_file(
        path,
        session.get_modelmeta().custom_metadata_map,
        lambda images: session.run([OUTPUT], {INPUT: images})[0],
        takes_pixels(session),
    )


def classifier_of_file(
    path: Path, metadata: Mapping[str, str], forward: Callable[[np.ndarray], np.ndarray], pixels: bool
) -> FileClassifier:
    """A classifier from what an exported file holds beside its network. Raises RunError if that is not ours."""
    try:
        values = json.loads(metadata["preprocessing"])
        mean, std = (np.array(values[name], np.float32) for name in ("mean", "std"))
        height, width = values["stored"]
        return FileClassifier(
            forward=forward,
            pixels=pixels,
            network=metadata["network"],
            width=float(metadata["width"]),
            class_names=tuple(json.loads(metadata["labels"])),
            resolution=values["resolution"],
            mean=mean,
            std=std,
            stored=(height, width),
            crop_ratio=values["crop_ratio"],
            scale=values.get("scale", 255.0),  # which files of older versions lack
        )
    except (LookupError, TypeError, ValueError) as error:
        raise RunError(f"{path} does not name labels and preprocessing, as the files of mnet-export do") from error
