"""Event files for TensorBoard: scalars by optimiser update, hyperparameters and images, all in one run.

Written record by record, without SummaryWriter: its thread reports a full disk by a traceback, and the names
of its files do not sort by age when a run is resumed within a second.
"""

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenet_train.disk import writing
from mobilenet_train.results import EpochResult, Progress
from mobilenet_train.tracking.description import RunDescription

if TYPE_CHECKING:
    from torch import Tensor

EPOCH = "train/loss"  # a tag that every finished epoch has
FILE_NAME = re.compile(r"events\.out\.tfevents\.(\d+)\.")


class TensorBoard:
    """The run's event file. Every record is on its way to the disk when a method returns.

    A resume from update `step` opens another file, which first takes back every point after `step`: the run
    resumes from a checkpoint, and the points up to a checkpoint are written before it.
    """

    def __init__(self, description: RunDescription, step: int, history: Sequence[EpochResult]) -> None:
        """`history` is the list that its owner extends after each result: what was deleted is written again from it."""
        self._folder = description.folder / "tensorboard"
        self._resumed_at = step
        self._step = step
        self._history = history
        self._experiment, self._start, self._end = _hparams(description)
        if step == 0 or self._lacks_epochs():
            self._write_again()
        else:
            self._open(purge_from=step + 1)

    def _open(self, purge_from: int) -> None:
        with writing(self._folder):
            self._folder.mkdir(exist_ok=True)
            self._file = EventFile(self._folder, purge_from)

    def _lacks_epochs(self) -> bool:
        """True if someone deleted files: points of the history are in none that is left."""
        if not self._folder.exists():
            return True
        written = {event.step for event in _events(self._folder) for value in event.summary.value if value.tag == EPOCH}
        return not written.issuperset(result.step for result in self._history)

    def _write_again(self) -> None:
        """All that is known of the run so far, in place of what the files have."""
        self._open(purge_from=0)
        self._add(self._experiment, step=0)
        self._add(self._start, step=0)
        for result in self._history:
            self._add_scalars(epoch_scalars(result), result.step, result.finished_at)

    def record(self, event: Progress | EpochResult) -> None:
        """Writes the event's numbers, an epoch's only if they are not in the files already."""
        self._step = event.step
        if not self._file.path.exists():
            self._write_again()
        if isinstance(event, Progress):
            self._add_scalars(progress_scalars(event), event.step, time.time())
        elif not self._known(event):
            self._add_scalars(epoch_scalars(event), event.step, event.finished_at)

    def record_images(self, images: "Tensor") -> None:
        """A grid of training images as the network sees them; a resumed run shows them already."""
        from torch.utils.tensorboard.summary import image

        if self._resumed_at == 0:
            self._add(image("train/images", images.cpu(), dataformats="NCHW"), step=0)

    def close(self, finished: bool) -> None:
        """Ends the session; HParams lists a run that is not `finished` as still running."""
        if finished:
            self._add(self._end, self._step)
        with writing(self._folder):
            self._file.close()

    def _known(self, result: EpochResult) -> bool:
        """True if the run was killed between writing this result and saving a checkpoint that knows it.

        Its points then stay, if the checkpoint came after the epoch's last update and before its evaluation.
        """
        if result.step != self._resumed_at:
            return False
        known = False
        for event in _events(self._folder):
            taken_back = event.HasField("session_log") and event.step <= result.step
            written = event.step == result.step and any(value.tag == EPOCH for value in event.summary.value)
            known = (known or written) and not taken_back
        return known

    def _add_scalars(self, scalars: dict[str, float], step: int, wall_time: float) -> None:
        from torch.utils.tensorboard.summary import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._add(Summary(value=values), step, wall_time)

    def _add(self, summary: Any, step: int, wall_time: float | None = None) -> None:
        with writing(self._folder):
            self._file.add(step=step, wall_time=wall_time or time.time(), summary=summary)


class EventFile:
    """A file of records, newer by name than all others in `folder`.

    It starts by taking back the others' points from step `purge_from` on.
    """

    def __init__(self, folder: Path, purge_from: int) -> None:
        from torch.utils.tensorboard import RecordWriter
        from torch.utils.tensorboard.writer import SessionLog

        stamps = [int(match[1]) for path in folder.iterdir() if (match := FILE_NAME.match(path.name))]
        stamp = max([int(time.time()), *(stamp + 1 for stamp in stamps)])
        self.path = folder / f"events.out.tfevents.{stamp:010d}.mnet-train"
        self._writer = RecordWriter(self.path.open("xb"))
        self.add(wall_time=time.time(), file_version="brain.Event:2")
        self.add(wall_time=time.time(), step=purge_from, session_log=SessionLog(status=SessionLog.START))

    def add(self, **fields: Any) -> None:
        """Writes and flushes one record; `fields` are those of TensorBoard's Event."""
        from torch.utils.tensorboard.writer import Event

        self._writer.write(Event(**fields).SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def progress_scalars(event: Progress) -> dict[str, float]:
    """The last batch's loss and the learning rate, by tag."""
    return {"train/loss_batch": event.batch_loss, "train/learning_rate": event.learning_rate}


def epoch_scalars(result: EpochResult) -> dict[str, float]:
    """Losses per sample, top-1 and top-5 in percent, by tag; of what was measured in an epoch."""
    scalars = {
        "train/loss": result.train.loss,
        "train/top1": result.train.top1,
        "run/learning_rate": result.learning_rate,
        "run/images_per_second": result.images_per_second,
    }
    if result.test:
        scalars |= {"test/loss": result.test.loss, "test/top1": result.test.top1}
        if result.test.top5 is not None:
            scalars["test/top5"] = result.test.top5
    if result.val:
        scalars |= {"val/loss": result.val.loss, "val/top1": result.val.top1}
    if result.ema_test:
        scalars["ema/test_top1"] = result.ema_test.top1
    return scalars


def _hparams(description: RunDescription) -> tuple[Any, Any, Any]:
    """The summaries that declare hyperparameters and metrics, start the session and end it."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard.summary import hparams

    values = {
        key: str(value).lower() if isinstance(value, bool) else value for key, value in description.hparams.items()
    }
    metrics = ["test/top1", "test/loss", "train/loss", *(["val/top1", "val/loss"] if description.val else [])]
    experiment, start, end = hparams(values, dict.fromkeys(metrics, 0.0))
    plugin = experiment.value[0].metadata.plugin_data
    declared = HParamsPluginData.FromString(plugin.content)
    for info in declared.experiment.hparam_infos:
        info.differs = info.name in description.typed  # the table starts with those
    plugin.content = declared.SerializeToString()
    return experiment, start, end


def _events(folder: Path) -> Iterator[Any]:
    """Every record in the run's event files, oldest first."""
    from tensorboard.backend.event_processing.event_file_loader import (
        EventFileLoader,
    )

    for path in sorted(folder.iterdir()):
        yield from EventFileLoader(str(path)).Load()
