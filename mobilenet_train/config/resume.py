"""Which configuration a run continues with: its own, with only those changes that keep the result the same."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mobilenet_train.config.checked import checked_config, from_values, refuse_unknown, values_of, with_present_names
from mobilenet_train.config.overrides import PARTS, parsed, typed_keys
from mobilenet_train.config.rules import check
from mobilenet_train.config.saved import Saved, moved, read_saved, read_words
from mobilenet_train.config.schema import SCHEMAS, CustomDatasetConfig, CustomModelConfig, TrainConfig, is_free
from mobilenet_train.disk import expanded
from mobilenet_train.errors import ConfigError, UserError

LENGTHS = ("epochs", "max_updates")  # a run may be made longer where that does not change the updates already done


@dataclass(frozen=True)
class Start:
    """What to run, and the folder of a run to continue."""

    saved: Saved
    folder: Path | None = None

    @property
    def config(self) -> TrainConfig:
        return self.saved.config


def choices_of_run(arguments: Sequence[str]) -> list[str]:
    """For a command line with resume=RUN: the run's own choices, GROUP=NAME, of the groups that are not typed.

    Composed with them, a typed key is held against the run's own data set, network and optimiser.
    """
    words = [word for word in arguments if word.startswith("resume=")]
    try:
        folder = expanded(str(parsed(words)[-1].value())) if words else None
        saved = read_saved(folder).config if folder else None
    except (UserError, TypeError):  # said later, when the rest of the command line has been looked at
        return []
    typed = {word.partition("=")[0] for word in arguments}
    return [f"{group}={getattr(saved, group).name}" for group in SCHEMAS if group not in typed] if saved else []


def resolve(composed: DictConfig, words: Sequence[str]) -> Start:
    """What to run.

    With `resume=RUN`, RUN/config.yaml is the base and only what was typed is compared with it. With `run_dir=DIR` on
    a folder that has a run, what was typed now and when it was started is compared.
    Raises RunError if there is no run in the folder, ConfigError for a change that would alter the result.
    """
    refuse_unknown(composed)
    if composed.resume is not None and composed.run_dir is not None:
        raise ConfigError(f"resume={composed.resume} and run_dir={composed.run_dir} both name a run folder; give one")
    if composed.resume is not None:
        folder = expanded(composed.resume)
        keys = [key for key in typed_keys(words) if key != "resume"]
        return _continued(f"resume={composed.resume}", folder, with_present_names(composed), keys)
    config = checked_config(composed, words)
    run_dir = expanded(config.run_dir) if config.run_dir is not None else None
    if run_dir is None or not (run_dir / "config.yaml").exists():
        return Start(Saved(config))
    typed = OmegaConf.create({**values_of(config), "trust_factory": config.trust_factory})
    return _continued(f"run_dir={config.run_dir}", run_dir, typed, _comparable(words, read_words(run_dir), config))


def _comparable(now: Sequence[str], then: Sequence[str], config: TrainConfig) -> list[str]:
    """The keys that say whether a command is the one that started a run.

    What nobody typed is the run's own, whatever a later version's default is. Without a record of what was typed then,
    and where whole sets of keys were chosen by an experiment or recipe, all keys are compared.
    """
    keys = list(dict.fromkeys([*typed_keys(now), *typed_keys(then)]))
    chosen = [{word for word in words if word.partition("=")[0] in PARTS} for words in (now, then)]
    if then and chosen[0] == chosen[1]:
        return [key for key in keys if key not in PARTS]
    return [
        f"{key}.{part}" for key, value in values_of(config).items() if isinstance(value, dict) for part in value
    ] + [key for key, value in values_of(config).items() if not isinstance(value, dict)]


def _continued(given: str, folder: Path, typed: DictConfig, keys: Collection[str]) -> Start:
    try:
        there = read_saved(folder)
    except UserError as error:
        raise type(error)(f"{given}: {error}") from error
    saved = merge(there, typed, keys)
    _refuse_unnamed_factory(saved.config, typed, folder)
    return Start(saved, folder)


def factories(config: TrainConfig) -> dict[str, str]:
    """The user's own functions that a run calls, by key."""
    parts = {"model.factory": config.model, "dataset.factory": config.dataset}
    custom = {
        key: part.factory for key, part in parts.items() if isinstance(part, CustomModelConfig | CustomDatasetConfig)
    }
    return custom | ({"tracker": config.tracker} if config.tracker is not None else {})


def _refuse_unnamed_factory(config: TrainConfig, typed: DictConfig, folder: Path) -> None:
    """A function that a saved file names is called only if the user names it too, or trusts it. Raises ConfigError."""
    for key, path in factories(config).items():
        if not config.trust_factory and OmegaConf.select(typed, key) != path:
            raise ConfigError(
                f"trust_factory=false does not let {folder / 'config.yaml'} have its {key}={path} imported and called; "
                f"if you know that function, add trust_factory=true, or {key}={path}"
            )


def merge(saved: Saved, typed: Any, keys: Collection[str]) -> Saved:
    """The saved configuration with the values of `typed` for those of `keys` that may change.

    Raises ConfigError for the others, and for what was never a value of that key.
    """
    values, extended = OmegaConf.create(values_of(saved.config)), dict(saved.extended)
    for key in keys:
        if key in PARTS:
            raise ConfigError(f"{key}=... cannot be given with resume: the run keeps its own configuration")
        old, new = OmegaConf.select(values, key), OmegaConf.select(typed, key)
        if old == new:
            continue
        if is_free(key) or moved(key, old, new) or (key in LENGTHS and _may_grow(saved.config, typed, old, new)):
            OmegaConf.update(values, key, new, merge=False)
            extended |= {key: new} if key in LENGTHS else {}
            continue
        raise ConfigError(
            f"{key}={_plain(new)} cannot be given when a run is resumed: it was started with {key}={_plain(old)}, and "
            f"the result would be neither. Leave it out, or start a new run{_hint(key)}"
        )
    this_time = {"resume": typed.resume, "run_dir": typed.run_dir, "trust_factory": typed.get("trust_factory", False)}
    merged = replace(from_values(values), **this_time)
    check(merged, typed=keys)
    return replace(saved, config=merged, extended=extended)


def _may_grow(saved: TrainConfig, typed: Any, old: Any, new: Any) -> bool:
    """More epochs or updates change the learning rates of those to come, unless they are constant or start again."""
    free = saved.optim.schedule.decay == "constant" or typed.resume_schedule == "restart"
    return free and (new is None or (old is not None and new > old))


def _hint(key: str) -> str:
    return "; more of them need resume_schedule=restart" if key in LENGTHS else ""


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
