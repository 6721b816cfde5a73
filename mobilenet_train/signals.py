"""SIGTERM, Ctrl-C and a closed terminal: finish the step, save, leave. A second Ctrl-C leaves at once."""

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
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = number
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def __call__(self) -> bool:
        self.agreed = agreed(self.ranks, self.received)
        return self.agreed > 0

    @property
    def exit_code(self) -> int:
        """128 + the signal: 130, 143 or 129."""
        return 128 + self.agreed
