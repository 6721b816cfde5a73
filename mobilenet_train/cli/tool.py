"""What the commands beside mnet-train share: arguments, the error contract, tables or JSON. Imports no torch."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mobilenet_train import __version__
from mobilenet_train.cli.guard import guarded
from mobilenet_train.config.fields import IMAGES, MANY, MOST_PIXELS, MOST_WIDTH
from mobilenet_train.console import counted, plain, printable, title_of
from mobilenet_train.disk import expanded, regular
from mobilenet_train.errors import ConfigError, RunError

if TYPE_CHECKING:
    from rich.table import Table

    from mobilenet_train.config.schema import TrainConfig
    from mobilenet_train.inference.loading import TrainedRun
    from mobilenet_train.runtime import Runtime


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ConfigErrors, so that they look and exit as everywhere else."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} ({self.prog} --help shows what is allowed)")


def new_parser(program: str, about: str, examples: str) -> Parser:
    """A parser with --version and --json; `examples` are shown as they are, one a line."""
    parser = Parser(
        prog=program,
        description=about,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{program} {__version__}")
    parser.add_argument("--json", action="store_true", help="print JSON for programs instead of tables")
    return parser


def add_run_arguments(parser: Parser) -> None:
    """RUN and what every command that runs a trained network takes."""
    parser.add_argument(
        "run", type=file_path, metavar="RUN", help="a run folder, a checkpoint, or an exported file (.onnx, .pte)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: CUDA where there is a device"
    )
    parser.add_argument("--threads", type=thread_count, metavar="N", help="threads on the CPU; default: as in training")
    add_trust_argument(parser)


def add_trust_argument(parser: Parser) -> None:
    """--trust-factory, for commands that may load a network or data set of the user's own."""
    parser.add_argument(
        "--trust-factory",
        action="store_true",
        help="import and call the functions that a run of your own network or data set names",
    )


def whole_number(text: str) -> int:
    """A number from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def not_empty(text: str) -> str:
    """What may be a path or something else, for argparse."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def file_path(text: str) -> Path:
    """A file or folder, for argparse."""
    try:
        return expanded(not_empty(text))
    except RunError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def new_file(text: str) -> Path:
    """A file to write, for argparse: what is in its way is known before its contents are measured."""
    found = file_path(text)
    try:
        if found.exists() or found.is_symlink():
            os.close(regular(str(found), os.O_WRONLY))
        elif not found.parent.is_dir() or not os.access(found.parent, os.W_OK):
            raise OSError(f"{found.parent} is not a folder that can be written in")
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{found} cannot be written: {error.strerror or error}") from error
    return found.resolve()


def thread_count(text: str) -> int:
    """A number of threads, in the limits of device.threads, for argparse."""
    from mobilenet_train.config.schema.device import MOST_THREADS

    if whole_number(text) > MOST_THREADS:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 to {MOST_THREADS}")
    return int(text)


def list_of(allowed: tuple[str, ...]) -> Callable[[str], list[str]]:
    """A list of names out of `allowed`, for argparse."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is unknown; choose from: {', '.join(allowed)}")
        return names

    return read


def thread_counts(text: str) -> list[int]:
    """Numbers of threads, for argparse."""
    return [thread_count(number) for number in text.split(",")]


def at_most(most: float, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """A number up to `most`, for argparse."""

    def limited(text: str) -> Any:
        if (number := read(text)) > most:
            raise argparse.ArgumentTypeError(f"{text!r} is more than {most:,}")
        return number

    return limited


def list_of_numbers(read: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Numbers with commas between them, for argparse."""
    return lambda text: [read(number) for number in text.split(",")]


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


width_multiplier = at_most(MOST_WIDTH, positive)
pixel_count = at_most(MOST_PIXELS, whole_number)
image_count = at_most(IMAGES, whole_number)
class_count = at_most(MANY, whole_number)


def main_of(
    parser: Parser, command: Callable[[argparse.Namespace], int], words: Sequence[str] | None = None
) -> NoReturn:
    """Parses the command line, runs the command and exits with its code: 2 for wrong use, 1 for a failure.

    words: what to parse; None is everything after the program's name.
    """

    def run() -> int:
        code = command(parser.parse_args(words))
        sys.stdout.flush()
        return code

    try:
        sys.exit(guarded(run, os.environ.get("HYDRA_FULL_ERROR") == "1", parser.prog))
    except KeyboardInterrupt:
        sys.exit(130)


def runtime_of(arguments: argparse.Namespace, config: "TrainConfig", threads: int | None) -> "Runtime":
    """The device and threads asked for on the command line, else CUDA where there is a device and `threads`.

    Raises RunError.
    """
    from mobilenet_train.inference.loading import runtime_like

    return runtime_like(config, arguments.device, arguments.threads or threads)


def report_warning(program: str, run: "TrainedRun") -> None:
    """Reports on stderr that a damaged checkpoint was passed over, if one was."""
    if run.warning:
        print(printable(f"{program}: {run.warning}"), file=sys.stderr)


def print_json(values: Any) -> None:
    """Prints values for programs; None is null. Raises ValueError for a number that is not finite."""
    print(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))


def new_table(title: str, text: Sequence[str], numbers: Sequence[str]) -> "Table":
    """An empty table narrow enough for 80 columns: `text` columns to the left, `numbers` to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    heading = title_of(*title.splitlines()) if title else None
    table = Table(title=heading, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in text:
        table.add_column(plain(name), overflow="fold")
    for name in numbers:
        table.add_column(plain(name), justify="right", no_wrap=True)
    return table


def say_measuring(program: str, count: int, seconds: float) -> None:
    """Says on stderr what is waited for."""
    print(f"{program}: preparing and taking {counted(count, 'measurement')} of {seconds:g} s ...", file=sys.stderr)
