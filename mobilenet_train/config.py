"""The typed schema of everything a user can say, and the checks across keys. Imports neither torch nor numpy.

The values live in `conf/*.yaml`, each with its comment; here are their types and what is allowed.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mobilenet_train.errors import ConfigError

ACTIVATIONS = ("paper", "relu", "relu6", "hard_swish")
DECAYS = ("cosine", "linear", "step", "exponential", "constant")
BALANCES = ("none", "loss", "sampling")
CACHES = ("auto", "memory", "disk", "off")
PADDINGS = ("symmetric", "tensorflow")
OPERATIONS = ("none", "trivialaugment", "randaugment")
SWEEP_KEYS = ("sweep", "slots", "on_failure")  # for a sweep as a whole, not for its jobs
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")  # torch.compile's


@dataclass
class ModelConfig:
    name: str = MISSING


@dataclass
class NetworkConfig(ModelConfig):
    width_mult: float = MISSING
    dropout: float = MISSING
    stride_plan: Any = MISSING  # "auto", "imagenet" or a whole number
    activation: str = MISSING
    norm_eps: float = MISSING
    norm_momentum: float = MISSING
    weights: str | None = MISSING
    freeze: Any = MISSING  # "none", "backbone" or a whole number


@dataclass
class V1Config(NetworkConfig):
    separable: bool = MISSING
    depth_multiplier: int = MISSING
    padding: str = MISSING


@dataclass
class V2Config(NetworkConfig):
    pass


@dataclass
class V3Config(NetworkConfig):
    squeeze_excite: bool = MISSING


@dataclass
class CustomModelConfig(ModelConfig):
    factory: str = MISSING
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class DatasetConfig:
    name: str = MISSING
    resolution: int = MISSING
    crop_ratio: float = MISSING
    mean: list[float] | None = MISSING
    std: list[float] | None = MISSING
    fraction: float = MISSING
    max_per_class: int | None = MISSING
    val_fraction: float = MISSING


@dataclass
class Cifar10Config(DatasetConfig):
    root: str = MISSING
    download: bool = MISSING


@dataclass
class DigitsConfig(DatasetConfig):
    pass


@dataclass
class CustomDatasetConfig(DatasetConfig):
    factory: str = MISSING
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class PicturesConfig(DatasetConfig):
    store_size: int | None = MISSING
    cache: str = MISSING
    cache_dir: str = MISSING
    workers: int | None = MISSING
    on_bad_image: str = MISSING


@dataclass
class FolderConfig(PicturesConfig):
    root: str = MISSING
    classes: Any = MISSING  # null, [class, ...] or {class: [folder, ...]}
    test_fraction: float = MISSING


@dataclass
class WebDatasetConfig(PicturesConfig):
    train: str = MISSING
    test: str = MISSING
    class_names: str | None = MISSING


@dataclass
class AugmentConfig:
    name: str = MISSING
    crop_padding: int = MISSING
    flip: bool = MISSING
    cutout: int = MISSING
    resized_crop: list[float] | None = MISSING
    brightness: float = MISSING
    contrast: float = MISSING
    saturation: float = MISSING
    operations: str = MISSING
    magnitude: int = MISSING
    erasing: float = MISSING
    mixup: float = MISSING
    cutmix: float = MISSING


@dataclass
class ScheduleConfig:
    decay: str = MISSING
    warmup: float = MISSING
    final: float = MISSING
    every_epochs: float = MISSING
    factor: float = MISSING


@dataclass
class OptimConfig:
    name: str = MISSING
    lr: float = MISSING
    weight_decay: float = MISSING
    decay_norm_and_bias: bool = MISSING
    decay_depthwise: bool = MISSING
    l1: float = MISSING
    clip_norm: float | None = MISSING
    accumulate: int = MISSING
    backbone_lr: float = MISSING
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


@dataclass
class SgdConfig(OptimConfig):
    momentum: float = MISSING
    nesterov: bool = MISSING


@dataclass
class RmspropConfig(OptimConfig):
    momentum: float = MISSING
    alpha: float = MISSING
    eps: float = MISSING


@dataclass
class AdamConfig(OptimConfig):
    betas: list[float] = MISSING
    eps: float = MISSING


@dataclass
class MuonConfig(OptimConfig):
    momentum: float = MISSING
    sgd_lr: float = MISSING
    sgd_momentum: float = MISSING


@dataclass
class DeviceConfig:
    name: str = MISSING
    threads: int | None = MISSING
    precision: str = MISSING
    channels_last: bool = MISSING
    compile: str | None = MISSING
    sync_batch_norm: bool = MISSING


@dataclass
class EmaConfig:
    decay: float = MISSING


@dataclass
class EarlyStopConfig:
    patience: int | None = MISSING


@dataclass
class EvalConfig:
    batch_size: int = MISSING
    resolution: int | None = MISSING


@dataclass
class ProgressiveConfig:
    start: int | None = MISSING
    full_from: float = MISSING


@dataclass
class CheckpointConfig:
    every_minutes: float = MISSING


@dataclass
class RecoverConfig:
    attempts: int = MISSING
    factor: float = MISSING


@dataclass
class TrainConfig:
    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    epochs: int | None = MISSING
    max_steps: int | None = MISSING
    budget: str | None = MISSING
    batch_size: int = MISSING
    seed: int = MISSING
    label_smoothing: float = MISSING
    balance: str = MISSING
    ema: EmaConfig = field(default_factory=EmaConfig)
    early_stop: EarlyStopConfig = field(default_factory=EarlyStopConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    progressive: ProgressiveConfig = field(default_factory=ProgressiveConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    recover: RecoverConfig = field(default_factory=RecoverConfig)
    log_every: int = MISSING
    tensorboard: bool = MISSING
    outputs: str = MISSING
    run_dir: str | None = MISSING
    resume: str | None = MISSING
    resume_schedule: str = MISSING
    schedule_from: int = MISSING
    dry_run: bool = MISSING
    preview: bool = MISSING
    sweep: str | None = MISSING
    slots: Any = MISSING  # "auto" or a whole number
    on_failure: str = MISSING


SCHEMAS: dict[str, dict[str, Any]] = {
    "model": {
        "v1": V1Config,
        "v2": V2Config,
        "v3_large": V3Config,
        "v3_small": V3Config,
        "custom": CustomModelConfig,
    },
    "dataset": {
        "cifar10": Cifar10Config,
        "digits": DigitsConfig,
        "imagenet_subset": FolderConfig,
        "webdataset": WebDatasetConfig,
        "custom": CustomDatasetConfig,
    },
    "augment": dict.fromkeys(("none", "basic", "shift", "standard", "strong"), AugmentConfig),
    "optim": {"sgd": SgdConfig, "rmsprop": RmspropConfig, "adam": AdamConfig, "adamw": AdamConfig, "muon": MuonConfig},
    "device": {"auto": DeviceConfig, "cpu": DeviceConfig, "cuda": DeviceConfig},
}


def register_schemas() -> None:
    """Makes the types known to Hydra as `schema/train` and `schema/GROUP/NAME`, which the YAML files inherit."""
    store = ConfigStore.instance()
    store.store(group="schema", name="train", node=TrainConfig)
    for group, schemas in SCHEMAS.items():
        for name, schema in schemas.items():
            store.store(group=f"schema/{group}", name=name, node=schema)


def from_values(values: DictConfig) -> TrainConfig:
    """Rebuilds a configuration from plain values, as `config.yaml` holds them.

    Raises ConfigError for an unknown choice, an unknown key or a value of the wrong type.
    """
    groups: dict[str, Any] = {}
    for group, schemas in SCHEMAS.items():
        name = OmegaConf.select(values, f"{group}.name")
        if name not in schemas:
            raise ConfigError(f"{group}.name={name!r} is unknown; choose one of: {', '.join(schemas)}")
        groups[group] = schemas[name]
    try:
        merged = OmegaConf.merge(OmegaConf.structured(TrainConfig(**groups)), values)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    return to_config(merged)


def to_config(composed: DictConfig | ListConfig) -> TrainConfig:
    """Turns a composed configuration into dataclasses, after refusing what Hydra lets through.

    Raises ConfigError for keys added with `+` that the schema does not know, missing values, and
    numbers that are not finite.
    """
    try:
        known = list(leaves(composed))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'configuration'}: {str(error).splitlines()[0]}") from error
    for key, value in known:
        if value == MISSING:
            raise ConfigError(f"{key} has no value: give one on the command line, {key}=...")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key}={value} is not a finite number")
    for key in removed_keys(composed):
        raise ConfigError(f"{key!r} was taken away with ~{key}, but every key is needed; give it a value instead")
    for key in unknown_keys(composed):
        others = [k for k, _ in known if k != key and not k.startswith(f"{key}.")]
        raise ConfigError(f"unknown key {key!r}{nearest(key, others)}")
    config = OmegaConf.to_object(composed)
    assert isinstance(config, TrainConfig)
    return config


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (dotted key, value) below a node; a missing value shows as '???'."""
    if isinstance(node, DictConfig) and not node._is_none():
        for key in map(str, node):
            child = MISSING if OmegaConf.is_missing(node, key) else node[key]
            yield from leaves(child, f"{prefix}{key}.")
    elif isinstance(node, ListConfig) and not node._is_none():
        for index in range(len(node)):
            yield from leaves(node[index], f"{prefix}{index}.")
    else:
        yield prefix.removesuffix("."), node


