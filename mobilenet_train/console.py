"""Messages for people on the terminal. Imports no torch."""

from contextlib import suppress

from rich.console import Console
from rich.text import Text


def say(console: Console, message: str, kind: str = "") -> None:
    """Prints a message for people, after a yellow "warning: " or "note: " if `kind` is one.

    A terminal or pipe that is gone does not stop the run.
    """
    label = Text(f"{kind}: " if kind else "", style="yellow")
    with suppress(OSError, SystemExit):  # rich leaves the program at a broken pipe
        console.print(label + Text(message), soft_wrap=True)
