"""Turns Hydra's and OmegaConf's errors into one line that names the key, the value and what is allowed."""

import re

from hydra.errors import MissingConfigException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
    ValidationError,
)

from mobilenet_train.config.fields import options
from mobilenet_train.config.schema import OPTIONS, SCHEMAS
from mobilenet_train.config.suggest import nearest
from mobilenet_train.errors import installation

MISSING_ENGINE = re.compile(r"(?:plugin class : 'hydra_plugins\.hydra_|locating target ')(ray|submitit|optuna)")
MEANT = {"gpu": "cuda"}  # words for a choice that do not look like its name
KINDS = {
    "to Integer": "a whole number",
    "to Float": "a number",
    "valid bool": "true or false",
    "is not a ListConfig": "a list, e.g. [1,2,3]",
}


def explain(error: Exception) -> str:
    """One clear line for an error that Hydra raised while composing the configuration."""
    if isinstance(error, MissingConfigException) and error.options:
        return _unknown_choice(error)
    cause = _omegaconf_cause(error)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        return unknown_key(cause.full_key)
    if isinstance(cause, ValidationError) and cause.full_key:
        return _wrong_type(cause)
    if isinstance(cause, InterpolationResolutionError):
        return f"{cause.full_key}: {str(cause).splitlines()[0]}"
    if match := MISSING_ENGINE.search(str(error)):
        return f"this sweep runs on {match[1]}, which is not installed: {installation(match[1])}"
    if "must be a string or a list" in str(error):
        return "a choice (GROUP=NAME) needs a name, not a number and not null"
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def unknown_key(key: str) -> str:
    """Says which choice a key belongs to, or which known key was probably meant."""
    group, _, leaf = key.partition(".")
    owners = [name for name, schema in SCHEMAS.get(group, {}).items() if leaf in dict(options(schema))]
    if owners:
        return f"{key!r} does not belong to this {group}, but to {' and '.join(f'{group}={name}' for name in owners)}"
    return f"unknown key {key!r}{nearest(key, known_keys())}"


def known_keys() -> list[str]:
    """Every dotted key of the schema, whichever choice it belongs to, and the group names."""
    return sorted({*OPTIONS, *SCHEMAS, "experiment", "variant"})


def _unknown_choice(error: MissingConfigException) -> str:
    file = error.missing_cfg_file or ""
    group = next((group for group in SCHEMAS if file.startswith(f"{group}/")), file.rpartition("/")[0])
    name = file.removeprefix(f"{group}/")
    if group == "dataset" and "/" in name:
        return f"dataset={name} is not a choice: for a folder of images give dataset=folder dataset.root={name}"
    options = [option for option in error.options or [] if not option.startswith("schema")]
    meant = nearest(MEANT.get(name, name), options)
    return f"{group}={name} is unknown; choose one of: {', '.join(options)}{meant}"


def _wrong_type(cause: ValidationError) -> str:
    message = str(cause.msg or cause).splitlines()[0]
    value = message.split("'")[1] if "'" in message else "a single value"
    if "not Optional" in message:
        return f"{cause.full_key}=null is not allowed: give a value"
    if "is not a subclass of" in message:
        return f"{cause.full_key} is a group of keys and takes no value: set {cause.full_key}.KEY=VALUE"
    for word, kind in KINDS.items():
        if word in message:
            rule = OPTIONS[cause.full_key][0].rule if cause.full_key in OPTIONS else None
            return f"{cause.full_key}={value} is not allowed: {rule.allowed if rule else f'give {kind}'}"
    return f"{cause.full_key}: {message}"


def _omegaconf_cause(error: BaseException | None) -> OmegaConfBaseException | None:
    while error is not None:
        if isinstance(error, OmegaConfBaseException):
            return error
        error = error.__cause__ or error.__context__
    return None
