"""What the user's own code gets of a run: every event, and its end."""

from collections.abc import Callable

from mobilenet_train.errors import RunError
from mobilenet_train.factory import call_factory
from mobilenet_train.results import Event
from mobilenet_train.tracking.description import RunDescription

Callback = Callable[[Event], object]  # may have a method `close(finished)`, which is called once at the end


class OwnTracker:
    """The callback that the function at `path` (the option `tracker`) makes for a run.

    Its errors, and those of the function, become a RunError of one line.
    """

    def __init__(self, path: str, run: RunDescription) -> None:
        self._path = path
        self._callback: Callback = call_factory("tracker", path, run=run)
        if not callable(self._callback):
            raise RunError(f"tracker={path} returned {type(self._callback).__name__}; return a function of an event")

    def __call__(self, event: Event) -> None:
        self._guarded(lambda: self._callback(event))

    def close(self, finished: bool) -> None:
        self._guarded(lambda: close(self._callback, finished))

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # whatever the user's code raises
            reason = f"{type(error).__name__}: {error}"
            raise RunError(f"tracker={self._path} failed with {reason} (HYDRA_FULL_ERROR=1 shows where)") from error


def close(callback: Callback, finished: bool) -> None:
    """Reports the end to a callback that wants to know; `finished` if the run was not interrupted."""
    method = getattr(callback, "close", None)
    if method is not None:
        method(finished)
