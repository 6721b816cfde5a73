"""torchvision's classification sets by name: small ones as arrays, photographs as files through the image cache."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch

from mobilenet_train.config.schema.dataset import TorchvisionConfig
from mobilenet_train.data.cache import Listener
from mobilenet_train.data.image_files import Found
from mobilenet_train.data.images import ImageData
from mobilenet_train.data.listing import WHOLE_FILE, Listing
from mobilenet_train.disk import expanded
from mobilenet_train.errors import RunError


@dataclass(frozen=True)
class Kind:
    """How a set of torchvision is asked for its own split, and where below dataset.root its files lie."""

    place: str
    train: tuple[dict[str, Any], ...]
    test: dict[str, Any]


BY_FLAG: tuple[tuple[dict[str, Any], ...], dict[str, Any]] = ({"train": True},), {"train": False}
BY_NAME: tuple[tuple[dict[str, Any], ...], dict[str, Any]] = ({"split": "train"},), {"split": "test"}
BALANCED = {"split": "balanced"}  # 47 classes of one size
KINDS = {  # those in FILE_KINDS of the schema are read as image files
    "CIFAR100": Kind("cifar-100-python/", *BY_FLAG),
    "MNIST": Kind("MNIST/raw/", *BY_FLAG),
    "FashionMNIST": Kind("FashionMNIST/raw/", *BY_FLAG),
    "KMNIST": Kind("KMNIST/raw/", *BY_FLAG),
    "EMNIST": Kind("EMNIST/raw/", ({"train": True, **BALANCED},), {"train": False, **BALANCED}),
    "SVHN": Kind("train_32x32.mat and test_32x32.mat", *BY_NAME),
    "STL10": Kind("stl10_binary/", *BY_NAME),
    "Flowers102": Kind("flowers-102/", ({"split": "train"}, {"split": "val"}), {"split": "test"}),
    "OxfordIIITPet": Kind("oxford-iiit-pet/", ({"split": "trainval"},), {"split": "test"}),
    "Food101": Kind("food-101/", *BY_NAME),
}


def read_arrays(config: TorchvisionConfig) -> ImageData:
    """The images of a set that torchvision keeps as arrays. Raises RunError if it is not there."""
    train, test = _sets(config)
    names = _class_names(train[0], [*train, test])
    return ImageData(_images(train), _labels(train), _images([test]), _labels([test]), names)


def find_files(config: TorchvisionConfig, listener: Listener) -> Found:
    """The image files of a set. Raises RunError if it is not there."""
    del listener  # nothing is left out
    train, test = _sets(config)
    parts = [*train, test]
    files = [Path(file) for part in parts for file in getattr(part, "_image_files", None) or part._images]
    tests = torch.arange(len(files)) >= len(files) - len(test)
    listing = _listing(expanded(config.root), files)
    return Found(listing, torch.from_numpy(_labels(parts)), tests, _class_names(train[0], parts))


def _sets(config: TorchvisionConfig) -> tuple[list[Any], Any]:
    from torchvision import datasets

    kind, root = KINDS[config.kind], expanded(config.root)
    make = getattr(datasets, config.kind)
    try:
        root.mkdir(parents=True, exist_ok=True)
        train = [make(root, download=config.download, **split) for split in kind.train]
        return train, make(root, download=config.download, **kind.test)
    except (OSError, RuntimeError, ValueError, URLError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        asked = "cannot be downloaded" if config.download else "dataset.download=false"
        raise RunError(
            f"{config.kind} is not whole in dataset.root={root}, and {asked} ({reason}): put {kind.place} there, as "
            "torchvision has it"
        ) from error


def _images(sets: Sequence[Any]) -> np.ndarray:
    """(N, H, W, C) or (N, H, W)."""
    images = np.concatenate([np.asarray(part.data) for part in sets])
    channels_first = images.ndim == 4 and images.shape[3] != 3
    return images.transpose(0, 2, 3, 1) if channels_first else images


def _labels(sets: Sequence[Any]) -> np.ndarray:
    names = ("targets", "labels", "_labels")
    found = (next(getattr(part, name) for name in names if hasattr(part, name)) for part in sets)
    return np.concatenate([np.asarray(labels, np.int64) for labels in found])


def _class_names(named: Any, sets: Sequence[Any]) -> list[str]:
    return list(getattr(named, "classes", None) or map(str, range(int(_labels(sets).max()) + 1)))


def _listing(root: Path, files: Sequence[Path]) -> Listing:
    folders = [str(file.parent.relative_to(root)) for file in files]
    places = sorted(set(folders))
    number = {place: index for index, place in enumerate(places)}
    states = [file.stat() if file.exists() else None for file in files]  # a missing one is reported as a bad image
    return Listing(
        root,
        tuple(places),
        place=np.array([number[folder] for folder in folders], np.int32),
        names=np.array([os.fsencode(file.name) for file in files]),
        size=np.array([state.st_size if state else -1 for state in states], np.int64),
        time=np.array([state.st_mtime_ns if state else -1 for state in states], np.int64),
        offset=np.full(len(files), WHOLE_FILE, np.int64),
    )
