import csv
from pathlib import Path

from mobilenet_train.results import Score
from mobilenet_train.tracking.metrics_csv import read_metrics
from tests.tracking.conftest import Open, epoch_events, record_all, result

PLAIN = """\
epoch,train_loss,train_top1,test_loss,test_top1,learning_rate,images_per_second,seconds
0,1.581240,42.22,1.218340,57.58,0.1,412.3,26.50
"""


def test_the_row_of_an_epoch_is_there_once_it_is_recorded(tmp_path: Path, open_trackers: Open) -> None:
    record_all(open_trackers(), epoch_events(0))
    assert (tmp_path / "metrics.csv").read_text() == PLAIN


def test_what_the_run_measures_beyond_that_gets_columns(tmp_path: Path, open_trackers: Open) -> None:
    more = {"test": Score(1.2, 57.58, 95.5), "val": Score(1.3, 56.0), "ema_test": Score(1.1, 60.126)}
    open_trackers().record(result(0, **more))
    with (tmp_path / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["ema_test_top1"] == "60.13"
    assert row["test_top5"] == "95.50"
    assert (row["val_loss"], row["val_top1"]) == ("1.300000", "56.00")


def test_the_first_epoch_that_is_evaluated_brings_its_columns(tmp_path: Path, open_trackers: Open) -> None:
    trackers = open_trackers()
    record_all(trackers, [result(0, test=None), result(1, test=None)])
    assert [row["test_top1"] for row in read_metrics(tmp_path)] == ["", ""]
    record_all(trackers, [result(2, test=Score(1.2, 57.58, 95.5)), result(3, test=None)])
    assert [row["test_top5"] for row in read_metrics(tmp_path)] == ["", "", "95.50", ""]
    assert [row["epoch"] for row in read_metrics(tmp_path)] == ["0", "1", "2", "3"]


def test_a_resume_cuts_rows_that_no_checkpoint_knows(tmp_path: Path, open_trackers: Open) -> None:
    record_all(open_trackers(), [result(0), result(1)])
    trackers = open_trackers([result(0)], step=2)
    assert (tmp_path / "metrics.csv").read_text() == PLAIN
    record_all(trackers, [result(1), result(2)])
    epochs = [line.split(",")[0] for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    assert epochs == ["epoch", "0", "1", "2"]


def test_a_resume_inside_the_first_epoch_starts_the_table_again(tmp_path: Path, open_trackers: Open) -> None:
    open_trackers().record(result(0))
    open_trackers([], step=1).record(result(0))
    assert (tmp_path / "metrics.csv").read_text() == PLAIN


def test_a_table_deleted_under_the_run_comes_back_whole(tmp_path: Path, open_trackers: Open) -> None:
    trackers = open_trackers()
    trackers.record(result(0))
    (tmp_path / "metrics.csv").unlink()
    trackers.record(result(1))
    text = (tmp_path / "metrics.csv").read_text()
    assert text.startswith(PLAIN)
    assert len(text.splitlines()) == 3
