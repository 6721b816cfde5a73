"""distill.teacher: where it comes from, and whether it goes with the run that learns from it."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.error import URLError

from torch import nn

from mobilenet_train import checkpoint
from mobilenet_train.config.checked import values_of
from mobilenet_train.config.schema import CustomModelConfig, TrainConfig
from mobilenet_train.config.suggest import nearest
from mobilenet_train.data.cache import Listener
from mobilenet_train.data.images import Dataset
from mobilenet_train.distributed import local_first
from mobilenet_train.errors import RunError
from mobilenet_train.inference.loading import load_run
from mobilenet_train.models import folded
from mobilenet_train.runs.leak import refuse_known_test_images
from mobilenet_train.runtime import Runtime
from mobilenet_train.training.teacher import Teacher

TORCHVISION = "torchvision:"


class Found(NamedTuple):
    """A trained network, and what it was trained on."""

    model: nn.Module
    class_names: tuple[str, ...]
    normalised: tuple[Any, ...]  # mean, std and scale of its images
    about: str
    custom: bool = False
    record: Mapping[str, Any] | None = None  # fingerprint and configuration of its own run


def load_teacher(config: TrainConfig, dataset: Dataset, runtime: Runtime, listener: Listener) -> Teacher:
    """The teacher of the configuration, on the run's device.

    Raises RunError if it cannot be read, was trained on other classes, with other preprocessing or on test images.
    """
    source = config.distill.teacher
    assert source is not None
    try:
        if source.startswith(TORCHVISION):
            found = local_first(runtime.ranks, lambda: _of_torchvision(source, dataset.class_names))
        else:
            found = _of_run(source, config.trust_factory)
        _refuse_other_images(found, dataset)
    except RunError as error:
        raise RunError(f"distill.teacher={source}: {error}") from error
    said = f"distill.teacher={source}"
    refuse_known_test_images(config.dataset, dataset.fingerprint, said, found.record, listener)
    network = folded(found.model).requires_grad_(False)
    network = network.to(runtime.device, memory_format=runtime.memory_format)  # type: ignore[call-overload]
    parameters = sum(parameter.numel() for parameter in found.model.parameters())
    about = f"{source}: {found.about}, {parameters:,} parameters"
    return Teacher(network, checkpoint.digest(found.model.state_dict()), about, found.custom)


def refuse_other_teacher(saved: Mapping[str, Any], source: str | None, teacher: Teacher | None) -> None:
    """Raises RunError if a checkpoint was trained with a teacher of other weights than those that `source` has now."""
    if teacher is not None and saved.get("teacher") != teacher.digest:
        raise RunError(
            f"distill.teacher={source} has other weights than the teacher that this run was trained with: put that "
            "file back, or name where it lies now, distill.teacher=PATH"
        )


def _of_run(source: str, trust_factory: bool) -> Found:
    trained = load_run(source, trust_factory=trust_factory)
    record = {"fingerprint": trained.checkpoint.fingerprint, "config": values_of(trained.config)}
    pre, logged = trained.preprocessing, trained.checkpoint.logged
    top1 = f", test top-1 {logged.test.top1:.2f} %" if logged and logged.test else ""
    custom = isinstance(trained.config.model, CustomModelConfig)
    about = f"{trained.config.model.name}{top1}"
    return Found(trained.model, trained.class_names, (pre.mean, pre.std, pre.scale), about, custom, record)


def _of_torchvision(source: str, class_names: tuple[str, ...]) -> Found:
    """One of torchvision's classifiers with its ImageNet weights, which are for ImageNet's 1,000 classes alone."""
    from torchvision import models

    name = source.removeprefix(TORCHVISION)
    known = models.list_models(models)
    if name not in known:
        raise RunError(
            f"torchvision has no classifier of this name{nearest(name, known)}; "
            "torchvision.models.list_models(torchvision.models) lists them"
        )
    weights = models.get_model_weights(name).DEFAULT
    its_names = tuple(weights.meta["categories"])
    _refuse_other_classes(its_names, class_names)  # before the download
    try:
        model = models.get_model(name, weights=weights, progress=False).eval()
    except (URLError, OSError, RuntimeError) as error:
        raise RunError(f"{weights.url} could not be downloaded ({error})") from error
    crop = weights.transforms()
    top1 = weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    return Found(model, its_names, (tuple(crop.mean), tuple(crop.std), 255.0), f"ImageNet top-1 {top1:.2f} %")


def _refuse_other_classes(theirs: tuple[str, ...], ours: tuple[str, ...]) -> None:
    if theirs != ours:
        its, own = (f"{len(names):,} ({', '.join(names[:3])}, ...)" for names in (theirs, ours))
        raise RunError(f"it was trained on other classes, {its}, than this run's {own}")


def _refuse_other_images(found: Found, dataset: Dataset) -> None:
    """Raises RunError for other classes, in name or order, and for images of other channels or values."""
    _refuse_other_classes(found.class_names, dataset.class_names)
    pre = dataset.preprocessing
    if (channels := len(found.normalised[0])) != pre.channels:
        raise RunError(
            f"it sees images of {channels} channels, and this run's have {pre.channels}: train both with the same "
            "model.in_channels"
        )
    if found.normalised != (pre.mean, pre.std, pre.scale):
        mean, std = (f"[{','.join(f'{value:g}' for value in values)}]" for values in found.normalised[:2])
        raise RunError(
            "it sees images that are normalised otherwise: train both with the same values, "
            f"as with dataset.mean={mean} dataset.std={std}"
        )
