"""What someone typed, `KEY=VALUE` and `GROUP=NAME`: which keys, and what Hydra would let through."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

from mobilenet_train.config.fields import FLAG
from mobilenet_train.config.schema import ALIASES, OPTIONS, SCHEMAS
from mobilenet_train.config.suggest import nearest
from mobilenet_train.errors import ConfigError

BOOLEANS = ("true", "false", "yes", "no", "on", "off", "y", "n", "1", "0")  # as OmegaConf and YAML take them
HYDRAS = ("hydra/launcher", "hydra/sweeper", "hydra.launcher", "hydra.sweeper", "hydra.searchpath", "hydra.verbose")
PARTS = ("experiment", "recipe", "variant")  # choices that bring values for keys of all groups
UNREADABLE = (HydraException, ValueError, RecursionError)  # the last two: a number or a nesting without end
OURS = {
    "hydra/sweeper": "hydra/launcher=local needs hydra/sweeper=grid",
    "hydra/launcher": "hydra/launcher=local is the one that runs jobs here",
}


def parsed(words: Sequence[str]) -> list[Override]:
    """The words as Hydra reads them. Raises ConfigError for one that cannot be read."""
    try:
        return OverridesParser.create().parse_overrides(list(words))
    except UNREADABLE as error:
        raise ConfigError(unreadable(next(word for word in words if not _is_readable(word)))) from error


def as_typed(hydra: Any) -> list[str]:
    """The words that Hydra composed, letter for letter: OmegaConf would take a `${...}` in them for its own."""
    words = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    assert isinstance(words, list)
    return words


def unreadable(word: str) -> str:
    """Says of a word that Hydra cannot read what to type instead."""
    key, equals, value = word.partition("=")
    if not word.strip():
        return f"{word!r} is not KEY=VALUE, e.g. epochs=20"
    if not equals:
        return _not_a_pair(word)
    key = key.lstrip("+~")
    rule = OPTIONS[key][0].rule if key in OPTIONS else None
    whole, needs_quotes = f"{key}={quoted(value)}", f"{word} has characters that need quotes"
    if value.rstrip().endswith(","):
        return f"{word} ends with a comma: leave it out, or give another value after it"
    if key in OPTIONS and rule is None and _is_readable(whole):
        return f'{needs_quotes}: "{whole}"'
    if any(value.count(one) != value.count(other) for one, other in ("[]", "{}", '""', "''")):
        said = f"; it takes {rule.allowed}" if rule else ""
        return f"{word} cannot be read: a bracket or a quote in it is not closed{said}"
    if rule is None and _is_readable(whole):
        return f'{needs_quotes}: "{whole}"'
    if rule:
        return f"{key}={value} is not allowed: {rule.allowed}"
    return f"{word} cannot be read as KEY=VALUE"


def _not_a_pair(word: str) -> str:
    if Path(word, "config.yaml").is_file():
        return f"{word} is a run folder: resume={word} continues it"
    if word in OPTIONS or word in SCHEMAS:
        return f"{word} has no value: {word}=VALUE"
    key, _, value = word.partition(":")
    if key in OPTIONS:
        return f"{word} is not KEY=VALUE: {key}={value or 'VALUE'}"
    return f"{word} is not KEY=VALUE, e.g. epochs=20; a run is continued with resume=RUN{nearest(word, list(OPTIONS))}"


def quoted(value: str) -> str:
    """Any text as a value that Hydra takes letter for letter."""
    escaped = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + end[2].replace("'", r"\'"), value)  # as Hydra reads them
    return f"'{escaped}'"


def _is_readable(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except UNREADABLE:
        return False
    return True


def check_line(words: Sequence[str]) -> None:
    """Refuses, before Hydra composes and makes folders, what it would explain badly or let through.

    Raises ConfigError for words that cannot be read, choices that are not names, and settings of Hydra that are ours.
    """
    for override in parsed(words):
        key, value = override.key_or_group, override.value()
        if not key:
            raise ConfigError(f"{override.input_line} has no key: settings are given as KEY=VALUE, e.g. epochs=20")
        if key in (*SCHEMAS, *PARTS, *OURS) and not override.is_delete() and not _is_choice(override):
            names = f", one of: {', '.join(SCHEMAS[key])}" if key in SCHEMAS else ""
            raise ConfigError(f"{override.input_line} is not allowed: {key} takes the name of a choice{names}")
        for name, text in _plain_values(key, value):
            _check_text(name, text)
        if key.partition(".")[0].partition("/")[0] != "hydra":
            continue
        if key in OURS and value == "basic":
            raise ConfigError(f"{key}=basic is not allowed, it leaves files of its own: {OURS[key]}")
        if not any(f"{key}.".startswith(f"{name}.") for name in HYDRAS):
            raise ConfigError(
                f"{key} cannot be set: folders and logs of a run are mnet-train's own; run_dir=DIR or outputs=DIR "
                "says where they go"
            )


def _check_text(name: str, text: Any) -> None:
    """Refuses what is not a value, an empty name or path, and the home of a user that there is not."""
    if text == "???" and name in OPTIONS:  # Hydra's word for a value that is still to come
        raise ConfigError(f"{name}=??? is not allowed: it is not a value")
    if text == "" and name in OPTIONS and OPTIONS[name][0].rule is None:
        raise ConfigError(f"{name}= is not allowed: it is empty; give a name or a path")
    if isinstance(text, str) and text.startswith("~") and not _has_home(text):
        raise ConfigError(f"{name}={text} is not allowed: there is no user {text.partition('/')[0][1:]!r}")


def _has_home(path: str) -> bool:
    try:
        Path(path).expanduser()
    except RuntimeError:
        return False
    return True


def _is_choice(override: Override) -> bool:
    """True for a name, a sweep over names, or {KEY: VALUE} for some of the group's keys."""
    value = override.value()
    if override.is_sweep_override() or (value is None and override.key_or_group in PARTS):
        return True
    return isinstance(value, dict) or (isinstance(value, str | QuotedString) and "${" not in str(value))


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
