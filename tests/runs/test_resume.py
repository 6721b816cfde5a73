"""A run that is interrupted, wherever that is, ends as one that never was."""

import json
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

from mobilenet_train.config.resume import Start
from mobilenet_train.config.saved import read_saved
from mobilenet_train.config.schema import TrainConfig
from mobilenet_train.inference.loading import load_run
from mobilenet_train.runs import folder as run_folder
from mobilenet_train.runs.build import build_run
from mobilenet_train.runs.folder import read_summary
from mobilenet_train.runs.session import resume, train
from tests.conftest import TINY, configure
from tests.records import everything, log_lines, points, rows, weights

OPTIONS = (
    *TINY,
    "epochs=3",
    "ema.decay=0.9",
    "dataset.val_fraction=0.2",
    "dataset.max_per_class=20",
    "eval.batch_size=50",
    "augment=basic",
    "label_smoothing=0.1",
    "model.dropout=0.3",
)


class StopAfter:
    """Asks for a stop at the call number `calls`: calls come after each update and before each evaluated batch."""

    def __init__(self, calls: float) -> None:
        self.left = calls

    def __call__(self) -> int:
        self.left -= 1
        return signal.SIGTERM if self.left < 0 else 0


@cache
def composed(*overrides: str) -> TrainConfig:
    """Once for all sessions of a run: Hydra takes longer than many of them."""
    return configure(*OPTIONS, *overrides)


def run(folder: Path, calls: float, *overrides: str) -> int:
    """Starts or goes on with the run in `folder` until `calls` are used up. Returns the exit code."""
    config = replace(composed(*overrides), run_dir=str(folder))
    parts = build_run(config)
    console = Console(quiet=True)
    if folder.exists():
        parts = resume(parts, Start(read_saved(folder), folder), folder, console)
    else:
        run_folder.create(config, [])[1].close()
    return train(parts, folder, console, StopAfter(calls))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert run(folder, float("inf")) == 0
    return folder


# 160 images of which 32 are held out: 4 updates an epoch; evaluations of 4 (test), 1 (val) and 4 (EMA) batches.
@pytest.mark.parametrize("calls", [0, 2, 3, 5, 10, 13, 30, 38])
def test_stopped_and_resumed_runs_end_with_the_same_bytes(tmp_path: Path, undisturbed: Path, calls: int) -> None:
    folder = tmp_path / "run"
    assert run(folder, calls) == 143
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    assert run(folder, float("inf")) == 0
    assert weights(folder) == weights(undisturbed)
    assert weights(folder, "best.pt") == weights(undisturbed, "best.pt")
    assert rows(folder) == rows(undisturbed)
    assert log_lines(folder) == log_lines(undisturbed)
    assert points(folder) == points(undisturbed)


def test_many_interruptions_in_one_run_change_nothing(tmp_path: Path, undisturbed: Path) -> None:
    folder = tmp_path / "run"
    codes = [run(folder, 2)]
    while codes[-1] == 143:
        codes.append(run(folder, 5 + len(codes) % 7))
    assert codes[-1] == 0
    assert len(codes) > 4
    assert weights(folder) == weights(undisturbed)
    assert rows(folder) == rows(undisturbed)
    assert points(folder) == points(undisturbed)


def test_a_damaged_last_checkpoint_is_replaced_by_the_one_before(tmp_path: Path, undisturbed: Path) -> None:
    folder = tmp_path / "run"
    run(folder, 20)
    (folder / "checkpoints" / "last.pt").write_bytes(b"torn")
    assert run(folder, float("inf")) == 0
    assert weights(folder) == weights(undisturbed)
    assert rows(folder) == rows(undisturbed)
    assert points(folder) == points(undisturbed)


def test_epochs_that_are_not_evaluated_change_no_weight_and_a_run_stopped_after_one_ends_the_same(
    tmp_path: Path, undisturbed: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(whole, float("inf"), "eval.every_epochs=2") == 0
    assert run(parts, 6, "eval.every_epochs=2") == 143  # in the second epoch
    summary = read_summary(parts)
    assert (summary["final"]["epoch"], summary["final"]["test"], summary["best"]) == (0, None, None)
    assert load_run(parts).checkpoint.history[0].test is None
    assert run(parts, float("inf"), "eval.every_epochs=2") == 0
    assert everything(parts) == everything(whole)
    assert weights(whole)["model"] == weights(undisturbed)["model"]
    with_all = rows(undisturbed)
    unmeasured = {name: "" for name in with_all[0] if name.startswith(("test", "val", "ema"))}
    assert rows(whole) == [with_all[0] | unmeasured, *with_all[1:]]


@pytest.mark.parametrize(
    "options",
    [("optim.accumulate=3",), ("optim=muon", "dataset.resolution=32", "progressive.start=16")],
    ids=["accumulated updates", "Muon on growing pictures"],
)
def test_these_resume_too(options: tuple[str, ...], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(whole, float("inf"), *options) == 0
    assert run(parts, 1, *options) == 143
    assert run(parts, float("inf"), *options) == 0
    assert weights(parts) == weights(whole)
