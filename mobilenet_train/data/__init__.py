"""Images in memory, batches of them, and the sources they come from."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilenet_train.data.images import ImageData

__all__ = ["ImageData"]


def __getattr__(name: str) -> Any:
    """Imports torch only where it is asked for: CIFAR-10's files are read before."""
    if name == "ImageData":
        from mobilenet_train.data.images import ImageData

        return ImageData
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
