"""A trained network written for another runtime, loaded there again, and checked on the whole test set."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from torch import Tensor, nn

from mobilenet_train import __version__
from mobilenet_train.config.schema import NetworkConfig
from mobilenet_train.data.batches import EvalBatches
from mobilenet_train.data.images import Dataset, Preprocessing, Split, stratified_sample
from mobilenet_train.deploy.executorch_program import load_program, to_executorch
from mobilenet_train.deploy.latency import Timing, measure
from mobilenet_train.deploy.onnx_graph import taking_pixels, to_onnx
from mobilenet_train.deploy.onnx_int8 import fp32_operators, quantise
from mobilenet_train.deploy.quantisation_aware import fine_tuned
from mobilenet_train.deploy.runtimes import (
    INT8_PROPERTY,
    Logits,
    PixelLogits,
    eager_logits,
    onnx_logits,
    runtime_of_file,
    timed,
)
from mobilenet_train.disk import writing
from mobilenet_train.errors import RunError, require
from mobilenet_train.inference.loading import TrainedRun
from mobilenet_train.inference.onnx_file import onnx_session, takes_pixels

CALIBRATION_IMAGES = 512
CALIBRATION_BATCH = 64
TEST_BATCH = 250
CPU = torch.device("cpu")
TOLERANCE = 1e-3  # largest logit difference of an fp32 export, as a share of the largest logit
TIMED_SECONDS = 2.0

Properties = Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """What is exported: a trained network, and the images to calibrate, fine-tune and check it with.

    qat_epochs: epochs of quantisation-aware fine-tuning before int8; `log` gets a line for each.
    pixels: ONNX files take uint8 (batch, resolution, resolution, 3) instead of normalised fp32.
    """

    run: TrainedRun
    dataset: Dataset
    qat_epochs: int = 0
    log: Callable[[str], None] = lambda _: None
    pixels: bool = False

    @cached_property
    def onnx_graph(self) -> bytes:
        """The network in fp32, which onnx and onnx-int8 share."""
        return self.onnx_graph_of(self.run.model)

    def onnx_graph_of(self, model: nn.Module) -> bytes:
        """One of its networks as an ONNX graph."""
        pre = self.run.preprocessing
        return to_onnx(model, pre.resolution, properties(self.run, self.pixels), pre.channels)

    @cached_property
    def tuned(self) -> nn.Module:
        """The network that is quantised: the run's own, or a copy that has learnt to be rounded."""
        if self.qat_epochs == 0:
            return self.run.model
        return fine_tuned(self.run, self.dataset, self.qat_epochs, self.log)


@dataclass(frozen=True)
class Format:
    """How one kind of file is written and read back; a lossless one has to compute the same logits."""

    file: str
    write: Callable[[Source], bytes]
    load: Callable[[Path, TrainedRun], tuple[Logits, Properties]]
    lossless: bool


@dataclass(frozen=True)
class Checked:
    """What an export does on the test set, compared with the network that it was made from."""

    format: str
    bytes: int
    top1: float  # percent
    drop: float  # points below the network in PyTorch
    difference: float  # largest absolute difference of any logit of any test image
    fp32_operators: dict[str, int]  # of an int8 graph: the operators that compute in fp32, by kind
    qat_epochs: int = 0  # of quantisation-aware fine-tuning


@dataclass(frozen=True)
class DeployRow:
    """One line of the deploy table."""

    checked: Checked
    timing: Timing  # one image, one thread


OTHER_INPUT = {"input": "images (N, C, resolution, resolution)", "formula": "(value / scale - mean) / std"}
FLOAT_INPUT = {"input": "images (N, 3, resolution, resolution), RGB", "formula": "(pixel / 255 - mean) / std"}
PIXEL_INPUT = {"input": "images (N, resolution, resolution, 3), uint8 RGB", "formula": "pixel"}


def properties(run: TrainedRun, pixels: bool = False) -> Properties:
    """Labels and preprocessing as every export holds them: strings, JSON where they are more than one word."""
    rgb, model = run.preprocessing.is_rgb, run.config.model
    layout = PIXEL_INPUT if pixels else FLOAT_INPUT if rgb else OTHER_INPUT
    return {
        "producer": f"mnet-train {__version__}",
        "network": model.name,
        "width": f"{model.width_mult:g}" if isinstance(model, NetworkConfig) else "1",
        "labels": json.dumps(run.class_names, ensure_ascii=False),
        "preprocessing": json.dumps({**_recorded(run.preprocessing), **layout}),
    }


