"""The error contract of every command: one message for people and an exit code."""

import sys
from collections.abc import Callable

from mobilenet_train.errors import UserError
from mobilenet_train.ranks import ranks_from_environment, reports


def guarded(command: Callable[[], int], tracebacks: bool, program: str = "mnet-train") -> int:
    """Runs a command; an error for people becomes one message and an exit code, unless tracebacks are wanted.

    Of several ranks only one reports, with its number.
    """
    if tracebacks:
        return command()
    try:
        return command()
    except UserError as error:
        return failed(program, str(error), error.exit_code)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        return failed(program, f"{error.strerror or error}: {error.filename or 'no file named'}", 1)
    except Exception:
        if reports(ranks_from_environment()):
            raise
        return 1


def failed(program: str, message: str, exit_code: int) -> int:
    """Prints the message, in the rank that reports."""
    ranks = ranks_from_environment()
    if reports(ranks):
        print(f"{program}: {ranks.label}{message}", file=sys.stderr)
    return exit_code
