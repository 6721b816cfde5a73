"""Merged rows, their statistics, the table, the picture and the comparison, on folders made for the purpose."""

import csv
import io
import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from mobilenet_train.cli.report import main
from mobilenet_train.config.saved import Saved
from mobilenet_train.errors import RunError
from mobilenet_train.runs import folder as run_folder
from mobilenet_train.sweeps import report
from mobilenet_train.sweeps.difference import differences
from mobilenet_train.sweeps.folder import Manifest, write_manifest
from mobilenet_train.sweeps.jobs import make_job
from mobilenet_train.sweeps.rows import Spread, pareto_front, read_rows, spread
from tests.conftest import TINY, configure

RUNS = {  # (width, seed): top-1
    (0.1, 0): 60.0,
    (0.1, 1): 62.0,
    (0.1, 2): 64.0,
    (0.25, 0): 61.0,
    (0.5, 0): 70.5,
}


def make_sweep(folder: Path, runs: dict[tuple[float, int], float], *words: str, states: str = "finished") -> Path:
    """A sweep's folder as its jobs leave it; MAdds and parameters grow with the width."""
    jobs = []
    for (width, seed), top1 in runs.items():
        config = configure(*TINY, *words, f"model.width_mult={width}", f"seed={seed}")
        job = make_job(config, {"model.width_mult": str(width), "seed": str(seed)})
        jobs.append(job)
        run = folder / job.name
        run.mkdir(parents=True)
        run_folder.write_config(run, Saved(config))
        score = {"loss": 1.0, "top1": top1, "top5": None}
        summary = {
            "status": states,
            "final": {"test": score, "val": None},
            "best": {"epoch": 1, "top1": top1 + 1, "chosen_on": "test set"},
            "parameters": int(1e6 * width),
            "multiply_adds": int(1e8 * width),
            "images_per_second": 100.0,
            "training_seconds": 60.0,
        }
        (run / "summary.json").write_text(json.dumps(summary))
    write_manifest(folder, Manifest([*words, "model.width_mult=0.1,0.25,0.5"], jobs))
    return folder


def test_repeats_give_mean_sample_deviation_and_students_interval() -> None:
    measured = spread([60.0, 62.0, 64.0])
    assert (measured.mean, measured.deviation) == (62.0, 2.0)
    assert measured.interval == pytest.approx(4.9683, abs=1e-4)  # 4.30265 x 2 / sqrt(3)
    assert spread([61.0]) == Spread(61.0, None, None)


def test_the_front_holds_what_no_other_beats() -> None:
    points = {"small": (1.0, 60.0), "worse": (2.0, 59.0), "big": (3.0, 70.0), "same": (3.0, 65.0), "tie": (4.0, 70.0)}
    assert pareto_front(points) == ["small", "big"]


def test_the_csv_has_a_line_for_each_configuration(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(report.as_csv(read_rows([make_sweep(tmp_path / "s", RUNS)])))))
    assert [row["model.width_mult"] for row in rows] == ["0.1", "0.25", "0.5"]
    first = rows[0]
    assert first["seeds"] == "0 1 2"
    assert (first["final_top1"], first["final_top1_sd"], first["final_top1_ci95"]) == ("62.00", "2.000", "4.968")
    assert first["final_top1_by_seed"] == "60.00 62.00 64.00"
    assert (first["best_top1"], first["best_chosen_on"]) == ("63.00", "test set")
    assert (first["parameters"], first["multiply_adds"]) == ("100000", "10000000")
    assert (rows[1]["final_top1_sd"], rows[1]["state"]) == ("", "finished")


def test_the_markdown_table_is_for_people(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "s", RUNS)
    text = report.as_markdown(read_rows([folder]), [folder])
    assert (
        "| width_mult=0.1 | 0 1 2 | 62.00 ± 4.97 (2.00) | 63.00 | 100,000 | 10.00 M | 100 | 0:01:00 | finished |"
        in text
    )
    assert "chosen on the test set" in text


def test_a_run_that_was_killed_is_told_from_one_that_runs(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "s", {(0.1, 0): 50.0, (0.25, 0): 51.0}, states="running")
    with run_folder.lock(next(folder.glob("width_mult-0.1_*"))):
        assert [row.state for row in read_rows([folder])] == ["running", "killed"]


def test_several_sweeps_are_merged_and_seeds_of_one_configuration_with_them(tmp_path: Path) -> None:
    a = make_sweep(tmp_path / "a", {(0.1, 0): 60.0, (0.25, 0): 61.0}, "optim.lr=0.1")
    b = make_sweep(tmp_path / "b", {(0.1, 0): 60.0, (0.1, 1): 64.0}, "optim.lr=0.1")
    c = make_sweep(tmp_path / "c", {(0.1, 0): 30.0}, "optim.lr=0.2")
    rows = read_rows([a, b])
    assert [(row.label, [run.job.seed for run in row.runs]) for row in rows] == [
        ("width_mult=0.1", [0, 1]),
        ("width_mult=0.25", [0]),
    ]
    assert [row.label for row in read_rows([a, c])] == [
        "lr=0.1 width_mult=0.1",
        "lr=0.1 width_mult=0.25",
        "lr=0.2 width_mult=0.1",
    ]


def test_the_picture_is_small_enough_to_paste(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "s", RUNS)
    report.write(folder)
    assert (folder / "pareto.png").stat().st_size < 100_000
    with Image.open(folder / "pareto.png") as picture:
        assert picture.size == (1210, 528)


# --- the command


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mnet-report", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_mnet_report_makes_a_sweeps_files_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_sweep(tmp_path / "s", RUNS)
    assert run_command(monkeypatch, str(folder)) == 0
    assert "62.00 ± 4.97" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "sweep.json",
        "sweep.csv",
        "sweep.md",
        "pareto.png",
    }


def test_mnet_report_merges_sweeps_into_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a = make_sweep(tmp_path / "a", {(0.1, 0): 60.0})
    b = make_sweep(tmp_path / "b", {(0.5, 0): 61.0})
    assert run_command(monkeypatch, str(a), str(b), "--json", "--output", str(tmp_path / "both")) == 0
    assert [row["final_top1"] for row in json.loads(capsys.readouterr().out)] == ["60.00", "61.00"]
    assert (tmp_path / "both/pareto.png").exists()
    assert not (a / "sweep.csv").exists()


def test_mnet_report_diff_shows_what_differs_in_configuration_and_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_sweep(tmp_path / "s", {(0.1, 0): 60.0, (0.25, 0): 61.0})
    a, b = (next(folder.glob(f"width_mult-{width}_*")) for width in (0.1, 0.25))
    found = differences(a, b)
    assert found[0] == ("model.width_mult", "0.1", "0.25")
    assert ("result: final.test.top1", "60", "61") in found
    assert "result: status" not in {key for key, _, _ in found}
    assert run_command(monkeypatch, "diff", str(a), str(b)) == 0
    assert "model.width_mult" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nowhere"], ["diff", "nowhere", "nowhere"]], ids=" ".join)
def test_mnet_report_names_a_folder_that_holds_nothing(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, *arguments) == 1
    assert "nowhere holds no" in capsys.readouterr().err


def test_a_sweeps_folder_without_its_list_is_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no sweep"):
        read_rows([tmp_path])


def test_a_job_survives_being_written_down(tmp_path: Path) -> None:
    job = make_job(configure(*TINY), {"model.width_mult": "0.25"})
    write_manifest(tmp_path, Manifest(["a=1"], [job]))
    assert json.loads((tmp_path / "sweep.json").read_text())["jobs"] == [asdict(job)]
