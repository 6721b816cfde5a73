"""What a resume changes is on record before training continues: a kill right there loses nothing."""

import os
from pathlib import Path

import pytest
import yaml

from mobilenet_train.runs import session
from tests.children import Child, mnet_train

RUN = "dataset=digits model=v1 model.width_mult=0.03 model.stride_plan=2 dataset.resolution=16 dataset.max_per_class=16"
WORDS = (*RUN.split(), "batch_size=32", "optim=sgd", "tensorboard=false", "device.threads=1", "log_every=1")


def die_before_the_first_update() -> None:
    session.train = lambda *_: os._exit(9)  # type: ignore[assignment]


def record(folder: Path) -> dict[str, object]:
    return dict(yaml.safe_load((folder / "config.yaml").read_text()))


def test_a_kill_after_the_record_and_before_the_first_update_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = Child(tmp_path / "first.txt", mnet_train("run_dir=run", *WORDS, "epochs=1"))
    assert first.wait() == 0, first.text()
    change = ("resume=run", "epochs=3", "resume_schedule=restart", "log_every=2")
    killed = Child(tmp_path / "killed.txt", mnet_train(*change, prepare=die_before_the_first_update))
    assert killed.wait() == 9
    kept = {"epochs": 3, "log_every": 2, "schedule_from": 5, "resume_schedule": "continue"}
    assert {key: record(tmp_path / "run")[key] for key in kept} == kept
    assert [path.name for path in (tmp_path / "run").iterdir() if "tmp" in path.name] == []

    undisturbed = Child(tmp_path / "undisturbed.txt", mnet_train("run_dir=other", *WORDS, "epochs=1"))
    assert undisturbed.wait() == 0, undisturbed.text()
    for arguments in (("resume=run",), ("resume=other", *change[1:])):
        last = Child(tmp_path / "last.txt", mnet_train(*arguments))
        assert last.wait() == 0, last.text()
    rates = [
        [line.split(",")[-3] for line in (tmp_path / run / "metrics.csv").read_text().splitlines()]
        for run in ("run", "other")
    ]
    assert len(rates[0]) == 4
    assert rates[0] == rates[1]
