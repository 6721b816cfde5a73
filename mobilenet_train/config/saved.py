"""The one reader of what a run saved, whichever version saved it, and the one rule of what may change at a resume."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import AliasEvent, YAMLError

from mobilenet_train.config.checked import flat_values, from_values, leaves, typed_values, values_of
from mobilenet_train.config.compose import compose_values
from mobilenet_train.config.fields import MISSING, is_whole
from mobilenet_train.config.overrides import parsed
from mobilenet_train.config.schema import ALIASES, SCHEMAS, TrainConfig, is_free
from mobilenet_train.disk import read_text, with_checksum
from mobilenet_train.errors import ConfigError, RunError

FORMAT = (
    2  # of config.yaml; files without a number are of version 0.1.0: `max_steps`, and `schedule_from` among the keys
)
UNREADABLE = (OSError, YAMLError, OmegaConfBaseException, ValueError, RecursionError)


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


def _split_seed(values: DictConfig) -> int:
    """The run's own seed, which drew this before; 0 where nothing was drawn."""
    data = {"fraction": 1, "max_per_class": None, "val_fraction": 0, **values.dataset}
    drawn = data["fraction"] < 1 or data["max_per_class"] is not None or data["val_fraction"] > 0
    return int(values.get("seed", 0)) if drawn or data["name"] in ("digits", "folder", "imagenet_subset") else 0


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
    "device.cuda_graph": Introduced("0.2.0", True),
    "device.deterministic": Introduced("0.2.0", False),
    "device.sync_batch_norm": Introduced("0.1.0", False),
    "eval.every_epochs": Introduced("0.2.0", 1),
    "distill.teacher": Introduced("0.2.0", None),
    "distill.weight": Introduced("0.2.0", 0.5),
    "distill.temperature": Introduced("0.2.0", 2.0),
    "eval.resolution": Introduced("0.1.0", None),
    "model.in_channels": Introduced("0.2.0", None),
    "model.kernel": Introduced("0.2.0", "paper"),
    # V3 has had it from the start, so that its value counts in a sweep's hash: it never equals None
    "model.squeeze_excite": Introduced("0.2.0", lambda values: False if values.model.name in ("v1", "v2") else None),
    "model.depthwise_init": Introduced("0.2.0", "torchvision"),
    "model.weights": Introduced("0.1.0", None),
    "model.freeze": Introduced("0.1.0", "none"),
    "model.padding": Introduced("0.1.0", "symmetric"),
    "optim.backbone_lr": Introduced("0.1.0", 1.0),
    "optim.frozen_epochs": Introduced("0.2.0", 0),
    "optim.newton_schulz_steps": Introduced("0.2.0", 5),
    "optim.weight_decay_final": Introduced("0.2.0", 1.0),
    "model.wide_head": Introduced("0.2.0", lambda values: values.model.get("width_mult", 1) > 1),
    "dataset.split_seed": Introduced("0.2.0", _split_seed),
    "preview": Introduced("0.1.0", False),
    "resume_from": Introduced("0.2.0", "last"),
    "progressive.start": Introduced("0.1.0", None),
    "tracker": Introduced("0.2.0", None),
}

MOVABLE = ("distill.teacher",)  # paths that may change, but not to or from null: a digest of what lies there is checked


@dataclass(frozen=True)
class Saved:
    """A run's configuration, and the state of the run that its checkpoints do not hold.

    schedule_from: the update at which the schedule begins, above 0 after resume_schedule=restart.
    extended: the keys of its length that a resume changed, with the values that they got.
    """

    config: TrainConfig
    schedule_from: int = 0
    extended: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def record(self) -> DictConfig:
        """What config.yaml holds."""
        state = with_checksum({"schedule_from": self.schedule_from, "extended": dict(self.extended)})
        return OmegaConf.create({"format": FORMAT, **state, **values_of(self.config)})

    def differences(self, trained: TrainConfig) -> list[str]:
        """The keys in which this is not the configuration that a checkpoint was trained with, though no resume did it.

        Keys that are free to change are no difference.
        """
        ours, theirs = (OmegaConf.create(values_of(config)) for config in (self.config, trained))
        keys = [key for key in (*flat_values(self.config), *flat_values(trained)) if not is_free(key)]
        return [
            key
            for key in dict.fromkeys(keys)
            if OmegaConf.select(ours, key) != OmegaConf.select(theirs, key)
            and not moved(key, OmegaConf.select(ours, key), OmegaConf.select(theirs, key))
            and not (key in self.extended and OmegaConf.select(ours, key) == self.extended[key])
        ]


