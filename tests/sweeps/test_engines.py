"""Hydra's own engines run the same sweep: the same folders, the same table, and nothing twice."""

import importlib.util
from pathlib import Path

import pytest

from tests.cli.helpers import exit_code, one_line
from tests.conftest import Command

from .conftest import TINY_SWEEP, fork_jobs
from .test_sweep import job_folders, table

SWEEP = tuple(word for word in TINY_SWEEP if not word.startswith("slots"))
ENGINES = {"ray": "ray", "submitit_local": "submitit"}  # launcher: extra


def need(extra: str, package: str) -> None:
    if importlib.util.find_spec("hydra_plugins") is None or importlib.util.find_spec(package) is None:
        pytest.skip(f"the extra is not installed: pip install 'mnet-train[{extra}]'")


@pytest.mark.parametrize("launcher", ENGINES)
def test_an_engine_ends_with_the_table_of_the_local_launcher(launcher: str, forked: Command, tmp_path: Path) -> None:
    need(ENGINES[launcher], ENGINES[launcher])
    command = (*SWEEP, "model.width_mult=0.1,0.25", f"hydra/launcher={launcher}")
    done = forked(*command, prepare=fork_jobs)
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path / "outputs/s")
    assert [(row["model.width_mult"], row["parameters"], row["state"]) for row in rows] == [
        ("0.1", "110802", "finished"),
        ("0.25", "255370", "finished"),
    ]
    local = forked(*command[:-1], prepare=fork_jobs)
    assert local.returncode == 0, local.stderr
    assert "started" not in local.stdout, "the local launcher finds the engine's jobs finished"
    assert table(tmp_path / "outputs/s") == rows


def test_optuna_searches_and_gets_the_objective(forked: Command, tmp_path: Path) -> None:
    need("optuna", "optuna")
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2")
    command = (*SWEEP, *search, "dataset.val_fraction=0.2", "model.width_mult=choice(0.1,0.25)", "seed=choice(0,1)")
    done = forked(*command, prepare=fork_jobs)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs/s"
    assert 1 <= len(job_folders(folder)) <= 2
    results = (folder / "optimization_results.yaml").read_text()
    assert "best_value:" in results
    assert {row["state"] for row in table(folder)} == {"finished"}
    assert "started" not in forked(*command, prepare=fork_jobs).stdout, "the same search again finds its jobs finished"


@pytest.mark.parametrize("words", ["hydra/launcher=ray", "hydra/launcher=submitit_local", "hydra/sweeper=optuna"])
def test_a_missing_extra_is_named(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    extra = words.partition("=")[2].removesuffix("_local")
    if importlib.util.find_spec(extra) is not None:
        pytest.skip(f"{extra} is installed")
    monkeypatch.chdir(tmp_path)
    assert exit_code(monkeypatch, "-m", "dataset=digits", "seed=0,1", words) == 2
    assert f"not installed: pip install 'hydra-{extra}-" in one_line(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []
