"""The check of a whole configuration: each key by its own rule in the schema, and the rules across keys here."""

from collections.abc import Collection, Iterator
from dataclasses import fields, is_dataclass, replace
from functools import reduce
from typing import Any

from mobilenet_train.config.fields import Rule, options
from mobilenet_train.config.schema import (
    OPTIONS,
    SCHEMAS,
    SWEEP_KEYS,
    DigitsConfig,
    FolderConfig,
    ImageFilesConfig,
    IndianPinesConfig,
    NetworkConfig,
    SgdConfig,
    TorchvisionConfig,
    TrainConfig,
    V1Config,
    reads_files,
)
from mobilenet_train.config.trained import choices, find_trained, named
from mobilenet_train.errors import ConfigError

CACHED = ("store_size", "cache", "cache_dir", "workers", "on_bad_image")  # of image files alone
Conflict = tuple[str, Any, bool, str]  # key, its value, whether that goes with the others, what is allowed


def check(config: TrainConfig, typed: Collection[str] | None = None) -> None:
    """Refuses values out of range and options that combine badly. Raises ConfigError for the first one found.

    typed: the keys that today's limits are for, all unless given; others may have what any version let pass.
    """
    _check_groups(config)
    _check_parts(config)
    for key, option in options(config):
        if option.rule:
            value = reduce(getattr, key.split("."), config)
            strict = typed is None or any(f"{key}.".startswith(f"{name}.") for name in typed)
            _check_value(key, value, option.rule, strict)
    for key, value, fits, allowed in _conflicts(config):
        if not fits:
            raise ConfigError(f"{key}={value} is not allowed: {allowed}")
    _check_purpose(config)


def _check_value(key: str, value: Any, rule: Rule, strict: bool) -> None:
    if not (rule.fits_typed if strict else rule.fits)(value):
        raise ConfigError(f"{key}={value} is not allowed: {rule.allowed}")


def _check_groups(part: Any, prefix: str = "") -> None:
    """Refuses anything but its own keys in the place of a group, where an interpolation can bring it."""
    for item in fields(part):
        if isinstance(item.default_factory, type) and is_dataclass(item.default_factory):
            key, value = f"{prefix}{item.name}", getattr(part, item.name)
            if not isinstance(value, item.default_factory):
                raise ConfigError(f"{key}={value} is not allowed: it is a group, whose keys are set as {key}.KEY=VALUE")
            _check_groups(value, f"{key}.")


def _check_parts(config: TrainConfig) -> None:
    for group, schemas in SCHEMAS.items():
        part = getattr(config, group)
        if type(part) is not schemas.get(part.name):
            names = ", ".join(schemas)
            raise ConfigError(f"{group}.name={part.name} does not go with the keys of {group}; it is one of: {names}")


def _conflicts(c: TrainConfig) -> Iterator[Conflict]:
    d, m, o, start = c.dataset, c.model, c.optim, c.progressive.start
    within = f"null or pixels, from 8 to dataset.resolution={d.resolution}"
    yield "progressive.start", start, start is None or start <= d.resolution, within
    once = c.augment.resized_crop is None or c.augment.crop_padding == 0
    yield "augment.crop_padding", c.augment.crop_padding, once, "augment.resized_crop cuts already; give one of the two"
    exact = c.device.compile is None or not c.device.deterministic
    yield "device.compile", c.device.compile, exact, "null with device.deterministic=true: it chooses code by its speed"
    if isinstance(d, ImageFilesConfig) and reads_files(d):
        larger = f"null or pixels, from dataset.resolution={d.resolution} to 4096"
        yield "dataset.store_size", d.store_size, d.store_size is None or d.store_size >= d.resolution, larger
    if isinstance(d, IndianPinesConfig):
        yield (
            "dataset.resolution",
            d.resolution,
            d.resolution % 2 == 1,
            "an odd number of pixels, for the window's centre",
        )
    if isinstance(o, SgdConfig):
        yield "optim.nesterov", o.nesterov, not o.nesterov or o.momentum > 0, "Nesterov needs optim.momentum above 0"
    if isinstance(m, V1Config):
        alone = m.separable or m.depth_multiplier == 1
        yield "model.depth_multiplier", m.depth_multiplier, alone, "above 1 only with model.separable=true"
        gated = m.separable or not m.squeeze_excite
        yield "model.squeeze_excite", m.squeeze_excite, gated, "true only with model.separable=true"
    starts_trained = isinstance(m, NetworkConfig) and m.weights is not None
    yield "optim.frozen_epochs", o.frozen_epochs, o.frozen_epochs == 0 or starts_trained, "0 without model.weights"
    if isinstance(m, NetworkConfig):
        known = m.weights is None or not named(m.weights) or find_trained(m.weights, m.name, m.width_mult) is not None
        there = f"a path, or what there is for {m.name}: {choices(m.name)}"
        yield "model.weights", m.weights, known, there
        trained = m.freeze == "none" or m.weights is not None
        yield "model.freeze", m.freeze, trained, "random weights must learn; give model.weights too"


