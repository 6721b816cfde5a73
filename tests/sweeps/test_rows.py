"""Merged rows, their statistics, the table, the figure and the comparison, on folders made for the purpose."""

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from mobilenet_train.errors import RunError
from mobilenet_train.runs import folder as run_folder
from mobilenet_train.sweeps import report
from mobilenet_train.sweeps.difference import Difference, differences
from mobilenet_train.sweeps.folder import Manifest, write_manifest
from mobilenet_train.sweeps.jobs import make_job
from mobilenet_train.sweeps.rows import Spread, read_rows, spread
from tests.conftest import TINY, configure
from tests.sweeps.made import RUNS, make_sweep


def test_repeats_give_mean_sample_standard_deviation_and_students_interval() -> None:
    measured = spread([60.0, 62.0, 64.0])
    assert (measured.mean, measured.std) == (62.0, 2.0)
    assert measured.interval == pytest.approx(4.9683, abs=1e-4)  # 4.30265 x 2 / sqrt(3)
    assert spread([61.0]) == Spread(61.0, None, None)


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


def test_a_run_that_was_killed_differs_from_one_that_runs(tmp_path: Path) -> None:
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


def test_sweeps_of_different_splits_are_not_merged(tmp_path: Path) -> None:
    folders = [make_sweep(tmp_path / str(n), {(0.1, 0): 60.0}, f"dataset.split_seed={n}") for n in (0, 1)]
    assert [row.label for row in read_rows(folders)] == ["split_seed=0 width_mult=0.1", "split_seed=1 width_mult=0.1"]


def test_the_figure_is_small_enough_to_paste(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "s", RUNS)
    report.write(folder)
    assert (folder / "pareto.png").stat().st_size < 100_000
    with Image.open(folder / "pareto.png") as image:
        assert image.size == (1100, 480)


def test_programs_get_numbers_and_none_where_there_is_no_number(tmp_path: Path) -> None:
    several = {**RUNS, (0.1, 2): 64.5}
    first, second, _ = report.as_values(read_rows([make_sweep(tmp_path / "s", several)]))
    assert (first["model.width_mult"], first["seeds"], first["finished"]) == (0.1, [0, 1, 2], 3)
    assert first["final_top1"] == pytest.approx(62.1667, abs=1e-4)
    assert first["final_top1_by_seed"] == [60.0, 62.0, 64.5]
    assert (first["parameters"], first["images_per_second"]) == (100_000, 100.0)
    assert (second["final_top1"], second["final_top1_sd"], second["final_top1_ci95"]) == (61.0, None, None)


def test_runs_differ_in_configuration_and_results(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "s", {(0.1, 0): 60.0, (0.25, 0): 61.0, (0.5, 0): 61.0})
    found = differences([next(folder.glob(f"width_mult-{width}_*")) for width in (0.1, 0.25, 0.5)])
    assert found[0] == Difference("model.width_mult", (0.1, 0.25, 0.5))
    main = [row.cells for row in found if row.is_main]
    assert main == [["model.width_mult", "0.1", "0.25", "0.5"], ["test top-1 in %", "60.00", "61.00", "61.00"]]
    assert ["result: parameters", "100000", "250000", "500000"] in [row.cells for row in found]
    assert "result: status" not in {row.key for row in found}


def test_a_key_that_only_the_second_run_has_stands_before_the_results(tmp_path: Path) -> None:
    sweeps = make_sweep(tmp_path / "a", {(0.1, 0): 60.0}), make_sweep(tmp_path / "b", {(0.1, 0): 61.0}, "optim=muon")
    keys = [row.key for row in differences([next(sweep.glob("width_mult-*")) for sweep in sweeps])]
    assert "optim.sgd_lr" in keys
    assert keys == sorted(keys, key=lambda key: key.startswith("result: "))


def test_a_difference_shows_times_and_sizes_in_units_that_people_read() -> None:
    assert Difference("result: training_seconds", (60.2, 3700.0)).cells == ["training time", "0:01:00", "1:01:40"]
    assert Difference("result: peak_memory_bytes", (2**20, None)).cells[1:] == ["1.0 MiB", "-"]


def test_a_folder_without_a_list_of_jobs_is_not_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a sweep"):
        read_rows([tmp_path])


def test_a_job_survives_being_written_down(tmp_path: Path) -> None:
    job = make_job(configure(*TINY), {"model.width_mult": "0.25"})
    write_manifest(tmp_path, Manifest(["a=1"], [job]))
    assert json.loads((tmp_path / "sweep.json").read_text())["jobs"] == [asdict(job)]


def test_programs_get_none_for_a_loss_that_is_not_finite() -> None:
    diverged = Difference("result: final.test.loss", (0.5, float("nan")))
    assert diverged.cells == ["test loss", "0.5", "nan"]
    assert diverged.values == [0.5, None]
