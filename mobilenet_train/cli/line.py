"""The command line of `mnet-train`: Hydra's options, in any place of it, and the KEY=VALUE words."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from mobilenet_train.config.schema import OPTIONS
from mobilenet_train.config.suggest import nearest
from mobilenet_train.errors import ConfigError

CFG = ("job", "hydra", "all")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
FLAGS = ("--hydra-help", "--resolve", "--run", "--multirun", "--shell-completion")
WITH_VALUE = ("--cfg", "--package", "--config-path", "--config-name", "--config-dir")
SHORT = {
    **{"-c": "--cfg", "-p": "--package", "-r": "--run", "-m": "--multirun", "-sc": "--shell-completion"},
    **{"-cp": "--config-path", "-cn": "--config-name", "-cd": "--config-dir", "-i": "--info"},
}


@dataclass(frozen=True)
class Line:
    """A command line in its two parts."""

    options: tuple[str, ...]  # Hydra's: NAME or NAME=VALUE
    words: tuple[str, ...]

    @property
    def sweep(self) -> bool:
        return "--multirun" in self.options

    def arguments(self, choices: Sequence[str] = ()) -> list[str]:
        """What Hydra takes: it reads options only before the words. `choices` stand before those that were typed."""
        return [*self.options, *choices, *self.words]


def read_line(arguments: Sequence[str]) -> Line:
    """Takes the options out of the words. Raises ConfigError for an option that there is not."""
    options: list[str] = []
    words: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if not argument.startswith("-"):
            words.append(argument)
            continue
        typed, equals, value = argument.partition("=")
        name = SHORT.get(typed, typed)
        if name in FLAGS and not equals:
            options.append(name)
        elif name == "--info":
            shown = value if equals else left.pop(0) if left and left[0] in INFO else "all"
            options.append(f"{name}={_one_of(name, shown, INFO)}")
        elif name in WITH_VALUE:
            shown = value if equals else left.pop(0) if left else ""
            if not shown:
                raise ConfigError(f"{typed} is empty and needs a value: mnet-train --help and --hydra-help say which")
            if name == "--config-dir" and not os.path.isdir(shown):  # noqa: PTH112 (it takes any name)
                raise ConfigError(f"{typed} {shown} is not a folder")
            options.append(f"{name}={_one_of(name, shown, CFG) if name == '--cfg' else shown}")
        else:
            raise ConfigError(_unknown(typed, value if equals else left[0] if left else ""))
    return Line(tuple(options), tuple(words))


def _one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise ConfigError(f"{name} {value} is not allowed: one of {', '.join(allowed)}")
    return value


def _unknown(typed: str, value: str) -> str:
    """Says how a key is set, to someone who typed it as an option."""
    key = typed.strip("-").replace("-", "_")
    if key in OPTIONS:
        shown = "VALUE" if not value or value.startswith("-") or "=" in value else value
        return f"{typed} is not an option: settings are given as KEY=VALUE, here {key}={shown}"
    other = nearest(key, list(OPTIONS)) if key else ""
    return f"{typed} is not an option: settings are given as KEY=VALUE, e.g. epochs=20 (--help lists them){other}"
