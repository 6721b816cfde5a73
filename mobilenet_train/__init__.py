"""mnet-train: trains MobileNetV1, V2 and V3 from one configuration.

`load(RUN)` gives a trained network ready for use, `info(MODEL or RUN)` its cost layer by layer.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mobilenet_train.version import __version__

if TYPE_CHECKING:
    from mobilenet_train.inference.info import info
    from mobilenet_train.inference.predict import load

__all__ = ["__version__", "info", "load"]

_HOMES = {"load": "mobilenet_train.inference.predict", "info": "mobilenet_train.inference.info"}


def __getattr__(name: str) -> Any:
    """Imports a function, and torch with it, when it is first asked for: the commands must start quickly."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
