"""sweep.csv, sweep.md and the table on the terminal."""

import csv
import fcntl
import io
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mobilenet_train.console import add_rows, printable, title_of
from mobilenet_train.disk import write_text, writing
from mobilenet_train.sweeps.figures import draw_pareto
from mobilenet_train.sweeps.folder import read_manifest, write_manifest
from mobilenet_train.sweeps.papers import paper_table
from mobilenet_train.sweeps.rows import Row, read_rows

if TYPE_CHECKING:
    from mobilenet_train.deploy.bench import Row as Timed

Cells = tuple[list[str], list[list[str]]]  # header, rows


def write(folder: Path, figure: bool = True, timings: "Sequence[Timed]" = ()) -> None:
    """Rewrites sweep.csv, sweep.md and pareto.png of a sweep from what is in its run folders, see `write_to`."""
    if not (folder / "sweep.json").exists():
        write_manifest(folder, read_manifest(folder))
    with (folder / "sweep.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # jobs on several machines may end together
        write_to(folder, [folder], figure, timings)


def write_to(target: Path, folders: Sequence[Path], figure: bool = True, timings: "Sequence[Timed]" = ()) -> None:
    """Writes the report of one or several sweeps into `target`, made if need be. Raises RunError if it cannot.

    timings: of mnet-bench, which pareto.png shows too.
    """
    rows = read_rows(folders)
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    write_text(target / "sweep.csv", as_csv(rows))
    write_text(target / "sweep.md", as_markdown(rows, folders))
    if figure and any(row.top1 for row in rows):
        draw_pareto(rows, target / "pareto.png", ", ".join(folder.name for folder in folders), timings)


def show(folders: Sequence[Path], console: Console) -> None:
    """Prints the table, and the papers' beside it where the sweep is one of theirs."""
    wide = console if console.is_terminal else Console(width=120)  # a pipe has room
    rows = read_rows(folders)
    for title, (header, lines) in [("results", short_cells(rows)), *beside_papers(rows, folders)]:
        table = Table(
            title=title_of(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
        )
        for column in header:
            left = column in ("job", "state", "network")
            table.add_column(column, justify="left" if left else "right", no_wrap=column in ("job", "top-1"))
        add_rows(table, lines)
        wide.print(table)


def as_csv(rows: Sequence[Row]) -> str:
    """sweep.csv: one line a configuration, what is swept, then COLUMNS; empty where there is no number."""
    keys = _swept_keys(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, *COLUMNS])
    for row in rows:
        results = (_plain(value, COLUMNS[name]) for name, value in results_of(row).items())
        writer.writerow([*(row.swept.get(key, "") for key in keys), *results])
    return text.getvalue()


def as_values(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The same for programs: numbers are numbers, not rounded, and None where there is none."""
    keys = _swept_keys(rows)
    return [{**{key: row.swept_value(key) for key in keys}, **results_of(row)} for row in rows]


COLUMNS = {  # of sweep.csv, after the swept keys -> decimals of what is not a whole number
    "seeds": 0,
    "state": 0,
    "finished": 0,
    "final_top1": 2,
    "final_top1_sd": 3,
    "final_top1_ci95": 3,
    "final_top1_by_seed": 2,
    "best_top1": 2,
    "best_chosen_on": 0,
    "parameters": 0,
    "multiply_adds": 0,
    "images_per_second": 1,
    "training_seconds": 1,
}


def results_of(row: Row) -> dict[str, Any]:
    """A configuration's results, one for each of COLUMNS; lists have an entry for each seed."""
    first, top1 = (row.finished or row.runs)[0], row.top1
    return {
        "seeds": [run.job.seed for run in row.runs],
        "state": row.state,
        "finished": len(row.finished),
        "final_top1": top1.mean if top1 else None,
        "final_top1_sd": top1.std if top1 else None,
        "final_top1_ci95": top1.interval if top1 else None,
        "final_top1_by_seed": [run.top1 for run in row.runs],
        "best_top1": row.mean("best"),
        "best_chosen_on": first.best_chosen_on or None,
        "parameters": first.parameters,
        "multiply_adds": first.multiply_adds,
        "images_per_second": row.mean("images_per_second"),
        "training_seconds": row.mean("seconds"),
    }


def as_markdown(rows: Sequence[Row], folders: Sequence[Path]) -> str:
    """The table for people, and what its columns mean."""
    chosen = {run.best_chosen_on for row in rows for run in row.finished} or {"test set"}
    notes = [
        "top-1: test images, after the last epoch, in percent; over several seeds the mean, ± half of its 95 % "
        "interval (Student's t), and the standard deviation in brackets.",
        f"best: the best epoch's, chosen on the {' or '.join(sorted(chosen))}.",
        "MAdds: one multiply-accumulate counts as one, convolutions and fully connected layers only.",
    ]
    parts = [f"# {', '.join(folder.name for folder in folders)}", _markdown(short_cells(rows)), "\n".join(notes)]
    for title, cells in beside_papers(rows, folders):
        parts += [f"## {title}", _markdown(cells)]
    return "\n\n".join(parts) + "\n"


def short_cells(rows: Sequence[Row]) -> Cells:
    """The table for people."""
    header = ["job", "seeds", "top-1", "best", "parameters", "MAdds", "images/s", "time", "state"]
    lines = []
    for row in rows:
        first, best = (row.finished or row.runs)[0], row.mean("best")
        throughput, seconds = row.mean("images_per_second"), row.mean("seconds")
        lines.append(
            [
                row.label,
                " ".join(str(run.job.seed) for run in row.runs),
                row.top1_text,
                "" if best is None else f"{best:.2f}",
                "" if first.parameters is None else f"{first.parameters:,}",
                "" if first.multiply_adds is None else f"{first.multiply_adds / 1e6:.2f} M",
                "" if throughput is None else f"{throughput:.0f}",
                "" if seconds is None else duration(seconds),
                row.state,
            ]
        )
    return header, lines


def beside_papers(rows: Sequence[Row], folders: Sequence[Path]) -> list[tuple[str, Cells]]:
    """The published tables that the sweeps' experiments belong to, with ours beside."""
    tables = []
    for word in dict.fromkeys(word for folder in folders for word in read_manifest(folder).overrides):
        key, _, name = word.partition("=")
        paper = paper_table(name) if key == "experiment" else None
        if paper is not None:
            tables.append((f"{name}: ours beside ImageNet's, {paper.title}", paper.cells(rows)))
    return tables


def duration(seconds: float) -> str:
    """`0:01:23`."""
    return str(timedelta(seconds=round(seconds)))


def _swept_keys(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row.swept))


def _markdown(cells: Cells) -> str:
    header, lines = cells
    ruler = ["---"] * len(header)
    rows = ([printable(cell).replace("|", r"\|") for cell in line] for line in (header, ruler, *lines))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _plain(value: Any, digits: int) -> str:
    if isinstance(value, list):
        return " ".join(_plain(part, digits) or "-" for part in value)
    if value is None:
        return ""
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
