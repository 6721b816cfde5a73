"""A run inside somebody's process: what it sets for the whole process is set back at its end."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mobilenet_train.runtime import return_freed_memory
from mobilenet_train.signals import NUMBERS, StopSignals

SETTINGS = (
    (torch.backends.cudnn, "benchmark"),
    (torch.backends.cudnn, "allow_tf32"),
    (torch.backends.cuda.matmul, "allow_tf32"),
    (torch.utils.deterministic, "fill_uninitialized_memory"),
)
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def set_back() -> Iterator[None]:
    """Sets back torch's threads, settings and random states, sys.path, and the allocator, which then adapts no more.

    What Hydra knows of our configuration stays known to it.
    """
    threads, path, cublas = torch.get_num_threads(), list(sys.path), os.environ.get(CUBLAS)
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    settings = [(place, name, getattr(place, name)) for place, name in SETTINGS]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        torch.set_num_threads(threads)
        if torch.are_deterministic_algorithms_enabled() != deterministic:
            torch.use_deterministic_algorithms(deterministic, warn_only=warns)  # which imports torch's compiler
        for place, name, value in settings:
            setattr(place, name, value)
        sys.path[:] = path
        if cublas is None:
            os.environ.pop(CUBLAS, None)
        return_freed_memory()


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """SIGTERM, SIGHUP and Ctrl-C (a second one is a KeyboardInterrupt) stop the run; their handlers are set back."""
    handlers = {number: signal.getsignal(number) for number in NUMBERS}
    try:
        yield StopSignals(second_interrupt=signal.default_int_handler)
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None:  # one that Python did not set
                    signal.signal(number, handler)
