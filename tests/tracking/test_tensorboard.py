from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from mobilenet_train.figures import new_figure
from mobilenet_train.results import EpochResult, EpochStarted, Event, Operation, Progress, Score
from tests.tracking.conftest import Open, epoch_events, progress, record_all, result

NETWORK = [
    Operation("images", "input", (), (2, 3, 8, 8)),
    Operation("features/conv", "convolution", ("images",), (2, 4, 8, 8)),
]
BATCH_STEPS = [1, 2, 3, 4, 5, 6]
EPOCH_STEPS = [2, 4, 6]


def read(folder: Path) -> EventAccumulator:
    keep_all = {"scalars": 0, "images": 0, "tensors": 0}
    return EventAccumulator(str(folder), size_guidance=keep_all).Reload()


def steps(folder: Path) -> dict[str, list[int]]:
    board = read(folder)
    return {tag: [point.step for point in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def assert_each_step_once(folder: Path) -> None:
    for tag, found in steps(folder).items():
        expected = BATCH_STEPS if tag in ("train/loss_batch", "train/learning_rate") else EPOCH_STEPS
        assert found == expected, tag


def test_every_number_has_a_tag_and_its_step_is_the_update(tmp_path: Path, open_trackers: Open) -> None:
    trackers = open_trackers(tensorboard=True)
    record_all(trackers, epoch_events(0) + epoch_events(1) + epoch_events(2))
    assert_each_step_once(tmp_path)  # before close: a kill loses nothing
    assert set(steps(tmp_path)) == {
        "test/loss",
        "test/top1",
        "train/images_per_second",
        "train/learning_rate",
        "train/loss",
        "train/loss_batch",
        "train/top1",
    }
    assert read(tmp_path).Scalars("test/top1")[1].value == pytest.approx(58.58)


def test_ema_val_and_top5_are_there_where_they_are_measured(tmp_path: Path, open_trackers: Open) -> None:
    more = {"test": Score(1.2, 57.58, 95.5), "val": Score(1.3, 56.0), "ema_test": Score(1.1, 60.0)}
    open_trackers(tensorboard=True).record(result(0, **more))
    assert {"test/top5", "val/loss", "val/top1", "test/top1_ema"} <= set(steps(tmp_path))


def test_an_epoch_that_is_not_evaluated_has_no_test_points_and_is_not_missed(
    tmp_path: Path, open_trackers: Open
) -> None:
    history = [result(0, test=None), result(1)]
    record_all(open_trackers(tensorboard=True), history)
    files = set(tmp_path.glob("events.*"))
    open_trackers(history, step=4, tensorboard=True)
    assert files < set(tmp_path.glob("events.*"))
    found = steps(tmp_path)
    assert (found["train/top1"], found["test/top1"]) == ([2, 4], [4])


def is_after(event: Event, checkpoint: int, history: list[EpochResult]) -> bool:
    if isinstance(event, EpochResult):
        return event not in history
    return isinstance(event, Progress) and event.step > checkpoint


@pytest.mark.parametrize(
    ("killed_after", "checkpoint"),
    [(2, 0), (2, 1), (3, 0), (3, 2), (4, 2), (6, 2), (7, 3), (8, 2), (8, 4), (12, 1)],
)
def test_a_killed_and_resumed_run_shows_each_step_once(
    tmp_path: Path, open_trackers: Open, killed_after: int, checkpoint: int
) -> None:
    events = epoch_events(0) + epoch_events(1) + epoch_events(2)
    seen = events[:killed_after]
    history = [event for event in seen if isinstance(event, EpochResult) and event.step <= checkpoint]
    first = open_trackers(tensorboard=True)
    first.record_images(torch.rand(4, 3, 8, 8))
    record_all(first, seen)

    resumed = open_trackers(history, checkpoint, tensorboard=True)
    resumed.record_images(torch.rand(4, 3, 8, 8))
    record_all(resumed, [event for event in events if is_after(event, checkpoint, history)])
    resumed.close(finished=True)

    assert_each_step_once(tmp_path)
    assert len(read(tmp_path).Images("train/images")) == 1


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_resume_between_an_epochs_last_update_and_its_evaluation_shows_it_once(
    tmp_path: Path, open_trackers: Open, evaluated: bool
) -> None:
    first = open_trackers(tensorboard=True)
    record_all(first, epoch_events(0) + epoch_events(1)[: 4 if evaluated else 3])
    resumed = open_trackers([result(0)], step=4, tensorboard=True)
    record_all(resumed, [EpochStarted(1, 2, 1.0), result(1), *epoch_events(2)])
    assert_each_step_once(tmp_path)


def test_points_that_an_earlier_resume_took_back_are_written_again(tmp_path: Path, open_trackers: Open) -> None:
    record_all(open_trackers(tensorboard=True), epoch_events(0) + epoch_events(1))
    record_all(open_trackers([result(0)], step=3, tensorboard=True), [progress(4)])
    record_all(open_trackers([result(0)], step=4, tensorboard=True), [result(1), *epoch_events(2)])
    assert_each_step_once(tmp_path)


def test_a_record_torn_by_the_kill_hides_nothing(tmp_path: Path, open_trackers: Open) -> None:
    record_all(open_trackers(tensorboard=True), [*epoch_events(0), *epoch_events(1)[:2]])
    (file,) = tmp_path.glob("events.*")
    file.write_bytes(file.read_bytes()[:-7])
    record_all(open_trackers([result(0)], step=2, tensorboard=True), epoch_events(1) + epoch_events(2))
    assert_each_step_once(tmp_path)


def test_hyperparameters_are_in_the_run_itself(tmp_path: Path, open_trackers: Open) -> None:
    trackers = open_trackers(tensorboard=True)
    record_all(trackers, epoch_events(0))
    trackers.close(finished=True)
    assert all(path.is_file() for path in tmp_path.iterdir()), "no sub-run"
    found = read(tmp_path).PluginTagToContent("hparams")
    assert set(found) == {
        "_hparams_/experiment",
        "_hparams_/session_start_info",
        "_hparams_/session_end_info",
    }
    declared = HParamsPluginData.FromString(found["_hparams_/experiment"]).experiment
    assert {metric.name.tag for metric in declared.metric_infos} == {"test/top1", "test/loss", "train/loss"}
    assert [info.name for info in declared.hparam_infos if info.differs] == ["model"], "what was typed is shown first"
    values = HParamsPluginData.FromString(found["_hparams_/session_start_info"]).session_start_info.hparams
    assert values["lr"].number_value == 0.1
    assert values["model"].string_value == "v3_small"
    assert values["nesterov"].string_value == "true"


def test_the_learning_rate_has_a_point_an_epoch_where_none_was_logged_inside_it(
    tmp_path: Path, open_trackers: Open
) -> None:
    trackers = open_trackers(tensorboard=True)
    record_all(trackers, [result(0), progress(3), result(1)])
    assert steps(tmp_path)["train/learning_rate"] == [2, 3, 4]


def test_a_run_that_an_earlier_version_began_continues_in_its_folder(tmp_path: Path, open_trackers: Open) -> None:
    record_all(open_trackers(tensorboard=True), epoch_events(0))
    (tmp_path / "tensorboard").mkdir()
    for path in tmp_path.glob("events.*"):
        path.rename(tmp_path / "tensorboard" / path.name)
    record_all(open_trackers([result(0)], step=2, tensorboard=True), epoch_events(1) + epoch_events(2))
    assert not list(tmp_path.glob("events.*"))
    assert_each_step_once(tmp_path / "tensorboard")


def test_the_network_and_drawings_of_it_are_shown_once(tmp_path: Path, open_trackers: Open) -> None:
    trackers = open_trackers(tensorboard=True)
    trackers.record_graph(NETWORK)
    record_all(trackers, epoch_events(0))
    open_trackers([result(0)], step=2, tensorboard=True).record_graph([])
    trackers.record_figures({"wrong/figure": new_figure(2, 1, "a title")})
    board = read(tmp_path)
    assert [node.name for node in board.Graph().node] == ["images", "features/conv"]
    assert list(board.Graph().node[1].input) == ["images"]
    (drawing,) = board.Images("wrong/figure")
    assert (drawing.width, drawing.height, drawing.step) == (200, 100, 2)


def test_training_images_are_one_grid(tmp_path: Path, open_trackers: Open) -> None:
    open_trackers(tensorboard=True).record_images(torch.rand(10, 3, 16, 16))
    (grid,) = read(tmp_path).Images("train/images")
    assert (grid.width, grid.height) == (8 * 16, 2 * 16)


def test_without_tensorboard_there_are_no_event_files(tmp_path: Path, open_trackers: Open) -> None:
    trackers = open_trackers()
    trackers.record_images(torch.rand(4, 3, 8, 8))
    record_all(trackers, epoch_events(0))
    trackers.record_graph(NETWORK)
    trackers.record_figures({"wrong/figure": new_figure(1, 1, "")})
    assert not list(tmp_path.glob("events.*"))
