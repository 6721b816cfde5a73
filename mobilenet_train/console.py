"""Messages and tables for people on the terminal, and the one place that makes values safe to print. No torch."""

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

LONGEST = 300  # characters of a message
LONGEST_VALUES = (100, 60, 40, 20)  # characters without a space in a message that is too long, tried in this order


def printable(value: object) -> str:
    """Any value on one line: line breaks, control characters and what is not text are escaped as in Python.

    Names of files and classes and other people's error messages may hold all of those.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(message: str) -> str:
    """A message on one line of at most LONGEST characters; long values are shortened in the middle."""
    line = whole = printable(message)
    for most in LONGEST_VALUES:
        if len(line) <= LONGEST:
            break
        line = re.sub(r"\S+", lambda word, most=most: shortened(word[0], most), whole)  # type: ignore[misc]
    return shortened(line, LONGEST)


def shortened(text: str, most: int) -> str:
    """Beginning and end of a text that is too long."""
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]}...{text[len(text) - most + most * 2 // 3 + 3 :]}"


def plain(value: object, style: str = "") -> "Text":
    """A value for rich as it is: one line, and no markup in it."""
    from rich.text import Text

    return Text(printable(value), style=style)


def add_rows(table: "Table", rows: Iterable[Iterable[object]]) -> None:
    """Adds rows of values to a table of rich, each as it is."""
    for row in rows:
        table.add_row(*map(plain, row))


def title_of(*lines: object) -> "Text":
    """The title of a table of rich."""
    from rich.text import Text

    return Text("\n", style="table.title").join(plain(line) for line in lines)


def counted(number: int, name: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def say(console: "Console", message: str, kind: str = "") -> None:
    """Prints a message for people, after a yellow "warning: " or a plain "note: " if `kind` is one.

    A terminal or pipe that is gone does not stop the run.
    """
    label = plain(f"{kind}: " if kind else "", style="yellow" if kind == "warning" else "")
    with suppress(OSError, SystemExit):  # rich leaves the program at a broken pipe
        console.print(label + plain(message), soft_wrap=True)
