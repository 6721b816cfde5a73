"""What the benchmarks share: measurements in processes of their own, taken in turns, and tables of their medians."""

import csv
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from mobilenet_train.cli.conf import conf_dir
from mobilenet_train.config import TrainConfig, check, register_schemas, to_config


def configuration(overrides: Sequence[str]) -> TrainConfig:
    """The checked configuration of a command line."""
    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = to_config(compose("train", overrides=list(overrides)))
    check(config)
    return config


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


def machine() -> str:
    """The processor and how many cores this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else platform.processor()}"


def medians(measurements: Sequence[dict[str, float]]) -> dict[str, float]:
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
