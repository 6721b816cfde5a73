"""`mnet-bench`: how fast the networks are on this machine."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mobilenet_train.cli import tool
from mobilenet_train.console import plain
from mobilenet_train.deploy.settings import MODELS, RUNTIMES, check_runtimes, usual_runtime
from mobilenet_train.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from mobilenet_train.deploy.bench import Change, Row
    from mobilenet_train.deploy.settings import Setting

CHANGED = 1.1  # a median that moved by less than a tenth is what one machine does from hour to hour

EXAMPLES = """\
  mnet-bench                                                  the four networks at 224 pixels, batch 1, one thread
  mnet-bench --model v2 --width 0.5,1 --resolution 96,224 --batch 1,32
  mnet-bench --runtime eager,onnx,onnx-int8 --csv before.csv
  mnet-bench outputs/RUN --runtime onnx,onnx-int8,executorch,executorch-int8
  mnet-bench outputs/RUN/export/model.int8.onnx --threads 1,2
  mnet-bench --runtime train --resolution 32 --classes 10 --batch 128 --threads 2
  mnet-bench --compare before.csv after.csv
"""


def main() -> NoReturn:
    """The console script."""
    tool.main_of(parser(), run)


def parser() -> tool.Parser:
    about = "Times networks on this machine: every combination of what is given, taking turns."
    made = tool.new_parser("mnet-bench", about, EXAMPLES)
    source = "a run, a checkpoint or an exported file in the place of --model, --width, --resolution, --classes"
    made.add_argument("source", nargs="?", type=tool.file_path, metavar="RUN|FILE", help=source)
    made.add_argument("--model", type=tool.list_of(MODELS), metavar="NAMES", help="default: all four")
    widths, pixels, images = map(tool.list_of_numbers, (tool.width_multiplier, tool.pixel_count, tool.image_count))
    made.add_argument("--width", type=widths, metavar="LIST", help="width multipliers; default: 1")
    made.add_argument("--resolution", type=pixels, metavar="LIST", help="pixels; default: 224")
    made.add_argument("--batch", type=images, default=[1], metavar="LIST", help="images at once; default: 1")
    made.add_argument("--threads", type=tool.thread_counts, default=[1], metavar="LIST", help="on the CPU; default: 1")
    runtimes = f"of {', '.join(RUNTIMES)} (a whole step); default: onnx where installed, else eager (PyTorch)"
    made.add_argument("--runtime", type=tool.list_of(RUNTIMES), metavar="NAMES", help=runtimes)
    made.add_argument("--classes", type=tool.class_count, metavar="N", help="default: 1000")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where PyTorch computes; default: cpu")
    made.add_argument("--seconds", type=tool.positive, default=2.0, metavar="S", help="of each; default: 2")
    made.add_argument("--csv", type=tool.new_file, metavar="FILE", help="write the table there too")
    made.add_argument(
        "--compare", nargs=2, type=tool.file_path, metavar="CSV", help="measures nothing: compares two tables"
    )
    return made


def run(arguments: argparse.Namespace) -> int:
    """Measures and prints, or compares two tables. Raises UserError."""
    if arguments.compare:
        return show_changes(arguments)
    rows = measured(arguments)
    if arguments.json:
        from mobilenet_train.deploy.bench import as_dict

        tool.print_json([as_dict(row) for row in rows])
    else:
        print_rows(rows)
    if arguments.csv:
        from mobilenet_train.deploy.bench import write_csv

        write_csv(rows, arguments.csv)
    return 0


def measured(arguments: argparse.Namespace) -> "list[Row]":
    """Every combination of what is given, timed. Raises UserError."""
    if arguments.source:
        from mobilenet_train.inference.run_path import EXPORTED, trained_path

        trained_path(arguments.source)
        for name in ("model", "width", "resolution", "classes"):
            if getattr(arguments, name):
                raise ConfigError(f"--{name} is for networks by name: {arguments.source} has its own")
        if arguments.source.suffix in EXPORTED and (arguments.runtime or arguments.device != "cpu"):
            raise ConfigError(f"--runtime and --device are not for {arguments.source}: it has a runtime, on the CPU")
        if "train" in (arguments.runtime or ()):
            raise ConfigError("--runtime train is for networks by name, not for a run")
    runtimes = arguments.runtime or [usual_runtime(arguments.device)]
    check_runtimes(runtimes, arguments.device)
    from mobilenet_train.runs.advice import memory_advice

    with memory_advice("lower --batch, --resolution or --width"):
        return timed_source(arguments, runtimes) if arguments.source else timed_names(arguments, runtimes)


def timed_source(arguments: argparse.Namespace, runtimes: list[str]) -> "list[Row]":
    """A run's network, or an exported file."""
    from mobilenet_train.deploy.bench import new_bench, run_settings, time_file
    from mobilenet_train.inference.loading import load_run
    from mobilenet_train.inference.run_path import EXPORTED
    from mobilenet_train.runs.timed_step import training_step

    if arguments.source.suffix in EXPORTED:
        return time_file(arguments.source, arguments.batch, arguments.threads, arguments.seconds)
    trained = load_run(arguments.source)
    tool.report_warning("mnet-bench", trained)
    channels = trained.preprocessing.channels
    bench = new_bench(len(trained.class_names), arguments.device, training_step, lambda _: trained.model, channels)
    return bench.run(run_settings(trained, arguments.batch, arguments.threads, runtimes), arguments.seconds)


