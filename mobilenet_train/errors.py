"""The two ways in which a command fails, as the user sees them: one clear message and an exit code."""

import importlib
import shlex
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
    """A module of an extra. Raises RunError that says how to install the extra if it is not there."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise missing(package, extra) from error


def missing(package: str, extra: str) -> RunError:
    """What to raise where a package of an extra is not installed."""
    return RunError(f"this needs {package}, which is not installed: {installation(extra)}")


def installation(extra: str) -> str:
    """The command that installs what an extra brings, whether or not an index has this package."""
    from importlib.metadata import PackageNotFoundError, requires  # takes longer to import than --help may

    try:
        lines = requires("mnet-train") or []
    except PackageNotFoundError:  # run from a checkout that was never installed
        return f"pip install -e '.[{extra}]'"
    wanted = [line.partition(";")[0].strip() for line in lines if line.endswith((f"'{extra}'", f'"{extra}"'))]
    return shlex.join(["pip", "install", *wanted])
