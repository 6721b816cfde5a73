"""The error contract of every command: one message for people and an exit code."""

import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path

from mobilenet_train.console import one_line, printable
from mobilenet_train.errors import ConfigError, RunError, UserError
from mobilenet_train.ranks import ALONE, ranks_from_environment, reports


def guarded(command: Callable[[], int], tracebacks: bool, program: str = "mnet-train") -> int:
    """Runs a command; an error for people becomes one message and an exit code, unless tracebacks are wanted.

    Of several ranks only one reports, with its number. On Windows nothing is run: it has neither the file locks of
    run folders nor the forked processes that prepare images.
    """
    if sys.platform == "win32":
        return failed(program, "Windows is not supported: use Linux, which Windows runs as WSL, or macOS", exit_code=1)
    prepare_streams()
    if tracebacks:
        return command()
    try:
        _check_current_folder()
        return command()
    except UserError as error:
        return failed(program, *map(str, error.args), exit_code=error.exit_code)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, `head` for instance, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return failed(program, f"{error.strerror or error}: {error.filename or 'no file named'}", exit_code=1)
    except Exception:
        if reports(ranks_from_environment()):
            raise
        return 1


def _check_current_folder() -> None:
    """Raises RunError if it was deleted: Hydra and MKL would say so in their own ways."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise RunError("the current folder does not exist any more: change to another one") from error


def prepare_streams() -> None:
    """Lets closed streams (`>&-`) lead nowhere, before a file gets their number, and any name be printed anywhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (it gets the lowest number, which is free)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a test's is not
            stream.reconfigure(errors="backslashreplace")


def failed(program: str, message: str, *details: str, exit_code: int) -> int:
    """Prints the message in one line and the details below it, in the rank that reports."""
    try:
        ranks = ranks_from_environment()
    except ConfigError:  # the message says so
        ranks = ALONE
    if reports(ranks):
        lines = (one_line(f"{program}: {ranks.label}{message}"), *map(printable, details))
        print("\n".join(lines), file=sys.stderr)
    return exit_code
