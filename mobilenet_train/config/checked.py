"""A composed configuration turned into dataclasses, after every check."""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mobilenet_train.config.fields import MISSING
from mobilenet_train.config.overrides import typed_keys
from mobilenet_train.config.rules import check, check_effect, let_budget_decide
from mobilenet_train.config.schema import ALIASES, SCHEMAS, UNSAVED, TrainConfig
from mobilenet_train.config.suggest import nearest
from mobilenet_train.errors import ConfigError
from mobilenet_train.ranks import check_batch, ranks_from_environment


def checked_config(composed: DictConfig, words: Sequence[str]) -> TrainConfig:
    """The configuration that was composed, after every check of its values. Raises ConfigError."""
    config = let_budget_decide(to_config(composed), typed_keys(words))
    check(config)
    return config


def check_use(config: TrainConfig, words: Sequence[str]) -> None:
    """The checks of what was typed, and of the ranks, against the configuration that runs: with `resume` the run's own.

    Raises ConfigError.
    """
    check_effect(config, typed_keys(words))
    check_batch(config.batch_size, ranks_from_environment())


def values_of(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain values, under the keys' present names: what is saved, hashed and shown."""
    values = asdict(config)
    for key in UNSAVED:
        del values[key]
    return values


def flat_values(config: TrainConfig) -> dict[str, Any]:
    """The same by dotted key."""
    return dict(leaves(OmegaConf.create(values_of(config))))


def from_values(values: DictConfig) -> TrainConfig:
    """Rebuilds a configuration from plain values. Raises ConfigError as `typed_values`, and for missing values."""
    return to_config(typed_values(values))


def typed_values(values: DictConfig) -> DictConfig:
    """Plain values with the types of the schema; a key that they lack has the value '???'.

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
    assert isinstance(merged, DictConfig)
    return merged


def to_config(composed: DictConfig) -> TrainConfig:
    """A composed configuration as dataclasses. Raises ConfigError as `refuse_unknown`, and for missing values."""
    for key, value in refuse_unknown(composed):
        if value == MISSING:
            raise ConfigError(f"{key} has no value: give one on the command line, {key}=...")
    config = OmegaConf.to_object(with_present_names(composed))
    assert isinstance(config, TrainConfig)
    return config


def refuse_unknown(composed: DictConfig) -> list[tuple[str, Any]]:
    """The keys and values of a composed configuration, after refusing what Hydra lets through.

    Raises ConfigError for numbers that are not finite, keys taken away with `~`, and keys added with `+` that the
    schema does not know.
    """
    try:
        known = list(leaves(composed))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'configuration'}: {str(error).splitlines()[0]}") from error
    for key, value in known:
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key}={value} is not a finite number")
    for key in removed_keys(composed):
        raise ConfigError(f"{key!r} was taken away with ~{key}, but every key is needed; give it a value instead")
    for key in unknown_keys(composed):
        others = [k for k, _ in known if k != key and not k.startswith(f"{key}.")]
        raise ConfigError(f"unknown key {key!r}{nearest(key, others)}")
    return known


def with_present_names(composed: DictConfig) -> DictConfig:
    """Values that were given under a key's former name moved to its present one, which is said once."""
    composed = composed.copy()
    for old, new in ALIASES.items():
        value = composed.get(old)
        if value is not None:
            if composed[new] not in (None, value):
                raise ConfigError(f"{old}={value} and {new}={composed[new]} are two names of one key; give one")
            _say_renamed(old, new)
            composed[new], composed[old] = value, None
    return composed


@cache
def _say_renamed(old: str, new: str) -> None:
    if ranks_from_environment().leads:
        print(f"mnet-train: {old} is called {new} now; the old name still works", file=sys.stderr)


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
        if OmegaConf.is_missing(node, key):
            continue
        if key not in node:
            yield f"{prefix}{key}"
        else:
            yield from removed_keys(node[key], f"{prefix}{key}.")
