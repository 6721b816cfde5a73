"""The jobs of a sweep: what each changes, and a name that stays its own when the sweep is issued again."""

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mobilenet_train.cli.resume import FREE
from mobilenet_train.config import TrainConfig, leaves

LONGEST_NAME = 80  # characters before the hash


@dataclass(frozen=True)
class Job:
    """One run of a sweep, as sweep.json keeps it."""

    name: str  # of its folder: what it changes, and a hash of its whole configuration
    swept: dict[str, str]  # the values that differ between the jobs
    seed: int
    group: str  # hash of the configuration without the seed: repeats share it

    @property
    def hash(self) -> str:
        return self.name.rsplit("_", 1)[-1]

    @property
    def label(self) -> str:
        return label(self.swept)


def make_job(config: TrainConfig, swept: dict[str, str]) -> Job:
    """Names a job by its swept values and the hash of its configuration."""
    stem = "_".join(f"{key}-{value}" for key, value in _short(swept).items())
    own = _configuration_hash(config, swept)
    return Job(f"{clean(stem) or 'job'}_{own}", swept, config.seed, _configuration_hash(config, swept, {"seed"}))


def label(swept: dict[str, str]) -> str:
    """`width_mult=0.5 seed=1`."""
    return " ".join(f"{key}={value}" for key, value in _short(swept).items()) or "as configured"


def sweep_name(overrides: Sequence[str], swept_keys: Collection[str]) -> str:
    """The default name of a sweep: what is fixed, and which keys are swept, whatever their values.

    What may change when a run goes on (threads, slots, ...) is left out: the same sweep stays in its folder.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    fixed = {
        override.get_key_element(): override.get_value_element_as_str()
        for override in sorted(parsed, key=lambda override: override.key_or_group)
        if override.key_or_group not in swept_keys and not _is_free(override.key_or_group)
    }
    parts = [f"{key}-{value}" for key, value in _short(fixed).items()]
    by = ["by", *_short(dict.fromkeys(swept_keys, ""))] if swept_keys else []
    whole = "_".join(parts + by) or "sweep"
    cut = clean(whole)
    return cut if len(whole) <= LONGEST_NAME else f"{cut}_{_hash([fixed, sorted(swept_keys)])}"


def clean(name: str) -> str:
    """A folder's name that needs no quotes, neither in a shell nor in `resume=...`; cut if it is long."""
    return re.sub(r"[^\w.+-]+", "-", name)[:LONGEST_NAME].strip("-.")


def _configuration_hash(config: TrainConfig, swept: Collection[str], without: Collection[str] = ()) -> str:
    """Of every value that makes the result; of the others only those that the sweep itself changes."""
    values = {
        key: value
        for key, value in leaves(OmegaConf.create(asdict(config)))
        if key not in without
        and (not _is_free(key) or any(key == name or key.startswith(f"{name}.") for name in swept))
    }
    return _hash(values)


def _is_free(key: str) -> bool:
    return key.split(".")[0] in (*FREE, "hydra", "hydra/launcher", "hydra/sweeper")


def _hash(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _short(values: dict[str, str]) -> dict[str, str]:
    """Without what stands before a key's last dot, where that leaves them distinct."""
    short = {key.rsplit(".", 1)[-1]: value for key, value in values.items()}
    return short if len(short) == len(values) else values
