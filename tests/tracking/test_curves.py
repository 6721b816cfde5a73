from pathlib import Path

import pytest
from PIL import Image

from mobilenet_train.errors import RunError
from mobilenet_train.results import EpochResult, Score
from mobilenet_train.tracking import trackers as trackers_module
from mobilenet_train.tracking.curves import accuracies, curves_figure, draw_curves, losses
from tests.tracking.conftest import Open, result


@pytest.mark.parametrize("epochs", [1, 40])
def test_the_curves_fit_a_page_and_are_not_empty(tmp_path: Path, epochs: int) -> None:
    path = tmp_path / "curves.png"
    draw_curves([result(epoch) for epoch in range(epochs)], path, "a title", "a machine")
    with Image.open(path) as image:
        assert 600 <= image.width <= 1200
        assert 300 <= image.height <= 600
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50
    assert list(tmp_path.iterdir()) == [path]  # no temporary file stays


def test_curves_that_cannot_be_written_are_named_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    path.mkdir()
    with pytest.raises(RunError, match=r"cannot write .*curves\.png: Is a directory"):
        draw_curves([result(0)], path, "a title", "a machine")


def spiked(spikes: dict[int, float]) -> list[EpochResult]:
    return [result(epoch, test=Score(spikes.get(epoch, 2 - epoch / 10), 50.0)) for epoch in range(12)]


@pytest.mark.parametrize("spikes", [{0: 85.0}, {5: 85.0}, {11: 85.0}, {1: 185.0, 2: 55.0}, {10: 55.0, 11: 185.0}])
def test_spikes_of_the_loss_are_written_down_and_do_not_flatten_the_rest(spikes: dict[int, float]) -> None:
    loss = curves_figure(spiked(spikes), "a title", "a machine").axes[0]
    assert 2 < loss.get_ylim()[1] < 3
    assert [note.get_text() for note in loss.texts] == [f"test {value:g}" for value in spikes.values()]


def test_an_ordinary_loss_is_shown_whole() -> None:
    loss = curves_figure(spiked({5: 4.0}), "a title", "a machine").axes[0]
    assert loss.get_ylim()[1] > 4
    assert not loss.texts


def test_curves_are_told_apart_without_colours() -> None:
    full = [result(epoch, val=Score(1.0, 50.0), ema_test=Score(1.0, 51.0)) for epoch in range(3)]
    figure = curves_figure(full, "a title", "a machine")
    assert len({(line.get_linestyle(), line.get_marker()) for line in figure.axes[1].lines}) == 4
    assert figure.get_suptitle() == "a title"
    assert figure.get_supxlabel() == "a machine"


def test_only_what_was_measured_is_drawn() -> None:
    assert list(losses([result(0)])) == ["train", "test"]
    assert losses([result(0, test=None), result(1)])["test"] == {1: 1.21834}
    full = [result(0, val=Score(1.0, 50.0), ema_test=Score(1.0, 51.0))]
    assert list(accuracies(full)) == ["train", "val", "test", "EMA, test"]


def test_curves_are_drawn_at_most_once_a_minute_and_always_at_the_end(
    monkeypatch: pytest.MonkeyPatch, open_trackers: Open
) -> None:
    drawn: list[int] = []

    def note(history: list[EpochResult], *_: object) -> None:
        drawn.append(len(history))

    monkeypatch.setattr(trackers_module, "draw_curves", note)
    trackers = open_trackers()
    for epoch in range(3):
        trackers.record(result(epoch))
    assert drawn == [1]
    trackers.close(finished=False)
    assert drawn == [1, 3]


def test_a_closed_run_has_its_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_trackers: Open) -> None:
    monkeypatch.setattr(trackers_module, "draw_curves", draw_curves)
    open_trackers([result(0)], step=2).close(finished=False)
    assert (tmp_path / "curves.png").stat().st_size > 10_000
