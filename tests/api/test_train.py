"""`train()` is the command: the same bytes, nothing lost, and nothing of it left in the process."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets  # noqa: F401 (sets variables of the environment itself)
import torch
from hydra.core.global_hydra import GlobalHydra
from matplotlib.figure import Figure
from PIL import Image

import mobilenet_train
from mobilenet_train import ImageData, Run, UserError, train
from mobilenet_train.results import EpochResult, EpochStarted, Event, Progress
from tests.children import Child
from tests.conftest import RUN, TINY
from tests.records import everything, weights
from tests.small_network import small_network

SMALL = (*TINY, "tensorboard=false")


def bars(count: int = 48) -> ImageData:
    """Images of rows and of columns."""
    labels = np.arange(count) % 2
    images = np.zeros((count, 16, 16), np.uint8)
    images[labels == 0, ::2] = 200
    images[labels == 1, :, ::2] = 200
    return ImageData(images, labels, images[:8], labels[:8], ["rows", "columns"])


def settings() -> dict[str, Any]:
    """All that a run sets for its process."""
    return {
        "hydra": GlobalHydra.instance().hydra,
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "threads": (torch.get_num_threads(), threading.enumerate()),
        "random": torch.get_rng_state().tolist(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32),
        "python": (list(sys.path), list(sys.argv), dict(os.environ), Path.cwd()),
    }


def test_train_leaves_the_bytes_of_the_command(finished: Path, tmp_path: Path) -> None:
    child = Child(tmp_path / "output", partial(train, *RUN, "ema.decay=0.9"), tmp_path, MNET_DRAW="1")
    assert child.wait() == 0, child.text()
    ours, theirs = tmp_path / "run", finished / "run"
    assert everything(ours) == everything(theirs)
    for name in ("config.yaml", "overrides.yaml"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    names = [{path.name for path in run.iterdir() if not path.name.startswith("events.")} for run in (ours, theirs)]
    assert names[0] == names[1]


def test_a_run_of_ones_own_parts_is_resumed_evaluated_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = small_network(2, 16)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    events: list[Event] = []
    parts: dict[str, Any] = {"data": bars(), "model": network}
    keys = {"dataset.resolution": 16, "batch_size": 16, "device.threads": 1, "optim.schedule.decay": "constant"}
    run = train("augment=none", **parts, epochs=2, log_every=3, callbacks=[events.append], **keys)
    assert run.path.parent == tmp_path / "outputs"
    assert [type(event) for event in events] == 2 * [EpochStarted, Progress, EpochResult]
    assert run.history == [event for event in events if isinstance(event, EpochResult)]
    assert list(run.history.frame()["test_top1"]) == [pytest.approx(result.test.top1) for result in run.history]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    longer = run.resume(epochs=4)
    assert longer.path == run.path
    assert longer.summary["epochs_done"] == 4
    assert longer.evaluate().verdict.status == "verified"
    assert longer.evaluate().score == longer.history[-1].test
    classifier = longer.classifier()
    rows = Image.fromarray(bars().train_images[0])
    assert classifier.predict(rows)[0].ranked == classifier.predict(np.asarray(rows))[0].ranked
    assert repr(classifier) == f"Classifier(custom at 16x16, 2 classes: rows, columns; {run.path})"
    figure = longer.curves()
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert repr(longer).startswith(f"Run('{run.path}': finished, 4 epochs, test top-1 ")
    with pytest.raises(UserError, match=r"dataset\.factory=python:dataset was handed over in Python"):
        train(resume=run.path, trust_factory=True, epochs=5)


def test_a_function_that_can_be_imported_is_named_so_that_the_command_can_resume(tmp_path: Path) -> None:
    words = ("dataset=digits", "dataset.max_per_class=4", "batch_size=16", "tensorboard=false", "device.threads=1")
    run = train(*words, model=small_network, epochs=1, run_dir=tmp_path / "run")
    assert "factory: tests.small_network:small_network" in (run.path / "config.yaml").read_text()


def test_nothing_is_left_in_the_process(tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = settings()
    words = ["device.deterministic=true", "device=cpu", "device.threads=2"]
    train(*TINY[:-3], *words, "max_updates=2", run_dir=tmp_path / "run", log_every=1)
    with pytest.raises(UserError):
        train(*TINY, "epoch=3")
    assert settings() == before


@pytest.mark.parametrize(
    ("words", "keys", "message"),
    [
        (["epoch=3"], {}, "unknown key 'epoch'; did you mean 'epochs'?"),
        ([], {"epochs": -1}, "epochs=-1 is not allowed"),
        ([], {"model": "v9"}, "model=v9 is unknown; choose one of: custom, hybridsn, v1, v2, v3_large, v3_small"),
        (["seed=0,1"], {}, "seed=0,1 names several values: sweep(...) runs them all"),
        (["dry_run=true"], {}, "dry_run=true makes no run"),
        ([], {"resume": "nowhere"}, "resume=nowhere: nowhere is not a run"),
    ],
)
def test_an_error_is_the_sentence_of_the_command(words: list[str], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        train("dataset=digits", *words, **keys)
    assert str(caught.value).startswith(message)


def test_a_failed_start_gives_the_folder_back(tmp_path: Path) -> None:
    run = train(*SMALL, "epochs=1", run_dir=tmp_path / "run")
    (run.path / "checkpoints/last.pt").write_bytes(b"")
    (run.path / "checkpoints/previous.pt").unlink(missing_ok=True)
    (run.path / "summary.json").unlink()
    for _ in range(2):  # the error is kept, and with it all that its frames hold
        with pytest.raises(UserError, match="no usable checkpoint") as caught:
            run.resume()
    assert caught.value.__traceback__ is not None


def ctrl_c(event: Event) -> None:
    if isinstance(event, Progress) and event.epoch == 1:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_saves_and_returns_the_run_which_can_be_resumed(tmp_path: Path) -> None:
    whole = train(*SMALL, run_dir=tmp_path / "whole", epochs=3)
    stopped = train(*SMALL, run_dir=tmp_path / "stopped", epochs=3, callbacks=[ctrl_c])
    assert stopped.summary["status"] == "interrupted"
    assert len(stopped.history) == 1
    assert stopped.resume().summary["status"] == "finished"
    assert weights(stopped.path) == weights(whole.path)
    assert weights(stopped.path, "best.pt") == weights(whole.path, "best.pt")


def test_ctrl_c_is_not_swallowed_by_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(*SMALL, run_dir=tmp_path / "run", max_updates=1)
    monkeypatch.setattr("mobilenet_train.api.run.load_test_data", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run.evaluate()


def train_slowly(folder: Path) -> None:
    words = ("checkpoint.every_minutes=0.0001", "log_every=1", "dataset.max_per_class=64", "epochs=4")
    train(*SMALL, *words, run_dir=folder)


@pytest.mark.faults
def test_sigkill_of_train_loses_nothing(tmp_path: Path) -> None:
    def start(name: str) -> Child:
        return Child(tmp_path / f"{name}.txt", partial(train_slowly, tmp_path / name))

    whole = start("whole")
    assert whole.wait() == 0, whole.text()
    for epoch in (0, 1, 2):
        child = start("killed")
        child.wait_for(lambda child=child, epoch=epoch: f"epoch: {epoch + 1}/4" in child.text())  # type: ignore[misc]
        child.kill()
        assert child.wait() == -signal.SIGKILL
    last = start("killed")
    assert last.wait() == 0, last.text()
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert len(Run(tmp_path / "killed").history) == 4


class Notes:
    """A tracker of one's own that writes down what it gets."""

    def __init__(self, run: Any) -> None:
        self.path = run.folder / "notes.txt"
        self.write(f"{run.title}, lr {run.hparams['optim.lr']}")

    def write(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{line}\n")

    def __call__(self, event: Event) -> None:
        if isinstance(event, EpochResult):
            self.write(f"epoch {event.epoch}")

    def close(self, finished: bool) -> None:
        self.write(f"finished {finished}")


def broken(run: Any) -> Callable[[Event], None]:
    del run

    def record(event: Event) -> None:
        raise KeyError(f"no server for {type(event).__name__}")

    return record


def test_a_tracker_gets_the_run_its_events_and_its_end(tmp_path: Path) -> None:
    run = train(*SMALL, f"tracker={__name__}:Notes", run_dir=tmp_path / "run", callbacks=[ctrl_c])
    lines = (run.path / "notes.txt").read_text().splitlines()
    assert lines == ["v3_small on digits, lr 0.1", "epoch 0", "finished False"]
    run.resume()
    assert (run.path / "notes.txt").read_text().splitlines()[3:] == [lines[0], "epoch 1", "finished True"]
    with pytest.raises(UserError, match=r"trust_factory=false does not let .* have its tracker="):
        train(resume=run.path)


def test_a_trackers_error_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=f"^tracker={__name__}:broken failed with KeyError: 'no server for EpochStarted'"
    ):
        train(*SMALL, f"tracker={__name__}:broken", run_dir=tmp_path / "run")


def test_dir_names_what_can_be_used() -> None:
    names = dir(mobilenet_train)
    assert names == sorted(mobilenet_train.__all__)
    assert all(getattr(mobilenet_train, name) for name in names)
    assert (Path(mobilenet_train.__file__).parent / "py.typed").exists()