def unknown_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Keys that Hydra's `+key=value` added beside the fields of a dataclass."""
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return
    schema = OmegaConf.get_type(node)
    fields = getattr(schema, "__dataclass_fields__", None)
    for key in map(str, node):
        if fields is not None and key not in fields:
            yield f"{prefix}{key}"
        elif fields is not None and not OmegaConf.is_missing(node, key):
            yield from unknown_keys(node[key], f"{prefix}{key}.")


def removed_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Keys of the dataclasses that Hydra's `~key` deleted."""
    schema = OmegaConf.get_type(node) if isinstance(node, DictConfig) and not node._is_none() else None
    for key in getattr(schema, "__dataclass_fields__", {}):
        if key not in node:
            yield f"{prefix}{key}"
        elif not OmegaConf.is_missing(node, key):
            yield from removed_keys(node[key], f"{prefix}{key}.")


def nearest(word: str, known: list[str]) -> str:
    """The end of an error message that suggests what was meant, or nothing."""
    by_leaf = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
    close = get_close_matches(word, known, n=1) or get_close_matches(word.rsplit(".", 1)[-1], by_leaf, n=1)
    return f"; did you mean {by_leaf.get(close[0], close[0])!r}?" if close else ""


Rule = tuple[str, Any, bool, str]  # key, its value, whether that is fine, what is allowed


