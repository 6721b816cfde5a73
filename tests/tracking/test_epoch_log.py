from pathlib import Path

from mobilenet_train.results import EpochStarted
from tests.tracking.conftest import EPOCHS, Open, epoch_events, progress, record_all, result

FIRST_EPOCH = (
    "2023-12-22 16:21:26, train epoch: 0/3\n"
    "2023-12-22 16:21:53, loss:1.077600359916687, accuracy:0.4222\n"
    "2023-12-22 16:21:58, Train Loss is:1.5812, Train Accuracy is:42.2200%, "
    "Test Loss is::1.2183 Test Accuracy is:57.5800%\n"
)
CLOSING = "2023-12-22 16:23:58,accuracy_rate=[57.58 58.58 59.58]"


def test_an_epoch_is_three_lines_in_the_tutorials_format(tmp_path: Path, open_trackers: Open) -> None:
    record_all(open_trackers(), epoch_events(0))
    assert (tmp_path / "train.log").read_text() == FIRST_EPOCH


def test_the_start_of_an_epoch_is_written_before_its_end(tmp_path: Path, open_trackers: Open) -> None:
    record_all(open_trackers(), epoch_events(0)[:2])
    assert (tmp_path / "train.log").read_text() == FIRST_EPOCH.splitlines(keepends=True)[0]


def test_a_finished_run_closes_with_the_accuracy_of_every_epoch(tmp_path: Path, open_trackers: Open) -> None:
    trackers = open_trackers()
    for epoch in range(EPOCHS):
        record_all(trackers, epoch_events(epoch))
    trackers.close(finished=True)
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert len(lines) == 3 * EPOCHS + 1
    assert lines[-1] == CLOSING


def test_an_epoch_that_is_not_evaluated_has_its_training_figures_alone(tmp_path: Path, open_trackers: Open) -> None:
    trackers = open_trackers()
    record_all(trackers, [result(0, test=None), result(1)])
    trackers.close(finished=True)
    text = (tmp_path / "train.log").read_text()
    assert "Train Loss is:1.5812, Train Accuracy is:42.2200%\n" in text
    assert text.endswith("accuracy_rate=[58.58]\n")


def test_an_interrupted_run_gets_no_closing_line(tmp_path: Path, open_trackers: Open) -> None:
    trackers = open_trackers()
    record_all(trackers, epoch_events(0))
    trackers.close(finished=False)
    assert (tmp_path / "train.log").read_text() == FIRST_EPOCH


def test_a_run_without_epochs_can_be_closed(tmp_path: Path, open_trackers: Open) -> None:
    open_trackers().close(finished=True)
    assert (tmp_path / "train.log").read_text() == ""


def test_a_resume_leaves_no_line_twice_and_none_out(tmp_path: Path, open_trackers: Open) -> None:
    trackers = open_trackers()
    record_all(trackers, epoch_events(0) + epoch_events(1))  # killed before epoch 1 was in a checkpoint
    trackers = open_trackers([result(0)], step=3)
    record_all(trackers, [EpochStarted(1, 1, result(1).started_at), progress(4), result(1), *epoch_events(2)])
    trackers.close(finished=True)
    resumed = (tmp_path / "train.log").read_text()

    trackers = open_trackers()
    record_all(trackers, epoch_events(0) + epoch_events(1) + epoch_events(2))
    trackers.close(finished=True)
    assert resumed == (tmp_path / "train.log").read_text()


def test_a_log_deleted_under_the_run_comes_back_whole(tmp_path: Path, open_trackers: Open) -> None:
    trackers = open_trackers()
    record_all(trackers, epoch_events(0) + epoch_events(1)[:1])
    before = (tmp_path / "train.log").read_text()
    (tmp_path / "train.log").unlink()
    trackers.record(result(1))
    after = (tmp_path / "train.log").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 6
