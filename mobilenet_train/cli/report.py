"""`mnet-report`: makes a sweep's table and picture again, merges sweeps, compares two runs."""

import argparse
import csv
import io
import json
import sys
from pathlib import Path

from mobilenet_train.cli.guard import guarded

EPILOG = """\
  mnet-report outputs/SWEEP                    its table; sweep.csv, sweep.md and pareto.png are made again
  mnet-report outputs/A outputs/B --output DIR  one table of both, written to DIR
  mnet-report diff outputs/A/RUN outputs/B/RUN  what differs in configuration and results
"""


def main() -> None:
    """The console script. Exits with 0, or 1 if a folder holds no sweep or run."""
    if sys.argv[1:2] == ["diff"]:
        arguments = _diff_parser().parse_args(sys.argv[2:])
        sys.exit(guarded(lambda: diff(arguments.a, arguments.b, arguments.json), tracebacks=False))
    arguments = _parser().parse_args()
    sys.exit(guarded(lambda: report(arguments.sweeps, arguments.output, arguments.json), tracebacks=False))


def report(sweeps: list[Path], output: Path | None, as_json: bool) -> int:
    """Prints the table of one or several sweeps and writes its files; several need a folder to write them to."""
    from rich.console import Console

    from mobilenet_train.sweeps import report as tables
    from mobilenet_train.sweeps.rows import read_rows

    folders = [folder.resolve() for folder in sweeps]
    rows = read_rows(folders)
    if as_json:
        print(json.dumps(list(csv.DictReader(io.StringIO(tables.as_csv(rows)))), indent=2))
    else:
        tables.show(folders, Console())
    target = output or (folders[0] if len(folders) == 1 else None)
    if target is not None:
        target.mkdir(parents=True, exist_ok=True)
        tables.write_to(target, folders)
    return 0


def diff(a: Path, b: Path, as_json: bool) -> int:
    """Prints every key of configuration and results in which two runs differ."""
    from rich.console import Console
    from rich.table import Table

    from mobilenet_train.sweeps.difference import differences

    found = differences(a, b)
    if as_json:
        print(json.dumps([{"key": key, str(a): left, str(b): right} for key, left, right in found], indent=2))
        return 0
    table = Table()
    for column in ("", str(a), str(b)):
        table.add_column(column, overflow="fold")
    for line in found:
        table.add_row(*line)
    Console().print(table)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "mnet-report", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweeps", nargs="+", type=Path, metavar="SWEEP", help="a sweep's folder")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write the files here (one sweep: into it)")
    parser.add_argument("--json", action="store_true", help="print the table for programs")
    return parser


def _diff_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("mnet-report diff", description="What differs between two runs.")
    parser.add_argument("a", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("b", type=Path, metavar="RUN", help="another's")
    parser.add_argument("--json", action="store_true", help="print the table for programs")
    return parser