def check(config: TrainConfig) -> None:
    """Refuses values out of range and options that combine badly. Raises ConfigError for the first one found."""
    _check_parts(config)
    model = _network_rules(config.model) if isinstance(config.model, NetworkConfig) else []
    _refuse((*_run_rules(config), *_data_rules(config), *_optim_rules(config.optim), *model))
    if config.epochs is None and config.budget is None:
        raise ConfigError("epochs=null is not allowed without a budget: say how long to train, epochs=20 or budget=10m")
    if config.early_stop.patience is not None and config.dataset.val_fraction == 0:
        raise ConfigError(
            f"early_stop.patience={config.early_stop.patience} needs a hold-out split to watch: "
            "add dataset.val_fraction=0.1 (stopping on the test set would choose the result with it)"
        )
    if config.optim.backbone_lr != 1 and isinstance(config.model, CustomModelConfig):
        raise ConfigError(
            f"optim.backbone_lr={config.optim.backbone_lr} needs to know the classifier, and model=custom does not say "
            "which part that is; leave it at 1"
        )
    if config.device.name == "cpu" and config.device.precision == "fp16":
        raise ConfigError(
            "device.precision=fp16 needs a CUDA device, and device=cpu was asked for; use device.precision=fp32"
        )
    if config.device.name == "cpu" and config.device.sync_batch_norm:
        raise ConfigError("device.sync_batch_norm=true needs CUDA devices, and device=cpu was asked for; leave it out")


