"""Prepared images: every file decoded once, in parallel, into one array on disk or in memory.

On disk a cache is the folder `KEY/`: `pictures.u8` (N, S, S, 3), `digests.u8` (N, 16) and `index.json` with checksums.
It is made as `KEY.partial/` with a journal of what is done, and takes its name when all is on disk; `KEY.lock` keeps a
second run waiting meanwhile. KEY covers everything that the bytes depend on, so a change of anything makes another
folder.
"""

import fcntl
import hashlib
import json
import mmap
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from mobilenet_train.data.checksums import CHUNK, Checksums, checksum
from mobilenet_train.data.decode import decode
from mobilenet_train.data.listing import BadImageError, Listing
from mobilenet_train.data.trusted import check_folder, check_found
from mobilenet_train.disk import own, read_text, sync, verified, with_checksum, write_text
from mobilenet_train.errors import RunError

FORMAT = 1
DIGEST_BYTES = 16
SPARE_BYTES = 64 * 2**20  # left free on a disk that a cache just fits on
SECONDS_BETWEEN_NOTES = 300  # while another run prepares the images


class NoRoomError(RunError):
    """The disk is too small for the prepared images."""


class StoppedError(Exception):
    """The run was asked to stop while it prepared its images; what is done is kept."""


@dataclass(frozen=True)
class Listener:
    """Where the preparation reports to, `report(message, kind)` and `progress(done, total)`; `stop()` may end it."""

    report: Callable[[str, str], None]
    progress: Callable[[int, int], None]
    stop: Callable[[], bool]


SILENT = Listener(lambda *_: None, lambda *_: None, lambda: False)


@dataclass(frozen=True)
class CachedImages:
    """What came of a listing: images (N, S, S, 3) uint8, or None where the files were only looked at.

    `digests` (N, 16) uint8 are of the files' bytes; `bad` gives the reason for every row that cannot be used.
    `checksums` are of images on disk; 0.1.0 kept none.
    """

    images: np.ndarray | None
    digests: np.ndarray
    bad: dict[int, str]
    checksums: Checksums | None = None


def settings(size: int) -> dict[str, Any]:
    """What the stored pixels depend on besides the files."""
    libraries = {"pillow": PIL.__version__, "simplejpeg": version("simplejpeg"), "torch": str(torch.__version__)}
    return {"format": FORMAT, "size": size, **libraries}


def image_bytes(listing: Listing, size: int) -> int:
    """What all images take in memory or on disk."""
    return len(listing) * size * size * 3


def in_memory(listing: Listing, size: int, workers: int, listener: Listener) -> CachedImages:
    """Prepares all images in memory; nothing is written. Raises StoppedError."""
    images = mmap.mmap(-1, image_bytes(listing, size))  # shared with the workers
    digests = mmap.mmap(-1, len(listing) * DIGEST_BYTES)
    task = Task(listing, size, images, digests)
    bad = dict(bad for _, chunk in run(task, range(task.chunks), workers, listener) for bad in chunk.bad.items())
    return CachedImages(task.image_array, task.digest_array, dict(sorted(bad.items())))


def on_disk(
    listing: Listing, size: int, keep_images: bool, folder: Path, workers: int, listener: Listener
) -> CachedImages:
    """Opens the cache of this listing in `folder`, after making it if it does not exist.

    Without `keep_images` the files are only looked at: whether they can be decoded, and their digests.
    Raises RunError if the disk lacks the room or others could write there, StoppedError if asked to stop (resuming
    later loses nothing).
    """
    home = folder / key_of(listing, size, keep_images)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_folder(folder)
        if not home.is_dir():
            with locked(home.with_suffix(".lock"), listener):
                if not home.is_dir():
                    _make(home, listing, size, keep_images, workers, listener)
        return _opened(home, len(listing), size, keep_images)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(
            f"the prepared images cannot be kept in dataset.cache_dir={folder}: {reason} ({error.filename}); "
            "choose another folder, or dataset.cache=memory"
        ) from error


