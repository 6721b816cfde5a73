"""metrics.csv: one row an epoch, for programs."""

from collections.abc import Sequence
from pathlib import Path

from mobilenet_train.disk import append_text, read_text, write_text, writing
from mobilenet_train.errors import RunError
from mobilenet_train.results import EpochResult


class MetricsCsv:
    """Writes metrics.csv; `history` is the list that its owner extends after each result."""

    def __init__(self, path: Path, history: Sequence[EpochResult]) -> None:
        self._path = path
        self._history = history
        if history:
            write_text(path, table(history))
        else:
            with writing(path):
                path.unlink(missing_ok=True)  # rows of an epoch that no checkpoint remembers

    def record(self, result: EpochResult) -> None:
        """Appends the row of an epoch. Raises RunError if the file cannot be written."""
        now = [*self._history, result]
        columns = columns_of(now)
        if self._history and columns != columns_of(self._history):  # the first evaluation brings some
            write_text(self._path, table(now))
        else:
            append_text(self._path, _line(_row(result, columns)), before=lambda: _lines(self._history, columns))


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """The whole lines of a run's metrics.csv, one an epoch; none while the file does not exist.

    Raises RunError naming the file if it is damaged.
    """
    path = folder / "metrics.csv"
    if not path.exists():
        return []
    try:
        header, *lines = read_text(path).split("\n")[:-1] or [""]
        rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
        for row in rows:
            float(row["test_top1"] or 0), float(row["images_per_second"])
    except (ValueError, KeyError) as error:
        raise RunError(f"{path} is damaged: resuming the run writes it again") from error
    return rows


def table(history: Sequence[EpochResult]) -> str:
    """Header and rows."""
    return _lines(history, columns_of(history))


def columns_of(history: Sequence[EpochResult]) -> list[str]:
    """Those of the first epoch that was evaluated, which has them all, or of the first one."""
    return list(cells(next((result for result in history if result.test), history[0])))


def cells(result: EpochResult) -> dict[str, str]:
    """Column names and formatted values of what was measured in an epoch; one that was not evaluated has empty ones."""
    row = {
        "epoch": str(result.epoch),
        "train_loss": f"{result.train.loss:.6f}",
        "train_top1": f"{result.train.top1:.2f}",
        "test_loss": f"{result.test.loss:.6f}" if result.test else "",
        "test_top1": f"{result.test.top1:.2f}" if result.test else "",
    }
    if result.ema_test:
        row["ema_test_top1"] = f"{result.ema_test.top1:.2f}"
    if result.test and result.test.top5 is not None:
        row["test_top5"] = f"{result.test.top5:.2f}"
    if result.val:
        row["val_loss"] = f"{result.val.loss:.6f}"
        row["val_top1"] = f"{result.val.top1:.2f}"
    return row | {
        "learning_rate": f"{result.learning_rate:.6g}",
        "images_per_second": f"{result.images_per_second:.1f}",
        "seconds": f"{result.seconds:.2f}",
    }


def _lines(history: Sequence[EpochResult], columns: list[str]) -> str:
    return _line(columns) + "".join(_line(_row(result, columns)) for result in history)


def _row(result: EpochResult, columns: list[str]) -> list[str]:
    values = cells(result)
    return [values.get(column, "") for column in columns]


def _line(values: list[str]) -> str:
    return ",".join(values) + "\n"