def budget_seconds(budget: str) -> float:
    """Seconds in "90s", "10m", "1h30m" or "1.5h"; 0 for what is no such time."""
    match = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?", budget)
    try:
        hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    except ValueError:  # 1.2.3m
        return 0.0
    return 3600 * hours + 60 * minutes + seconds


def let_budget_decide(config: TrainConfig, typed: list[str]) -> TrainConfig:
    """With a budget only an `epochs` that someone typed limits the run, not the one of conf/."""
    return config if config.budget is None or "epochs" in typed else replace(config, epochs=None)


def check_sweep(sweep: str | None, slots: Any, on_failure: str) -> None:
    """Refuses bad values of the keys that belong to a sweep as a whole. Raises ConfigError."""
    named = sweep is None or re.fullmatch(r"[\w+-][\w.+-]*", sweep)
    rules: list[Rule] = [
        ("sweep", sweep, bool(named), "the name of a folder: letters, digits, and any of _ . + -"),
        ("slots", slots, slots == "auto" or _is_whole(slots, 1, 1024), "auto or a whole number from 1 to 1024"),
        ("on_failure", on_failure, on_failure in ("continue", "stop"), "continue or stop"),
    ]
    _refuse(rules)


def _refuse(rules: Iterable[Rule]) -> None:
    for key, value, ok, allowed in rules:
        if not ok:
            raise ConfigError(f"{key}={value} is not allowed: {allowed}")


def check_effect(config: TrainConfig, typed: list[str]) -> None:
    """Refuses a key that someone typed and that would do nothing. Raises ConfigError."""
    decay = config.optim.schedule.decay
    periodic = decay in ("step", "exponential")
    operations = config.augment.operations
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
    }
    for key in typed:
        if key in SWEEP_KEYS:
            raise ConfigError(f"{key} has no effect on a single run; it belongs to a sweep: mnet-train -m")
        used, why = used_by.get(key, (True, ""))
        if not used:
            raise ConfigError(f"{key} has no effect with {why}")


def _check_parts(config: TrainConfig) -> None:
    for group, schemas in SCHEMAS.items():
        part = getattr(config, group)
        if type(part) is not schemas.get(part.name):
            names = ", ".join(schemas)
            raise ConfigError(f"{group}.name={part.name} does not go with the keys of {group}; it says one of: {names}")
        factory = getattr(part, "factory", "module:function")
        if not re.fullmatch(r"[^:]+:[^:]+", factory):
            raise ConfigError(f"{group}.factory={factory!r} is not of the form package.module:function")


