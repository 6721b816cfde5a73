"""WebDataset shards: plain tar files whose members are read in place, so that images keep their numbers.

A sample is an image `KEY.jpg` (or another image suffix) with its class `KEY.cls`, a number in ASCII, in one tar.
Reading members by their offset, and not the tar as a stream, is what keeps a run's order a function of (seed, epoch).
"""

import hashlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from glob import glob
from pathlib import Path

import numpy as np

from mobilenet_train.data.listing import SUFFIXES, Listing
from mobilenet_train.data.trusted import check_folder, check_found
from mobilenet_train.disk import expanded, own, regular, replacing
from mobilenet_train.errors import RunError

LONGEST_LABEL = 64  # bytes of a .cls that are read
LARGEST_LABEL = 2**62  # what an index can hold; far more classes than there are images


def find_shards(key: str, pattern: str) -> list[Path]:
    """The tar files that a path with `*` and `?` matches, sorted. Raises RunError naming `key` if there are none."""
    found = sorted(map(Path, glob(str(expanded(pattern).absolute()), include_hidden=True)))  # noqa: PTH207 (absolute)
    if not found:
        raise RunError(f"{key}={pattern} matches no file; give a path such as /data/imagenet-train-*.tar")
    return found


def list_shards(shards: Sequence[Path], index_folder: Path) -> tuple[Listing, np.ndarray]:
    """The images of all shards in their order, and their labels (N,) int64.

    A tar is read through once; what is in it is kept in `index_folder`. Raises RunError naming a tar that cannot be
    read, or an image without a class.
    """
    root = Path(os.path.commonpath([shard.parent for shard in shards]))
    indexes = [_index(shard, index_folder) for shard in shards]
    counts = [len(index["labels"]) for index in indexes]
    if sum(counts) == 0:
        raise RunError(f"there are no images in {', '.join(map(str, shards[:3]))}")
    listing = Listing(
        root,
        tuple(str(shard.relative_to(root)) for shard in shards),
        place=np.repeat(np.arange(len(shards), dtype=np.int32), counts),
        names=np.concatenate([index["names"] for index in indexes]),
        size=np.concatenate([index["size"] for index in indexes]),
        time=np.repeat([shard.stat().st_mtime_ns for shard in shards], counts),
        offset=np.concatenate([index["offset"] for index in indexes]),
    )
    return listing, np.concatenate([index["labels"] for index in indexes])


def _index(shard: Path, folder: Path) -> dict[str, np.ndarray]:
    """names, offset, size and labels of a shard's images, from `folder` if they are known there."""
    try:
        state = shard.stat()
        key = hashlib.blake2b(repr((str(shard), state.st_size, state.st_mtime_ns)).encode(), digest_size=16).hexdigest()
        known = folder / f"{key}.shard.npz"
        if not known.exists():
            folder.mkdir(parents=True, exist_ok=True)
            check_folder(folder)
            members = _read_members(shard)
            with replacing(known) as temporary, open(temporary, "wb", opener=own) as file:
                np.savez(file, allow_pickle=False, **members)
        check_found(known)
        return _read_index(known)
    except OSError as error:
        raise RunError(f"{error.filename} cannot be used for {shard} or its index: {error.strerror}") from error
    except tarfile.TarError as error:
        raise RunError(f"{shard} is not a plain tar ({error}); a compressed one has to be unpacked first") from error


def _read_index(path: Path) -> dict[str, np.ndarray]:
    """Raises RunError if the file is damaged."""
    try:
        with open(path, "rb", opener=own) as file, np.load(file) as saved:
            columns = {name: saved[name] for name in ("names", "offset", "size", "labels")}
        if {column.shape for column in columns.values()} != {(len(columns["names"]),)}:
            raise ValueError("its columns differ in length")
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"{path} is damaged ({error}): delete it, it will be made again") from error
    return columns


def _read_members(shard: Path) -> dict[str, np.ndarray]:
    images: dict[bytes, tuple[bytes, int, int]] = {}
    labels: dict[bytes, int] = {}
    with open(shard, "rb", opener=regular) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            name = os.fsencode(member.name)
            folder, _, base = name.rpartition(b"/")
            key = folder + b"/" + base.partition(b".")[0]
            if name.lower().endswith(SUFFIXES):
                images[key] = (name, member.offset_data, member.size)
            elif name.endswith(b".cls"):
                labels[key] = _label(tar, member, shard)
    without = [name for key, (name, _, _) in images.items() if key not in labels]
    if without:
        raise RunError(f"{shard}: {os.fsdecode(without[0])} and {len(without) - 1:,} others have no .cls with a class")
    columns = list(zip(*images.values(), strict=True)) or [(), (), ()]
    return {
        "names": np.array(columns[0], np.bytes_),
        "offset": np.array(columns[1], np.int64),
        "size": np.array(columns[2], np.int64),
        "labels": np.array([labels[key] for key in images], np.int64),
    }


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> int:
    file = tar.extractfile(member)
    text = file.read(LONGEST_LABEL) if file is not None else b""
    if not text.strip().isdigit():
        raise RunError(f"{shard}: {member.name} holds {text[:20]!r}; give the number of the class, from 0")
    return min(int(text), LARGEST_LABEL)
