"""Batches fetched in advance, by a thread."""

import threading
from collections.abc import Iterator
from queue import Queue

import pytest
import torch
from torch import Tensor

from mobilenet_train.data.stored import AHEAD, in_advance
from mobilenet_train.errors import RunError

SECONDS = 10  # more than any of it takes


class Source:
    """Batches 0, 1, 2 ... and who fetched them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.fetched: Queue[int] = Queue()
        self.threads: set[str] = set()

    def __iter__(self) -> Iterator[Tensor]:
        for number in range(self.count):
            self.threads.add(threading.current_thread().name)
            self.fetched.put(number)
            yield torch.tensor([number])
        raise RunError("the disk is gone")


def test_batches_come_in_order_from_a_thread_that_is_set_up_first_and_its_error_comes_after_them() -> None:
    begun: list[str] = []
    source = Source(7)
    batches = in_advance(iter(source), lambda: begun.append(threading.current_thread().name))
    assert [int(next(batches)) for _ in range(7)] == list(range(7))
    with pytest.raises(RunError, match="the disk is gone"):
        next(batches)
    assert set(begun) == source.threads != {threading.current_thread().name}


def test_the_thread_is_a_few_batches_ahead_and_ends_with_its_reader() -> None:
    source, before = Source(50), threading.active_count()
    batches = in_advance(iter(source), lambda: None)
    next(batches)
    assert [source.fetched.get(timeout=SECONDS) for _ in range(1 + AHEAD)] == list(range(1 + AHEAD))
    batches.close()
    assert threading.active_count() == before
    assert source.fetched.qsize() == 0


def test_batches_end_where_their_source_ends() -> None:
    assert list(in_advance(iter([torch.ones(1), torch.zeros(1)]), lambda: None)) == [1, 0]
    assert list(in_advance(iter(()), lambda: None)) == []
