"""The commands beside mnet-train: help at once and without torch; and mnet-report."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from mobilenet_train import __version__
from mobilenet_train.cli import report
from mobilenet_train.errors import RunError
from mobilenet_train.sweeps import figures as sweep_figures
from tests.sweeps.made import RUNS, make_sweep
from tests.tools import tool

__all__ = ["tool"]

SCRIPTS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
TOOLS = sorted(set(SCRIPTS) - {"mnet-train"})
Tool = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("name", TOOLS)
def test_help_comes_without_the_heavy_libraries(name: str) -> None:
    listing = "import sys, atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
    module, function = SCRIPTS[name].split(":")
    code = f"{listing}sys.argv[0] = {name!r}; from {module} import {function}; {function}()"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {name} ")
    assert f"  {name} " in done.stdout, "there are examples"
    heavy = {"torch", "torchvision", "numpy", "hydra", "omegaconf", "sklearn", "matplotlib", "PIL", "onnx"}
    assert heavy & set(done.stderr.split()) == set()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mnet-predict RUN gone.png", "gone.png does not exist"),
        ("mnet-predict gone x.png", "gone does not exist; give a run folder"),
        ("mnet-predict gone.onnx README.md", "gone.onnx does not exist"),
        ("mnet-info v4", "v4 is neither a network (v1, v2, v3_large, v3_small) nor a run"),
        ("mnet-info tests", "tests is not a trained run"),
        ("mnet-eval gone", "gone does not exist"),
        ("mnet-export gone", "gone does not exist"),
        ("mnet-bench --model v4", "'v4' is unknown"),
        ("mnet-plan --budget-ms 5 --model v4", "'v4' is unknown"),
        ("mnet-report gone", "gone"),
        ("mnet-cache gone", "gone"),
    ],
    ids=lambda value: value if value.startswith("mnet-") else "",
)
def test_a_wrong_path_or_name_is_refused_before_torch_is_imported(line: str, message: str, finished: Path) -> None:
    name, *words = line.replace("RUN", str(finished / "run")).split()
    module, function = SCRIPTS[name].split(":")
    code = (
        "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules)); "
        f"from {module} import {function}; {function}()"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_says_its_version(name: str, tool: Tool, capsys: Capture) -> None:
    assert tool(name, "--version") == 0
    assert capsys.readouterr().out == f"{name} {__version__}\n"


# --- mnet-report


def test_mnet_report_makes_a_sweeps_files_again(tmp_path: Path, tool: Tool, capsys: Capture) -> None:
    folder = make_sweep(tmp_path / "s", RUNS)
    assert tool("mnet-report", folder) == 0
    assert "62.00 ± 4.97" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "sweep.json",
        "sweep.csv",
        "sweep.md",
        "pareto.png",
    }


def test_mnet_report_merges_sweeps_into_a_folder_of_its_own(tmp_path: Path, tool: Tool, capsys: Capture) -> None:
    a = make_sweep(tmp_path / "a", {(0.1, 0): 60.0})
    b = make_sweep(tmp_path / "b", {(0.5, 0): 61.0})
    assert tool("mnet-report", a, b, "--json", "--output", tmp_path / "both") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["model.width_mult"], row["final_top1"], row["final_top1_sd"]) for row in rows] == [
        (0.1, 60.0, None),
        (0.5, 61.0, None),
    ]
    assert (tmp_path / "both/pareto.png").exists()
    assert not (a / "sweep.csv").exists()


def test_mnet_report_compares_two_sweeps_seed_by_seed(tmp_path: Path, tool: Tool, capsys: Capture) -> None:
    runs = {"a": {(0.1, 0): 60.0, (0.1, 1): 61.0}, "b": {(0.1, 0): 61.0, (0.1, 1): 63.0}}
    a, b = (make_sweep(tmp_path / name, of) for name, of in runs.items())
    before = sorted(tmp_path.rglob("*"))
    assert tool("mnet-report", a, b, "--paired") == 0
    assert "width_mult=0.1  test         0 1    60.50  62.00  +1.50 ± 6.35  0.2" in capsys.readouterr().out
    assert tool("mnet-report", a, b, "--paired", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["seeds"], found["a"], found["b"], found["difference"]["mean"]) == ([0, 1], 60.5, 62.0, 1.5)
    assert sorted(tmp_path.rglob("*")) == before


def test_mnet_report_diff_shows_what_differs(tmp_path: Path, tool: Tool, capsys: Capture) -> None:
    folder = make_sweep(tmp_path / "s", {(0.1, 0): 60.0, (0.25, 0): 61.0})
    a, b = (next(folder.glob(f"width_mult-{width}_*")) for width in (0.1, 0.25))
    assert tool("mnet-report", "diff", a, b, a) == 0
    shown = capsys.readouterr().out
    assert "model.width_mult  0.1" in shown
    assert "test top-1 in %   60" in shown
    assert "parameters" not in shown
    assert tool("mnet-report", "diff", a, b, "--all") == 0
    assert "result: parameters" in capsys.readouterr().out
    assert tool("mnet-report", "diff", a, b, "--json") == 0
    found = {row["key"]: (row[str(a)], row[str(b)]) for row in json.loads(capsys.readouterr().out)}
    assert found["model.width_mult"] == (0.1, 0.25)
    assert found["result: final.test.top1"] == (60.0, 61.0)
    assert found["result: parameters"] == (100_000, 250_000)


def test_mnet_report_draws_latencies_that_mnet_bench_measured(
    tmp_path: Path, tool: Tool, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, table, panels = make_sweep(tmp_path / "s", {(0.1, 0): 60.0, (0.25, 0): 61.0}), tmp_path / "phone.csv", []
    monkeypatch.setattr(sweep_figures, "save", lambda figure, _: panels.append([a.get_xlabel() for a in figure.axes]))
    columns = "model,width,resolution,batch,threads,runtime,median_ms,p95_ms,calls,images_per_second,machine\n"
    table.write_text(columns + "v3_small,0.25,32,1,1,onnx,4.0,5,10,250,a phone\n")
    assert tool("mnet-report", folder, "--measured", table) == 0
    assert panels[0][2] == "latency of one image, ms\nonnx, a phone"
    table.write_text(columns + "v1,0.25,32,1,1,onnx,4.0,5,10,250,a phone\n")
    assert tool("mnet-report", folder, "--measured", table) == 1
    assert "has no latency of the networks of this sweep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "program"),
    [(["nowhere"], "mnet-report"), (["diff", "nowhere", "nowhere"], "mnet-report diff")],
    ids=" ".join,
)
def test_mnet_report_names_a_folder_that_holds_nothing(
    arguments: list[str], program: str, tool: Tool, capsys: Capture
) -> None:
    assert tool("mnet-report", *arguments) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"{program}: ")
    assert "nowhere is not a" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("arguments", [["nowhere"], ["diff", "nowhere", "nowhere"]], ids=" ".join)
def test_hydra_full_error_gets_the_traceback_from_mnet_report(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["mnet-report", *arguments])
    with pytest.raises(RunError, match="nowhere is not a"):
        report.main()


@pytest.mark.parametrize("arguments", [[], ["s", "--otput", "x"], ["diff", "one"]], ids=" ".join)
def test_wrong_use_of_mnet_report_is_one_line_and_exit_code_2(
    arguments: list[str], tool: Tool, capsys: Capture
) -> None:
    assert tool("mnet-report", *arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("mnet-report")
    assert "--help shows what is allowed" in message
    assert message.count("\n") == 1