def key_of(listing: Listing, size: int, keep_images: bool) -> str:
    """A digest of the settings and of every file's path, size and time of change."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((settings(size), keep_images, str(listing.root.resolve()), listing.places)).encode())
    for part in (listing.place, listing.names, listing.size, listing.time, listing.offset):
        digest.update(str(part.dtype).encode())
        digest.update(part.data)
    return digest.hexdigest()


@contextmanager
def locked(path: Path, listener: Listener) -> Iterator[None]:
    """Holds `path` for this process, waiting for another one that prepares the same images."""
    with open(path, "a", opener=own) as file:
        report_at = time.monotonic()
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= report_at:
                    listener.report("another run is preparing these images; waiting for it", "note")
                    report_at = time.monotonic() + SECONDS_BETWEEN_NOTES
                if listener.stop():
                    raise StoppedError from None
                time.sleep(0.2)
        yield


def _make(home: Path, listing: Listing, size: int, keep_images: bool, workers: int, listener: Listener) -> None:
    partial = home.with_suffix(".partial")
    partial.mkdir(exist_ok=True)
    check_found(partial)
    if not (partial / "index.json").exists():
        with open(partial / "journal", "a+b", opener=own) as journal:
            done = _read_journal(journal)
            if journal.seek(0, os.SEEK_END) == 0:
                _note(journal, {"root": str(listing.root), "count": len(listing)})
            _announce(partial, listing, size if keep_images else 0, len(done), listener)
            _fill(partial, journal, done, listing, size, keep_images, workers, listener)
    (partial / "journal").unlink(missing_ok=True)
    sync(partial)
    partial.rename(home)
    sync(home.parent)


def _announce(partial: Path, listing: Listing, size: int, done: int, listener: Listener) -> None:
    """Reports what will be written. Raises RunError if the disk has no room for it."""
    file = partial / "pictures.u8"
    needed = image_bytes(listing, size)
    missing = needed - (file.stat().st_blocks * 512 if file.exists() else 0)
    free = shutil.disk_usage(partial).free
    if missing > 0 and missing + SPARE_BYTES > free:
        raise NoRoomError(
            f"{len(listing):,} images of {size}x{size} take {needed / 1e9:.2f} GB and dataset.cache_dir="
            f"{partial.parent} has {free / 1e9:.2f} GB free: choose another disk, a lower dataset.store_size, or "
            "dataset.cache=off, which decodes them again in every epoch"
        )
    what = f"preparing {len(listing):,} images once"
    kept = f": {needed / 1e6:,.0f} MB in {partial.parent}" if size else ", to see whether all can be decoded"
    resumed = f"; resuming where a run was stopped, {done * CHUNK:,} are done" if done else ""
    listener.report(f"{what}{kept}{resumed}", "")


def _fill(
    partial: Path,
    journal: Any,
    done: "dict[int, Chunk]",
    listing: Listing,
    size: int,
    keep_images: bool,
    workers: int,
    listener: Listener,
) -> None:
    """Prepares the chunks that the journal lacks, each in the journal once it is on disk; then writes the index."""
    images = _mapped(partial / "pictures.u8", image_bytes(listing, size)) if keep_images else None
    digests = _mapped(partial / "digests.u8", len(listing) * DIGEST_BYTES)
    task = Task(listing, size, images, digests)
    missing = [number for number in range(task.chunks) if number not in done]
    bad = {row: reason for chunk in done.values() for row, reason in chunk.bad.items()}
    sums = {number: chunk.crc for number, chunk in done.items()}
    for number, chunk in run(task, missing, workers, listener):
        task.flush(number)
        bad.update(chunk.bad)
        sums[number] = chunk.crc
        reasons = {str(row): reason for row, reason in chunk.bad.items()}
        _note(journal, {"chunk": number, "crc": chunk.crc, "bad": reasons})
    about = {**settings(size), "root": str(listing.root), "count": len(listing)}
    index = {**about, "bad": {str(row): bad[row] for row in sorted(bad)}}
    index["images"] = "".join(f"{sums[number]:08x}" for number in range(task.chunks))
    for mapping in filter(None, (images, digests)):
        mapping.flush()
    write_text(partial / "index.json", json.dumps(with_checksum(index, bytes(digests)), indent=1))


def _note(journal: Any, values: dict[str, Any]) -> None:
    journal.write(json.dumps(with_checksum(values)).encode() + b"\n")
    journal.flush()


def _read_journal(journal: Any) -> "dict[int, Chunk]":
    """The lines of the journal by chunk; a last line that a kill tore off is cut away.

    A chunk whose line is damaged, or of 0.1.0 and so without a checksum, is prepared again.
    """
    journal.seek(0)
    text = journal.read()
    whole = text[: text.rfind(b"\n") + 1]
    journal.truncate(len(whole))
    lines = {}
    for text in whole.splitlines():
        with suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
            line = verified(json.loads(text))
            bad = {int(row): str(reason) for row, reason in line["bad"].items()}
            lines[line["chunk"]] = Chunk(int(line["crc"]), bad)
    return lines


def _mapped(path: Path, length: int) -> mmap.mmap:
    """A file of `length` bytes, whose room on the disk is taken at once, as shared memory."""
    with open(path, "a+b", opener=own) as file:
        if file.seek(0, os.SEEK_END) != length or path.stat().st_blocks * 512 < length:
            os.posix_fallocate(file.fileno(), 0, length)
        return mmap.mmap(file.fileno(), length)


def _kept(path: Path) -> np.memmap:
    """The bytes of a file, mapped. `mnet-cache remove` leaves it alone as long as they are."""
    with open(path, "rb", opener=own) as file:
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(file, fcntl.LOCK_SH)  # held by the map, which has the file open too
        return np.memmap(file, np.uint8, "r")


def _opened(home: Path, count: int, size: int, keep_images: bool) -> CachedImages:
    """Raises RunError if a file of the folder is missing or damaged."""
    check_found(home)
    file, checksums = home / "pictures.u8", None
    try:
        index = json.loads(read_text(home / "index.json"))
        digests = np.fromfile(home / "digests.u8", np.uint8).reshape(count, DIGEST_BYTES)
        images = _kept(file).reshape(count, size, size, 3) if keep_images else None
        bad = {int(row): str(reason) for row, reason in verified(index, digests.tobytes())["bad"].items()}
        if not all(0 <= row < count for row in bad):
            raise ValueError("an image that there is not")
        if images is not None and "images" in index:
            checksums = Checksums.of(file, images, index["images"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(
            f"{home} is damaged (index.json, or a file beside it: {error}): delete that folder, it will be made again"
        ) from error
    with suppress(OSError):  # a cache that others share
        os.utime(home)  # when it was used last
    return CachedImages(images, digests, bad, checksums)


@dataclass(frozen=True)
class Chunk:
    """What came of a chunk: the checksum of its images, and the reasons of those that are bad."""

    crc: int
    bad: dict[int, str]


class Task:
    """One preparation: what the worker processes, forked from this one, read and write."""

    def __init__(self, listing: Listing, size: int, images: mmap.mmap | None, digests: mmap.mmap) -> None:
        self.listing = listing
        self.size = size
        self.maps = [mapping for mapping in (images, digests) if mapping is not None]
        self.image_array = (
            np.frombuffer(images, np.uint8).reshape(len(listing), size, size, 3) if images is not None else None
        )
        self.digest_array = np.frombuffer(digests, np.uint8).reshape(len(listing), DIGEST_BYTES)

    @property
    def chunks(self) -> int:
        """How many chunks of CHUNK images there are, the last one perhaps smaller."""
        return -(-len(self.listing) // CHUNK)

    def prepare(self, chunk: int) -> Chunk:
        """Writes the images and digests of a chunk."""
        rows = range(chunk * CHUNK, min(len(self.listing), (chunk + 1) * CHUNK))
        bad = {row: reason for row in rows if (reason := self._prepare_one(row)) is not None}
        return Chunk(checksum(self.image_array[rows.start : rows.stop]) if self.image_array is not None else 0, bad)

    def _prepare_one(self, row: int) -> str | None:
        try:
            data = self.listing.read(row)
            self.digest_array[row] = np.frombuffer(hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest(), np.uint8)
            image = decode(data, self.size)
        except BadImageError as error:
            return str(error)
        if self.image_array is not None:
            self.image_array[row] = image
        return None

    def flush(self, chunk: int) -> None:
        """Brings a chunk from memory to the disk."""
        for mapping in self.maps:
            row = len(mapping) // len(self.listing)
            start = chunk * CHUNK * row // mmap.PAGESIZE * mmap.PAGESIZE
            mapping.flush(start, min(len(mapping), (chunk + 1) * CHUNK * row) - start)


_task: Task | None = None  # in a worker process


def _begin(task: Task, parent: int) -> None:
    """Runs first in each worker."""
    global _task
    _task = task
    torch.set_num_threads(1)  # the workers are the parallelism, and OpenMP's threads don't survive a fork
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A run that is killed leaves no workers behind, nor the lock that they share with it."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _prepare_chunk(chunk: int) -> Chunk:
    assert _task is not None
    return _task.prepare(chunk)


def run(task: Task, chunks: Sequence[int], workers: int, listener: Listener) -> Iterator[tuple[int, Chunk]]:
    """Prepares chunks in parallel; yields each one's number and outcome as they get ready.

    Raises StoppedError if asked to, RunError if a worker was killed.
    """
    total, began = len(task.listing), time.perf_counter()
    with ProcessPoolExecutor(max(1, workers), get_context("fork"), _begin, (task, os.getpid())) as pool:
        futures = {pool.submit(_prepare_chunk, chunk): chunk for chunk in chunks}
        try:
            for left, future in zip(reversed(range(len(futures))), as_completed(futures), strict=True):
                yield futures[future], future.result()
                listener.progress(min(total, (task.chunks - left) * CHUNK), total)
                if listener.stop():
                    raise StoppedError
        except BrokenProcessPool as error:
            raise RunError(
                "a process that prepared images was killed, often by the system for lack of memory: try a lower "
                "dataset.workers; what is done is kept, the same command resumes from there"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
    seconds, count = time.perf_counter() - began, min(total, len(futures) * CHUNK)
    listener.report(
        f"{count:,} images in {seconds:.1f} s, {count / seconds:,.0f}/s with {max(1, workers)} processes", ""
    )
