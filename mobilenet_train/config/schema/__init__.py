"""Everything a user can say: each key with its type, its rule and its help, a module for each group of `conf/`.

Standard library only, so that `--help` answers at once. The values are in `conf/*.yaml`, rules across keys in `rules`.
"""

from typing import Any

from mobilenet_train.config.fields import Option, options
from mobilenet_train.config.schema.augment import AugmentConfig
from mobilenet_train.config.schema.dataset import (
    Cifar10Config,
    CustomDatasetConfig,
    DatasetConfig,
    DigitsConfig,
    FolderConfig,
    ImageFilesConfig,
    IndianPinesConfig,
    TorchvisionConfig,
    WebDatasetConfig,
    reads_files,
)
from mobilenet_train.config.schema.device import DeviceConfig
from mobilenet_train.config.schema.model import (
    CustomModelConfig,
    HybridSNConfig,
    ModelConfig,
    NetworkConfig,
    V1Config,
    V2Config,
    V3Config,
)
from mobilenet_train.config.schema.optim import (
    AdamConfig,
    MuonConfig,
    OptimConfig,
    RmspropConfig,
    ScheduleConfig,
    SgdConfig,
)
from mobilenet_train.config.schema.run import DistillConfig, ProgressiveConfig, TrainConfig, budget_seconds

SCHEMAS: dict[str, dict[str, Any]] = {
    "model": {
        "v1": V1Config,
        "v2": V2Config,
        "v3_large": V3Config,
        "v3_small": V3Config,
        "hybridsn": HybridSNConfig,
        "custom": CustomModelConfig,
    },
    "dataset": {
        "cifar10": Cifar10Config,
        "digits": DigitsConfig,
        "folder": FolderConfig,
        "imagenet_subset": FolderConfig,
        "webdataset": WebDatasetConfig,
        "torchvision": TorchvisionConfig,
        "indian_pines": IndianPinesConfig,
        "custom": CustomDatasetConfig,
    },
    "augment": dict.fromkeys(("none", "basic", "shift", "light", "standard", "strong", "auto"), AugmentConfig),
    "optim": {"sgd": SgdConfig, "rmsprop": RmspropConfig, "adam": AdamConfig, "adamw": AdamConfig, "muon": MuonConfig},
    "device": {"auto": DeviceConfig, "cpu": DeviceConfig, "cuda": DeviceConfig},
}

PRESETS = {"imagenet_subset": "folder"}  # data sets that are another one with values of their own, and take its recipes


def every_option() -> dict[str, list[Option]]:
    """Every dotted key there is, whichever choice it belongs to, with what each of those choices says of it."""
    found: dict[str, list[Option]] = {}
    for key, option in options(TrainConfig):
        if key.partition(".")[0] not in SCHEMAS:
            found.setdefault(key, []).append(option)
    for group, schemas in SCHEMAS.items():
        for schema in schemas.values():
            for key, option in options(schema, f"{group}."):
                found.setdefault(key, []).append(option)
    return found


OPTIONS = every_option()
ALIASES = {key: option.alias for key, (option, *_) in OPTIONS.items() if option.alias}
UNSAVED = tuple(key for key, (option, *_) in OPTIONS.items() if option.alias or not option.saved)
SWEEP_KEYS = tuple(key for key, (option, *_) in OPTIONS.items() if option.sweep)


def is_free(key: str) -> bool:
    """True if a key, or every key below it, does not change a run's result.

    Such a key may change when the run is resumed, and does not make another job of a sweep.
    """
    below = [option for name, found in OPTIONS.items() if f"{name}.".startswith(f"{key}.") for option in found]
    return bool(below) and all(option.free for option in below)
