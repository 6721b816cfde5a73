"""A trained run as a classifier: images in, class names and probabilities out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobilenet_train.data import augment
from mobilenet_train.data.batches import Preprocessor
from mobilenet_train.data.decode import decode, fill
from mobilenet_train.data.listing import BadImageError
from mobilenet_train.errors import RunError
from mobilenet_train.inference.heat_maps import heat_maps
from mobilenet_train.inference.loading import TrainedRun, Weights, load_run
from mobilenet_train.inference.prediction import ImageLike, Prediction, Ranked, pixels_of, predictions
from mobilenet_train.models import MobileNet, folded
from mobilenet_train.models.features import feature_maps


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

    def __repr__(self) -> str:
        names = ", ".join(self.class_names[:3]) + (", ..." if len(self.class_names) > 3 else "")
        network, side = self.run.config.model.name, self.run.preprocessing.resolution
        return f"Classifier({network} at {side}x{side}, {len(self.class_names)} classes: {names}; {self.run.folder})"

    def __call__(self, x: Tensor) -> Tensor:
        """Network inputs, as `preprocess` makes them, to logits (N, classes)."""
        return self.model(x)

    def predict(self, images: ImageLike | Sequence[ImageLike], top: int = 5, batch_size: int = 64) -> list[Prediction]:
        """The `top` likeliest classes of one image or several.

        An image is a file name, an image of PIL, or an array (H, W, C) or (H, W) as the network was trained with.
        Raises RunError naming an image that cannot be read.
        """
        found = list(self.stream(_as_list(images), top, batch_size))
        for prediction in found:
            if prediction.error is not None:
                raise RunError(f"{prediction.file} {prediction.error}")
        return found

    def stream(self, images: Sequence[ImageLike], top: int = 5, batch_size: int = 64) -> Iterator[Prediction]:
        """A Prediction for each image, in order, a batch at a time; one that cannot be read has an `error`."""
        return predictions(images, batch_size, self._pixels, lambda pixels: self._rank(pixels, top))

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

    def heat_map(self, image: ImageLike, label: str) -> tuple[Tensor, Tensor]:
        """An image as the network sees it (3, R, R), and where it saw the class `label` (R, R); both from 0 to 1.

        See `heat_maps`. Raises RunError for an image that cannot be read, and for a network that is not a MobileNet.
        """
        if not isinstance(self.model, MobileNet):
            raise RunError(f"only MobileNets have heat maps; this is a {type(self.model).__name__}")
        inputs = self.preprocess(image)
        heat = heat_maps(self.model, inputs, torch.tensor([self.class_names.index(label)], device=self.device))
        return self._prepare.shown(inputs)[0].cpu(), heat[0].cpu()

    @torch.inference_mode()
    def _rank(self, pixels: np.ndarray[Any, Any], top: int) -> list[Ranked]:
        probabilities = self._folded(self._inputs(pixels)).float().softmax(1)
        values, classes = probabilities.topk(min(top, len(self.class_names)))
        return [
            tuple((self.class_names[index], value) for index, value in zip(*row, strict=True))
            for row in zip(classes.tolist(), values.tolist(), strict=True)
        ]

    def _inputs(self, pixels: np.ndarray[Any, Any]) -> Tensor:
        images = torch.from_numpy(pixels).to(self.device)
        return self._prepare(augment.centre(images, self.run.preprocessing.crop_ratio))

    def _pixels(self, image: ImageLike) -> np.ndarray[Any, Any]:
        """An image as training would have stored it. Raises BadImageError."""
        stored, pre = self._stored, self.run.preprocessing
        return pixels_of(
            image, pre.channels, pre.scale, lambda data: decode(data, *stored), lambda pixels: fill(pixels, *stored)
        )


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


def _as_list(images: ImageLike | Sequence[ImageLike]) -> Sequence[ImageLike]:
    return [images] if isinstance(images, ImageLike) else images