def _recorded(preprocessing: Preprocessing) -> dict[str, Any]:
    """What a file holds of it; the scale of uint8 images is not named, as in files of older versions."""
    return {key: value for key, value in asdict(preprocessing).items() if (key, value) != ("scale", 255)}


# --- the formats


def _write_onnx(source: Source) -> bytes:
    return _with_input(source.onnx_graph, source)


def _write_int8(source: Source) -> bytes:
    graph = source.onnx_graph_of(source.tuned) if source.qat_epochs > 0 else source.onnx_graph
    return _with_input(quantise(graph, calibration_batches(source.run, source.dataset.train)), source)


def _with_input(graph: bytes, source: Source) -> bytes:
    return taking_pixels(graph, source.run.preprocessing) if source.pixels else graph


def calibration_batches(run: TrainedRun, train: Split) -> Iterator[Tensor]:
    """Network inputs of some training images, every class alike, chosen by the run's seed."""
    per_class = -(-CALIBRATION_IMAGES // len(run.class_names))
    chosen = train.take(stratified_sample(train.labels, run.config.seed, max_per_class=per_class))
    for images, _ in EvalBatches(chosen, run.preprocessing, CALIBRATION_BATCH, torch.contiguous_format):
        yield images


def _load_onnx(path: Path, run: TrainedRun) -> tuple[Logits, Properties]:
    session = onnx_session(path.read_bytes(), threads=1)
    logits, read = onnx_logits(session), session.get_modelmeta().custom_metadata_map
    return (PixelLogits(logits, run.preprocessing) if takes_pixels(session) else logits), read


def _write_safetensors(source: Source) -> bytes:
    safetensors = require("safetensors.torch")
    weights = {name: value.contiguous() for name, value in source.run.model.state_dict().items()}
    return safetensors.save(weights, metadata=dict(properties(source.run)))


def _load_safetensors(path: Path, run: TrainedRun) -> tuple[Logits, Properties]:
    """The weights in a new copy of the network: the format holds no graph."""
    safe_open = require("safetensors").safe_open
    with safe_open(path, framework="pt") as file:
        weights, labels = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    model = deepcopy(run.model)
    model.load_state_dict(weights)
    return eager_logits(model, CPU), labels


def _write_executorch(source: Source) -> bytes:
    run, pre = source.run, source.run.preprocessing
    return to_executorch(run.model, pre.resolution, properties(run), pre.channels)


def _write_executorch_int8(source: Source) -> bytes:
    run, pre = source.run, source.run.preprocessing
    labelled = {**properties(run), INT8_PROPERTY: "int8"}
    calibration = calibration_batches(run, source.dataset.train)
    return to_executorch(source.tuned, pre.resolution, labelled, pre.channels, calibration)


def _load_executorch(path: Path, _: TrainedRun) -> tuple[Logits, Properties]:
    return load_program(path.read_bytes(), threads=1)


FORMATS = {
    "onnx": Format("model.onnx", _write_onnx, _load_onnx, lossless=True),
    "onnx-int8": Format("model.int8.onnx", _write_int8, _load_onnx, lossless=False),
    "executorch": Format("model.pte", _write_executorch, _load_executorch, lossless=True),
    "executorch-int8": Format("model.int8.pte", _write_executorch_int8, _load_executorch, lossless=False),
    "safetensors": Format("model.safetensors", _write_safetensors, _load_safetensors, lossless=True),
}


# --- writing, checking, measuring


def export(source: Source, formats: Sequence[str], folder: Path, max_drop: float) -> list[DeployRow]:
    """Writes each format into `folder`, loads it there in its own runtime and checks it; all are timed together.

    Returns the deploy table, the network itself in PyTorch first. A file gets its name only if it has passed; one
    that is more than `max_drop` points of top-1 below the network is in the table, but not in the folder.
    Raises RunError for an export that cannot be loaded, or whose logits, labels or preprocessing are not the network's.
    """
    run, dataset = source.run, source.dataset
    if source.pixels and not run.preprocessing.is_rgb:
        raise RunError("--input uint8 is for networks of uint8 images with three channels; leave it out")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    itself = eager_logits(deepcopy(run.model), CPU)
    compared = PixelLogits.of(itself, run.preprocessing) if source.pixels else itself
    reference = all_logits(compared, dataset.test, run.preprocessing)
    results = [of_itself(run, dataset, reference)]
    loaded = [itself]
    for name in formats:
        path = folder / FORMATS[name].file
        unchecked = path.with_name(f"unchecked_{path.name}")
        try:
            with writing(Path(gettempdir())):  # where torch and the runtimes put what they need
                written = FORMATS[name].write(source)
            with writing(unchecked):
                unchecked.write_bytes(written)
            checked, logits = check(name, unchecked, run, dataset.test, reference)
            if not FORMATS[name].lossless:
                checked = replace(checked, qat_epochs=source.qat_epochs)
            if checked.drop <= max_drop:
                unchecked.replace(path)
        finally:
            unchecked.unlink(missing_ok=True)
        results.append(checked)
        loaded.append(logits)
    return [DeployRow(*pair) for pair in zip(results, one_image_timings(loaded, run), strict=True)]


def check_file(path: Path, run: TrainedRun, dataset: Dataset) -> list[Checked]:
    """The run's network on its test images, and an exported ONNX or ExecuTorch file beside it.

    Raises RunError for a file that cannot be loaded, is not of this run or does not compute what its network does.
    """
    itself = eager_logits(deepcopy(run.model), CPU)
    reference = all_logits(itself, dataset.test, run.preprocessing)
    name = runtime_of_file(path)
    return [of_itself(run, dataset, reference), check(name, path, run, dataset.test, reference)[0]]


def of_itself(run: TrainedRun, dataset: Dataset, reference: Tensor) -> Checked:
    """The network in PyTorch, whose logits of the test images `reference` are."""
    weights = sum(value.nbytes for value in run.model.state_dict().values())
    return Checked("pytorch", weights, top1(reference, dataset.test), 0.0, 0.0, {})


def check(name: str, path: Path, run: TrainedRun, test: Split, reference: Tensor) -> tuple[Checked, Logits]:
    """Loads an export and runs every test image through it, with the preprocessing that the file names.

    reference: the network's own logits (N, classes) of the test images. Raises RunError as `export` does.
    """
    kind = FORMATS[name]
    try:
        logits, read = kind.load(path, run)
    except Exception as error:  # each runtime raises exceptions of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"{path} cannot be loaded as {name}: {reason}") from error
    result = all_logits(logits, test, agreed_preprocessing(path, read, run, isinstance(logits, PixelLogits)))
    difference = float((result - reference).abs().max())
    if kind.lossless and not difference <= TOLERANCE * float(reference.abs().max()):  # so that NaN is caught too
        raise RunError(f"{path} computes other logits than the network: they differ by up to {difference:.3g}")
    reached = top1(result, test)
    left = fp32_operators(path.read_bytes()) if name == "onnx-int8" else {}
    return Checked(name, path.stat().st_size, reached, top1(reference, test) - reached, difference, left), logits


def agreed_preprocessing(path: Path, labels: Properties, run: TrainedRun, pixels: bool) -> Preprocessing:
    """The preprocessing that an export names. Raises RunError if it or the labels are not those of the run."""
    wanted = properties(run, pixels)
    for key in ("labels", "preprocessing"):
        if labels.get(key) != wanted[key]:
            raise RunError(f"{path} names other {key} than the run: {labels.get(key)} instead of {wanted[key]}")
    return run.preprocessing


def all_logits(logits: Logits, test: Split, preprocessing: Preprocessing) -> Tensor:
    """The logits (N, classes) of all test images."""
    batches = EvalBatches(test, preprocessing, TEST_BATCH, torch.contiguous_format)
    return torch.cat([logits(images) for images, _ in batches])


def top1(logits: Tensor, test: Split) -> float:
    """In percent, of logits (N, classes)."""
    return 100 * float((logits.argmax(1) == test.labels).double().mean())


def one_image_timings(loaded: Sequence[Logits], run: TrainedRun) -> list[Timing]:
    """All of them with one image and one thread, taking turns."""
    side = run.preprocessing.resolution
    calls = {
        number: timed(logits.of_pixels, torch.zeros(1, side, side, 3, dtype=torch.uint8), 1)
        if isinstance(logits, PixelLogits)
        else timed(logits, torch.zeros(1, run.preprocessing.channels, side, side), 1)
        for number, logits in enumerate(loaded)
    }
    threads = torch.get_num_threads()
    try:
        timings = measure(calls, TIMED_SECONDS)
    finally:
        torch.set_num_threads(threads)
    return list(timings.values())
