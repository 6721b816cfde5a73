"""Event files for TensorBoard: scalars by optimiser update, hyperparameters, the network and images, all in one run.

They lie in the run folder itself, since TensorBoard calls a run by the folder that its files are in.

Written record by record, without SummaryWriter: its thread reports a full disk by a traceback, and the names
of its files do not sort by age when a run is resumed within a second.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenet_train.disk import writing
from mobilenet_train.results import EpochResult, Operation, Progress
from mobilenet_train.tracking.description import RunDescription

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

EPOCH = "train/loss"  # a tag that every finished epoch has
RATE = "train/learning_rate"
LAYOUT = {  # of the tab Custom Scalars: category -> chart -> tags, as regular expressions
    "accuracy and loss": {
        "top-1 in %": ["Multiline", ["test/top1$", "train/top1$", "val/top1$", "test/top1_ema$"]],
        "loss per image": ["Multiline", ["test/loss$", "train/loss$", "val/loss$"]],
    },
    "training": {
        "learning rate": ["Multiline", [f"{RATE}$"]],
        "images per second": ["Multiline", ["train/images_per_second$"]],
        "loss of the last batch": ["Multiline", ["train/loss_batch$"]],
    },
}
FILE_NAME = re.compile(r"events\.out\.tfevents\.(\d+)\.")


class TensorBoard:
    """The run's event file. Every record is on its way to the disk when a method returns.

    A resume from update `step` opens another file, which first takes back every point after `step`: the run
    resumes from a checkpoint, and the points up to a checkpoint are written before it.
    """

    def __init__(self, description: RunDescription, step: int, history: Sequence[EpochResult]) -> None:
        """`history` is the list that its owner extends after each result: what was deleted is written again from it."""
        earlier = description.folder / "tensorboard"  # where earlier versions had them
        self._folder = earlier if earlier.is_dir() else description.folder
        self._resumed_at = step
        self._step, self._rate_step = step, 0
        self._card = description.card
        self._history = history
        self._experiment, self._start, self._end = _hparams(description)
        if step == 0 or self._lacks_epochs():
            self._write_again()
        else:
            self._open(purge_from=step + 1)

    def _open(self, purge_from: int) -> None:
        with writing(self._folder):
            self._file = EventFile(self._folder, purge_from)

    def _lacks_epochs(self) -> bool:
        """True if someone deleted files: points of the history are in none that is left."""
        written = {event.step for event in _events(self._folder) for value in event.summary.value if value.tag == EPOCH}
        return not written.issuperset(result.step for result in self._history)

    def _write_again(self) -> None:
        """All that is known of the run so far, in place of what the files have."""
        from torch.utils.tensorboard.summary import custom_scalars, text

        self._open(purge_from=0)
        for summary in (self._experiment, self._start, custom_scalars(LAYOUT), text("run", self._card)):
            self._add(summary, step=0)
        for result in self._history:
            self._add_scalars(epoch_scalars(result), result.step, result.finished_at)

    def record(self, event: Progress | EpochResult) -> None:
        """Writes the event's numbers, an epoch's only if they are not in the files already."""
        self._step = event.step
        if not self._file.path.exists():
            self._write_again()
        if isinstance(event, Progress):
            self._rate_step = event.step
            self._add_scalars(progress_scalars(event), event.step, time.time())
        else:
            known = self._written(event.step) if event.step == self._resumed_at else set()
            known |= {RATE} if event.step == self._rate_step else set()
            scalars = {tag: value for tag, value in epoch_scalars(event).items() if tag not in known}
            self._add_scalars(scalars, event.step, event.finished_at)

    def record_images(self, images: "Tensor") -> None:
        """A grid of training images as the network sees them; a resumed run shows them already."""
        from torch.utils.tensorboard.summary import image

        if self._resumed_at == 0:
            self._add(image("train/images", images.cpu(), dataformats="NCHW"), step=0)

    def record_graph(self, operations: Sequence[Operation]) -> None:
        """The network, which a resumed run shows already."""
        if self._resumed_at == 0:
            with writing(self._folder):
                self._file.add(wall_time=time.time(), graph_def=_graph(operations))

    def record_figures(self, figures: Mapping[str, "Figure"]) -> None:
        """Drawings of the network at this update, by tag."""
        from torch.utils.tensorboard.summary import image

        for tag, figure in figures.items():
            figure.canvas.draw()
            pixels = figure.canvas.buffer_rgba()  # type: ignore[attr-defined]
            self._add(image(tag, np.asarray(pixels)[..., :3], dataformats="HWC"), self._step)

    def close(self, finished: bool) -> None:
        """Ends the session; HParams lists a run that is not `finished` as still running."""
        if finished:
            self._add(self._end, self._step)
        with writing(self._folder):
            self._file.close()

    def _written(self, step: int) -> set[str]:
        """The tags that have a point at this update.

        An epoch's have one already if the run was killed between writing its result and saving a checkpoint that knows
        it. They stay, if the checkpoint came after the epoch's last update and before its evaluation.
        """
        tags: set[str] = set()
        for event in _events(self._folder):
            if event.HasField("session_log") and event.step <= step:
                tags.clear()
            if event.step == step:
                tags.update(value.tag for value in event.summary.value)
        return tags

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
    return {"train/loss_batch": event.batch_loss, RATE: event.learning_rate}


def epoch_scalars(result: EpochResult) -> dict[str, float]:
    """Losses per sample, top-1 and top-5 in percent, by tag; of what was measured in an epoch."""
    scalars = {
        "train/loss": result.train.loss,
        "train/top1": result.train.top1,
        RATE: result.learning_rate,
        "train/images_per_second": result.images_per_second,
    }
    if result.test:
        scalars |= {"test/loss": result.test.loss, "test/top1": result.test.top1}
        if result.test.top5 is not None:
            scalars["test/top5"] = result.test.top5
    if result.val:
        scalars |= {"val/loss": result.val.loss, "val/top1": result.val.top1}
    if result.ema_test:
        scalars["test/top1_ema"] = result.ema_test.top1
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


def _graph(operations: Sequence[Operation]) -> bytes:
    """TensorFlow's format; the parts of a name that "/" separates are boxes within each other."""
    from tensorboard.compat.proto.attr_value_pb2 import AttrValue
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.compat.proto.node_def_pb2 import NodeDef
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

    def shape(sizes: Sequence[int]) -> AttrValue:
        dims = [TensorShapeProto.Dim(size=size) for size in sizes]
        return AttrValue(list=AttrValue.ListValue(shape=[TensorShapeProto(dim=dims)]))

    nodes = [
        NodeDef(name=one.name, op=one.kind, input=one.inputs, attr={"_output_shapes": shape(one.shape)})
        for one in operations
    ]
    return GraphDef(node=nodes).SerializeToString()


def _events(folder: Path) -> Iterator[Any]:
    """Every record in the run's event files, oldest first."""
    from tensorboard.backend.event_processing.event_file_loader import (
        EventFileLoader,
    )

    for path in sorted(path for path in folder.iterdir() if FILE_NAME.match(path.name)):
        yield from EventFileLoader(str(path)).Load()
