"""A trained run as a classifier: images in, class names and probabilities out."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobilenet_train.data import augment
from mobilenet_train.data.batches import Preprocessor
from mobilenet_train.data.decode import decode, fill
from mobilenet_train.data.listing import SUFFIXES, BadImageError
from mobilenet_train.disk import expanded, regular
from mobilenet_train.errors import RunError
from mobilenet_train.inference.loading import TrainedRun, Weights, load_run
from mobilenet_train.models import MobileNet, folded
from mobilenet_train.models.features import feature_maps

STDIN = "-"

ImageLike = str | Path | np.ndarray[Any, Any]  # an image file, or uint8 (H, W, 3) or (H, W)


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image, the likeliest first; or why there are none."""

    file: str
    ranked: tuple[tuple[str, float], ...]  # (class name, probability from 0 to 1)
    error: str | None = None

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.ranked[0][0]


class Classifier:
    """A trained network with its classes and just the preprocessing that it was trained and tested with."""

    def __init__(self, run: TrainedRun, device: torch.device, layout: torch.memory_format) -> None:
        self.run = run
        self.class_names = run.class_names
        self.model = run.model.to(device).to(memory_format=layout)
        self.device = device
        self._folded = folded(self.model)  # as in evaluation, so that probabilities are the same
        self._prepare = Preprocessor(run.preprocessing, device, layout)
        self._stored = run.preprocessing.stored

    def __call__(self, x: Tensor) -> Tensor:
        """Network inputs, as `preprocess` makes them, to logits (N, classes)."""
        return self.model(x)

    def predict(self, images: ImageLike | Sequence[ImageLike], top: int = 5, batch_size: int = 64) -> list[Prediction]:
        """The `top` likeliest classes of one image or several: file names, or arrays (H, W, 3) or (H, W) of uint8.

        Raises RunError naming an image that cannot be read.
        """
        predictions = list(self.stream(_as_list(images), top, batch_size))
        for prediction in predictions:
            if prediction.error is not None:
                raise RunError(f"{prediction.file} {prediction.error}")
        return predictions

    def stream(self, images: Sequence[ImageLike], top: int = 5, batch_size: int = 64) -> Iterator[Prediction]:
        """A Prediction for each image, in order, a batch at a time; one that cannot be read has an `error`."""
        names = iter(str(x) if isinstance(x, str | Path) else f"image {i}" for i, x in enumerate(images))
        waiting = iter(images)
        while batch := list(islice(waiting, batch_size)):
            read = [self._try_pixels(image) for image in batch]
            good = [pixels for pixels in read if isinstance(pixels, np.ndarray)]
            ranked = iter(self._rank(np.stack(good), top) if good else [])
            for found in read:
                error = found if isinstance(found, str) else None
                yield Prediction(next(names), () if error else next(ranked), error)

    def preprocess(self, images: ImageLike | Sequence[ImageLike]) -> Tensor:
        """The network's input (N, 3, R, R) for images as `predict` takes them. Raises RunError as it does."""
        try:
            return self._inputs(np.stack([self._pixels(image) for image in _as_list(images)]))
        except BadImageError as error:
            raise RunError(f"an image {error}") from error

    def features(self, x: Tensor, strides: Sequence[int] = (8, 16, 32)) -> list[Tensor]:
        """The maps that detectors take, of network inputs (N, 3, H, W) at any resolution; see `feature_maps`."""
        if not isinstance(self.model, MobileNet):
            raise RunError(f"only MobileNets have feature maps; this is a {type(self.model).__name__}")
        return feature_maps(self.model, x, strides)

    @torch.inference_mode()
    def _rank(self, pixels: np.ndarray[Any, Any], top: int) -> list[tuple[tuple[str, float], ...]]:
        probabilities = self._folded(self._inputs(pixels)).float().softmax(1)
        values, classes = probabilities.topk(min(top, len(self.class_names)))
        return [
            tuple((self.class_names[index], value) for index, value in zip(*row, strict=True))
            for row in zip(classes.tolist(), values.tolist(), strict=True)
        ]

    def _inputs(self, pixels: np.ndarray[Any, Any]) -> Tensor:
        images = torch.from_numpy(pixels).to(self.device)
        return self._prepare(augment.centre(images, self.run.preprocessing.crop_ratio))

    def _try_pixels(self, image: ImageLike) -> np.ndarray[Any, Any] | str:
        try:
            return self._pixels(image)
        except BadImageError as error:
            return str(error)

    def _pixels(self, image: ImageLike) -> np.ndarray[Any, Any]:
        """An image as training would have stored it. Raises BadImageError."""
        if isinstance(image, np.ndarray):
            return fill(_array(image), *self._stored)
        return decode(_read(Path(image)), *self._stored)


def load(
    source: str | Path, weights: Weights = "raw", device: str | torch.device = "cpu", *, trust_factory: bool = False
) -> Classifier:
    """A classifier from a run folder or checkpoint file, ready for `predict` and `features`.

        model = mobilenet_train.load("outputs/RUN")
        model.predict("elephant.jpg")[0].label
        model.features(model.preprocess("elephant.jpg"), strides=(8, 16, 32))

    weights: "raw", or "ema" for the moving average. trust_factory: as for `inference.loading.load_run`.
    Raises RunError if the run cannot be loaded.
    """
    run = load_run(source, weights, trust_factory=trust_factory)
    return Classifier(run, torch.device(device), torch.channels_last)


def find_image_files(arguments: Sequence[str]) -> list[str]:
    """Files, folders (with all below them), patterns and "-" as a list of files, in order.

    A file that is named is taken whatever its ending; in folders those with an image's ending are taken.
    Raises RunError for a folder without image files and a pattern without files.
    """
    return [file for argument in arguments for file in _expand(argument)]


def _expand(argument: str) -> list[str]:
    path = expanded(argument)
    if argument == STDIN or path.is_file():
        return [str(path)]
    if path.is_dir():
        files = sorted(str(file) for file in path.rglob("*") if _is_image_file(file))
        if not files:
            raise RunError(f"there are no image files in {path} ({b', '.join(sorted(SUFFIXES)).decode()})")
        return files
    if any(letter in argument for letter in "*?["):
        files = sorted(file for file in glob(str(path), recursive=True) if Path(file).is_file())  # noqa: PTH207 (absolute)
        if not files:
            raise RunError(f"no file matches {argument}")
        return files
    return [str(path)]


def _is_image_file(path: Path) -> bool:
    return os.fsencode(path.name).lower().endswith(SUFFIXES) and path.is_file()


def _as_list(images: ImageLike | Sequence[ImageLike]) -> Sequence[ImageLike]:
    return [images] if isinstance(images, str | Path | np.ndarray) else images


def _read(path: Path) -> bytes:
    """The bytes of a regular file, or of the standard input for "-". Raises BadImageError."""
    if str(path) == STDIN:
        return sys.stdin.buffer.read()
    if not path.exists():
        raise BadImageError("does not exist")
    try:
        with open(path, "rb", opener=regular) as file:
            return file.read()
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror}") from error


def _array(pixels: np.ndarray[Any, Any]) -> Tensor:
    """uint8 (H, W, 3) of an array. Raises BadImageError for any other."""
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise BadImageError(f"is a {pixels.dtype} array of {pixels.shape}; give uint8 (H, W, 3) or (H, W)")
    colours = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return torch.from_numpy(np.array(colours))  # a copy: torch takes no read-only arrays
