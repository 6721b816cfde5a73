"""A sweep as its user sees it: named, checked beforehand, skipped where done, gone on with where not."""

import csv
import json
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tensorboard import program

from mobilenet_train.config.saved import read_saved
from mobilenet_train.sweeps.folder import read_manifest
from tests.cli.helpers import exit_code, one_line
from tests.conftest import Command

from .conftest import TINY_SWEEP, Run

TIMES = {"images_per_second", "training_seconds"}
SLOW = ("epochs=400", "checkpoint.every_minutes=0.001")


def table(folder: Path) -> list[dict[str, str]]:
    """sweep.csv without its times."""
    with (folder / "sweep.csv").open() as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def job_folders(folder: Path) -> dict[str, Path]:
    """Run folders by the swept part of their names."""
    return {path.parent.name.rsplit("_", 1)[0]: path.parent for path in folder.glob("*/config.yaml")}


def written_at(folder: Path) -> dict[str, int]:
    found = {name: path / "summary.json" for name, path in job_folders(folder).items()}
    return {name: path.stat().st_mtime_ns for name, path in found.items() if path.exists()}


# --- with real processes


def test_a_sweep_runs_each_job_in_a_process_and_a_folder_of_its_own(mnet_train: Command, tmp_path: Path) -> None:
    done = mnet_train(*TINY_SWEEP, "model.width_mult=0.1,0.25")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    folder = tmp_path / "outputs/s"
    assert set(job_folders(folder)) == {"width_mult-0.1", "width_mult-0.25"}
    rows = table(folder)
    assert [row["model.width_mult"] for row in rows] == ["0.1", "0.25"]
    assert [row["parameters"] for row in rows] == ["110802", "255370"]
    assert {row["state"] for row in rows} == {"finished"}
    for name, run in job_folders(folder).items():
        summary = json.loads((run / "summary.json").read_text())
        row = next(row for row in rows if f"width_mult-{row['model.width_mult']}" == name)
        assert float(row["final_top1"]) == pytest.approx(summary["final"]["test"]["top1"], abs=0.005)
        assert "test top-1" in next((folder / "logs").glob(f"{name}_*.txt")).read_text()
    assert (folder / "sweep.md").read_text().startswith("# s\n\n| job | seeds | top-1 |")
    assert (folder / "pareto.png").read_bytes()[:4] == b"\x89PNG"
    for word in ("110,802", "255,370", "2 at once, 1 thread each", "finished width_mult-0.1_"):
        assert word in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}, "nothing else is left in the current folder"


