"""Every script of a maintainer runs from its command line to its table, with as little work as it takes."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.data.image_files_for_tests import tree

SCRIPTS = Path(__file__).parents[1] / "scripts"


def run_script(name: str, *arguments: str, cwd: Path, **environment: str) -> str:
    """What the script printed; fails with its messages where it failed."""
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *arguments]
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def row(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        (only,) = csv.DictReader(file)
    return only


@pytest.mark.real_data
def test_bench_step_compares_the_trainer_with_bare_steps(tmp_path: Path, cifar10_root: Path) -> None:
    least = ("--networks", "v3_small", "--batch-size", "16", "--steps", "1", "--rounds", "1", "--csv", "step.csv")
    run_script("bench_step", *least, cwd=tmp_path, MNET_DATA=str(cifar10_root))
    table = row(tmp_path / "step.csv")
    bare, trainer = float(table["bare img/s"]), float(table["trainer img/s"])
    assert float(table["trainer / bare"]) == pytest.approx(trainer / bare)
    assert 0 < float(table["data %"]) < 100


@pytest.mark.real_data
def test_bench_peers_measures_all_tools(tmp_path: Path, cifar10_root: Path) -> None:
    pytest.importorskip("timm")
    least = ("--networks", "v3_small", "--batch-size", "16", "--steps", "1", "--rounds", "1", "--workers", "0")
    run_script("bench_peers", *least, "--csv", "peers.csv", cwd=tmp_path, MNET_DATA=str(cifar10_root))
    table = row(tmp_path / "peers.csv")
    for peer in ("torchvision", "timm"):
        ratio = float(table["mnet-train"]) / float(table[peer])
        assert float(table[f"/ {peer}"]) == pytest.approx(ratio)


@pytest.mark.real_data
def test_bench_startup_times_the_whole_command_and_its_five_parts(tmp_path: Path, cifar10_root: Path) -> None:
    run_script("bench_startup", "--rounds", "1", "--csv", "s.csv", cwd=tmp_path, MNET_DATA=str(cifar10_root))
    seconds = [float(value) for value in row(tmp_path / "s.csv").values()]
    assert len(seconds) == 6
    assert min(seconds) > 0


def test_screen_recipe_finds_what_each_key_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from screen_recipe import DESIGN, Key, effect

    adds = [3.0, -1.5, *(0.25 * number for number in range(9))]
    scores = [80 + sum(add for add, level in zip(adds, levels, strict=True) if level) for levels in DESIGN]
    rows = [effect(Key.parse(f"key{number}=0,1"), scores, number) for number in range(11)]
    assert [float(found["high - low"]) for found in rows] == pytest.approx(adds)
    assert rows[0] == {
        "key": "key0",
        "low": "0",
        "high": "1",
        "top-1 of low": "83.75",
        "top-1 of high": "86.75",
        "high - low": "+3.00",
    }


def test_screen_recipe_refuses_one_value_and_twelve_keys(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "screen_recipe.py"), "runs", "--vary"]
    one_value = subprocess.run([*command, "a=1"], cwd=tmp_path, capture_output=True, text=True, check=False)
    twelve = subprocess.run([*command, *(f"k{n}=0,1" for n in range(12))], cwd=tmp_path, capture_output=True, text=True)
    assert (one_value.returncode, twelve.returncode) == (2, 2)
    assert "'a=1' should be KEY=LOW,HIGH" in one_value.stderr
    assert "up to 11 keys, these are 12" in twelve.stderr


def test_bench_sweep_times_a_sweep_and_single_runs(tmp_path: Path) -> None:
    said = run_script("bench_sweep", "--rounds", "1", "--sweep", "seed=0,1", *TINY, cwd=tmp_path)
    assert "sweep" in said


def test_bench_ranks_measures_processes_and_a_plain_loop(tmp_path: Path) -> None:
    said = run_script("bench_ranks", "--rounds", "1", "--updates", "1", *TINY, cwd=tmp_path)
    assert "plain" in said


def test_bench_cache_prepares_pictures(tmp_path: Path) -> None:
    said = run_script("bench_cache", str(tree(tmp_path / "photos", train=24)), "32", cwd=tmp_path)
    assert "medians: the cache is built at" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_augment_cost_names_the_share_of_a_step(tmp_path: Path) -> None:
    assert "% of the step" in run_script("augment_cost", "standard", cwd=tmp_path)
