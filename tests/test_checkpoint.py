"""Checkpoints: whole or refused, never code, and the one before is always there."""

import os
import pickle
import random
import resource
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from mobilenet_train import checkpoint
from mobilenet_train.checkpoint import DamagedCheckpointError
from mobilenet_train.errors import RunError
from tests.children import Child

CONTENTS = {"weights": torch.arange(10_000.0), "history": [{"epoch": 0, "loss": 0.1}], "nothing": None, "flag": True}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, CONTENTS, best=True)
    saved = checkpoint.load(tmp_path / "last.pt")
    assert torch.equal(saved["weights"], CONTENTS["weights"])
    assert saved["history"] == CONTENTS["history"]
    assert torch.load(tmp_path / "best.pt", weights_only=True)["format"] == 1


def test_the_one_before_becomes_previous_and_best_stays(tmp_path: Path) -> None:
    for number in range(3):
        checkpoint.save(tmp_path, {"number": number}, best=number == 0)
    numbers = {path.name: checkpoint.load(path)["number"] for path in tmp_path.iterdir()}
    assert numbers == {"last.pt": 2, "previous.pt": 1, "best.pt": 0}


def test_every_flipped_bit_and_every_torn_end_is_noticed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, CONTENTS, best=False)
    whole = (tmp_path / "last.pt").read_bytes()
    draw = random.Random(0)
    damaged = tmp_path / "damaged.pt"
    unnoticed = 0
    for _ in range(60):
        position = draw.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[position] ^= 1 << draw.randrange(8)
        damaged.write_bytes(flipped)
        unnoticed += loads_altered(damaged)
    for _ in range(20):
        damaged.write_bytes(whole[: draw.randrange(len(whole))])
        unnoticed += loads_altered(damaged)
    assert unnoticed == 0


def loads_altered(path: Path) -> bool:
    """True if a damaged file loads as something else, or is refused without its name.

    Padding bytes may change freely: what comes out is then what went in.
    """
    try:
        saved = checkpoint.load(path)
    except RunError as error:
        return str(path) not in str(error)
    return checkpoint.digest({"format": 1, **CONTENTS}) != checkpoint.digest(saved)


def test_a_damaged_last_falls_back_to_previous_with_a_warning(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"number": 1}, best=False)
    checkpoint.save(tmp_path, {"number": 2}, best=False)
    (tmp_path / "last.pt").write_bytes(b"torn")
    saved, warning = checkpoint.load_latest(tmp_path)
    assert saved["number"] == 1
    assert warning is not None
    assert "last.pt" in warning
    assert "previous.pt" in warning


def test_two_damaged_files_are_both_named(tmp_path: Path) -> None:
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"torn")
    with pytest.raises(RunError, match=r"last\.pt.*previous\.pt"):
        checkpoint.load_latest(tmp_path)


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hacked",)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "model": Hostile()}, tmp_path / "zip.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Hostile()))
    for name in ("zip.pt", "bare.pt"):
        with pytest.raises(DamagedCheckpointError, match="could run code"):
            checkpoint.load(tmp_path / name)
    assert not (tmp_path / "hacked").exists()


def test_another_format_is_refused_by_number(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "last.pt")
    with pytest.raises(RunError, match="format 99; this version reads format 1"):
        checkpoint.load(tmp_path / "last.pt")


def test_somebody_elses_file_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "last.pt")
    with pytest.raises(DamagedCheckpointError, match="not a checkpoint of mnet-train"):
        checkpoint.load(tmp_path / "last.pt")


def save_with_little_room(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    with pytest.raises(RunError, match="free some space"):
        checkpoint.save(folder, CONTENTS, best=False)
    sys.exit(7)


def test_a_file_size_limit_leaves_the_old_checkpoint_whole(tmp_path: Path) -> None:
    """A real limit of the system, in a child process: the write fails in the middle."""
    checkpoint.save(tmp_path, CONTENTS, best=False)
    child = Child(tmp_path.parent / "output", partial(save_with_little_room, tmp_path))
    assert child.wait() == 7, child.text()
    assert checkpoint.load(tmp_path / "last.pt")["flag"] is True
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt"}