def _run_rules(c: TrainConfig) -> list[Rule]:
    return [
        ("epochs", c.epochs, c.epochs is None or c.epochs >= 1, "a whole number from 1"),
        ("max_steps", c.max_steps, c.max_steps is None or c.max_steps >= 1, "null or a whole number from 1"),
        (
            "budget",
            c.budget,
            c.budget is None or budget_seconds(c.budget) > 0,
            "null or a time such as 90s, 10m or 1h30m",
        ),
        (
            "batch_size",
            c.batch_size,
            c.batch_size >= 2,
            "a whole number from 2 (batch-norm needs two images)",
        ),
        ("seed", c.seed, 0 <= c.seed < 2**32, "a whole number from 0 to 4294967295"),
        ("label_smoothing", c.label_smoothing, 0 <= c.label_smoothing < 1, "0 <= label_smoothing < 1"),
        ("balance", c.balance, c.balance in BALANCES, f"one of {', '.join(BALANCES)}"),
        ("ema.decay", c.ema.decay, 0 <= c.ema.decay < 1, "0 (off) <= ema.decay < 1"),
        (
            "early_stop.patience",
            c.early_stop.patience,
            c.early_stop.patience is None or c.early_stop.patience >= 1,
            "null or a number of epochs from 1",
        ),
        ("eval.batch_size", c.eval.batch_size, c.eval.batch_size >= 1, "a whole number from 1"),
        (
            "eval.resolution",
            c.eval.resolution,
            c.eval.resolution is None or 8 <= c.eval.resolution <= 4096,
            "null (dataset.resolution) or pixels, from 8 to 4096",
        ),
        (
            "progressive.start",
            c.progressive.start,
            c.progressive.start is None or 8 <= c.progressive.start <= c.dataset.resolution,
            f"null or pixels, from 8 to dataset.resolution={c.dataset.resolution}",
        ),
        (
            "progressive.full_from",
            c.progressive.full_from,
            0 < c.progressive.full_from <= 1,
            "a share of the run, 0 < full_from <= 1",
        ),
        (
            "checkpoint.every_minutes",
            c.checkpoint.every_minutes,
            c.checkpoint.every_minutes > 0,
            "a number of minutes above 0",
        ),
        ("recover.attempts", c.recover.attempts, 0 <= c.recover.attempts <= 100, "a whole number from 0 to 100"),
        ("recover.factor", c.recover.factor, 0 < c.recover.factor < 1, "0 < recover.factor < 1"),
        (
            "resume_schedule",
            c.resume_schedule,
            c.resume_schedule in ("continue", "restart"),
            "continue or restart",
        ),
        ("schedule_from", c.schedule_from, c.schedule_from >= 0, "an update from 0"),
        ("log_every", c.log_every, c.log_every >= 1, "a whole number of updates from 1"),
        ("device.name", c.device.name, c.device.name in SCHEMAS["device"], "one of auto, cpu, cuda"),
        (
            "device.threads",
            c.device.threads,
            c.device.threads is None or 1 <= c.device.threads <= 1024,
            "null (all cores) or a whole number from 1 to 1024",
        ),
        (
            "device.precision",
            c.device.precision,
            c.device.precision in PRECISIONS,
            f"one of {', '.join(PRECISIONS)}",
        ),
        (
            "device.compile",
            c.device.compile,
            c.device.compile in (None, *COMPILE_MODES),
            f"null or one of {', '.join(COMPILE_MODES)}",
        ),
    ]


def _data_rules(c: TrainConfig) -> list[Rule]:
    d = c.dataset
    return [
        ("dataset.resolution", d.resolution, 8 <= d.resolution <= 4096, "pixels, from 8 to 4096"),
        ("dataset.crop_ratio", d.crop_ratio, 0 < d.crop_ratio <= 1, "0 < dataset.crop_ratio <= 1"),
        ("dataset.fraction", d.fraction, 0 < d.fraction <= 1, "0 < dataset.fraction <= 1"),
        (
            "dataset.max_per_class",
            d.max_per_class,
            d.max_per_class is None or d.max_per_class >= 1,
            "null or a whole number from 1",
        ),
        (
            "dataset.val_fraction",
            d.val_fraction,
            0 <= d.val_fraction < 1,
            "0 (off) <= dataset.val_fraction < 1",
        ),
        ("dataset.mean", d.mean, d.mean is None or len(d.mean) == 3, "null or three numbers, one a channel"),
        (
            "dataset.std",
            d.std,
            d.std is None or (len(d.std) == 3 and min(d.std) > 0),
            "null or three numbers above 0, one a channel",
        ),
        *_augment_rules(c.augment),
        *(_picture_rules(d) if isinstance(d, PicturesConfig) else []),
    ]


