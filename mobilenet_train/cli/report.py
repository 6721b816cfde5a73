"""`mnet-report`: makes a sweep's table and figure again, merges or compares sweeps, compares runs."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mobilenet_train.cli.tool import Parser, file_path, main_of, new_parser, new_table, print_json
from mobilenet_train.console import add_rows
from mobilenet_train.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mobilenet_train.deploy.bench import Row

EXAMPLES = """\
  mnet-report outputs/SWEEP                     its table; sweep.csv, sweep.md and pareto.png are made again
  mnet-report outputs/A outputs/B --output DIR  one table of both, written to DIR
  mnet-report outputs/SWEEP --measured phone.csv  pareto.png with latencies that mnet-bench measured
  mnet-report outputs/A outputs/B --paired      what B gains over A, seed by seed, and whether it is chance
  mnet-report diff outputs/A/RUN outputs/B/RUN  what differs in configuration and results
"""
DIFF_EXAMPLES = """\
  mnet-report diff outputs/A/RUN outputs/B/RUN
  mnet-report diff outputs/SWEEP/*/ --all
"""


def main() -> NoReturn:
    """The console script."""
    if sys.argv[1:2] == ["diff"]:
        main_of(diff_parser(), diff, sys.argv[2:])
    main_of(parser(), report)


def parser() -> Parser:
    about = "Makes a sweep's table and figure again, or merges several sweeps into one table."
    made = new_parser("mnet-report", about, EXAMPLES)
    made.add_argument("sweeps", nargs="+", type=file_path, metavar="SWEEP", help="a sweep's folder")
    output = "write the files here; default: into the sweep's folder, nowhere for several"
    paired = "compare two sweeps over the same seeds: difference, 95 %% interval and p-value; writes nothing"
    table = "a CSV file as mnet-bench --csv writes it: pareto.png shows its latencies too"
    made.add_argument("--measured", type=file_path, metavar="CSV", help=table)
    made.add_argument("--paired", action="store_true", help=paired)
    made.add_argument("--output", type=file_path, metavar="DIR", help=output)
    return made


def diff_parser() -> Parser:
    about = "Shows what differs between runs: configuration, top-1, loss and training time."
    made = new_parser("mnet-report diff", about, DIFF_EXAMPLES)
    made.add_argument("runs", nargs="+", type=file_path, metavar="RUN", help="the runs' folders, at least two")
    made.add_argument("--all", action="store_true", help="all other results too, as --json has them")
    return made


def report(arguments: argparse.Namespace) -> int:
    """Prints the table of one or several sweeps and writes its files; several need a folder to write them to.

    With --paired, prints the comparison of two instead. Raises ConfigError if they are not two.
    """
    from rich.console import Console

    from mobilenet_train.sweeps.report import as_values, show, write, write_to
    from mobilenet_train.sweeps.rows import read_rows

    folders = [folder.resolve() if folder.is_dir() else folder for folder in arguments.sweeps]
    if arguments.paired:
        return show_paired(folders, arguments.json, arguments.output)
    timings = read_timings(arguments.measured)
    if arguments.json:
        print_json(as_values(read_rows(folders)))
    else:
        show(folders, Console())
    if arguments.output is not None:
        write_to(arguments.output, folders, timings=timings)
    elif len(folders) == 1:
        write(folders[0], timings=timings)
    return 0


def read_timings(path: Path | None) -> "Sequence[Row]":
    """The rows of a table of mnet-bench, none without one. Raises RunError if it is something else."""
    if path is None:
        return ()
    from mobilenet_train.deploy.bench import read_csv

    return read_csv(path)


def show_paired(folders: list[Path], as_json: bool, output: Path | None) -> int:
    """Prints what the second sweep gains over the first."""
    from rich.console import Console

    from mobilenet_train.sweeps.paired import compare

    if len(folders) != 2 or output is not None:
        raise ConfigError(f"--paired compares two sweeps and writes nothing; these are {len(folders)}")
    found = compare(*folders)
    if as_json:
        print_json([asdict(one) for one in found])
        return 0
    title = f"A: {folders[0]}\nB: {folders[1]}\ntop-1 in percent; p: Student's paired t-test, two-sided"
    table = new_table(title, ("", "measured on", "seeds"), ("A", "B", "B - A", "p"))
    add_rows(table, (one.cells for one in found))
    Console().print(table)
    return 0


def diff(arguments: argparse.Namespace) -> int:
    """Prints the keys of configuration and results in which the runs differ. Raises ConfigError for a single run."""
    from rich.console import Console

    from mobilenet_train.sweeps.difference import differences

    runs = arguments.runs
    if len(runs) < 2:
        raise ConfigError(f"{runs[0]} is one run: give at least two")
    found = differences(runs)
    if arguments.json:
        print_json([{"key": row.key, **dict(zip(map(str, runs), row.values, strict=True))} for row in found])
        return 0
    names = [run.name for run in runs]
    headings = names if len(set(names)) == len(names) else [str(run) for run in runs]
    table = new_table("", ("", *headings), ())
    add_rows(table, (row.cells for row in found if arguments.all or row.is_main))
    Console().print(table)
    return 0
