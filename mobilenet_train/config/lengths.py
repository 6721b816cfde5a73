"""The augmentation of photographs that goes with the length of a run: what `augment=auto` stands for."""

from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mobilenet_train.config.place import conf_dir

SHORT = 10  # epochs


def of_length(key: str, *, _root_: DictConfig) -> Any:
    """The value of a key of the group `augment` for the run that `_root_`, which OmegaConf passes, describes."""
    epochs = _root_.get("epochs")
    short = epochs is not None and epochs <= SHORT and _root_.get("budget") is None
    return _values("light" if short else "standard")[key]


@cache
def _values(name: str) -> DictConfig:
    """What `conf/augment/NAME.yaml` says, and `none.yaml` of the rest."""
    values = OmegaConf.merge(*(OmegaConf.load(conf_dir() / f"augment/{part}.yaml") for part in ("none", name)))
    assert isinstance(values, DictConfig)
    return values
