"""Arguments of Python as the words of a command line, and what those are checked against. Imports no torch."""

import re
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from hydra import compose

from mobilenet_train.config.checked import check_use
from mobilenet_train.config.compose import hydra_of_its_own
from mobilenet_train.config.explain import explain
from mobilenet_train.config.overrides import check_line, check_words, parsed, quoted
from mobilenet_train.config.resume import Start, choices_of_run, resolve
from mobilenet_train.errors import ConfigError, UserError

PLAIN = re.compile(r"(?!(?:null|true|false|yes|no|on|off|nan|inf)$)[A-Za-z_./][\w./:+-]*", re.IGNORECASE)


def words_of(keys: Mapping[str, Any]) -> list[str]:
    """`epochs=2` for {"epochs": 2}; several values of a sweep are a tuple or range: `seed=0,1` for {"seed": (0, 1)}."""
    return [f"{key}={','.join(map(_text, _values(value)))}" for key, value in keys.items()]


def _values(value: Any) -> Iterable[Any]:
    return value if isinstance(value, tuple | range) else [value]


def _text(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_text(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, str | PathLike):
        text = fspath(value)
        return text if PLAIN.fullmatch(text) else quoted(text)
    return str(value)


def start_of(words: Sequence[str]) -> Start:
    """What `mnet-train WORDS` would run, after every check that comes before torch. Raises UserError as it does."""
    check_line(words)
    for override in parsed(words):
        if override.is_sweep_override():
            raise ConfigError(f"{override.input_line} names several values: sweep(...) runs them all")
    try:
        with hydra_of_its_own():
            composed = compose("train", overrides=[*choices_of_run(words), *words])
            check_words(words)
            start = resolve(composed, words)
    except UserError:
        raise
    except Exception as error:  # Hydra's own, of the user's making
        raise ConfigError(explain(error)) from error
    check_use(start.config, words)
    for key in ("dry_run", "preview"):
        if getattr(start.config, key):
            raise ConfigError(f"{key}=true makes no run, which train() would return: give it to mnet-train")
    return start
