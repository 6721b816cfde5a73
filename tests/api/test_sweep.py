"""`sweep()` is the command with -m: the same folder, and its picture and rows as objects."""

import os
import signal
import threading
from pathlib import Path

import pytest

from mobilenet_train import Sweep, UserError, sweep

WORDS = ("dataset=digits", "model=v3_small", "dataset.max_per_class=4", "dataset.resolution=16", "batch_size=16")
SETTINGS = {"model.width_mult": (0.03, 0.05), "device": "cpu", "device.threads": 1, "tensorboard": False}


pytestmark = pytest.mark.usefixtures("forked_command")


def test_a_sweep_is_run_continued_and_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = sweep(*WORDS, max_updates=1, outputs=tmp_path, slots=2, **SETTINGS)
    assert found.path.parent == tmp_path
    assert [row["model.width_mult"] for row in found.rows] == [0.03, 0.05]
    assert [run.summary["status"] for run in found.runs] == ["finished", "finished"]
    assert found.figure()._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert "sweep folder: " in capfd.readouterr().out
    assert sweep(*WORDS, max_updates=1, outputs=tmp_path, slots=2, **SETTINGS).path == found.path
    assert repr(Sweep(found.path)) == f"Sweep('{found.path}': 2 runs)"
    assert len(found.frame()) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["epoch=1,2"], "job 1 of 2 (epoch=1): unknown key 'epoch'; did you mean 'epochs'?"),
        (["model.width_mult=0.5,-1"], "job 2 of 2 (model.width_mult=-1): model.width_mult=-1"),
    ],
)
def test_an_error_of_a_sweep_is_the_sentence_of_the_command(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        sweep("dataset=digits", f"outputs={tmp_path}", *words)
    assert str(caught.value).startswith(message)


def test_ctrl_c_lets_the_jobs_save_and_returns_the_sweep(tmp_path: Path) -> None:
    def interrupt() -> None:
        while not list(tmp_path.glob("*/*/checkpoints/last.pt")):
            if done.wait(0.05):
                return
        os.kill(os.getpid(), signal.SIGINT)

    done = threading.Event()
    watcher = threading.Thread(target=interrupt)
    watcher.start()
    try:
        found = sweep(*WORDS, outputs=tmp_path, epochs=500, slots=1, **SETTINGS)
    finally:
        done.set()
        watcher.join()
    assert [run.summary["status"] for run in found.runs] == ["interrupted"]
