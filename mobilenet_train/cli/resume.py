"""Which configuration a run goes on with: its own, with only those changes that keep the science the same."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mobilenet_train.config import SCHEMAS, SWEEP_KEYS, TrainConfig, check, from_values
from mobilenet_train.errors import ConfigError, RunError

FREE = (
    "device",
    "checkpoint",
    "recover",
    "tensorboard",
    "log_every",
    "outputs",
    "run_dir",
    "resume",
    "resume_schedule",
    "dry_run",
    "dataset.cache",
    "dataset.cache_dir",
    "dataset.workers",
    "preview",
    *SWEEP_KEYS,
)


def resolve_resume(config: TrainConfig, overrides: list[str]) -> tuple[TrainConfig, Path | None]:
    """The configuration to run, and the folder of the run that goes on (None for a new run).

    With `resume=RUN`, RUN/config.yaml is the base and only what was typed is compared with it. With
    `run_dir=DIR` on a folder that has a run, the whole configuration must be the same.
    Raises RunError if there is no run in the folder, ConfigError for a change that would alter the result.
    """
    if config.resume is not None and config.run_dir is not None:
        raise ConfigError(f"resume={config.resume} and run_dir={config.run_dir} both name a run folder; give one")
    if config.resume is not None:
        folder = Path(config.resume).expanduser()
        saved = read_config(folder)
        return merge(saved, config, [key for key in typed_keys(overrides) if key != "resume"]), folder
    if config.run_dir is None:
        return config, None
    folder = Path(config.run_dir).expanduser()
    if not (folder / "config.yaml").exists():
        return config, None
    keys = []
    for key, value in asdict(config).items():
        keys += [f"{key}.{part}" for part in value] if isinstance(value, dict) else [key]
    return merge(read_config(folder), config, keys), folder


def read_config(folder: Path) -> TrainConfig:
    """RUN/config.yaml. Raises RunError if it is not there or not readable."""
    path = folder / "config.yaml"
    try:
        values = OmegaConf.load(path)
    except (OSError, YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise RunError(f"{folder} holds no run to go on with: {path} can't be read ({_reason(error)})") from error
    if not isinstance(values, DictConfig):
        raise RunError(f"{folder} holds no run to go on with: {path} is not a configuration")
    return from_values(values)


def typed_keys(overrides: list[str]) -> list[str]:
    """The keys that the command line sets. A choice such as model=v2 counts as its name, except device's."""
    typed = [override.key_or_group for override in OverridesParser.create().parse_overrides(overrides)]
    return [f"{key}.name" if key in SCHEMAS and key != "device" else key for key in typed]


def merge(saved: TrainConfig, typed: TrainConfig, keys: list[str]) -> TrainConfig:
    """`saved` with the values of `typed` for those of `keys` that may change; raises ConfigError for the others."""
    before, after = OmegaConf.create(asdict(saved)), OmegaConf.create(asdict(typed))
    for key in keys:
        if key in ("experiment", "recipe"):
            raise ConfigError(f"{key}=... can't be given with resume: the run keeps its own configuration")
        old, new = OmegaConf.select(before, key), OmegaConf.select(after, key)
        if old == new:
            continue
        if is_free(key) or (key in ("epochs", "max_steps") and _may_grow(saved, typed, old, new)):
            OmegaConf.update(before, key, new, merge=False)
            continue
        raise ConfigError(
            f"{key}={_plain(new)} can't be given when a run goes on: it was started with {key}={_plain(old)}, and the "
            f"result would be neither. Leave it out, or start a new run{_hint(key)}"
        )
    merged = replace(from_values(before), resume=typed.resume, run_dir=typed.run_dir)
    check(merged)
    return merged


def is_free(key: str) -> bool:
    """True if a key does not change the result of a run, so that it may change when the run goes on."""
    return key in FREE or key.split(".")[0] in FREE


def _may_grow(saved: TrainConfig, typed: TrainConfig, old: Any, new: Any) -> bool:
    """More epochs or updates change the rates of those to come, unless they are constant or begin anew."""
    free = saved.optim.schedule.decay == "constant" or typed.resume_schedule == "restart"
    return free and (new is None or (old is not None and new > old))


def _hint(key: str) -> str:
    return "; more of them need resume_schedule=restart" if key in ("epochs", "max_steps") else ""


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error).splitlines()[0]
