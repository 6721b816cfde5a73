"""Images that lie outside memory, fetched a batch at a time: from a prepared file, or decoded again by workers."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mobilenet_train.data.decode import decode
from mobilenet_train.data.listing import BadImageError, Listing
from mobilenet_train.errors import RunError

WORKER_KILLED = "DataLoader worker"  # how torch's RuntimeError about it starts


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


@dataclass(frozen=True)
class MappedImages:
    """Rows of a memory-mapped array; the system keeps in memory what it has room for."""

    images: np.ndarray
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.rows), *self.images.shape[1:]

    def take(self, index: Tensor) -> "MappedImages":
        return replace(self, rows=self.rows[index.numpy()])

    def batches(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        return (torch.from_numpy(self.images[self.rows[batch.numpy()]]) for batch in batches)


@dataclass(frozen=True)
class StreamedImages:
    """Image files decoded whenever they are needed, by `workers` processes (0: this one)."""

    listing: Listing
    size: int
    workers: int
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.rows), self.size, self.size, 3

    def take(self, index: Tensor) -> "StreamedImages":
        return replace(self, rows=self.rows[index.numpy()])

    def batches(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Raises RunError if a file can no longer be decoded, RuntimeError (WORKER_KILLED) without a worker."""
        loader = DataLoader(
            _Decoded(self),
            batch_sampler=[batch.tolist() for batch in batches],
            num_workers=min(self.workers, len(batches)),
            collate_fn=_as_it_is,
            worker_init_fn=_leave_signals_to_the_run,
        )
        for images in loader:
            if isinstance(images, str):
                raise RunError(images)
            yield images


class _Decoded(Dataset):
    """Whole batches of decoded images, as DataLoader's workers ask for them."""

    def __init__(self, stored: StreamedImages) -> None:
        self.stored = stored

    def __getitems__(self, batch: list[int]) -> Tensor | str:
        """The images (B, S, S, 3), or the message for the user: exceptions would bring the worker's traceback."""
        stored = self.stored
        images = np.empty((len(batch), stored.size, stored.size, 3), np.uint8)
        for number, row in enumerate(stored.rows[batch]):
            try:
                images[number] = decode(stored.listing.read(row), stored.size)
            except BadImageError as error:
                path = stored.listing.root / stored.listing.path(row)
                return f"{path} {error}, though it was whole when this run looked at it first"
        return torch.from_numpy(images)


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_run(worker: int) -> None:
    """A signal to the whole group, as Ctrl-C sends it, must not take the workers from a run that finishes its step."""
    del worker
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
