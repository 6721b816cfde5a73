"""The records of a run: terminal, epoch log, CSV, TensorBoard, curves and summary."""

from mobilenet_train.runs.folder import read_summary, write_summary
from mobilenet_train.tracking.description import RunDescription
from mobilenet_train.tracking.trackers import Trackers

__all__ = ["RunDescription", "Trackers", "read_summary", "write_summary"]
