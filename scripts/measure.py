"""What the benchmarks share: measurements in processes of their own, taken in turns, and tables of their medians."""

import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from mobilenet_train.runs.build import RunParts

T = TypeVar("T")


def in_turns(script: str, cases: Iterable[Sequence[str]], rounds: int) -> dict[tuple[str, ...], list[dict[str, float]]]:
    """Runs `script --worker CASE` for every case, `rounds` times over; each prints one JSON object of numbers.

    Every measurement has a process of its own, so that no case inherits another's allocator or caches; taking
    turns spreads a slow minute of the machine over all of them.
    """
    results: dict[tuple[str, ...], list[dict[str, float]]] = {tuple(case): [] for case in cases}
    for number in range(rounds):
        for case in results:
            print(f"round {number + 1}/{rounds}: {' '.join(case)}", file=sys.stderr)
            done = subprocess.run([sys.executable, script, "--worker", *case], stdout=subprocess.PIPE, check=True)
            results[case].append(json.loads(done.stdout.splitlines()[-1]))
    return results


def trainer_stamps(parts: "RunParts", stamp: Callable[[], T]) -> list[T]:
    """`stamp()` after every update of the trainer's own epoch, which asks once an update whether to stop."""
    from mobilenet_train.training.fit import train_epoch

    stamps: list[T] = []

    def stop() -> bool:
        stamps.append(stamp())
        return False

    for _ in train_epoch(parts.state, parts.batches.train, parts.plan, lambda: None, stop, None):
        pass
    return stamps


def medians(measurements: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each number."""
    return {key: statistics.median(m[key] for m in measurements) for key in measurements[0]}


def show(title: str, rows: Sequence[dict[str, Any]], path: Path | None) -> None:
    """Prints the rows as a table and writes them to `path` as CSV."""
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(f"{value:,.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=140).print(table)
    if path is not None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
