"""The jobs of a sweep: what each changes, and what makes a job or a whole sweep the same when it is issued again."""

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from mobilenet_train.config.checked import leaves, values_of
from mobilenet_train.config.overrides import parsed
from mobilenet_train.config.saved import INTRODUCED
from mobilenet_train.config.schema import ALIASES, TrainConfig, is_free

LONGEST_NAME = 80  # characters before the hash
SPLIT_SEED = "dataset.split_seed"
HYDRAS = ("hydra", "hydra/launcher", "hydra/sweeper")


@dataclass(frozen=True)
class Job:
    """One run of a sweep, as sweep.json keeps it."""

    name: str  # of its folder: what it changes, and a hash
    swept: dict[str, str]  # the values that differ between the jobs
    seed: int
    group: str  # hash of the configuration without the seed: repeats share it
    hash: str  # of its whole configuration; two jobs with one hash are the same

    @property
    def label(self) -> str:
        """`width_mult=0.5 seed=1`."""
        return label(self.swept)


@dataclass(frozen=True)
class Identity:
    """What makes two commands the same sweep: the values that are fixed, and which keys are swept, in no order."""

    fixed: tuple[tuple[str, str], ...]
    swept: tuple[str, ...]

    @property
    def name(self) -> str:
        """The sweep's folder, unless sweep=NAME gives another."""
        parts = [f"{key}-{value}" for key, value in _short(dict(self.fixed)).items()]
        by = ["by", *_short(dict.fromkeys(self.swept, ""))] if self.swept else []
        whole = "_".join(parts + by) or "sweep"
        cut = clean(whole)
        return cut if len(whole) <= LONGEST_NAME else f"{cut}_{_hash([self.fixed, self.swept])}"


def make_job(config: TrainConfig, swept: dict[str, str]) -> Job:
    """Names a job by its swept values and the hash of its configuration."""
    stem = "_".join(f"{key}-{value}" for key, value in _short(swept).items())
    own, group = hashes(config, swept)
    return Job(f"{clean(stem) or 'job'}_{own}", swept, config.seed, group, own)


def hashes(config: TrainConfig, swept: Collection[str]) -> tuple[str, str]:
    """Of every value that makes the result, and of the same without the seed (and the split's, unless that is swept).

    Free keys count only where the sweep itself changes them. A key that has the value of runs from before there was
    that key does not count, so that a new version of the program makes no finished job a new one.
    """
    record = OmegaConf.create(values_of(config))
    values = {
        key: _canonical(value)
        for key, value in leaves(record)
        if (not is_free(key) or _is_swept(key, swept))
        and not (key in INTRODUCED and value == INTRODUCED[key].of(record))
    }
    repeated = {key: value for key, value in values.items() if key not in ("seed", SPLIT_SEED)}
    if any(ALIASES.get(name, name) == SPLIT_SEED for name in swept):  # else all have one, or each has its seed's
        repeated[SPLIT_SEED] = _canonical(config.dataset.split_seed)
    return _hash(values), _hash(repeated)


def label(swept: dict[str, str]) -> str:
    """`width_mult=0.5 seed=1`."""
    return " ".join(f"{key}={value}" for key, value in _short(swept).items()) or "as configured"


def identity(words: Sequence[str]) -> Identity:
    """Of a sweep's command line. What may change when a run is resumed (threads, slots, ...) is left out."""
    overrides = _last(words)
    swept = {key for key, override in overrides.items() if override.is_sweep_override()}
    fixed = {key: override for key, override in overrides.items() if key not in swept and not is_free(key)}
    return Identity(tuple(sorted(_values(fixed).items())), tuple(sorted(swept)))


def typed_by_key(words: Sequence[str], swept: Collection[str]) -> dict[str, str]:
    """What a job's words say of its result, however they are ordered and written; of free keys the swept ones."""
    overrides = _last(words)
    return _values({key: overrides[key] for key in overrides if not is_free(key) or _is_swept(key, swept)})


def _last(words: Sequence[str]) -> dict[str, Override]:
    """By key; the last word on a key counts."""
    return {ALIASES.get(override.key_or_group, override.key_or_group): override for override in parsed(words)}


def _values(overrides: dict[str, Override]) -> dict[str, str]:
    return {
        override.get_key_element().replace(override.key_or_group, key): _canonical_text(
            override.get_value_element_as_str()
        )
        for key, override in overrides.items()
        if key.split(".")[0] not in HYDRAS
    }


def clean(name: str) -> str:
    """A folder's name that needs no quotes, neither in a shell nor in `resume=...`; cut if it is long."""
    return re.sub(r"[^\w.+-]+", "-", name)[:LONGEST_NAME].strip("-.")


def _is_swept(key: str, swept: Collection[str]) -> bool:
    return any(f"{key}.".startswith(f"{ALIASES.get(name, name)}.") for name in swept)


def _canonical(value: Any) -> Any:
    """1, 1.0 and 1e0 are one value."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _canonical_text(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else repr(number)


def _hash(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _short(values: dict[str, str]) -> dict[str, str]:
    """Without what stands before a key's last dot, where that leaves them distinct."""
    short = {key.rsplit(".", 1)[-1]: value for key, value in values.items()}
    return short if len(short) == len(values) else values