def moved(key: str, old: Any, new: Any) -> bool:
    """Whether two values of a key may be two places of one thing."""
    return key in MOVABLE and None not in (old, new)


def read_saved(folder: Path) -> Saved:
    """RUN/config.yaml. Raises RunError if it is not there or not readable, ConfigError for what is wrong in it."""
    path = folder / "config.yaml"
    try:
        values = _read_yaml(path)
    except UNREADABLE as error:
        raise RunError(f"{folder} is not a run: {path} cannot be read ({_reason(error)})") from error
    if not isinstance(values, DictConfig):
        raise RunError(f"{folder} is not a run: {path} is not a configuration")
    try:
        return from_record(values, read_words(folder))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_words(folder: Path) -> list[str]:
    """What was typed when the run was started; nothing if that file was removed since.

    Raises RunError naming the file if it is damaged.
    """
    path = folder / "overrides.yaml"
    if not path.exists():
        path = path.with_suffix(".yaml.tmp")  # of a start that was killed between config.yaml and this file's renaming
    if not path.exists():
        return []
    try:
        words = OmegaConf.to_container(_read_yaml(path))
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError("it is not a list of words")
        parsed(words)
    except (*UNREADABLE, ConfigError) as error:
        raise RunError(f"{path} is damaged ({_reason(error)}): delete it; config.yaml is enough to resume") from error
    return words


def _read_yaml(path: Path) -> Any:
    """Raises one of UNREADABLE, also for YAML's aliases: ours has none, and a few lines of them grow without bound."""
    text = read_text(path)
    if "*" in text and any(isinstance(event, AliasEvent) for event in yaml.parse(text)):
        raise ValueError("it has YAML aliases, which no file of ours has")
    return OmegaConf.load(StringIO(text))


def from_record(values: DictConfig, words: Sequence[str] = ()) -> Saved:
    """A configuration that any version saved; a key that it lacks gets the value that keeps the run's meaning.

    words: what was typed for the run, which tells a choice whose name is missing.
    Raises ConfigError for an unknown choice, an unknown key or a value of the wrong type.
    """
    values = values.copy()
    number = values.pop("format", 1)
    if not is_whole(number, 0, None):
        raise ConfigError(f"format={number} of the saved configuration is not a whole number")
    if number > FORMAT:
        raise ConfigError(f"format={number} of the saved configuration is newer than this version's, {FORMAT}")
    state = {"schedule_from": values.pop("schedule_from", 0), "extended": values.pop("extended", {})}
    _check_state(state, values.pop("checksum", None))
    if not is_whole(state["schedule_from"], 0, None) or not isinstance(state["extended"], Mapping):
        raise ConfigError("schedule_from is not a whole number, or extended is not a set of keys")
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
    return Saved(from_values(values), **state)


def _check_state(state: Mapping[str, Any], checksum: str | None) -> None:
    """No checkpoint knows the run's state, so it has a checksum of its own; 0.1.0 wrote none."""
    plain = OmegaConf.to_container(OmegaConf.create(dict(state)))
    assert isinstance(plain, dict)
    expected = with_checksum({str(key): value for key, value in plain.items()})["checksum"]
    if checksum not in (None, expected):
        raise ConfigError("schedule_from or extended is not what the run wrote there: put it back")


_composed = cache(compose_values)  # only read from


def _name_choices(values: DictConfig, words: Sequence[str]) -> None:
    """Fills in the names of choices, which are those that composing what was typed gives.

    If one of those has not the keys that were saved, another version had another default: it is one that has them.
    """
    choosing = [word for word in words if word.partition("=")[0] in (*SCHEMAS, "experiment")]
    composed = _composed(*choosing)
    for group, choices in SCHEMAS.items():
        if "name" not in values[group]:
            likely = composed[group].name
            fitting = [name for name in (likely, *choices) if _has_keys(choices[name], values[group])]
            values[group]["name"] = (fitting or [likely])[0]


def _has_keys(choice: type, values: DictConfig) -> bool:
    return {str(key) for key in values} <= {option.name for option in fields(choice)}


def _complete(values: DictConfig, missing: Sequence[str]) -> None:
    """Fills in keys that the version which saved `values` did not know, or that were removed since."""
    defaults = _composed(*(f"{group}={values[group].name}" for group in SCHEMAS))
    for key in missing:
        value = INTRODUCED[key].of(values) if key in INTRODUCED else OmegaConf.select(defaults, key)
        OmegaConf.update(values, key, value, force_add=True)


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error).splitlines()[0]
