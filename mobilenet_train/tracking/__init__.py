"""The records of a run: terminal, epoch log, CSV, TensorBoard and curves."""

from mobilenet_train.tracking.description import RunDescription
from mobilenet_train.tracking.trackers import Trackers

__all__ = ["RunDescription", "Trackers"]
