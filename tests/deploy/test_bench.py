"""`mnet-bench`: every combination is timed, tables survive a file, two tables are held together."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mobilenet_train.deploy.bench import Row, compare, read_csv, write_csv
from mobilenet_train.deploy.export import FORMATS, Source
from mobilenet_train.deploy.latency import Timing
from mobilenet_train.deploy.settings import Setting, all_settings, usual_runtime
from mobilenet_train.errors import ConfigError, RunError
from mobilenet_train.inference.evaluate import load_test_data
from mobilenet_train.inference.loading import load_run

Tool = Callable[..., int]
SMALL = ("--width", 0.25, "--resolution", 32, "--classes", 10, "--seconds", 0.001)
pytestmark = pytest.mark.usefixtures("exported_once")


def row(milliseconds: float, model: str = "v2", machine: str = "a machine") -> Row:
    return Row(Setting(model, 0.5, 224, 4, 1, "eager"), Timing(milliseconds, 2 * milliseconds, 30), machine)


def test_every_combination_is_timed_in_each_runtime(tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    threads = torch.get_num_threads()
    assert (
        tool("mnet-bench", *SMALL, "--model", "v1", "--batch", "1,2", "--runtime", "eager,onnx,onnx-int8", "--json")
        == 0
    )
    out, err = capsys.readouterr()
    assert "mnet-bench: preparing and taking 6 measurements of " in err  # what is waited for
    rows = json.loads(out)
    assert [(row["batch"], row["runtime"]) for row in rows] == [
        (batch, runtime) for batch in (1, 2) for runtime in ("eager", "onnx", "onnx-int8")
    ]
    for found in rows:
        assert 0 < found["median_ms"] <= found["p95_ms"]
        assert found["images_per_second"] == pytest.approx(1000 * found["batch"] / found["median_ms"], rel=0.01)
        assert found["calls"] >= 10
    assert torch.get_num_threads() == threads


def test_a_training_step_is_timed_as_the_trainer_does_it(tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*SMALL, "--model", "v3_small", "--batch", 8, "--runtime", "eager,train", "--json")
    assert tool("mnet-bench", *arguments) == 0
    forward, step = json.loads(capsys.readouterr().out)
    assert step["runtime"] == "train"
    assert step["median_ms"] > forward["median_ms"]


def test_a_run_and_its_exported_file_are_timed_with_their_own_sizes(
    run: Path, tmp_path: Path, tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    quick = ("--batch", "1,2", "--seconds", 0.001, "--json")
    assert tool("mnet-bench", run, "--runtime", "eager,onnx", *quick) == 0
    rows = json.loads(capsys.readouterr().out)
    own = [("v3_small", 0.25, 32, batch, runtime) for batch in (1, 2) for runtime in ("eager", "onnx")]
    assert [(r["model"], r["width"], r["resolution"], r["batch"], r["runtime"]) for r in rows] == own
    trained = load_run(run)
    source = Source(trained, load_test_data(trained, None, trust_factory=False), pixels=True)
    for name in ("onnx", "onnx-int8"):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(FORMATS[name].write(source))
        assert tool("mnet-bench", path, *quick) == 0
        rows = json.loads(capsys.readouterr().out)
        assert [(r["model"], r["width"], r["resolution"], r["batch"], r["runtime"]) for r in rows] == [
            ("v3_small", 0.25, 32, batch, name) for batch in (1, 2)
        ]
        assert all(r["median_ms"] > 0 for r in rows)
    for words in (
        (path, "--width", 1),
        (run, "--classes", 3),
        (run, "--runtime", "train"),
        (path, "--runtime", "onnx"),
    ):
        assert tool("mnet-bench", *words) == 2
        assert f"{words[1]} " in capsys.readouterr().err


def test_the_usual_runtime_is_the_one_that_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilenet_train.deploy.settings.find_spec", lambda _: object())
    assert (usual_runtime("cpu"), usual_runtime("cuda")) == ("onnx", "eager")
    monkeypatch.setattr(
        "mobilenet_train.deploy.settings.find_spec", lambda name: None if "runtime" in name else object()
    )
    assert usual_runtime("cpu") == "eager"


def test_all_settings_are_every_combination() -> None:
    settings = all_settings(["v1", "v2"], [0.5, 1.0], [96, 224], [1], [1, 2], ["eager"])
    assert len(settings) == len(set(settings)) == 16


def test_a_table_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    rows = [row(1.25), row(0.5, "v1", 'says "two, cores"')]
    write_csv(rows, tmp_path / "t.csv")
    assert read_csv(tmp_path / "t.csv") == rows


def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("model,width\nv1,1.0\n")
    with pytest.raises(RunError, match=r"other\.csv is not a table of mnet-bench"):
        read_csv(tmp_path / "other.csv")
    with pytest.raises(RunError, match=r"none\.csv cannot be read: No such file"):
        read_csv(tmp_path / "none.csv")


def test_two_tables_are_compared_where_they_meet(
    tmp_path: Path, tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv([row(10), row(1, "v1")], tmp_path / "a.csv")
    write_csv([row(15, machine="another machine")], tmp_path / "b.csv")
    assert tool("mnet-bench", "--compare", tmp_path / "a.csv", tmp_path / "b.csv") == 0
    shown = capsys.readouterr().out
    assert "+50.0%" in shown
    assert "slower" in shown
    assert "v1" not in shown
    assert "another machine" in shown
    assert compare([row(10)], [row(5)])[0].ratio == 0.5


def test_tables_without_a_common_setting_are_refused() -> None:
    other = replace(row(1), setting=replace(row(1).setting, batch=8))
    with pytest.raises(ConfigError, match="no setting in common"):
        compare([row(1)], [other])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model", "v4"], "v4"),
        (["--runtime", "tflite"], "tflite"),
        (["--width", "0"], "0"),
        (["--batch", "1,x"], "x"),
        (["--seconds", "nan"], "nan"),
        (["--runtime", "onnx", "--device", "cuda"], "onnx"),
    ],
    ids=" ".join,
)
def test_wrong_use_is_refused_by_name(
    arguments: list[str], named: str, tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool("mnet-bench", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("mnet-bench: ")
    assert named in error
