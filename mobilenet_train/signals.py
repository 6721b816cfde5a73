"""SIGTERM, Ctrl-C and a closed terminal: finish the step, save, leave. A second Ctrl-C leaves at once."""

import signal
from types import FrameType


class StopSignals:
    """Called, it says whether a stop was asked for; `exit_code` is 128 + the signal (130, 143 or 129)."""

    def __init__(self) -> None:
        self.received: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = number
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def __call__(self) -> bool:
        return self.received is not None

    @property
    def exit_code(self) -> int:
        assert self.received is not None
        return 128 + self.received
