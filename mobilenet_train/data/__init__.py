"""Images in memory, batches of them, and the sources they come from."""

from mobilenet_train.data.images import ImageData

__all__ = ["ImageData"]
