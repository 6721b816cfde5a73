"""Which image files there are: folders of classes, or members of tar shards, listed in one pass and kept small."""

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from mobilenet_train.disk import regular
from mobilenet_train.errors import RunError

SUFFIXES = tuple(b".jpg .jpeg .jfif .png .gif .bmp .webp .avif .tif .tiff .ppm .pgm .pbm .pnm .tga .jp2 .ico".split())
WHOLE_FILE = -1
LARGEST_FILE = 2**30  # 89 million pixels (Pillow's limit) of 8 bytes each, uncompressed, are less


class BadImageError(Exception):
    """A file that cannot be read as an image; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class Listing:
    """Image files as arrays of one entry each, since a list of objects would take ten times the memory.

    `places` are folders or tar files below `root`; image i is `names[i]` in `places[place[i]]`: a file, or,
    with `offset[i]` >= 0, the `size[i]` bytes from there. `size` and `time` (ns) show changes; -1: unknown.
    """

    root: Path
    places: tuple[str, ...]
    place: np.ndarray  # int32 (N,)
    names: np.ndarray  # bytes (N,)
    size: np.ndarray  # int64 (N,)
    time: np.ndarray  # int64 (N,)
    offset: np.ndarray  # int64 (N,)

    def __len__(self) -> int:
        return len(self.names)

    def take(self, index: np.ndarray) -> "Listing":
        """Some of the images, in the order of `index`."""
        parts = (getattr(self, field.name)[index] for field in fields(self)[2:])
        return Listing(self.root, self.places, *parts)

    def path(self, number: int) -> Path:
        """Where image `number` is, below root; a shard's member is shown as SHARD/NAME."""
        return Path(self.places[self.place[number]], os.fsdecode(self.names[number]))

    def read(self, number: int) -> bytes:
        """The encoded image. Raises BadImageError with the reason if it cannot be read."""
        offset = int(self.offset[number])
        path = self.root / (self.path(number) if offset == WHOLE_FILE else self.places[self.place[number]])
        try:
            with open(path, "rb", buffering=0, opener=regular) as file:
                size = os.fstat(file.fileno()).st_size if offset == WHOLE_FILE else int(self.size[number])
                if size > LARGEST_FILE:
                    raise BadImageError(f"has {size:,} bytes, more than any image that is read ({LARGEST_FILE:,})")
                file.seek(max(0, offset))
                return file.read(size) or b""
        except MemoryError as error:
            raise BadImageError("does not fit into memory") from error
        except OSError as error:
            raise BadImageError(f"cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class ClassTree:
    """A listed folder: images with their class and split. `others` counts files that are not images by their names."""

    listing: Listing
    folders: tuple[str, ...]  # class folders, in the order of the labels
    labels: np.ndarray  # int64 (N,)
    test: np.ndarray  # bool (N,): lies in val/ (or test/)
    split: bool  # False: one tree, all of `test` False
    others: int


def list_tree(root: Path, wanted: Sequence[str] | None, by_word: Mapping[str, str]) -> ClassTree:
    """Lists `train/<class>/` and `val/<class>/` (or `test/<class>/`) below root, or just `<class>/`, sorted by name.

    Folders inside a class folder belong to the class. `wanted` names the classes to take, and their order, by
    their folders or by the words that `by_word` has folders for.
    Raises RunError if the folder does not exist, holds no classes, or not those wanted.
    """
    splits = _split_folders(root)
    there = _class_folders(root / splits[0])
    folders = tuple(there if wanted is None else (w if w in there else by_word.get(w, w) for w in wanted))
    if missing := sorted(set(folders) - set(there)):
        raise RunError(f"dataset.classes names {_some(missing)}, but {root / splits[0]} has only {_some(there)}")
    if wanted is None and len(splits) == 2 and (unknown := sorted(set(_class_folders(root / splits[1])) - set(there))):
        raise RunError(f"{root / splits[1]} has {_some(unknown)}, which {root / splits[0]} does not have")
    places, label, test = [], [], []
    for held, split in enumerate(splits):
        for number, folder in enumerate(folders):
            if (root / split / folder).is_dir():
                places.append(str(Path(split, folder)))
                label.append(number)
                test.append(bool(held))
    listed = [_files(root / place) for place in places]
    listing = _joined(root, places, [files for files, _ in listed])
    if len(listing) == 0:
        raise RunError(f"dataset.root={root} has class folders but no images in them")
    labels = np.array(label, np.int64)[listing.place]
    others = sum(count for _, count in listed)
    return ClassTree(listing, folders, labels, np.array(test)[listing.place], len(splits) == 2, others)


def _split_folders(root: Path) -> tuple[str, ...]:
    """("train", "val" or "test"), or ("",) for a tree without splits."""
    if not root.is_dir():
        raise RunError(
            f"dataset.root={root} is not a folder; set dataset.root=FOLDER, a folder with train/CLASS/*.jpg and "
            "val/CLASS/*.jpg, or only CLASS/*.jpg"
        )
    if not (root / "train").is_dir():
        return ("",)
    for name in ("val", "test"):
        if (root / name).is_dir():
            return "train", name
    raise RunError(
        f"dataset.root={root} has train/ but neither val/ nor test/; add one, or give {root / 'train'} itself, "
        "which is then split by dataset.test_fraction"
    )


def _class_folders(folder: Path) -> list[str]:
    """The names of the folders in `folder`, hidden ones left out, sorted."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entry.name for entry in entries if entry.name[0] != "." and Path(entry.path).is_dir())
    except OSError as error:
        raise RunError(f"{folder} cannot be read: {error.strerror}") from error
    if not found:
        raise RunError(f"{folder} has no class folders: each class needs one, with its images in it")
    return found


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


@dataclass(frozen=True)
class _Files:
    names: np.ndarray
    size: array
    time: array


def _files(folder: Path) -> tuple[_Files, int]:
    """The image files below a class folder, sorted by name, and how many other files there are."""
    names: list[bytes] = []
    size, time = array("q"), array("q")
    others = 0
    for name, entry in _walk(os.fsencode(folder), b""):
        if not name.lower().endswith(SUFFIXES):
            others += 1
            continue
        names.append(name)
        try:
            state = entry.stat()
        except OSError:  # a broken link, a loop of links: reading it gives the reason
            size.append(-1)
            time.append(-1)
        else:
            size.append(state.st_size)
            time.append(max(state.st_mtime_ns, state.st_ctime_ns))  # ctime: rights, and contents with a restored mtime
    return _Files(np.array(names, np.bytes_), size, time), others


def _walk(folder: bytes, prefix: bytes) -> Iterator[tuple[bytes, "os.DirEntry[bytes]"]]:
    """Files below `folder` with their path in it; hidden ones are left out, links to folders count as files."""
    inner = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            if entry.is_dir(follow_symlinks=False):
                inner.append(entry.name)
            else:
                yield prefix + entry.name, entry
    for name in inner:
        yield from _walk(folder + b"/" + name, prefix + name + b"/")


def _joined(root: Path, places: Sequence[str], parts: Sequence[_Files]) -> Listing:
    """One listing of the files of all places, sorted within each."""
    orders = [np.argsort(part.names, kind="stable") for part in parts]
    pairs = list(zip(parts, orders, strict=True))
    counts = [len(part.names) for part in parts]
    return Listing(
        root,
        tuple(places),
        place=np.repeat(np.arange(len(places), dtype=np.int32), counts),
        names=np.concatenate([part.names[order] for part, order in pairs]),
        size=np.concatenate([np.array(part.size, np.int64)[order] for part, order in pairs]),
        time=np.concatenate([np.array(part.time, np.int64)[order] for part, order in pairs]),
        offset=np.full(sum(counts), WHOLE_FILE, np.int64),
    )
