"""sweep.csv, sweep.md and the table on the terminal."""

import csv
import fcntl
import io
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mobilenet_train.disk import write_text
from mobilenet_train.sweeps.figures import draw_pareto
from mobilenet_train.sweeps.folder import read_manifest
from mobilenet_train.sweeps.papers import paper_table
from mobilenet_train.sweeps.rows import Row, read_rows

Cells = tuple[list[str], list[list[str]]]  # header, rows


def write(folder: Path, picture: bool = True) -> None:
    """Rewrites sweep.csv, sweep.md and pareto.png of a sweep from what is in its run folders."""
    with (folder / "sweep.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # jobs on several machines may end together
        write_to(folder, [folder], picture)


def write_to(target: Path, folders: Sequence[Path], picture: bool = True) -> None:
    """Writes the report of one or several sweeps into `target`."""
    rows = read_rows(folders)
    write_text(target / "sweep.csv", as_csv(rows))
    write_text(target / "sweep.md", as_markdown(rows, folders))
    if picture and any(row.top1 for row in rows):
        draw_pareto(rows, target / "pareto.png", title=", ".join(folder.name for folder in folders))


def show(folders: Sequence[Path], console: Console) -> None:
    """Prints the table, and the papers' beside it where the sweep is one of theirs."""
    wide = console if console.is_terminal else Console(width=120)  # a pipe has room
    rows = read_rows(folders)
    for title, (header, lines) in [("results", short_cells(rows)), *beside_papers(rows, folders)]:
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for column in header:
            left = column in ("job", "state", "network")
            table.add_column(column, justify="left" if left else "right", no_wrap=column in ("job", "top-1"))
        for line in lines:
            table.add_row(*line)
        wide.print(table)


def as_csv(rows: Sequence[Row]) -> str:
    """One line a configuration, full precision, for programs."""
    keys = _swept_keys(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, *CSV_COLUMNS])
    for row in rows:
        first = (row.finished or row.runs)[0]
        top1, best = row.top1, row.mean("best")
        numbers = [
            " ".join(str(run.job.seed) for run in row.runs),
            row.state,
            len(row.finished),
            _plain(top1.mean if top1 else None, 2),
            _plain(top1.deviation if top1 else None, 3),
            _plain(top1.interval if top1 else None, 3),
            " ".join(_plain(run.top1, 2) or "-" for run in row.runs),
            _plain(best, 2),
            first.best_chosen_on,
            first.parameters or "",
            first.multiply_adds or "",
            _plain(row.mean("images_per_second"), 1),
            _plain(row.mean("seconds"), 1),
        ]
        writer.writerow([*(row.swept.get(key, "") for key in keys), *map(str, numbers)])
    return text.getvalue()


CSV_COLUMNS = (
    "seeds",
    "state",
    "finished",
    "final_top1",
    "final_top1_sd",
    "final_top1_ci95",
    "final_top1_by_seed",
    "best_top1",
    "best_chosen_on",
    "parameters",
    "multiply_adds",
    "images_per_second",
    "training_seconds",
)


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
        rate, seconds = row.mean("images_per_second"), row.mean("seconds")
        lines.append(
            [
                row.label,
                " ".join(str(run.job.seed) for run in row.runs),
                row.top1_text,
                "" if best is None else f"{best:.2f}",
                "" if first.parameters is None else f"{first.parameters:,}",
                "" if first.multiply_adds is None else f"{first.multiply_adds / 1e6:.2f} M",
                "" if rate is None else f"{rate:.0f}",
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
            tables.append((f"{name}: ours beside ImageNet's, {paper.source}", paper.cells(rows)))
    return tables


def duration(seconds: float) -> str:
    """`0:01:23`."""
    return str(timedelta(seconds=round(seconds)))


def _swept_keys(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row.swept))


def _markdown(cells: Cells) -> str:
    header, lines = cells
    ruler = ["---"] * len(header)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ruler, *lines))


def _plain(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
