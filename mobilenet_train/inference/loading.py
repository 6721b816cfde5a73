"""A run folder or checkpoint file -> the trained network, its classes and its preprocessing. Runs no code from them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from mobilenet_train import checkpoint
from mobilenet_train.config.rules import check
from mobilenet_train.config.saved import from_record
from mobilenet_train.config.schema import CustomModelConfig, TrainConfig
from mobilenet_train.config.schema.device import MOST_THREADS
from mobilenet_train.data.images import Preprocessing
from mobilenet_train.errors import ConfigError, RunError
from mobilenet_train.inference.run_path import trained_path
from mobilenet_train.models.build import build_model
from mobilenet_train.results import EpochResult
from mobilenet_train.runtime import Runtime, set_up
from mobilenet_train.training.state import result_from_dict

Weights = Literal["raw", "ema"]
LONGEST_REASON = 200  # characters; of a foreign network torch would name every layer
FIRST_STORED = (32, 32)  # of the data sets that existed before checkpoints recorded it


@dataclass(frozen=True)
class CheckpointFacts:
    """Where a network comes from: the file, how far training was, and what was logged."""

    path: Path
    epoch: int  # epochs finished
    batch: int  # batches done in the epoch after them
    step: int  # optimiser updates done
    history: tuple[EpochResult, ...]
    has_ema: bool
    fingerprint: str  # of the data set
    environment: Mapping[str, str | int]  # torch, device, threads, precision
    test_predictions: Tensor | None  # int (N,): class of each test image by the raw weights, at `logged`

    @property
    def threads(self) -> int:
        """As in training, so that sums are rounded alike."""
        return min(max(1, int(self.environment["threads"])), MOST_THREADS)

    @property
    def logged(self) -> EpochResult | None:
        """What was logged of just these weights; None inside an epoch, and after one without an evaluation."""
        return self.history[-1] if self.batch == 0 and self.history and self.history[-1].test else None


@dataclass(frozen=True)
class TrainedRun:
    """A trained network, in evaluation mode on the CPU, and all that is needed to use it."""

    folder: Path  # the run's, or the one that a lone checkpoint file lies in
    model: nn.Module
    weights: Weights
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    config: TrainConfig
    checkpoint: CheckpointFacts
    warning: str | None  # set if last.pt was damaged and previous.pt was taken


def load_run(source: str | Path, weights: Weights = "raw", *, trust_factory: bool = False) -> TrainedRun:
    """Reads a run folder (its newest whole checkpoint) or one checkpoint file.

    weights: "raw", or "ema" for the moving average.
    trust_factory: a network from `model=custom` is built by importing and calling the function that the checkpoint
        names; without this that is refused, since the file may come from anyone.

    Raises RunError if there is no checkpoint, it is damaged, foreign or would run code, or lacks what is asked for.
    """
    path = trained_path(source)
    if path.is_dir():
        return _load_folder(path, weights, trust_factory)
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return _rebuild(checkpoint.load(path), path, folder, weights, trust_factory, warning=None)


def runtime_like(config: TrainConfig, device: str, threads: int | None) -> Runtime:
    """A run's precision and layout on a device; a reduced precision that it lacks becomes the one it would choose.

    Raises RunError if the device does not exist.
    """
    custom = isinstance(config.model, CustomModelConfig)
    asked = replace(config.device, name=device, threads=threads, sync_batch_norm=False)
    try:
        return set_up(asked, custom=custom)
    except ConfigError:
        return set_up(replace(asked, precision="auto"), custom=custom)


def _load_folder(folder: Path, weights: Weights, trust_factory: bool) -> TrainedRun:
    checkpoints = folder / "checkpoints"
    saved, warning = checkpoint.load_latest(checkpoints)
    path = checkpoints / ("previous.pt" if warning else "last.pt")
    return _rebuild(saved, path, folder, weights, trust_factory, warning)


def _rebuild(
    saved: Mapping[str, Any], path: Path, folder: Path, weights: Weights, trust_factory: bool, warning: str | None
) -> TrainedRun:
    """The run that a checkpoint's contents describe. Checked here: a right checksum does not make them valid."""
    try:
        config = from_record(OmegaConf.create(dict(saved["config"]))).config
        check(config, typed=())
        _check_trust(config, path, trust_factory)
        class_names = tuple(map(str, saved["class_names"]))
        return TrainedRun(
            folder=folder,
            model=_network(saved, config, (len(class_names), len(saved["preprocessing"]["mean"])), path, weights),
            weights=weights,
            class_names=class_names,
            preprocessing=_preprocessing(saved["preprocessing"]),
            config=config,
            checkpoint=_facts(saved, path),
            warning=warning,
        )
    except (ConfigError, OmegaConfBaseException) as error:
        raise RunError(f"{path}: its configuration cannot be used here: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:LONGEST_REASON]}"
        raise RunError(f"{path} is not a whole checkpoint of mnet-train ({reason})") from error


def _check_trust(config: TrainConfig, path: Path, trust_factory: bool) -> None:
    if isinstance(config.model, CustomModelConfig) and not trust_factory:
        raise RunError(
            f"{path} needs its network built by your Python function {config.model.factory}, which would be imported "
            "and called; if you know it, add --trust-factory (trust_factory=true for mnet-train, True in Python)"
        )


def _network(
    saved: Mapping[str, Any], config: TrainConfig, sizes: tuple[int, int], path: Path, weights: Weights
) -> nn.Module:
    """The network of `sizes` (classes, channels) with the checkpoint's weights.

    Ours are built without memory, so a false size costs nothing.
    """
    values = saved["model" if weights == "raw" else "ema"]
    if values is None:
        raise RunError(f"{path} has no moving average (the run had ema.decay=0): use the raw weights")
    ours = not isinstance(config.model, CustomModelConfig)
    with torch.random.fork_rng(devices=[]), torch.device("meta" if ours else "cpu"):
        model = build_model(config, *sizes)
    model.load_state_dict(values, assign=ours)
    return model.eval().requires_grad_(False)


def _preprocessing(values: Mapping[str, Any]) -> Preprocessing:
    mean, std = (tuple(map(float, values[name])) for name in ("mean", "std"))
    height, width = values.get("stored", FIRST_STORED)
    return Preprocessing(**{**values, "mean": mean, "std": std, "stored": (int(height), int(width))})


def _facts(saved: Mapping[str, Any], path: Path) -> CheckpointFacts:
    progress = saved["progress"]
    return CheckpointFacts(
        path=path,
        epoch=progress["epoch"],
        batch=progress["batch"],
        step=progress["step"],
        history=tuple(result_from_dict(values) for values in saved["history"]),
        has_ema=saved["ema"] is not None,
        fingerprint=saved["fingerprint"],
        environment=saved["environment"],
        test_predictions=saved.get("test_predictions"),
    )
