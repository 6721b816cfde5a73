"""SIGTERM, Ctrl-C and a closed terminal: finish the step, save, leave. A second Ctrl-C leaves at once.

A signal that is ignored when the run starts stays ignored: SIGHUP under nohup, SIGINT of `sh -c 'mnet-train &'`.
"""

import signal
from types import FrameType

from mobilenet_train.distributed import agreed
from mobilenet_train.ranks import ALONE, Ranks


class StopSignals:
    """Called, it returns whether a stop was asked for, of this rank or another: all get the same answer."""

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
        self.received = self.agreed = 0  # no signal has this number
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = number
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    def __call__(self) -> bool:
        self.agreed = agreed(self.ranks, self.received)
        return self.agreed > 0

    def here(self) -> bool:
        """Whether this rank was asked; unlike a call, it waits for no other rank."""
        return self.received > 0

    @property
    def exit_code(self) -> int:
        """128 + the signal: 130, 143 or 129."""
        return 128 + (self.agreed or self.received)
