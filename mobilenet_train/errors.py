"""The two ways in which a command fails, as the user sees them: one clear message and an exit code."""

import importlib
from typing import Any


class UserError(Exception):
    """A message for people: one line, and perhaps more arguments, each a line below it.

    The command prints it without a traceback and exits with `exit_code`.
    """

    exit_code = 1

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class ConfigError(UserError):
    """The configuration is wrong: nothing was started and nothing was written (exit code 2)."""

    exit_code = 2


class RunError(UserError):
    """The run could not start or continue: data, disk, device, numbers (exit code 1)."""

    exit_code = 1


def require(package: str, extra: str = "export") -> Any:
    """A module of an extra. Raises RunError that names the extra if it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise RunError(f"this needs {package}, which is not installed: pip install 'mnet-train[{extra}]'") from error
