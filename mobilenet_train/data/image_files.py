"""A data set of image files: chosen, prepared, the bad ones reported, and put into splits."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobilenet_train.config.schema import FolderConfig, ImageFilesConfig, WebDatasetConfig
from mobilenet_train.console import printable
from mobilenet_train.data import cache
from mobilenet_train.data.cache import CachedImages, Listener
from mobilenet_train.data.images import Split, fingerprint, stratified_sample
from mobilenet_train.data.listing import Listing, list_tree
from mobilenet_train.data.shards import find_shards, list_shards
from mobilenet_train.data.stored import MappedImages, StreamedImages, Streaming
from mobilenet_train.data.synsets import imagenet_words, readable
from mobilenet_train.disk import expanded, read_text, write_text
from mobilenet_train.errors import RunError
from mobilenet_train.machine import usable_cores

MOST_NAMED = 10


@dataclass(frozen=True)
class Found:
    """What a place holds before anything is opened: labels (N,) int64, `test` (N,) bool."""

    listing: Listing
    labels: Tensor
    test: Tensor
    class_names: list[str]


@dataclass(frozen=True)
class Loaded:
    """Splits on the CPU, and a digest of files and settings."""

    train: Split
    test: Split
    class_names: list[str]
    fingerprint: str


def load_image_files(config: ImageFilesConfig, found: Found, listener: Listener) -> Loaded:
    """Takes the shares asked for of what was found, prepares those files, and leaves out or refuses bad ones.

    Raises RunError if something cannot be read, StoppedError if asked to stop.
    """
    chosen = chosen_rows(found, config)
    listing, labels, test = found.listing.take(chosen.numpy()), found.labels[chosen], found.test[chosen]
    size = config.store_size or round(config.resolution / config.crop_ratio)
    prepared, streamed = _prepare(config, listing, size, listener)
    streaming = Streaming(_workers(config), listener) if streamed else None
    _judge(config, listing, size, prepared.bad, listener)
    good = torch.ones(len(listing), dtype=torch.bool)
    good[list(prepared.bad)] = False
    rows = {"training": (good & ~test).nonzero()[:, 0], "test": (good & test).nonzero()[:, 0]}
    for what, part in rows.items():
        _check_classes(what, labels[part], found.class_names)
    _warn_of_duplicates(listing, prepared.digests, rows, listener)
    train, held = (_split(part, labels, listing, size, prepared, streaming) for part in rows.values())
    files = torch.from_numpy(prepared.digests)
    contents = fingerprint(*(Split(files[part], labels[part]) for part in rows.values()))
    return Loaded(train, held, found.class_names, f"{contents} {cache.settings(size)}")


def find_folder(config: FolderConfig, listener: Listener) -> Found:
    """Lists `dataset.root`, and splits it if it is one tree. Raises RunError if it is not a folder of classes."""
    groups = _groups(config.classes)
    wanted = [folder for folders in groups.values() for folder in folders] if groups else None
    by_word = {word: synset for synset, word in imagenet_words().items()}
    tree = list_tree(expanded(config.root), wanted, by_word)
    if tree.others:
        listener.report(f"{tree.others:,} files in dataset.root are not images by their names and are ignored", "note")
    labels, names = torch.from_numpy(tree.labels), readable(tree.folders)
    if isinstance(config.classes, dict):
        group_of = [number for number, folders in enumerate(groups.values()) for _ in folders]
        labels, names = torch.tensor(group_of)[labels], list(groups)
    test = torch.from_numpy(tree.test)
    if not tree.split:
        test[stratified_sample(labels, config.split_seed, config.test_fraction)] = True
        _check_some_left(config, labels, test, names)
    return Found(tree.listing, labels, test, names)


def _check_some_left(config: FolderConfig, labels: Tensor, test: Tensor, names: list[str]) -> None:
    """Raises RunError for classes of which testing takes every image."""
    counts, left = (part.bincount(minlength=len(names)) for part in (labels, labels[~test]))
    if (lost := (counts > 0) & (left == 0)).any():
        first = int(lost.int().argmax())
        raise RunError(
            f"there are no training images for {int(lost.sum()):,} of {len(names):,} classes, e.g. {names[first]!r} "
            f"with {int(counts[first]):,} in all: dataset.test_fraction={config.test_fraction:g} takes one or more of "
            "each for testing; add images, or leave these out with dataset.classes"
        )


def find_webdataset(config: WebDatasetConfig, listener: Listener) -> Found:
    """Lists the shards of both splits. Raises RunError if they cannot be read or the names do not fit the classes."""
    train, test = find_shards("dataset.train", config.train), find_shards("dataset.test", config.test)
    listing, labels = list_shards([*train, *test], expanded(config.cache_dir))
    listing, labels = _with_possible_labels(config, listing, labels, listener)
    classes = int(labels.max(initial=-1)) + 1
    names = _names(config.class_names, classes)
    if len(names) != classes:
        raise RunError(f"dataset.class_names={config.class_names} has {len(names)} names for {classes} classes")
    return Found(listing, torch.from_numpy(labels), torch.from_numpy(listing.place >= len(train)), names)


def _with_possible_labels(
    config: WebDatasetConfig, listing: Listing, labels: np.ndarray, listener: Listener
) -> tuple[Listing, np.ndarray]:
    """Without images whose class has a number that is not below that of all images: each class needs one or more.

    Raises RunError naming the first, unless they are to be skipped.
    """
    bad = np.flatnonzero(labels >= len(labels))
    if len(bad) == 0:
        return listing, labels
    first = f"the .cls of {listing.path(bad[0])} says class {labels[bad[0]]}, but there are {len(labels):,} images"
    if config.on_bad_image == "error":
        raise RunError(f"{first} in all: correct it, or set dataset.on_bad_image=skip to train without the image")
    listener.report(f"{len(bad):,} images with an impossible class are left out: {first}", "warning")
    good = np.flatnonzero(labels < len(labels))
    return listing.take(good), labels[good]


def _names(file: str | None, classes: int) -> list[str]:
    if file is not None:
        try:
            return read_text(expanded(file)).splitlines()
        except (OSError, ValueError) as error:
            raise RunError(f"dataset.class_names={file} cannot be read: {error}") from error
    words = list(imagenet_words().values())
    return words if classes == len(words) else [str(number) for number in range(classes)]


def _groups(classes: Any) -> dict[str, list[str]]:
    """`dataset.classes` as {class: its folders}; empty for all classes."""
    return dict(classes) if isinstance(classes, dict) else {name: [name] for name in classes or ()}


def chosen_rows(found: Found, config: ImageFilesConfig) -> Tensor:
    """The rows (sorted) that `fraction` and `max_per_class` leave; only these are ever opened."""
    train, test = (~found.test).nonzero()[:, 0], found.test.nonzero()[:, 0]
    for what, rows in (("training", train), ("test", test)):
        if len(rows) == 0:
            raise RunError(f"there are no {what} images in {found.listing.root}")
    train = train[stratified_sample(found.labels[train], config.split_seed, config.fraction, config.max_per_class)]
    test = test[stratified_sample(found.labels[test], config.split_seed, max_per_class=config.max_per_class)]
    return torch.cat([train, test]).sort().values


def _prepare(config: ImageFilesConfig, listing: Listing, size: int, listener: Listener) -> tuple[CachedImages, bool]:
    """The prepared images, held as `dataset.cache` asks, and whether they are to be streamed."""
    folder, workers = expanded(config.cache_dir), _workers(config)
    if config.cache == "memory":
        return cache.in_memory(listing, size, workers, listener), False
    if config.cache in ("auto", "disk"):
        try:
            return cache.on_disk(listing, size, True, folder, workers, listener), False
        except cache.NoRoomError as error:
            if config.cache == "disk":
                raise
            listener.report(f"{error}. dataset.cache=auto continues with dataset.cache=off", "note")
    return cache.on_disk(listing, size, False, folder, workers, listener), True


def _workers(config: ImageFilesConfig) -> int:
    return usable_cores() if config.workers is None else config.workers


def _judge(config: ImageFilesConfig, listing: Listing, size: int, bad: dict[int, str], listener: Listener) -> None:
    """Raises RunError about bad image files, or warns of them. A file lists all of them with their reasons."""
    if not bad:
        return
    report = expanded(config.cache_dir) / f"{cache.key_of(listing, size, False)}.bad.txt"
    lines = [f"{printable(listing.root / listing.path(row))} {printable(reason)}" for row, reason in bad.items()]
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"the list of bad image files cannot be written to {report}: {error.strerror}") from error
    write_text(report, "".join(f"{line}\n" for line in lines))
    count = f"{len(bad):,} of {len(listing):,} image files cannot be used"
    if config.on_bad_image == "skip":
        listener.report(f"{count} and are left out; {report} lists them with their reasons", "warning")
        return
    more = [f"  and {len(bad) - MOST_NAMED:,} more, all of them with their reasons in {report}"]
    raise RunError(
        f"{count}:",
        *(f"  {line}" for line in lines[:MOST_NAMED]),
        *(more if len(bad) > MOST_NAMED else []),
        f"Repair or delete them in {listing.root}, or set dataset.on_bad_image=skip to train without them",
    )


def _check_classes(what: str, labels: Tensor, class_names: list[str]) -> None:
    counts = labels.bincount(minlength=len(class_names))
    if len(labels) == 0:
        raise RunError(f"none of the {what} image files can be used")
    if what == "training" and int(counts.min()) == 0:
        raise RunError(f"class {class_names[int(counts.argmin())]!r} has no training images")


def _warn_of_duplicates(listing: Listing, digests: np.ndarray, rows: dict[str, Tensor], listener: Listener) -> None:
    """Warns of test files that are also training files, byte for byte: the network may know them by heart."""
    held = {digests[row].tobytes() for row in rows["test"].tolist()}
    training = {key: row for row in rows["training"].tolist() if (key := digests[row].tobytes()) in held}
    twice = [(row, training[key]) for row in rows["test"].tolist() if (key := digests[row].tobytes()) in training]
    if twice:
        test, train = twice[0]
        listener.report(
            f"{len(twice):,} of {len(rows['test']):,} test images are also training images, byte for byte, e.g. "
            f"{listing.path(test)} = {listing.path(train)}: the test accuracy will be too high",
            "warning",
        )


def _split(
    rows: Tensor,
    labels: Tensor,
    listing: Listing,
    size: int,
    prepared: CachedImages,
    streaming: Streaming | None,
) -> Split:
    index = rows.numpy()
    if streaming is not None:
        return Split(StreamedImages(listing, size, streaming, index), labels[rows])
    assert prepared.images is not None
    if not isinstance(prepared.images, np.memmap):
        return Split(torch.from_numpy(prepared.images[index]), labels[rows])
    return Split(MappedImages(prepared.images, index, prepared.checksums), labels[rows])
