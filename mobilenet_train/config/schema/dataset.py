"""The group `dataset`: which images, and how they are read."""

from typing import Any

from mobilenet_train.config.fields import (
    NULL,
    Section,
    anything,
    arguments,
    factory,
    flag,
    number,
    numbers,
    one_of,
    text,
    whole,
)


def is_class_choice(classes: Any) -> bool:
    """dataset.classes: null, [class, ...] or {class: [folder, ...]}, two classes or more, no folder twice."""
    if not isinstance(classes, list | dict):
        return classes is None
    groups = list(classes.values()) if isinstance(classes, dict) else [[name] for name in classes]
    folders = [folder for group in groups for folder in group] if all(isinstance(g, list) for g in groups) else [None]
    named = all(isinstance(folder, str) for folder in folders)
    return len(groups) >= 2 and all(groups) and named and len(set(folders)) == len(folders)


class DatasetConfig(Section):
    """The images, one of the group `dataset`."""

    name: str = text("the choice")
    resolution: int = whole("pixels the network sees", 8, 4096, said="pixels,")
    crop_ratio: float = number("evaluation sees the central share of each side; 0.875 is the papers'", above=0, most=1)
    mean: list[float] | None = numbers(
        "of the training images, per channel, in 0..1 (uint8) or their own units (float32); null: measured on them",
        "a list of three numbers from 0 to 1, one a channel",
        lambda mean: len(mean) == 3,
        lambda mean: len(mean) == 3 and all(0 <= value <= 1 for value in mean),
        null=NULL,
    )
    std: list[float] | None = numbers(
        "standard deviation, like mean",
        "a list of three numbers above 0, at most 10, one a channel",
        lambda std: len(std) == 3 and min(std) > 0,
        lambda std: len(std) == 3 and all(0 < value <= 10 for value in std),
        null=NULL,
    )
    fraction: float = number("train on this share of every class", above=0, most=1)
    max_per_class: int | None = whole(
        "and on at most so many images of a class, in training and test", 1, typed_most=10**9, null=NULL
    )
    val_fraction: float = number(
        "share of the training images held out for choosing an epoch; 0 = none", least=0, below=1
    )
    split_seed: int = whole(
        "draws which images are for testing, held out, and in a share; apart from seed, so that runs of several seeds "
        "share them",
        0,
        2**32 - 1,
    )


class Cifar10Config(DatasetConfig):
    """CIFAR-10."""

    root: str = text("holds cifar-10-batches-py/ or the official tar.gz")
    download: bool = flag("fetch the official archive (170 MB, md5 checked) if root does not have it")


class DigitsConfig(DatasetConfig):
    """scikit-learn's digits."""


class ArrayConfig(DatasetConfig):
    """Arrays of any number of channels, in any units."""

    mean: list[float] | None = numbers(
        "of the training images, per channel, in 0..1 (uint8) or their own units (float32); null: measured on them",
        "a list of numbers, one a channel or one for all",
        bool,
        null=NULL,
    )
    std: list[float] | None = numbers(
        "standard deviation, like mean",
        "a list of numbers above 0, one a channel or one for all",
        lambda std: bool(std) and min(std) > 0,
        null=NULL,
    )


class CustomDatasetConfig(ArrayConfig):
    """Arrays of the user's own."""

    factory: str = factory("package.module:function, called as function(**args)")
    args: dict[str, Any] = arguments("passed to the function, e.g. +dataset.args.path=images.npz")


class IndianPinesConfig(ArrayConfig):
    """Indian Pines: one hyperspectral image, in windows."""

    root: str = text("holds Indian_pines_corrected.mat and Indian_pines_gt.mat; else the package tensorly's arrays")
    components: int = whole("principal components that the spectra are reduced to", 1, 200)
    train_fraction: float = number("share of the labelled pixels of every class for training", above=0, below=1)
    split: str = one_of(
        "random: training pixels from anywhere, as published, so windows overlap; disjoint: from blocks of the image "
        "in which nothing is tested",
        *("random", "disjoint"),
    )


class ImageFilesConfig(DatasetConfig):
    """What data sets of image files share."""

    store_size: int | None = whole(
        "pixels of a prepared image: its central square, shrunk once; null: resolution / crop_ratio",
        8,
        4096,
        null=NULL,
        said="pixels,",
    )
    cache: str = one_of(
        "disk: prepared once, memory-mapped; memory: prepared at every start; off: decoded again in every epoch; "
        "auto: disk if it has room, else off",
        *("auto", "memory", "disk", "off"),
        free=True,
    )
    cache_dir: str = text("prepared images are kept here; may be deleted at any time", free=True)
    workers: int | None = whole(
        "processes that decode; null: one a core, 0: decode in the training process",
        0,
        1024,
        null="null (one a core)",
        free=True,
    )
    on_bad_image: str = one_of(
        "error: refuse to start; skip: train without the files that cannot be read. All are listed", "error", "skip"
    )


class FolderConfig(ImageFilesConfig):
    """Image files in a folder for each class."""

    root: str = text("the folder with train/ and val/, or with the classes")
    classes: Any = anything(
        "only these, in this order: [tench,church]; or made of several folders: {fish:[tench],music:[n03394916]}",
        "null, a list of class folders, or {class: [folders]}; two or more classes, no folder twice",
        is_class_choice,
    )
    test_fraction: float = number("of every class, for testing, where there are no train/ and val/", above=0, below=1)


class WebDatasetConfig(ImageFilesConfig):
    """Image files in tar shards."""

    train: str = text("tar files for training, * and ? match: /data/imagenet-train-*.tar")
    test: str = text("and for testing")
    class_names: str | None = text(
        "a text file, one name a line; null: ImageNet's words for 1,000 classes, else the numbers"
    )


ARRAY_KINDS = ("CIFAR100", "EMNIST", "FashionMNIST", "KMNIST", "MNIST", "STL10", "SVHN")
FILE_KINDS = ("Flowers102", "Food101", "OxfordIIITPet")


class TorchvisionConfig(ImageFilesConfig):
    """One of torchvision's sets, with its own split."""

    kind: str = one_of(
        "which, as torchvision names it; the last three are image files, which want a higher resolution",
        *ARRAY_KINDS,
        *FILE_KINDS,
    )
    root: str = text("holds the set's own files or folder, as torchvision has them")
    download: bool = flag("let torchvision fetch what root does not have, md5s checked")


def reads_files(config: DatasetConfig) -> bool:
    """Whether a data set consists of image files, not of arrays."""
    return isinstance(config, ImageFilesConfig) and getattr(config, "kind", None) not in ARRAY_KINDS