def timed_names(arguments: argparse.Namespace, runtimes: list[str]) -> "list[Row]":
    """Networks by name, with random weights."""
    from mobilenet_train.deploy.bench import new_bench
    from mobilenet_train.deploy.settings import all_settings
    from mobilenet_train.runs.timed_step import training_step

    settings = all_settings(
        arguments.model or MODELS,
        arguments.width or [1.0],
        arguments.resolution or [224],
        arguments.batch,
        arguments.threads,
        runtimes,
    )
    tool.say_measuring("mnet-bench", len(settings), arguments.seconds)
    return new_bench(arguments.classes or 1000, arguments.device, training_step).run(settings, arguments.seconds)


def setting_cells(setting: "Setting") -> tuple[str, ...]:
    """The first columns of both tables."""
    sizes = (setting.resolution, setting.batch, setting.threads)
    return setting.model, setting.runtime, f"{setting.width:g}", *map(str, sizes)


def print_rows(rows: "list[Row]") -> None:
    """The table for people."""
    from rich.console import Console

    title = f"latency and throughput\n{rows[0].machine}"
    numbers = ("width", "pixels", "batch", "threads", "median ms", "p95 ms", "images/s")
    table = tool.new_table(title, ("network", "runtime"), numbers)
    for row in rows:
        t = row.timing
        table.add_row(
            *setting_cells(row.setting),
            f"{t.median_ms:.2f}",
            f"{t.p95_ms:.2f}",
            f"{row.images_per_second:.1f}",
        )
    Console().print(table)


def show_changes(arguments: argparse.Namespace) -> int:
    """Prints what changed between the two tables of --compare. Raises RunError, or ConfigError if they share no row."""
    from dataclasses import asdict

    from rich.console import Console

    from mobilenet_train.deploy.bench import compare, read_csv

    before, after = (read_csv(path) for path in arguments.compare)
    changes = compare(before, after)
    if arguments.json:
        tool.print_json([{**asdict(change), "ratio": change.ratio} for change in changes])
        return 0
    console = Console()
    console.print(change_table(changes, *arguments.compare))
    machines = {row.machine for row in (*before, *after)}
    if len(machines) > 1:
        console.print("the tables are from different machines or versions:")
        for machine in sorted(machines):
            console.print(plain(f"  {machine}"))
    return 0


def change_table(changes: "list[Change]", before: Path, after: Path) -> "Table":
    """Medians of both, their ratio, and a word where it is more than CHANGED."""
    title = f"{before} -> {after}: {len(changes)} settings that both have"
    numbers = ("width", "pixels", "batch", "threads", "before ms", "after ms", "change")
    table = tool.new_table(title, ("network", "runtime"), (*numbers, ""))
    for change in changes:
        ratio = change.ratio
        verdict = "slower" if ratio > CHANGED else "faster" if ratio < 1 / CHANGED else ""
        table.add_row(
            *map(plain, setting_cells(change.setting)),
            f"{change.before.median_ms:.2f}",
            f"{change.after.median_ms:.2f}",
            f"{ratio - 1:+.1%}",
            verdict,
        )
    return table
