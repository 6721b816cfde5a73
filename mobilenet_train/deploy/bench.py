"""Latency and throughput of networks on this machine, for every width, resolution, batch, thread count and runtime."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from mobilenet_train.config.schema import NetworkConfig
from mobilenet_train.data import ImageData
from mobilenet_train.deploy.executorch_program import classifier_of_program, load_program, to_executorch
from mobilenet_train.deploy.latency import Call, Timing, measure
from mobilenet_train.deploy.onnx_graph import to_onnx
from mobilenet_train.deploy.onnx_int8 import quantise
from mobilenet_train.deploy.runtimes import eager_logits, runtime_of_file, timed, timed_session
from mobilenet_train.deploy.settings import Setting, all_settings
from mobilenet_train.disk import read_text, write_text
from mobilenet_train.errors import ConfigError, RunError
from mobilenet_train.inference.loading import TrainedRun
from mobilenet_train.inference.onnx_file import load_onnx, onnx_session
from mobilenet_train.machine import describe_machine
from mobilenet_train.models import NETWORKS
from mobilenet_train.runtime import keep_freed_memory


@dataclass(frozen=True)
class Row:
    """A setting and what was measured of it."""

    setting: Setting
    timing: Timing
    machine: str

    @property
    def images_per_second(self) -> float:
        """Throughput at the median latency."""
        return 1000 * self.setting.batch / self.timing.median_ms


TrainingStep = Callable[[Setting], Call]  # one update of a setting's network, ready to be timed
Network = Callable[[Setting], nn.Module]  # a setting's network, in evaluation mode


@dataclass(frozen=True)
class Bench:
    """Makes settings into functions to be timed.

    device: where PyTorch computes ("cpu", "cuda"); the other runtimes are only used on the CPU.
    training_step: makes what the runtime "train" times. network: makes what the others do.
    """

    device: torch.device
    training_step: TrainingStep
    network: Network
    channels: int = 3  # of the images

    def run(self, settings: Sequence[Setting], seconds: float) -> list[Row]:
        """Times all settings for about `seconds` each, taking turns. Raises RunError if a runtime is not installed."""
        threads = torch.get_num_threads()
        try:
            timings = measure(dict(self._calls(settings)), seconds)
        finally:
            torch.set_num_threads(threads)
        machine = describe_machine()
        return [Row(setting, timings[setting], machine) for setting in settings]

    def _calls(self, settings: Sequence[Setting]) -> Iterator[tuple[Setting, Call]]:
        files: dict[Setting, bytes] = {}
        for s in settings:
            images = noise(s.batch, s.resolution, self.channels)
            if s.runtime == "train":
                yield s, self.training_step(s)
            elif s.runtime == "eager":
                logits = eager_logits(self.network(s), self.device)
                yield s, timed(logits, images.to(self.device), s.threads)
            elif s.runtime.startswith("onnx"):
                yield s, timed_session(onnx_session(self._exported(s, files), s.threads), images.numpy())
            else:
                yield s, timed(load_program(self._exported(s, files), s.threads)[0], images, s.threads)

    def _exported(self, setting: Setting, files: dict[Setting, bytes]) -> bytes:
        """A setting's network as its runtime's file, which is written once for every batch and thread count."""
        s = replace(setting, batch=1, threads=1)
        if s not in files:
            calibration = [noise(1, s.resolution, self.channels)] if s.runtime.endswith("int8") else None
            if s.runtime.startswith("executorch"):
                files[s] = to_executorch(self.network(s), s.resolution, {}, self.channels, calibration)
            elif calibration:
                files[s] = quantise(self._exported(replace(s, runtime="onnx"), files), calibration)
            else:
                files[s] = to_onnx(self.network(s), s.resolution, {}, self.channels)
        return files[s]


def new_bench(
    classes: int,
    device: str,
    training_step: Callable[[Setting, int, str], Call],
    network: Network | None = None,
    channels: int = 3,
) -> Bench:
    """What times settings: of `network`, or of our networks with random weights. Raises RunError without the device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise RunError("--device cuda was asked for, but torch sees no CUDA device")
    keep_freed_memory()

    def random_network(setting: Setting) -> nn.Module:
        torch.manual_seed(0)
        options = {"num_classes": classes, "resolution": setting.resolution, "width_mult": setting.width}
        return NETWORKS[setting.model](**options).eval().requires_grad_(False)

    def step(setting: Setting) -> Call:
        return training_step(setting, classes, device)

    return Bench(torch.device(device), step, network or random_network, channels)


