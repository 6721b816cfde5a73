"""Runs and sweeps that earlier versions wrote are resumed, evaluated, compared, exported and reported by this one.

`old_runs/COMMIT/` holds what that commit left behind (made by `old_runs/make.py`): runs stopped in the middle, finished
sweeps, and in `expected.json` what the same commit made of the runs when it went on.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mobilenet_train import checkpoint
from mobilenet_train.config.saved import read_saved
from mobilenet_train.models.build import build_model
from mobilenet_train.runtime import OLDER
from mobilenet_train.sweeps.folder import read_manifest
from tests.children import Child, mnet_train
from tests.records import rows
from tests.sweeps.conftest import fork_jobs
from tests.tools import tool

__all__ = ["tool"]
COMMITS = sorted(
    path.name for path in (Path(__file__).parent / "old_runs").iterdir() if (path / "expected.json").exists()
)
RUNS = ("sgd", "muon_ema", "image_files")
SWEEP = "model=v1 dataset=digits dataset.max_per_class=16 dataset.resolution=16 batch_size=16 tensorboard=false "
SWEEP += "model.stride_plan=2 optim=sgd max_steps=2 epochs=1 device=cpu device.threads=1 device.precision=fp32 slots=2"
GRID = ("model.width_mult=0.03,0.05", "optim.lr=0.1,0.2")
IMAGE_SWEEP = (
    "model=v1 dataset=imagenet_subset dataset.root=images dataset.resolution=32 dataset.cache=memory batch_size=8 "
)
IMAGE_SWEEP += "max_steps=2 device=cpu device.threads=1 device.precision=fp32 tensorboard=false slots=2"


@pytest.fixture(scope="module", params=COMMITS)
def resumed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A moved copy of everything that a commit left, each of its runs resumed by this version."""
    there = tmp_path_factory.mktemp("moved") / "there"
    shutil.copytree(Path(__file__).parent / "old_runs" / request.param, there)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(there)
        children = {run: Child(there / f"{run}.txt", mnet_train(f"resume={run}")) for run in RUNS}
        assert {run: child.wait() for run, child in children.items()} == dict.fromkeys(RUNS, 0), [
            child.text() for child in children.values()
        ]
    return there


def test_an_old_wide_v3_keeps_its_wide_last_hidden_layer() -> None:
    config = read_saved(Path(__file__).parent / "old_runs/52a255a/wide_v3").config
    model = build_model(config, 10)
    assert config.model.width_mult == 1.25
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_377_770  # 1,280 for timm's 1,024


@pytest.mark.parametrize("run", RUNS)
def test_an_old_run_ends_with_the_bytes_that_its_own_version_would_have_made(run: str, resumed: Path) -> None:
    expected = json.loads((resumed / "expected.json").read_text())[run]
    saved = checkpoint.load(resumed / run / "checkpoints/last.pt")
    assert [row["epoch"] for row in rows(resumed / run)] == [row["epoch"] for row in expected["rows"]]
    if saved["environment"] != {**OLDER, **expected["environment"]}:
        assert "the end may not be bit-identical" in (resumed / f"{run}.txt").read_text()
        assert float(rows(resumed / run)[-1]["train_loss"]) == pytest.approx(
            float(expected["rows"][-1]["train_loss"]), 0.2
        )
        return
    assert rows(resumed / run) == expected["rows"]
    assert {part: checkpoint.digest(saved[part]) for part in expected["digests"]} == expected["digests"]


