"""The one reader of what a run saved, whichever version saved it, and the one rule of what may change at a resume."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mobilenet_train.config.checked import from_values, leaves, typed_values, values_of
from mobilenet_train.config.compose import compose_values
from mobilenet_train.config.fields import MISSING
from mobilenet_train.config.schema import ALIASES, SCHEMAS, TrainConfig
from mobilenet_train.errors import ConfigError, RunError

FORMAT = (
    2  # of config.yaml; files without a number are of version 0.1.0: `max_steps`, and `schedule_from` among the keys
)
RUN_STATE = ("format", "schedule_from")  # what a saved configuration holds besides the keys that a user can say


@dataclass(frozen=True)
class Introduced:
    """A key that older runs lack: since which version there is one, and the value that keeps their meaning.

    The value may be a function of the saved values.
    """

    version: str
    value: Any | Callable[[DictConfig], Any]

    def of(self, values: DictConfig) -> Any:
        """The value for a run that saved `values`."""
        return self.value(values) if callable(self.value) else self.value


# A key that is not listed gets its default of today: there it changes nothing, or every run has it. A sweep's hash
# leaves out a listed key that has its value here, so that a new key does not make finished jobs new ones.
INTRODUCED: dict[str, Introduced] = {
    "recover.attempts": Introduced("0.1.0", 0),
    "augment.cutout": Introduced("0.1.0", 0),
    "augment.resized_crop": Introduced("0.1.0", None),
    "augment.brightness": Introduced("0.1.0", 0.0),
    "augment.contrast": Introduced("0.1.0", 0.0),
    "augment.saturation": Introduced("0.1.0", 0.0),
    "augment.operations": Introduced("0.1.0", "none"),
    "augment.erasing": Introduced("0.1.0", 0.0),
    "augment.mixup": Introduced("0.1.0", 0.0),
    "augment.cutmix": Introduced("0.1.0", 0.0),
    "balance": Introduced("0.1.0", "none"),
    "budget": Introduced("0.1.0", None),
    "dataset.crop_ratio": Introduced("0.1.0", lambda values: 0.875 if "cache" in values.dataset else 1.0),
    "device.compile": Introduced("0.1.0", None),
    "device.sync_batch_norm": Introduced("0.1.0", False),
    "eval.resolution": Introduced("0.1.0", None),
    "model.weights": Introduced("0.1.0", None),
    "model.freeze": Introduced("0.1.0", "none"),
    "model.padding": Introduced("0.1.0", "symmetric"),
    "optim.backbone_lr": Introduced("0.1.0", 1.0),
    "preview": Introduced("0.1.0", False),
    "progressive.start": Introduced("0.1.0", None),
}


@dataclass(frozen=True)
class Saved:
    """A run's configuration, and the update at which its schedule begins (above 0 after resume_schedule=restart)."""

    config: TrainConfig
    schedule_from: int = 0

    @property
    def record(self) -> DictConfig:
        """What config.yaml holds."""
        return OmegaConf.create({"format": FORMAT, "schedule_from": self.schedule_from, **values_of(self.config)})


def read_saved(folder: Path) -> Saved:
    """RUN/config.yaml. Raises RunError if it is not there or not readable, ConfigError for what is wrong in it."""
    path = folder / "config.yaml"
    try:
        values = OmegaConf.load(path)
    except (OSError, YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise RunError(f"{folder} is not a run: {path} cannot be read ({_reason(error)})") from error
    if not isinstance(values, DictConfig):
        raise RunError(f"{folder} is not a run: {path} is not a configuration")
    return from_record(values, read_words(folder))


def read_words(folder: Path) -> list[str]:
    """What was typed when the run was started; nothing if that file was removed since."""
    path = folder / "overrides.yaml"
    return [str(word) for word in OmegaConf.load(path)] if path.exists() else []


def from_record(values: DictConfig, words: Sequence[str] = ()) -> Saved:
    """A configuration that any version saved; a key that it lacks gets the value that keeps the run's meaning.

    words: what was typed for the run, which tells a choice whose name is missing.
    Raises ConfigError for an unknown choice, an unknown key or a value of the wrong type.
    """
    values = values.copy()
    number = values.pop("format", 1)
    if number > FORMAT:
        raise ConfigError(f"format={number} of the saved configuration is newer than this version's, {FORMAT}")
    schedule_from = values.pop("schedule_from", 0)
    for old, new in ALIASES.items():
        if old in values:
            values[new] = values.pop(old)
    lacking = [group for group in SCHEMAS if not isinstance(values.get(group), DictConfig)]
    if lacking:
        raise ConfigError(f"{lacking[0]}.name is missing: this is not a whole configuration of a run")
    if any("name" not in values[group] for group in SCHEMAS):
        _name_choices(values, words)
    missing = [key for key, value in leaves(typed_values(values)) if value == MISSING]
    if missing:
        _complete(values, missing)
    return Saved(from_values(values), schedule_from)


_composed = cache(compose_values)  # only read from


def _name_choices(values: DictConfig, words: Sequence[str]) -> None:
    """Fills in the names of choices, which are those that composing what was typed gives."""
    choosing = [word for word in words if word.partition("=")[0] in (*SCHEMAS, "experiment")]
    composed = _composed(*choosing)
    for group in SCHEMAS:
        if "name" not in values[group]:
            values[group]["name"] = composed[group].name


def _complete(values: DictConfig, missing: Sequence[str]) -> None:
    """Fills in keys that the version which saved `values` did not know, or that were removed since."""
    defaults = _composed(*(f"{group}={values[group].name}" for group in SCHEMAS))
    for key in missing:
        value = INTRODUCED[key].of(values) if key in INTRODUCED else OmegaConf.select(defaults, key)
        OmegaConf.update(values, key, value, force_add=True)


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error).splitlines()[0]
