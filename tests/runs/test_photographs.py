"""Whole runs on folders of photographs: the same result however they are held, and a killed worker loses nothing."""

import io
import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from mobilenet_train import checkpoint
from mobilenet_train.config.resume import Start, resolve
from mobilenet_train.config.saved import read_saved
from mobilenet_train.errors import ConfigError, RunError
from mobilenet_train.runs import data_progress as preparation
from mobilenet_train.runs import folder as run_folder
from mobilenet_train.runs import session
from mobilenet_train.runs.announce import describe
from mobilenet_train.runs.build import build_run
from mobilenet_train.training import fit
from tests.conftest import TINY, configure
from tests.data.image_files_for_tests import spoil, tree
from tests.records import log_lines, rows, weights

UPDATES = 6  # of 24 of the 144 good pictures


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 classes of 48 + 8 pictures, and 20 spoiled files."""
    root = tree(tmp_path_factory.mktemp("photographs") / "tree", train=48, test=8)
    spoil(root / "train/bee", 20)
    return root


def run(folder: Path, root: Path, *overrides: str) -> str:
    """Trains, or goes on, in `folder`; returns what was said."""
    own = (f"dataset.root={root}", f"dataset.cache_dir={root.parent}/cache", "dataset.on_bad_image=skip")
    size = ("dataset.max_per_class=null", "dataset.store_size=40", "batch_size=24", "tensorboard=false")
    config = configure(*TINY[1:], "dataset=imagenet_subset", *own, *size, f"run_dir={folder}", *overrides)
    console = Console(file=io.StringIO(), record=True, width=120)
    with preparation.shown(console, lambda: False) as listener:
        parts = build_run(config, listener)
    describe(parts, console)
    if folder.exists():
        parts = session.resume(parts, Start(read_saved(folder), folder), folder, console)
    else:
        run_folder.create(config, [])[1].close()
    session.train(parts, folder, console, lambda: False)  # type: ignore[arg-type]
    return console.export_text()


def records(folder: Path) -> list[Any]:
    return [weights(folder), rows(folder), log_lines(folder)]


@pytest.fixture(scope="module")
def from_memory(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runs") / "memory"
    return folder, run(folder, photographs, "dataset.cache=memory")


@pytest.mark.parametrize(
    "way",
    [
        ["dataset.cache=disk"],
        ["dataset.cache=off", "dataset.workers=0"],
        ["dataset.cache=off", "dataset.workers=1"],
        ["dataset.cache=off", "dataset.workers=2"],
    ],
    ids=" ".join,
)
def test_results_depend_on_neither_the_cache_nor_the_workers(
    photographs: Path, tmp_path: Path, from_memory: tuple[Path, str], way: list[str]
) -> None:
    run(tmp_path / "run", photographs, *way)
    assert records(tmp_path / "run") == records(from_memory[0])


def test_a_run_says_what_it_left_out_and_how_many_pictures_each_class_has(from_memory: tuple[Path, str]) -> None:
    folder, text = from_memory
    assert "20 of 188 image files cannot be used and are left out" in text
    assert "144 for training, 24 for testing; 3 classes" in text
    assert "48 for training, 8 for testing" in text
    assert checkpoint.load(folder / "checkpoints/last.pt")["class_names"] == ["ant", "bee", "cat"]


def test_experiment_finetune_teaches_the_new_last_layer_before_the_rest(
    photographs: Path, tmp_path: Path, from_memory: tuple[Path, str]
) -> None:
    groups = "dataset.classes={insect:[ant,bee],pet:[cat]}"
    words = ["experiment=finetune", groups, f"model.weights={from_memory[0]}", "epochs=2"]
    known = checkpoint.load(from_memory[0] / "checkpoints/last.pt")["model"]
    for updates, rest_learns in ((UPDATES, False), (2 * UPDATES, True)):
        text = run(tmp_path / str(updates), photographs, *words, f"max_updates={updates}")
        assert "last layer from scratch (3 classes there, 2 here)" in " ".join(text.replace("│", " ").split())
        found = checkpoint.load(tmp_path / str(updates) / "checkpoints/last.pt")["model"]
        kernels = [name for name, value in known.items() if name.startswith("features") and value.ndim == 4]
        assert any(not found[name].equal(known[name]) for name in kernels) == rest_learns


def test_a_killed_loader_worker_is_a_clear_message_and_the_run_goes_on(
    photographs: Path, tmp_path: Path, from_memory: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    train_update = fit.train_update

    def kill_in_the_second_epoch(state: Any, *rest: Any) -> None:
        train_update(state, *rest)
        if state.step == UPDATES + 1:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)

    monkeypatch.setattr(fit, "train_update", kill_in_the_second_epoch)
    with pytest.raises(RunError, match=f"a process that decodes images was killed.*dataset.workers.*\n.*{folder}"):
        run(folder, photographs, "dataset.cache=off", "dataset.workers=1")
    assert json.loads((folder / "summary.json").read_text())["status"] == "failed"
    monkeypatch.undo()
    assert "resuming" in run(folder, photographs, "dataset.cache=disk")
    assert records(folder) == records(from_memory[0])


def test_a_run_does_not_go_on_with_other_pictures(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", train=16, test=4)
    run(tmp_path / "run", root, "epochs=1", "dataset.cache=disk")
    (root / "val/ant/000.jpg").write_bytes((root / "train/ant/000.jpg").read_bytes())
    with pytest.raises(RunError, match="trained on other images"):
        run(tmp_path / "run", root, "epochs=1", "dataset.cache=disk")


def test_unequal_classes_can_be_weighed_or_sampled_alike(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", train=20, test=6)
    for path in sorted((root / "train/cat").iterdir())[4:]:
        path.unlink()
    losses = set()
    for balance in ("none", "loss", "sampling"):
        text = run(tmp_path / balance, root, "batch_size=22", "epochs=1", f"balance={balance}")
        assert '4 ("cat") to 20 ("ant"; median 20) for training, 6 for testing' in text
        losses.add(rows(tmp_path / balance)[0]["train_loss"])
    assert len(losses) == 3


def test_how_pictures_are_held_may_change_when_a_run_goes_on_but_not_which(photographs: Path, tmp_path: Path) -> None:
    base = ["dataset=imagenet_subset", f"dataset.root={photographs}", f"run_dir={tmp_path}/run"]
    run_folder.create(configure(*base), [])[1].close()
    changed = configure(*base, "dataset.cache=off", "dataset.workers=3", f"dataset.cache_dir={tmp_path}")
    assert resolve(OmegaConf.structured(changed), []).config == changed
    with pytest.raises(ConfigError, match="on_bad_image"):
        resolve(OmegaConf.structured(configure(*base, "dataset.on_bad_image=skip")), [])
