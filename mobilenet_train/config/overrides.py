"""What someone typed, `KEY=VALUE` and `GROUP=NAME`: which keys, and what Hydra would let through."""

from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from mobilenet_train.config.fields import FLAG
from mobilenet_train.config.schema import ALIASES, OPTIONS, SCHEMAS
from mobilenet_train.errors import ConfigError

BOOLEANS = ("true", "false", "yes", "no", "on", "off", "y", "n", "1", "0")  # as OmegaConf and YAML take them


def parsed(words: Sequence[str]) -> list[Override]:
    """The words as Hydra reads them."""
    return OverridesParser.create().parse_overrides(list(words))


def typed_keys(words: Sequence[str]) -> list[str]:
    """The keys that the words set. A choice such as model=v2 counts as its name, except device's."""
    typed = [override.key_or_group for override in parsed(words)]
    keys = [f"{key}.name" if key in SCHEMAS and key != "device" else key for key in typed]
    return [ALIASES.get(key, key) for key in keys]


def check_words(words: Sequence[str]) -> None:
    """Refuses what Hydra lets through. Raises ConfigError.

    A recipe is optional for Hydra, so a wrong name would be passed over; GROUP.NAME=... would change the name but not
    the keys that come with it; and any whole number would count as true.
    """
    recipes = GlobalHydra.instance().config_loader().get_group_options("recipe")
    for override in parsed(words):
        if override.is_delete():
            continue
        key, value = override.key_or_group, override.get_value_string()
        if key == "recipe" and value not in (*recipes, "null"):
            raise ConfigError(f"recipe={value} is unknown; choose one of: {', '.join(recipes)}")
        group, _, leaf = key.partition(".")
        if group in SCHEMAS and leaf == "name":
            raise ConfigError(f"{key}={value} would change only the name; say {group}={value}")
        for name, flag in _plain_values(key, override.value()):
            if name in OPTIONS and OPTIONS[name][0].rule is FLAG and _is_other_number(flag):
                raise ConfigError(f"{name}={flag} is not allowed: {FLAG.allowed}")


def _plain_values(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _plain_values(f"{key}.{name}", inner)
    else:
        yield key, value


def _is_other_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and str(value) not in BOOLEANS
