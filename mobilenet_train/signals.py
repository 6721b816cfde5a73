"""SIGTERM, Ctrl-C and a closed terminal: finish the step, save, leave. A second Ctrl-C leaves at once.

A signal that is ignored when the run starts stays ignored: SIGHUP under nohup, SIGINT of `sh -c 'mnet-train &'`.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], Any] | int | None


class StopSignals:
    """Called, it returns the number of the signal that asked this rank to stop, 0 for none."""

    def __init__(self, second_interrupt: Handler = signal.SIG_DFL) -> None:
        """`second_interrupt` handles a Ctrl-C that follows. Python lets only the main thread handle signals."""
        self.received = 0  # no signal has this number
        self._second_interrupt = second_interrupt
        for number in NUMBERS if threading.current_thread() is threading.main_thread() else ():
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = number
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._second_interrupt)

    def __call__(self) -> int:
        return self.received

    @property
    def exit_code(self) -> int:
        """128 + the signal: 130, 143 or 129."""
        return 128 + self.received
