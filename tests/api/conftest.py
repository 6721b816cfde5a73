"""Fixtures of all tests of the Python interface."""

import signal
from collections.abc import Iterator

import pytest

from tests.tools import tool

__all__ = ["interruptible", "tool"]


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C is a KeyboardInterrupt, also where a shell started these tests in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
