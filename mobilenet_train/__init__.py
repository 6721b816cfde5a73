"""mnet-train: trains MobileNetV1, V2 and V3 from one configuration.

`train(...)` and `sweep(...)` are the command `mnet-train` from Python, `load(RUN)` gives a trained network ready for
use, `info(MODEL or RUN)` its cost layer by layer. What goes wrong is a `UserError` with the command's message.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mobilenet_train.version import __version__

if TYPE_CHECKING:
    from mobilenet_train.api.run import Run, train
    from mobilenet_train.api.sweep import Sweep, sweep
    from mobilenet_train.data.images import ImageData
    from mobilenet_train.errors import UserError
    from mobilenet_train.inference.info import info
    from mobilenet_train.inference.predict import load

__all__ = ["ImageData", "Run", "Sweep", "UserError", "__version__", "info", "load", "sweep", "train"]

_HOMES = {
    "ImageData": "mobilenet_train.data.images",
    "Run": "mobilenet_train.api.run",
    "Sweep": "mobilenet_train.api.sweep",
    "UserError": "mobilenet_train.errors",
    "info": "mobilenet_train.inference.info",
    "load": "mobilenet_train.inference.predict",
    "sweep": "mobilenet_train.api.sweep",
    "train": "mobilenet_train.api.run",
}


def __getattr__(name: str) -> Any:
    """Imports a function, and torch with it, when it is first asked for: the commands must start quickly."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
