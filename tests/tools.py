"""A finished run of one's own to use and to spoil, and the commands inside the test's process."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mobilenet_train import checkpoint
from mobilenet_train.cli import bench, cache, evaluate, export, info, plan, predict, report

MAINS = {  # those that take a run
    "mnet-eval": evaluate.main,
    "mnet-predict": predict.main,
    "mnet-info": info.main,
    "mnet-export": export.main,
}
WITHOUT_RUN = {"mnet-bench": bench.main, "mnet-plan": plan.main, "mnet-report": report.main, "mnet-cache": cache.main}


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the session's finished run: digits, two epochs, with averaged weights."""
    return Path(shutil.copytree(finished / "run", tmp_path / "run", ignore=shutil.ignore_patterns("events.*")))


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `NAME ARGUMENTS` in this process and returns the exit code; output is left to capsys."""

    def call(name: str, *arguments: object) -> int:
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            (MAINS | WITHOUT_RUN)[name]()
        return int(exit_.value.code or 0)

    return call


def rewrite(run: Path, **changes: Any) -> Path:
    """Replaces parts of last.pt, with a right checksum, as someone with bad intentions can."""
    path = run / "checkpoints/last.pt"
    contents = {**checkpoint.load(path), **changes}
    torch.save({**contents, "digest": checkpoint.digest(contents)}, path)
    return path