@pytest.mark.parametrize("run", RUNS)
def test_an_old_run_is_evaluated_and_its_accuracy_verified(
    run: str,
    resumed: Path,
    tool: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(resumed)
    assert tool("mnet-eval", run, "--json") == 0
    assert json.loads(capsys.readouterr().out)["verification"]["status"] == "verified"


@pytest.mark.parametrize("run", RUNS)
def test_an_old_run_is_exported(
    run: str,
    resumed: Path,
    tool: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(resumed)
    monkeypatch.setattr("mobilenet_train.deploy.export.TIMED_SECONDS", 0.001)
    assert tool("mnet-export", run, "--to", "safetensors", "--json") == 0
    assert json.loads(capsys.readouterr().out)[1]["difference"] == 0


def test_two_old_runs_are_compared(
    resumed: Path, tool: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(resumed)
    assert tool("mnet-report", "diff", "sgd", "muon_ema", "--json") == 0
    found = {entry["key"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert (found["optim.name"]["sgd"], found["optim.name"]["muon_ema"]) == ("sgd", "muon")
    assert "format" not in found


def test_an_old_record_is_written_in_todays_format_once_the_run_was_resumed(resumed: Path) -> None:
    for run in RUNS:
        record = yaml.safe_load((resumed / run / "config.yaml").read_text())
        assert (record["format"], record["schedule_from"], "max_steps" in record) == (2, 0, False)


# --- sweeps


@pytest.fixture
def sweep(resumed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs `mnet-train -m ARGUMENTS` beside the commit's finished sweeps and returns what it printed."""
    shutil.copytree(resumed / "sweeps", tmp_path / "outputs")
    shutil.copytree(resumed / "images", tmp_path / "images")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        child = Child(tmp_path / "said.txt", mnet_train("-m", *arguments, prepare=fork_jobs))
        assert child.wait() == 0, child.text()
        return child.text()

    return run


def summaries(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("summary.json")}


@pytest.mark.parametrize(
    "words",
    [
        [*SWEEP.split(), *GRID],
        [*reversed(SWEEP.split()), *reversed(GRID)],
        [*SWEEP.split(), "model.width_mult=0.050,3e-2", "optim.lr=0.2,0.10"],
        [*IMAGE_SWEEP.split(), "dataset.workers=1", "model.width_mult=0.03,0.05"],
        [*IMAGE_SWEEP.split(), "dataset.workers=0", "log_every=3", "model.width_mult=0.05,0.03"],
    ],
    ids=["as it was", "keys in another order", "numbers written otherwise", "images", "images with other workers"],
)
def test_a_finished_old_sweep_runs_nothing(words: list[str], sweep: Callable[..., str], tmp_path: Path) -> None:
    before, folders = summaries(tmp_path / "outputs"), sorted((tmp_path / "outputs").iterdir())
    said = sweep(*words)
    assert "started" not in said
    assert ("began with other defaults (optim.name" in said) == ("dataset=imagenet_subset" in words)
    assert summaries(tmp_path / "outputs") == before
    assert sorted((tmp_path / "outputs").iterdir()) == folders


def test_another_seed_of_an_old_sweep_joins_its_group(sweep: Callable[..., str], tmp_path: Path) -> None:
    words = [*SWEEP.split(), "model.width_mult=0.03", "optim.lr=0.1", "seed=0,1"]
    (folder,) = [path for path in (tmp_path / "outputs").iterdir() if "digits" in path.name]
    said = sweep(f"sweep={folder.name}", *words)
    assert said.count("started") == 1
    jobs = read_manifest(folder).jobs
    assert len(jobs) == 5
    groups: dict[str, list[int]] = {}
    for job in jobs:
        groups.setdefault(job.group, []).append(job.seed)
    assert sorted(groups.values()) == [[0], [0], [0], [0, 1]]
    assert json.loads((folder / "sweep.json").read_text())["format"] == 3


def test_a_job_that_an_old_sweep_never_started_is_not_listed_twice(sweep: Callable[..., str], tmp_path: Path) -> None:
    (folder,) = [path for path in (tmp_path / "outputs").iterdir() if "digits" in path.name]
    manifest: dict[str, Any] = json.loads((folder / "sweep.json").read_text())
    shutil.rmtree(folder / manifest["jobs"][2]["name"])
    assert [job.hash == "" for job in read_manifest(folder).jobs] == [False, False, True, False]
    said = sweep(*SWEEP.split(), *GRID)
    assert said.count("started") == 1
    assert len(read_manifest(folder).jobs) == 4