def _augment_rules(a: AugmentConfig) -> list[Rule]:
    area = a.resized_crop
    area_ok = area is None or (len(area) == 2 and 0 < area[0] <= area[1] <= 1)
    shares = {"brightness": a.brightness, "contrast": a.contrast, "saturation": a.saturation, "erasing": a.erasing}
    return [
        ("augment.crop_padding", a.crop_padding, 0 <= a.crop_padding <= 64, "pixels, from 0 to 64"),
        ("augment.cutout", a.cutout, 0 <= a.cutout <= 4096, "pixels, from 0 (off) to 4096"),
        ("augment.resized_crop", area, area_ok, "null or two shares of the area, e.g. [0.25, 1.0]"),
        (
            "augment.crop_padding",
            a.crop_padding,
            area is None or a.crop_padding == 0,
            "augment.resized_crop cuts already; give one of the two",
        ),
        *((f"augment.{name}", value, 0 <= value <= 1, "from 0 (off) to 1") for name, value in shares.items()),
        ("augment.operations", a.operations, a.operations in OPERATIONS, f"one of {', '.join(OPERATIONS)}"),
        ("augment.magnitude", a.magnitude, 0 <= a.magnitude <= 30, "a whole number from 0 to 30"),
        ("augment.mixup", a.mixup, 0 <= a.mixup <= 100, "0 (off) or the alpha of a beta distribution, up to 100"),
        ("augment.cutmix", a.cutmix, 0 <= a.cutmix <= 100, "0 (off) or the alpha of a beta distribution, up to 100"),
    ]


def _picture_rules(d: PicturesConfig) -> list[Rule]:
    rules: list[Rule] = [
        (
            "dataset.store_size",
            d.store_size,
            d.store_size is None or d.resolution <= d.store_size <= 4096,
            f"null or pixels, from dataset.resolution={d.resolution} to 4096",
        ),
        ("dataset.cache", d.cache, d.cache in CACHES, f"one of {', '.join(CACHES)}"),
        (
            "dataset.workers",
            d.workers,
            d.workers is None or 0 <= d.workers <= 1024,
            "null (one a core) or a whole number from 0 to 1024",
        ),
        ("dataset.on_bad_image", d.on_bad_image, d.on_bad_image in ("error", "skip"), "error or skip"),
    ]
    if isinstance(d, FolderConfig):
        allowed = "null, a list of class folders, or {class: [folders]}; two or more classes, no folder twice"
        rules += [
            ("dataset.classes", d.classes, _classes_ok(d.classes), allowed),
            ("dataset.test_fraction", d.test_fraction, 0 < d.test_fraction < 1, "0 < dataset.test_fraction < 1"),
        ]
    return rules


def _classes_ok(classes: Any) -> bool:
    if not isinstance(classes, list | dict):
        return classes is None
    groups = list(classes.values()) if isinstance(classes, dict) else [[name] for name in classes]
    folders = [folder for group in groups for folder in group] if all(isinstance(g, list) for g in groups) else [None]
    named = all(isinstance(folder, str) for folder in folders)
    return len(groups) >= 2 and all(groups) and named and len(set(folders)) == len(folders)


def _optim_rules(o: OptimConfig) -> list[Rule]:
    s = o.schedule
    rules: list[Rule] = [
        ("optim.lr", o.lr, 0 < o.lr <= 1000, "a number above 0, at most 1000"),
        ("optim.weight_decay", o.weight_decay, 0 <= o.weight_decay <= 10, "from 0 to 10"),
        ("optim.l1", o.l1, 0 <= o.l1 <= 10, "from 0 to 10"),
        ("optim.clip_norm", o.clip_norm, o.clip_norm is None or o.clip_norm > 0, "null or a number above 0"),
        ("optim.backbone_lr", o.backbone_lr, 0 < o.backbone_lr <= 10, "a share of optim.lr above 0, at most 10"),
        ("optim.accumulate", o.accumulate, 1 <= o.accumulate <= 65536, "a whole number from 1 to 65536"),
        ("optim.schedule.decay", s.decay, s.decay in DECAYS, f"one of {', '.join(DECAYS)}"),
        ("optim.schedule.warmup", s.warmup, 0 <= s.warmup < 1, "a share of all updates, 0 <= warmup < 1"),
        ("optim.schedule.final", s.final, 0 <= s.final <= 1, "a share of optim.lr, from 0 to 1"),
        ("optim.schedule.every_epochs", s.every_epochs, s.every_epochs > 0, "a number of epochs above 0"),
        ("optim.schedule.factor", s.factor, 0 < s.factor <= 1, "0 < factor <= 1"),
    ]
    if isinstance(o, SgdConfig | RmspropConfig | MuonConfig):
        rules.append(("optim.momentum", o.momentum, 0 <= o.momentum < 1, "0 <= momentum < 1"))
    if isinstance(o, SgdConfig):
        ok = not o.nesterov or o.momentum > 0
        rules.append(("optim.nesterov", o.nesterov, ok, "Nesterov needs optim.momentum above 0"))
    if isinstance(o, MuonConfig):
        rules.append(("optim.sgd_lr", o.sgd_lr, 0 < o.sgd_lr <= 1000, "a number above 0, at most 1000"))
        ok = 0 < o.sgd_momentum < 1
        rules.append(("optim.sgd_momentum", o.sgd_momentum, ok, "0 < sgd_momentum < 1"))
    if isinstance(o, RmspropConfig):
        rules.append(("optim.alpha", o.alpha, 0 <= o.alpha < 1, "0 <= alpha < 1"))
    if isinstance(o, AdamConfig):
        ok = len(o.betas) == 2 and all(0 <= beta < 1 for beta in o.betas)
        rules.append(("optim.betas", o.betas, ok, "two numbers, each 0 <= beta < 1"))
    if isinstance(o, RmspropConfig | AdamConfig):
        rules.append(("optim.eps", o.eps, o.eps > 0, "a number above 0"))
    return rules


def _network_rules(m: NetworkConfig) -> list[Rule]:
    plan_ok = m.stride_plan in ("auto", "imagenet") or _is_whole(m.stride_plan, 0, 5)
    rules: list[Rule] = [
        ("model.width_mult", m.width_mult, 0 < m.width_mult <= 32, "a number above 0, at most 32"),
        ("model.dropout", m.dropout, 0 <= m.dropout < 1, "0 <= dropout < 1"),
        ("model.stride_plan", m.stride_plan, plan_ok, "auto, imagenet or how many strides to drop, 0 to 5"),
        ("model.activation", m.activation, m.activation in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}"),
        ("model.norm_eps", m.norm_eps, 0 < m.norm_eps < 1, "0 < norm_eps < 1"),
        ("model.norm_momentum", m.norm_momentum, 0 < m.norm_momentum <= 1, "0 < norm_momentum <= 1"),
    ]
    rules += _weights_rules(m)
    if isinstance(m, V1Config):
        depth_ok = 1 <= m.depth_multiplier <= 16 and (m.separable or m.depth_multiplier == 1)
        allowed = "a whole number from 1 to 16; above 1 only with model.separable=true"
        rules.append(("model.depth_multiplier", m.depth_multiplier, depth_ok, allowed))
        rules.append(("model.padding", m.padding, m.padding in PADDINGS, f"one of {', '.join(PADDINGS)}"))
    return rules


def _weights_rules(m: NetworkConfig) -> list[Rule]:
    count = isinstance(m.freeze, int) and not isinstance(m.freeze, bool) and m.freeze >= 1
    freeze_ok = m.freeze in ("none", "backbone") or count
    published = m.weights != "torchvision" or (m.name != "v1" and m.width_mult == 1)
    return [
        (
            "model.weights",
            m.weights,
            published,
            "torchvision has weights for v2, v3_large and v3_small at width 1 only",
        ),
        ("model.freeze", m.freeze, freeze_ok, "none, backbone or how many of the first features, from 1"),
        (
            "model.freeze",
            m.freeze,
            m.freeze == "none" or m.weights is not None,
            "fresh weights must learn; give model.weights too",
        ),
    ]


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