# --- what is wrong stops it before anything is started or written


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["model.width_mult=0.1,0.2,0.3,0.4,oops"], 2, ["job 5 of 5 (model.width_mult=oops)", "a number"]),
        (["model.width_mult=0.1,-1"], 2, ["job 2 of 2 (model.width_mult=-1)", "above 0"]),
        (["model=v2,v9"], 2, ["job 2 of 2 (model=v9)", "v3_large"]),
        (["optim.lrr=0.1,0.2"], 2, ["optim.lrr", "did you mean 'optim.lr'"]),
        (["seed=1,2", "run_dir=here"], 2, ["run_dir", "sweep=NAME"]),
        (["seed=1,2", "slots=0"], 2, ["slots=0", "auto or a whole number from 1"]),
        (["slots=1,2"], 2, ["slots=1,2", "belongs to the whole sweep"]),
        (["seed=1,2", "on_failure=retry"], 2, ["on_failure=retry", "continue or stop"]),
        (["seed=1,2", "hydra/launcher=ray", "slots=2"], 2, ["slots has no effect", "hydra/launcher=local"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_wrong_job_stops_the_sweep_before_any_training_and_leaves_nothing(
    words: list[str],
    code: int,
    message: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(monkeypatch, "-m", "dataset=digits", "model=v3_small", *words) == code
    said = one_line(capsys.readouterr().err)
    assert [word for word in message if word not in said] == [], said
    assert list(tmp_path.iterdir()) == []


def test_hydras_own_sweeper_is_refused_with_the_local_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(monkeypatch, "-m", "seed=1,2", "hydra/sweeper=basic") == 2
    assert "hydra/launcher=local needs hydra/sweeper=grid" in one_line(capsys.readouterr().err)


def test_what_only_the_data_can_tell_stops_it_beforehand_too(run_sweep: Run, tmp_path: Path) -> None:
    child = run_sweep(*TINY_SWEEP, "batch_size=16,100000")
    assert child.wait() == 2
    assert "batch_size=100000 is larger than the training set of 80 images" in child.text()
    assert not (tmp_path / "outputs").exists()


def test_a_dry_run_prints_the_jobs_and_their_cost_and_writes_nothing(run_sweep: Run, tmp_path: Path) -> None:
    child = run_sweep(*TINY_SWEEP, "model.width_mult=0.1,0.25", "dry_run=true")
    assert child.wait() == 0
    assert "110,802" in child.text()
    assert "nothing was started or written" in child.text()
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("words", ["sweep=s", "slots=2", "on_failure=stop"])
def test_a_sweeps_keys_are_refused_for_a_single_run(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, words) == 2
    assert "belongs to a sweep" in one_line(capsys.readouterr().err)


def test_a_folder_with_something_else_in_it_is_left_alone(run_sweep: Run, tmp_path: Path) -> None:
    other = tmp_path / "outputs/s/thesis.txt"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    child = run_sweep(*TINY_SWEEP, "seed=0,1")
    assert child.wait() == 1
    assert "is not empty and is not a sweep" in child.text()
    assert [path.name for path in other.parent.iterdir()] == ["thesis.txt"]


# --- issued again


def test_the_same_sweep_again_runs_nothing_and_more_values_run_only_those(run_sweep: Run, tmp_path: Path) -> None:
    folder = tmp_path / "outputs/s"
    assert run_sweep(*TINY_SWEEP, "model.width_mult=0.1,0.25").wait() == 0
    first, when = table(folder), written_at(folder)
    again = run_sweep(*TINY_SWEEP, "model.width_mult=0.1,0.25", "slots=1", "device.threads=1")
    assert again.wait() == 0
    assert (table(folder), written_at(folder)) == (first, when)
    assert "started" not in again.text()
    more = run_sweep(*TINY_SWEEP, "model.width_mult=0.1,0.15,0.25")
    assert more.wait() == 0
    assert more.text().count("\nstarted ") == 1
    assert {name: time for name, time in written_at(folder).items() if name != "width_mult-0.15"} == when
    assert sorted(row["model.width_mult"] for row in table(folder)) == ["0.1", "0.15", "0.25"]


def test_a_job_keeps_the_defaults_that_it_began_with(run_sweep: Run, tmp_path: Path) -> None:
    mine = tmp_path / "conf/optim/mine.yaml"
    mine.parent.mkdir(parents=True)
    words = ("--config-dir", "conf", *TINY_SWEEP, "max_updates=1", "optim=mine")
    mine.write_text("defaults: [sgd, _self_]\nlr: 0.1\n")
    assert run_sweep(*words, "seed=0,1").wait() == 0
    done, undone = (job_folders(tmp_path / "outputs/s")[name] for name in ("seed-0", "seed-1"))
    (undone / "summary.json").unlink()  # as if its end had not been written
    before = (done / "summary.json").read_bytes()
    mine.write_text("defaults: [sgd, _self_]\nlr: 0.2\n")
    again = run_sweep(*words, "seed=2,1,0")
    assert again.wait() == 0, again.text()
    assert again.text().count("started") == 2, "the undone one and the new one"
    assert "2 jobs began with other defaults (optim.lr), which stay; sweep=NAME starts from scratch" in again.text()
    assert (done / "summary.json").read_bytes() == before
    assert (undone / "summary.json").exists()
    rates = {name: read_saved(run).config.optim.lr for name, run in job_folders(tmp_path / "outputs/s").items()}
    assert rates == {"seed-0": 0.1, "seed-1": 0.1, "seed-2": 0.2}
    assert len(read_manifest(tmp_path / "outputs/s").jobs) == 3


# --- when jobs or the sweep are stopped


def failing_model(folder: Path) -> tuple[str, ...]:
    """Options with which the job of width 13 raises, until the file `mended` is there."""
    (folder / "fragile.py").write_text(
        "import pathlib\nfrom torch import nn\n"
        "def build(num_classes, resolution, width):\n"
        "    if width == 13 and pathlib.Path('outputs/s').exists() and not pathlib.Path('mended').exists():\n"
        "        raise ValueError('unlucky')\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(),\n"
        "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))\n"
    )
    options = [word for word in TINY_SWEEP if not word.startswith("model")]
    return (*options, "model=custom", "model.factory=fragile:build")


def test_a_job_that_fails_leaves_the_others_alone_and_is_tried_again(run_sweep: Run, tmp_path: Path) -> None:
    command = (*failing_model(tmp_path), "+model.args.width=4,13,8")
    child = run_sweep(*command)
    assert child.wait() == 1
    assert "1 of 3 jobs did not finish; the same command tries them again" in child.text()
    assert "failed with ValueError: unlucky" in child.text()
    folder = tmp_path / "outputs/s"
    assert [row["state"] for row in table(folder)] == ["finished", "failed", "finished"]
    when = written_at(folder)
    (tmp_path / "mended").touch()
    again = run_sweep(*command)
    assert again.wait() == 0, again.text()
    assert "try again" in again.text()
    assert again.text().count("\nstarted ") == 1
    assert {row["state"] for row in table(folder)} == {"finished"}
    assert {name: time for name, time in written_at(folder).items() if name in when} == when


def test_on_failure_stop_ends_the_whole_sweep(run_sweep: Run, tmp_path: Path) -> None:
    child = run_sweep(*failing_model(tmp_path), "+model.args.width=13,4,8", "slots=1", "on_failure=stop")
    assert child.wait() == 1
    assert [row["state"] for row in table(tmp_path / "outputs/s")] == ["failed", "waiting", "waiting"]


def test_ctrl_c_stops_all_jobs_cleanly_and_the_same_command_goes_on(run_sweep: Run, tmp_path: Path) -> None:
    command = (
        *TINY_SWEEP,
        "epochs=8",
        "model.width_mult=0.1",
        "tensorboard=true",
        "checkpoint.every_minutes=0.001",
        "seed=0,1,2",
    )
    folder = tmp_path / "outputs/s"
    child = run_sweep(*command)
    child.wait_for(lambda: len(list(folder.glob("*/checkpoints/last.pt"))) == 2)
    child.kill(signal.SIGINT)
    assert child.wait() == 128 + signal.SIGINT
    assert "stopped; the same command continues" in child.text()
    assert [row["state"] for row in table(folder)] == ["2 interrupted, 1 waiting"]
    assert run_sweep(*command).wait() == 0
    assert [row["state"] for row in table(folder)] == ["finished"]
    check_hparams(folder)


def check_hparams(folder: Path) -> None:
    """One row a job, with typed columns and metrics, as TensorBoard itself serves them."""
    board = program.TensorBoard()
    board.configure(argv=["tensorboard", "--logdir", str(folder), "--host", "127.0.0.1", "--port", "0"])
    url = board.launch() + "data/"

    def ask(path: str, **body: object) -> Any:
        data, kind = json.dumps(body).encode() if body else None, {"Content-Type": "application/json"}
        request = urllib.request.Request(url + path, data, kind)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    runs = {path.name for path in job_folders(folder).values()}
    assert set(ask("runs")) == runs, "no sub-runs"
    kinds = {info["name"]: info["type"] for info in ask("plugin/hparams/experiment", experimentName="")["hparamInfos"]}
    assert kinds["seed"] == "DATA_TYPE_FLOAT64"
    assert kinds["model.name"] == "DATA_TYPE_STRING"
    query = {"allowedStatuses": ["STATUS_SUCCESS"], "colParams": [], "startIndex": 0, "sliceSize": 10}
    groups = ask("plugin/hparams/session_groups", experimentName="", **query)["sessionGroups"]
    assert sorted(group["hparams"]["seed"] for group in groups) == [0, 1, 2]
    for group in groups:
        (top1,) = (metric for metric in group["metricValues"] if metric["name"]["tag"] == "test/top1")
        (row,) = table(folder)
        assert f"{top1['value']:.2f}" in row["final_top1_by_seed"].split()


def test_a_live_sweep_refuses_a_second_process_and_names_the_first(run_sweep: Run, tmp_path: Path) -> None:
    folder = tmp_path / "outputs/s"
    first = run_sweep(*TINY_SWEEP, *SLOW, "seed=0,1")
    first.wait_for(lambda: (folder / "sweep.json").exists())
    first.output.rename(tmp_path / "first")
    second = run_sweep(*TINY_SWEEP, *SLOW, "seed=0,1")
    assert second.wait() == 1
    assert f"in use by process {first.pid}" in second.text()
    first.kill(signal.SIGTERM)
    first.wait()


def test_two_sweeps_of_the_same_second_do_not_collide(run_sweep: Run, tmp_path: Path) -> None:
    words = [word for word in TINY_SWEEP if word != "sweep=s"]
    children = [run_sweep(*words, f"optim.lr={rate}") for rate in (0.01, 0.02)]
    assert [child.wait() for child in children] == [0, 0]
    folders = sorted((tmp_path / "outputs").iterdir())
    assert len(folders) == 2
    assert [row["state"] for folder in folders for row in table(folder)] == ["finished", "finished"]
