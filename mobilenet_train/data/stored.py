"""Images that lie outside memory, fetched a batch at a time: from a prepared file, or decoded again by workers."""

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from mobilenet_train.data.cache import Listener, StoppedError
from mobilenet_train.data.checksums import Checksums
from mobilenet_train.data.decode import decode
from mobilenet_train.data.listing import BadImageError, Listing
from mobilenet_train.errors import RunError
from mobilenet_train.machine import SHARED_MEMORY, free_shared_memory
from mobilenet_train.ranks import ranks_from_environment

WORKER_KILLED = "DataLoader worker"  # how torch's RuntimeError about it starts
TIMED_OUT = "DataLoader timed out"  # the same, about waiting
AHEAD = 2  # batches that each process keeps ready
SEMAPHORES = 64 * 2**10  # bytes of shared memory that a process takes besides its batches
SECONDS_TO_LOOK = 1  # whether a stop is asked for, while a batch is waited for
LOOKS_TO_WAIT = 3  # for that batch after a stop is asked for: most come in time for one more update
MORE_ROOM = "give more shared memory (docker run --shm-size=2g) or set dataset.cache=disk"


class StoredImages(Protocol):
    """uint8 images somewhere else than in memory."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, S, S, 3)"""
        ...

    def take(self, index: Tensor) -> "StoredImages":
        """Some of the images, in the order of `index`; none is fetched."""
        ...

    def batches(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The images (B, S, S, 3) of each batch of indices, in order, on the CPU."""
        ...


def in_advance(batches: Iterator[Tensor], begin: Callable[[], None]) -> Iterator[Tensor]:
    """The same batches, fetched by a thread that calls `begin` first, up to AHEAD of them before they are asked for."""
    with ThreadPoolExecutor(1, "batches", begin) as thread:
        waiting = deque(thread.submit(next, batches, None) for _ in range(AHEAD))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, batches, None))
            yield batch


@dataclass(frozen=True)
class MappedImages:
    """Rows of a memory-mapped array; the system keeps in memory what it has room for."""

    images: np.ndarray
    rows: np.ndarray
    checksums: Checksums | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.rows), *self.images.shape[1:]

    def take(self, index: Tensor) -> "MappedImages":
        return replace(self, rows=self.rows[index.numpy()])

    def batches(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Raises RunError if an image is not what was prepared."""
        for batch in batches:
            rows = self.rows[batch.numpy()]
            if self.checksums is not None:
                self.checksums.check(rows)
            yield torch.from_numpy(self.images[rows])


@dataclass(frozen=True)
class Streaming:
    """Files are decoded by up to `workers` processes (0: by this one); the listener hears of it and may stop it."""

    workers: int
    listener: Listener
    reported: set[int] = field(default_factory=set)

    def fitting(self, batch_bytes: int) -> int:
        """As many of the workers as this rank's share of the shared memory has room for; fewer are reported once."""
        free = free_shared_memory()
        if free is None or self.workers == 0:
            return self.workers
        room = free // ranks_from_environment().local_size - AHEAD * batch_bytes  # those in use
        count = max(0, min(self.workers, room // (AHEAD * batch_bytes + SEMAPHORES)))
        if count < self.workers and count not in self.reported:
            self.reported.add(count)
            by = (
                f"{count} of the dataset.workers={self.workers} processes decode" if count else "the run itself decodes"
            )
            self.listener.report(
                f"{SHARED_MEMORY} has room for {free / 2**20:,.1f} MB only, so {by} the images, which is slower: "
                f"{MORE_ROOM}",
                "warning",
            )
        return count


@dataclass(frozen=True)
class StreamedImages:
    """Image files decoded whenever they are needed."""

    listing: Listing
    size: int
    streaming: Streaming
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.rows), self.size, self.size, 3

    def take(self, index: Tensor) -> "StreamedImages":
        return replace(self, rows=self.rows[index.numpy()])

    def batches(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Raises RunError if a file can no longer be decoded, RuntimeError (WORKER_KILLED) without a worker.

        Raises StoppedError if a stop is asked for and no batch comes.
        """
        largest = max((len(batch) for batch in batches), default=0) * self.size**2 * 3
        workers = min(self.streaming.fitting(largest), len(batches))
        loader = DataLoader(
            _Decoded(self.listing, self.size, self.rows),
            batch_sampler=[batch.tolist() for batch in batches],
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_leave_signals_to_the_run,
            timeout=SECONDS_TO_LOOK if workers else 0,
        )
        waiting = iter(loader)
        try:
            while (images := _next(waiting, self.streaming.listener.stop)) is not None:
                if isinstance(images, str):
                    raise RunError(images)
                yield images
        except StoppedError:
            _end_workers()
            raise


def _next(waiting: Iterator[Tensor | str], stop: Callable[[], bool]) -> Tensor | str | None:
    """What comes next, None at the end. Raises StoppedError if a stop is asked for and nothing comes."""
    looks = 0
    while looks < LOOKS_TO_WAIT:
        try:
            return next(waiting, None)
        except (ConnectionError, EOFError):  # a worker was killed as it handed the images over,
            time.sleep(SECONDS_TO_LOOK)  # which torch raises here a moment later, once the system has noticed
            raise
        except RuntimeError as error:
            if not str(error).startswith(TIMED_OUT):
                raise
            looks += stop()
    raise StoppedError


def _end_workers() -> None:
    """They ignore the signals that others are ended with, and one that hangs would hold up the end of this process."""
    for worker in multiprocessing.active_children():
        with suppress(RuntimeError):  # of torch, about a worker that was killed
            worker.kill()
            worker.join()


class _Decoded(Dataset):
    """Whole batches of decoded images, as DataLoader's workers ask for them."""

    def __init__(self, listing: Listing, size: int, rows: np.ndarray) -> None:
        self.listing = listing
        self.size = size
        self.rows = rows

    def __getitems__(self, batch: list[int]) -> Tensor | str:
        """The images (B, S, S, 3), or the message for the user: exceptions would bring the worker's traceback."""
        batch_images = torch.empty(len(batch), self.size, self.size, 3, dtype=torch.uint8)
        if get_worker_info() is not None:
            try:
                batch_images.share_memory_()  # here, where an error can be reported: later it would be lost
            except RuntimeError:
                return f"{SHARED_MEMORY} has no room for a batch any more: {MORE_ROOM}, or lower dataset.workers"
        images = batch_images.numpy()
        for number, row in enumerate(self.rows[batch]):
            try:
                images[number] = decode(self.listing.read(row), self.size)
            except BadImageError as error:
                path = self.listing.root / self.listing.path(row)
                return f"{path} {error}, though it was whole when this run looked at it first"
        return batch_images


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_run(worker: int) -> None:
    """A signal to the whole group, as Ctrl-C sends it, must not take the workers from a run that finishes its step."""
    del worker
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
