"""Every script of a maintainer runs from its command line to its table, with as little work as it takes."""

import csv
import re
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mobilenet_train.machine import usable_cores
from mobilenet_train.runs.folder import SUMMARY_NUMBERS, write_summary
from tests.children import Child
from tests.conftest import TINY
from tests.data.image_files_for_tests import tree
from tests.data.test_indian_pines import SMALL as SMALL_WINDOWS
from tests.data.test_indian_pines import write as write_indian_pines
from tests.forked_python import fork_pythons, run_script
from tests.small_cifar10 import accept_small
from tests.sweeps.conftest import fork_jobs

SCRIPTS = Path(__file__).parents[1] / "scripts"
SMALLEST = (*TINY, "model=v1", "model.width_mult=0.03", "epochs=1", "tensorboard=false")

Run = Callable[..., str]


@pytest.fixture
def script(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """script(NAME, *ARGUMENTS): what it printed, in an empty folder; it and all that it starts are forked."""
    out, err = (tmp_path_factory.mktemp("outputs") / name for name in ("out", "err"))

    def run(name: str, *arguments: str, prepare: Callable[[], object] | None = None, **environment: str) -> str:
        path = str(SCRIPTS / f"{name}.py")
        child = Child(out, partial(run_in_child, prepare, path, *arguments), tmp_path, err, **environment)
        assert child.wait() == 0, err.read_text()
        return child.text()

    return run


def run_in_child(prepare: Callable[[], object] | None, path: str, *arguments: str) -> None:
    fork_pythons()
    fork_jobs()
    if prepare:
        prepare()
    run_script(path, *arguments)


def row(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        (only,) = csv.DictReader(file)
    return only


def cells(said: str) -> list[list[str]]:
    """The rows of the table that was printed, without its head."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in said.splitlines() if line[:1] == "│"]


@pytest.mark.real_data
def test_bench_step_compares_the_trainer_with_bare_steps(script: Run, tmp_path: Path, small_cifar10: Path) -> None:
    least = ("--networks", "v3_small", "--batch-size", "16", "--steps", "1", "--rounds", "1", "--csv", "step.csv")
    script("bench_step", *least, prepare=partial(accept_small, small_cifar10), MNET_DATA=str(small_cifar10))
    table = row(tmp_path / "step.csv")
    bare, trainer = float(table["bare img/s"]), float(table["trainer img/s"])
    assert float(table["trainer / bare"]) == pytest.approx(trainer / bare)
    assert 0 < float(table["data %"]) < 100


@pytest.mark.real_data
def test_bench_kernels_turns_each_kernel_off(script: Run, tmp_path: Path, small_cifar10: Path) -> None:
    least = ("--networks", "v3_small", "--precisions", "fp32", "--batch-size", "16", "--rounds", "1", "--csv", "k.csv")
    script("bench_kernels", *least, prepare=partial(accept_small, small_cifar10), MNET_DATA=str(small_cifar10))
    table = row(tmp_path / "k.csv")
    kernels = ("norm", "depthwise 3x3", "depthwise 5x5", "squeeze-and-excite", "all")
    assert all(float(table[f"% lost without {kernel}"]) < 100 for kernel in kernels)


@pytest.mark.real_data
def test_bench_peers_measures_all_tools(script: Run, tmp_path: Path, cifar10_root: Path) -> None:
    pytest.importorskip("timm")
    least = ("--networks", "v3_small", "--batch-size", "16", "--steps", "1", "--rounds", "1", "--workers", "0")
    script("bench_peers", *least, "--csv", "peers.csv", MNET_DATA=str(cifar10_root))
    table = row(tmp_path / "peers.csv")
    for peer in ("torchvision", "timm"):
        ratio = float(table["mnet-train"]) / float(table[peer])
        assert float(table[f"/ {peer}"]) == pytest.approx(ratio)


def test_bench_gpu_measures_the_trainer_and_both_peers(script: Run, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    cases = ["trainer:eager", "step:eager", "timm:eager", "torchvision:eager"]
    least = ("--networks", "v3_small", "--batch-sizes", "8", "--steps", "1", "--images", "16", "--rounds", "1")
    script("bench_gpu", *least, "--cases", *cases, "--device", "cpu", "--csv", "gpu.csv")
    with (tmp_path / "gpu.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == cases
    for row in rows:
        assert float(row["images/s"]) == pytest.approx(8000 / float(row["ms a step"]))
        assert row["GPU busy %"] == "nan", "there is none"


def test_bench_hybridsn_measures_the_plain_loop_and_the_trainer(script: Run, tmp_path: Path) -> None:
    write_indian_pines(tmp_path)
    least = ("--steps", "1", "--windows", "20", "--rounds", "1", "--csv", "h.csv")
    words = (f"dataset.root={tmp_path}", *SMALL_WINDOWS, "batch_size=16")
    script("bench_hybridsn", *words, *least)
    with (tmp_path / "h.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["plain", "trainer"]
    assert float(rows[0]["times as fast"]) == 1
    assert all(float(value) > 0 for row in rows for name, value in row.items() if name != "case")


@pytest.mark.real_data
def test_bench_startup_times_the_whole_command_and_its_five_parts(
    script: Run, tmp_path: Path, small_cifar10: Path
) -> None:
    accept = partial(accept_small, small_cifar10)
    script("bench_startup", "--rounds", "1", "--csv", "s.csv", prepare=accept, MNET_DATA=str(small_cifar10))
    seconds = [float(value) for value in row(tmp_path / "s.csv").values()]
    assert len(seconds) == 6
    assert min(seconds) > 0


def test_screen_recipe_compares_alternatives_seed_by_seed_and_resumes(script: Run, tmp_path: Path) -> None:
    words = (
        "runs",
        *SMALLEST,
        "max_updates=1",
        "--seeds",
        "2",
        "--page",
        "page.md",
        "--try",
        "smooth",
        "label_smoothing=0.2",
    )
    script("screen_recipe", *words, "--try", "same", "log_every=3")
    _, smooth, same = [
        line.split(" | ") for line in (tmp_path / "page.md").read_text().splitlines() if line[:1] == "|"
    ][1:]
    assert smooth[:3] == ["| smooth", "`label_smoothing=0.2`", "0 1"]
    assert same[5:] == ["+0.00 ± 0.00", "1", "too few seeds (under 4) |"]
    ended = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("runs/*/*/metrics.csv"))]
    assert len(ended) == 6
    script("screen_recipe", *words)
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("runs/*/*/metrics.csv"))] == ended


def test_screen_crossed_runs_what_is_missing_and_draws_every_effect_from_all_runs(script: Run, tmp_path: Path) -> None:
    for run in range(15):  # as if they had ended; the first alternative is worth a point, the second nothing
        (tmp_path / f"runs/run_{run:02d}").mkdir(parents=True)
        top1 = {split: {"top1": 80 + run % 2} for split in ("test", "val")}
        numbers = dict.fromkeys(SUMMARY_NUMBERS, 0)
        ended = {"status": "finished", "final": top1, "best": {"top1": 0, "chosen_on": "hold-out"}}
        write_summary(tmp_path / f"runs/run_{run:02d}", ended | numbers)
    words = ("runs", *SMALLEST, "max_updates=1", "--page", "page.md")
    script("screen_crossed", *words, "--try", "smooth", "label_smoothing=0.2", "--try", "log", "log_every=3")
    saved = OmegaConf.load(tmp_path / "runs/run_15/config.yaml")
    assert (saved.seed, saved.label_smoothing, saved.log_every) == (0, 0.2, 3)
    _, smooth, log = [line.split(" | ") for line in (tmp_path / "page.md").read_text().splitlines() if line[:1] == "|"][
        1:
    ]
    assert smooth[:2] == ["| smooth", "`label_smoothing=0.2`"]
    assert log[:2] == ["| log", "`log_every=3`"]


@pytest.mark.parametrize("runs", [16, 32])
def test_the_effects_of_a_crossed_design_are_found_apart_from_each_other_and_from_the_seeds(
    runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from screen_crossed import effects, masks, parity, seed_of

    def top1(run: int) -> float:
        first, second, third, *_ = (parity(run, mask) for mask in masks(runs))
        together = 0.3 * (2 * first - 1) * (2 * second - 1)  # what two do only together
        return 90 + seed_of(run) + 0.5 * first - 0.7 * third + together

    assert Counter(map(seed_of, range(runs))) == dict.fromkeys(range(4), runs // 4)
    found = effects([top1(run) for run in range(runs)], runs // 2)
    assert [round(effect.with_it - effect.without, 9) for effect in found[:4]] == [0.5, 0, -0.7, 0]
    assert all(abs(effect.with_it - effect.without) < 1e-9 for effect in found[3:])
    alone = effects([seed_of(run) + parity(run, 1) + 0.01 * parity(run, 5) for run in range(runs)], runs // 2)
    assert [effect.verdict[:6] for effect in alone[:2]] == ["better", "no dif"]


@pytest.mark.parametrize(
    ("seeds", "difference", "p", "expected"),
    [(3, 2.0, 0.001, "too few"), (4, 2.0, 0.05, "no difference"), (4, 2.0, 0.04, "better"), (4, -2.0, 0.04, "worse")],
)
def test_screen_recipe_takes_only_what_is_significant_over_four_seeds(
    seeds: int, difference: float, p: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from screen_recipe import verdict

    from mobilenet_train.sweeps.paired import Comparison
    from mobilenet_train.sweeps.rows import Spread

    comparison = Comparison("", "hold-out", list(range(seeds)), 90, 90 + difference, Spread(difference, 1.0, 1.0), p)
    assert verdict(comparison).startswith(expected)


def test_bench_sweep_times_a_sweep_and_single_runs(script: Run) -> None:
    said = script("bench_sweep", "--rounds", "1", "--sweep", "seed=0,1", *SMALLEST)
    assert re.search(r"^round 1: \d+\.\d s as a sweep, \d+\.\d s one by one$", said, re.MULTILINE), said
    ((sweep, single, ratio),) = ([float(cell) for cell in row] for row in cells(said))
    assert min(sweep, single) > 0.1
    assert ratio == pytest.approx(sweep / single, rel=0.02)  # three digits of each are printed


def test_bench_ranks_measures_processes_and_a_plain_loop(script: Run) -> None:
    rows = cells(script("bench_ranks", "--rounds", "1", "--updates", "1", *SMALLEST))
    cores = usable_cores()
    assert [name for name, *_ in rows] == [
        f"1 process x {cores} threads",
        f"{cores} ranks x 1 thread",
        f"plain step loop, {cores} threads",
    ]
    rates = [[float(number.replace(",", "")) for number in numbers] for _, *numbers in rows]
    for median, lowest, highest, ratio in rates:
        assert median == lowest == highest > 0, "of one round"
        assert ratio == pytest.approx(median / rates[0][0], rel=0.02)


def test_bench_cache_prepares_pictures(script: Run, tmp_path: Path) -> None:
    said = script("bench_cache", str(tree(tmp_path / "photos", train=24)), "32")
    assert "medians: the cache is built at" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_augment_cost_names_the_share_of_a_step(tmp_path: Path) -> None:
    child = Child(tmp_path / "output", measure_one_step)
    assert child.wait() == 0, child.text()
    assert re.search(
        r"^augment=standard: [\d.]+ ms an image, step [\d.]+ ms an image: [\d.]+% of the step$", child.text()
    )


def measure_one_step() -> None:
    sys.path.insert(0, str(SCRIPTS))
    import augment_cost

    augment_cost.STEPS = augment_cost.ROUNDS = 1
    sys.argv = ["augment_cost.py", "standard"]
    augment_cost.main()