def _check_purpose(config: TrainConfig) -> None:
    """Refuses what lacks something else to make sense."""
    if config.epochs is None and config.budget is None:
        raise ConfigError("epochs=null is not allowed without a budget: say how long to train, epochs=20 or budget=10m")
    if config.early_stop.patience is not None and config.dataset.val_fraction == 0:
        raise ConfigError(
            f"early_stop.patience={config.early_stop.patience} needs a hold-out split to watch: "
            "add dataset.val_fraction=0.1 (stopping on the test set would choose the result with it)"
        )
    if config.optim.backbone_lr != 1 and not isinstance(config.model, NetworkConfig):
        raise ConfigError(
            f"optim.backbone_lr={config.optim.backbone_lr} needs to know the classifier, and model={config.model.name} "
            "does not say which part that is; leave it at 1"
        )
    if config.device.name == "cpu" and config.device.precision == "fp16":
        raise ConfigError(
            "device.precision=fp16 needs a CUDA device, and device=cpu was asked for; use device.precision=fp32"
        )
    if config.device.name == "cpu" and config.device.sync_batch_norm:
        raise ConfigError("device.sync_batch_norm=true needs CUDA devices, and device=cpu was asked for; leave it out")


def let_budget_decide(config: TrainConfig, typed: Collection[str]) -> TrainConfig:
    """With a budget only an `epochs` that someone typed limits the run, not the one of conf/."""
    return config if config.budget is None or "epochs" in typed else replace(config, epochs=None)


def check_sweep(values: Any) -> None:
    """Refuses bad values of the keys that belong to a sweep as a whole, in a composed configuration."""
    for key in SWEEP_KEYS:
        rule = OPTIONS[key][0].rule
        assert rule is not None
        _check_value(key, values[key], rule, strict=True)


def check_effect(config: TrainConfig, typed: Collection[str]) -> None:
    """Refuses a key that someone typed and that would do nothing. Raises ConfigError."""
    decay = config.optim.schedule.decay
    periodic = decay in ("step", "exponential")
    operations = config.augment.operations
    data = config.dataset
    drawn = data.fraction < 1 or data.max_per_class is not None or data.val_fraction > 0
    used_by = {
        "optim.schedule.every_epochs": (periodic, f"optim.schedule.decay={decay}; it belongs to step and exponential"),
        "optim.schedule.factor": (periodic, f"optim.schedule.decay={decay}; it belongs to step and exponential"),
        "optim.schedule.final": (
            decay in ("cosine", "linear"),
            f"optim.schedule.decay={decay}; it belongs to cosine and linear",
        ),
        "augment.magnitude": (
            operations == "randaugment",
            f"augment.operations={operations}; it belongs to randaugment",
        ),
        "progressive.full_from": (
            config.progressive.start is not None,
            "progressive.start=null; give the resolution at first",
        ),
        "optim.frozen_epochs": (
            getattr(config.model, "freeze", "none") != "backbone",
            "model.freeze=backbone: only the classifier learns in every epoch",
        ),
        "optim.weight_decay_final": (config.optim.weight_decay > 0, "optim.weight_decay=0"),
        "distill.weight": (config.distill.teacher is not None, "distill.teacher=null; name a teacher"),
        "distill.temperature": (config.distill.teacher is not None, "distill.teacher=null; name a teacher"),
        "dataset.split_seed": (
            drawn or isinstance(data, DigitsConfig | FolderConfig | IndianPinesConfig),
            f"dataset={data.name}, all of it; it belongs to dataset.fraction, max_per_class and val_fraction",
        ),
    }
    if isinstance(data, TorchvisionConfig):
        why = f"dataset.kind={data.kind}, which is not a set of image files"
        used_by |= {f"dataset.{name}": (reads_files(data), why) for name in CACHED}
    for key in typed:
        if key in SWEEP_KEYS:
            raise ConfigError(f"{key} has no effect on a single run; it belongs to a sweep: mnet-train -m")
        used, why = used_by.get(key, (True, ""))
        if not used:
            raise ConfigError(f"{key} has no effect with {why}")