def run_settings(
    run: TrainedRun, batches: Sequence[int], threads: Sequence[int], runtimes: Sequence[str]
) -> list[Setting]:
    """A run's own network, at the resolution of its evaluation."""
    model = run.config.model
    width = model.width_mult if isinstance(model, NetworkConfig) else 1.0
    return all_settings([model.name], [width], [run.preprocessing.resolution], batches, threads, runtimes)


def time_file(path: Path, batches: Sequence[int], threads: Sequence[int], seconds: float) -> list[Row]:
    """An exported file with every number of images and threads. Raises RunError if it cannot be read."""
    calls, runtime = {}, runtime_of_file(path)
    for count in threads:
        file = (classifier_of_program if path.suffix == ".pte" else load_onnx)(path, count)
        for batch in batches:
            setting = Setting(file.network, file.width, file.resolution, batch, count, runtime)
            side = file.resolution
            pixels, values = (batch, side, side, 3), (batch, len(file.mean), side, side)
            images = np.zeros(pixels, np.uint8) if file.pixels else np.zeros(values, np.float32)
            calls[setting] = partial(file.forward, images)
    machine = describe_machine()
    return [Row(setting, timing, machine) for setting, timing in measure(calls, seconds).items()]


def noise(batch: int, resolution: int, channels: int = 3) -> Tensor:
    """Inputs (batch, channels, resolution, resolution); what the images show does not change how long they take."""
    return torch.randn(batch, channels, resolution, resolution, generator=torch.Generator().manual_seed(0))


def noise_images(count: int, size: int, classes: int) -> ImageData:
    """A data set of noise, for timing training steps: `count` training images, two for testing."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count + 2, size, size, 3), dtype=np.uint8)
    labels = np.arange(count + 2) % classes
    return ImageData(images[2:], labels[2:], images[:2], labels[:2], [str(name) for name in range(classes)])


# --- tables in files

COLUMNS = (*(field.name for field in fields(Setting)), "median_ms", "p95_ms", "calls", "images_per_second", "machine")


def as_dict(row: Row) -> dict[str, str | int | float]:
    """One value for each of COLUMNS."""
    throughput = round(row.images_per_second, 2)
    values = {**asdict(row.setting), **asdict(row.timing), "images_per_second": throughput, "machine": row.machine}
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line for each row. Raises RunError if the file cannot be written."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS)
    writer.writeheader()
    writer.writerows(as_dict(row) for row in rows)
    write_text(path, file.getvalue())


def read_csv(path: Path) -> list[Row]:
    """What `write_csv` wrote. Raises RunError if it cannot be read or is something else."""
    try:
        table = csv.DictReader(io.StringIO(read_text(path)))
        if missing := [name for name in COLUMNS if name not in (table.fieldnames or ())]:
            raise KeyError(missing[0])
        return [_row(values) for values in table]
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise RunError(f"{path} is not a table of mnet-bench ({type(error).__name__}: {error})") from error


def _row(values: dict[str, str]) -> Row:
    setting = Setting(**{name: kind(values[name]) for name, kind in get_type_hints(Setting).items()})
    timing = Timing(float(values["median_ms"]), float(values["p95_ms"]), int(values["calls"]))
    return Row(setting, timing, values["machine"])


@dataclass(frozen=True)
class Change:
    """One setting in two tables."""

    setting: Setting
    before: Timing
    after: Timing

    @property
    def ratio(self) -> float:
        """Latency after as a multiple of before."""
        return self.after.median_ms / self.before.median_ms


def compare(before: Sequence[Row], after: Sequence[Row]) -> list[Change]:
    """The settings that both tables have, in the order of the second. Raises ConfigError if there is none."""
    old = {row.setting: row.timing for row in before}
    changes = [Change(row.setting, old[row.setting], row.timing) for row in after if row.setting in old]
    if not changes:
        raise ConfigError("the two tables have no setting in common")
    return changes
