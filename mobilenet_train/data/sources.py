"""Where images come from: CIFAR-10, scikit-learn's digits, torchvision's sets, the user's own function or files."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from mobilenet_train.config.schema import (
    Cifar10Config,
    CustomDatasetConfig,
    DatasetConfig,
    ImageFilesConfig,
    IndianPinesConfig,
    reads_files,
)
from mobilenet_train.data.cache import SILENT, Listener
from mobilenet_train.data.cifar10 import CLASSES as CIFAR10_CLASSES
from mobilenet_train.data.cifar10 import FINGERPRINT as CIFAR10_FINGERPRINT
from mobilenet_train.data.cifar10 import read_cifar10
from mobilenet_train.data.datasets import from_datasets
from mobilenet_train.data.image_files import Found, Loaded, chosen_rows, find_folder, find_webdataset, load_image_files
from mobilenet_train.data.images import (
    Dataset,
    ImageData,
    Preprocessing,
    Split,
    channel_statistics,
    fingerprint,
    hold_out,
    make_split,
    stratified_sample,
)
from mobilenet_train.data.indian_pines import CLASSES, Windows, load_windows
from mobilenet_train.data.torchvision_sets import find_files, read_arrays
from mobilenet_train.disk import expanded
from mobilenet_train.errors import ConfigError, RunError
from mobilenet_train.factory import call_factory

DIGITS_TEST_FRACTION = 0.2


class Known(NamedTuple):
    """Images of the splits, by their files' paths, their windows' centres or a digest of their pixels."""

    train: set[bytes]
    val: set[bytes]
    test: set[bytes]


def load(config: DatasetConfig, listener: Listener = SILENT, channels: int | None = None) -> Dataset:
    """Reads the data set, applies `fraction`, `max_per_class` and `val_fraction`, and measures what is missing.

    channels: model.in_channels. Raises RunError if the data cannot be read, ConfigError if the splits asked for are
    impossible.
    """
    if reads_files(config):
        assert isinstance(config, ImageFilesConfig)
        if channels not in (None, 3):
            raise ConfigError(
                f"model.in_channels={channels} is for arrays: image files are read in colour, leave it out"
            )
        loaded = load_image_files(config, IMAGE_FILES[config.name](config, listener), listener)
    else:
        loaded = _load_arrays(config, channels)
    if len(loaded.class_names) < 2:
        raise RunError(f"dataset={config.name} has {len(loaded.class_names)} class; a classifier needs two or more")
    train, val = _parted(config, loaded.train)
    names, preprocessing = tuple(loaded.class_names), _preprocessing(config, train)
    return Dataset(train, loaded.test, val, names, preprocessing, loaded.fingerprint)


def known_apart(config: DatasetConfig) -> Known:
    """Which images a run trains on, holds out and tests on. A listing is enough for files; arrays are read.

    Raises RunError if the data cannot be read.
    """
    if reads_files(config):
        assert isinstance(config, ImageFilesConfig)
        found = IMAGE_FILES[config.name](config, SILENT)
        rows = chosen_rows(found, config)
        place = found.listing.root.resolve()
        whole, test = (Split(part, found.labels[part]) for part in (rows[~found.test[rows]], rows[found.test[rows]]))

        def names(images: Any) -> set[bytes]:
            return {bytes(place / found.listing.path(row)) for row in images.tolist()}

    else:
        loaded = _load_arrays(config)
        whole, test = loaded.train, loaded.test
        names = _names
    train, val = _parted(config, whole)
    return Known(names(train.images), names(val.images) if val else set(), names(test.images))


def _names(images: Any) -> set[bytes]:
    if isinstance(images, Windows):
        return {bytes(pixel) for pixel in images.pixels.numpy()}
    return {blake2b(image.data).digest() for image in images.numpy()}


def _parted(config: DatasetConfig, train: Split) -> tuple[Split, Split | None]:
    """The training images without those that are held out, and these."""
    return hold_out(train, config.split_seed, config.val_fraction) if config.val_fraction > 0 else (train, None)


def _load_arrays(config: DatasetConfig, channels: int | None = None) -> Loaded:
    if isinstance(config, IndianPinesConfig):
        windows = load_windows(config)
        return _shares(config, Loaded(*windows[:2], CLASSES, windows[2]))
    source: ImageData = ARRAYS[config.name](config)
    classes = len(source.class_names)
    try:
        train = make_split(source.train_images, source.train_labels, classes, "training", channels)
        test = make_split(source.test_images, source.test_labels, classes, "test", channels)
        if (train.images.shape[3], train.dtype) != (test.images.shape[3], test.dtype):
            raise RunError("training and test images differ in their channels or their type")
    except RunError as error:
        of = f"dataset.factory={config.factory}: " if isinstance(config, CustomDatasetConfig) else ""
        raise RunError(f"{of}{error}") from error
    digest = source.fingerprint or fingerprint(train, test)
    return _shares(config, Loaded(train, test, source.class_names, digest))


def _shares(config: DatasetConfig, whole: Loaded) -> Loaded:
    """What `fraction` and `max_per_class` leave."""
    train, test = whole.train, whole.test
    if config.fraction < 1 or config.max_per_class is not None:
        train = train.take(stratified_sample(train.labels, config.split_seed, config.fraction, config.max_per_class))
    if config.max_per_class is not None:
        test = test.take(stratified_sample(test.labels, config.split_seed, max_per_class=config.max_per_class))
    return replace(whole, train=train, test=test)


def _preprocessing(config: DatasetConfig, train: Split) -> Preprocessing:
    mean, std = config.mean, config.std
    height, width, channels = train.images.shape[1:]
    scale = 255.0 if train.dtype == torch.uint8 else 1.0
    if mean is None or std is None:
        measured_mean, measured_std = channel_statistics(train.batches(torch.arange(len(train)).split(64)), scale)
        mean, std = list(mean or measured_mean), list(std or measured_std)
    mean, std = (_one_a_channel(name, given, channels) for name, given in (("mean", mean), ("std", std)))
    return Preprocessing(config.resolution, tuple(mean), tuple(std), (height, width), scale=scale)


def _one_a_channel(name: str, values: list[float], channels: int) -> list[float]:
    if len(values) == channels:
        return values
    if len(set(values)) == 1:  # the same for all, as of grey images
        return values[:1] * channels
    raise ConfigError(f"dataset.{name}={values} has {len(values)} numbers, but the images have {channels} channels")


def _cifar10(config: Cifar10Config) -> ImageData:
    train, test = read_cifar10(expanded(config.root), config.download)
    return ImageData(*train, *test, CIFAR10_CLASSES, CIFAR10_FINGERPRINT)


def _digits(config: DatasetConfig) -> ImageData:
    from sklearn.datasets import load_digits

    bunch = load_digits()  # images (1797, 8, 8) from 0 to 16
    small = torch.from_numpy(bunch.images).float()[:, None] / 16
    large = F.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    images = (large * 255).round().to(torch.uint8)[:, 0, :, :, None]
    labels = torch.from_numpy(np.asarray(bunch.target))
    train, test = hold_out(Split(images, labels), config.split_seed, DIGITS_TEST_FRACTION)
    return ImageData(train.images, train.labels, test.images, test.labels, [str(digit) for digit in range(10)])


def _custom(config: CustomDatasetConfig) -> ImageData:
    data = call_factory("dataset.factory", config.factory, **config.args)
    if isinstance(data, tuple | list) and len(data) == 2:
        data = from_datasets(*data)
    if not isinstance(data, ImageData):
        raise RunError(
            f"dataset.factory={config.factory} returned {type(data).__name__}; return a "
            "mobilenet_train.data.ImageData, or two datasets of torch, for training and testing"
        )
    names = data.class_names
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise RunError(f"dataset.factory={config.factory} gives class_names={names!r}: give a list of strings")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise RunError(f"dataset.factory={config.factory} gives the class name {twice[0]!r} twice: give distinct names")
    return data


ARRAYS: dict[str, Callable[[Any], ImageData]] = {
    "cifar10": _cifar10,
    "digits": _digits,
    "custom": _custom,
    "torchvision": read_arrays,
}

IMAGE_FILES: dict[str, Callable[[Any, Listener], Found]] = {
    "folder": find_folder,
    "imagenet_subset": find_folder,
    "webdataset": find_webdataset,
    "torchvision": find_files,
}
