"""`mnet-export`: every file is loaded by its own runtime and computes what the network does; wrong ones are caught."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch

from mobilenet_train.cli import export as command
from mobilenet_train.data.images import Dataset
from mobilenet_train.deploy.export import FORMATS, DeployRow, Source, all_logits, check, export, properties
from mobilenet_train.deploy.runtimes import eager_logits
from mobilenet_train.errors import RunError, installation, require
from mobilenet_train.inference.evaluate import load_test_data
from mobilenet_train.inference.loading import TrainedRun, load_run

pytest.importorskip("onnxruntime")
save = pytest.importorskip("safetensors.torch").save
Tool = Callable[..., int]
pytestmark = pytest.mark.usefixtures("exported_once", "short_timings")
QUICK = tuple(name for name in FORMATS if "executorch" not in name)  # those have their own files


@dataclass(frozen=True)
class Exported:
    """The session's finished run in every format that takes seconds."""

    folder: Path
    run: TrainedRun
    dataset: Dataset
    rows: dict[str, DeployRow]
    reference: torch.Tensor

    def file(self, name: str) -> Path:
        return self.folder / FORMATS[name].file

    def check(self, name: str, path: Path) -> None:
        check(name, path, self.run, self.dataset.test, self.reference)


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("export")
    run = load_run(finished / "run")
    dataset = load_test_data(run, None, trust_factory=False)
    rows = export(Source(run, dataset), QUICK, folder, max_drop=100)
    reference = all_logits(eager_logits(run.model, torch.device("cpu")), dataset.test, run.preprocessing)
    return Exported(folder, run, dataset, {row.checked.format: row for row in rows}, reference)


def test_the_command_offers_just_the_formats_there_are() -> None:
    assert tuple(FORMATS) == command.FORMATS


def test_every_file_is_there_under_its_name_and_nothing_else(exported: Exported) -> None:
    assert {path.name for path in exported.folder.iterdir()} == {FORMATS[name].file for name in QUICK}


def test_lossless_exports_compute_the_same_logits_and_int8_nearly(exported: Exported) -> None:
    for name, row in exported.rows.items():
        if name == "onnx-int8":
            assert 0 < row.checked.difference < 0.5 * float(exported.reference.abs().max())
        else:
            assert row.checked.difference <= 1e-4
            assert row.checked.drop == 0


def test_int8_is_smaller_loses_little_and_computes_the_first_convolution_alone_in_fp32(exported: Exported) -> None:
    int8 = exported.rows["onnx-int8"].checked
    assert int8.bytes < 0.5 * exported.rows["onnx"].checked.bytes
    assert int8.fp32_operators == {"Conv": 1}


def test_all_are_timed(exported: Exported) -> None:
    assert set(exported.rows) == {"pytorch", *QUICK}
    assert all(0 < row.timing.median_ms <= row.timing.p95_ms for row in exported.rows.values())


@pytest.mark.parametrize("name", QUICK)
def test_labels_and_preprocessing_are_in_the_file(name: str, exported: Exported) -> None:
    _, properties = FORMATS[name].load(exported.file(name), exported.run)
    assert json.loads(properties["labels"]) == list("0123456789")
    preprocessing = json.loads(properties["preprocessing"])
    assert preprocessing["resolution"] == 32
    assert preprocessing["mean"] == list(exported.run.preprocessing.mean)


@pytest.mark.parametrize("name", QUICK)
def test_any_number_of_images_can_be_run_at_once(name: str, exported: Exported) -> None:
    logits, _ = FORMATS[name].load(exported.file(name), exported.run)
    for count in (1, 3):
        assert logits(torch.zeros(count, 3, 32, 32)).shape == (count, 10)


@pytest.mark.parametrize("name", QUICK)
def test_a_torn_file_is_caught(name: str, exported: Exported, tmp_path: Path) -> None:
    torn = tmp_path / "torn"
    torn.write_bytes(exported.file(name).read_bytes()[:5000])
    with pytest.raises(RunError, match=f"torn cannot be loaded as {name}"):
        exported.check(name, torn)


@pytest.mark.parametrize("name", ["onnx", "safetensors"])
def test_an_altered_weight_is_caught(name: str, exported: Exported, tmp_path: Path) -> None:
    last = exported.run.model.state_dict()["classifier.3.bias"].numpy().tobytes()
    contents = exported.file(name).read_bytes()
    assert contents.count(last) == 1
    altered = tmp_path / "altered"
    altered.write_bytes(contents.replace(last, last[4:] + last[:4]))
    with pytest.raises(RunError, match="altered computes other logits than the network"):
        exported.check(name, altered)


def test_numbers_that_are_not_finite_are_caught(exported: Exported, tmp_path: Path) -> None:
    last = exported.run.model.state_dict()["classifier.3.bias"]
    contents = exported.file("safetensors").read_bytes()
    bad = tmp_path / "bad"
    bad.write_bytes(contents.replace(last.numpy().tobytes(), torch.full_like(last, torch.nan).numpy().tobytes()))
    with pytest.raises(RunError, match="differ by up to nan"):
        exported.check("safetensors", bad)


@pytest.mark.parametrize("name", QUICK)
def test_another_preprocessing_is_caught(name: str, exported: Exported) -> None:
    other = replace(exported.run, preprocessing=replace(exported.run.preprocessing, mean=(0.5, 0.5, 0.5)))
    with pytest.raises(RunError, match="names other preprocessing than the run"):
        check(name, exported.file(name), other, exported.dataset.test, exported.reference)


def test_other_labels_are_caught(exported: Exported) -> None:
    other = replace(exported.run, class_names=tuple("abcdefghij"))
    with pytest.raises(RunError, match="names other labels than the run"):
        check("onnx", exported.file("onnx"), other, exported.dataset.test, exported.reference)


def test_an_export_that_loses_too_much_fails_loudly_and_is_not_kept(
    run: Path, exported: Exported, tool: Tool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = exported.reference.argmax(1)
    all_right = replace(exported.dataset, test=replace(exported.dataset.test, labels=answers))
    rarest = int(answers.bincount(minlength=10).argmin())

    def one_answer(source: Source) -> bytes:
        weights = {name: value.clone().contiguous() for name, value in source.run.model.state_dict().items()}
        weights["classifier.3.bias"][rarest] = 1e6
        return save(weights, metadata=dict(properties(source.run)))

    monkeypatch.setattr("mobilenet_train.inference.evaluate.load_test_data", lambda *_: all_right)
    monkeypatch.setitem(FORMATS, "safetensors", replace(FORMATS["safetensors"], write=one_answer, lossless=False))
    monkeypatch.setattr("mobilenet_train.deploy.export.fp32_operators", lambda _: {})
    assert tool("mnet-export", run, "--to", "safetensors", "--max-drop", 2) == 1
    out, err = capsys.readouterr()
    assert "deploy table" in out
    assert "the run computed in " in out
    assert "--max-drop allows 2: not kept" in err
    assert list((run / "export").iterdir()) == []


def test_the_command_writes_into_the_run_and_prints_the_table(
    run: Path, tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool("mnet-export", run, "--to", "safetensors", "--weights", "ema", "--json") == 0
    itself, row = json.loads(capsys.readouterr().out)
    assert (itself["format"], itself["file"]) == ("pytorch", None)
    assert Path(row["file"]) == run / "export/model.safetensors"
    assert Path(row["file"]).stat().st_size == row["bytes"]
    assert row["top1"] == itself["top1"]


def test_torchscript_is_refused_with_what_to_use_instead(
    run: Path, tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool("mnet-export", run, "--to", "onnx,torchscript") == 2
    message = capsys.readouterr().err
    assert "torchscript is deprecated by PyTorch and no longer written; use onnx or executorch" in message
    assert message.startswith("mnet-export: ")
    assert message.count("\n") == 1
    assert not (run / "export").exists()


@pytest.mark.parametrize("arguments", [["--to", "tflite"], ["--max-drop", "-1"], ["--weights", "best"]], ids=" ".join)
def test_wrong_use_is_refused_by_name(
    arguments: list[str], run: Path, tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool("mnet-export", run, *arguments) == 2
    assert arguments[1] in capsys.readouterr().err


def test_pixels_are_for_onnx_alone(run: Path, tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool("mnet-export", run, "--input", "uint8", "--to", "onnx,safetensors") == 2
    assert "--input uint8 is for --to onnx and onnx-int8; safetensors takes float" in capsys.readouterr().err
    assert not (run / "export").exists()
    assert tool("mnet-export", run, "--input", "uint8", "--json") == 0
    itself, row = json.loads(capsys.readouterr().out)
    assert (row["format"], row["top1"], row["drop"]) == ("onnx", itself["top1"], 0)
    assert row["latency"]["median_ms"] > 0


def test_a_missing_package_is_named_with_the_command_that_brings_it(
    tool: Tool, exported: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "mobilenet_train.inference.loading", None)  # which is not needed to know it
    command = r"needs onnxscript, which is not installed: pip install 'onnx>=[\d.]+' 'onnxruntime>=[\d.]+' 'onnxscript"
    with pytest.raises(RunError, match=command):
        require("onnxscript")
    assert tool("mnet-export", exported.run.folder, "--to", "safetensors,onnx-int8") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(command, line)


def test_a_checkout_that_was_never_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda name: distribution("no-such-" + name))
    assert installation("export") == "pip install -e '.[export]'"


def test_the_table_names_the_precision_that_the_run_computed_in(exported: Exported) -> None:
    trained = exported.run
    halved = replace(trained, checkpoint=replace(trained.checkpoint, environment={"precision": "bf16"}))
    result = trained.checkpoint.logged
    assert result is not None
    assert command.logged(halved) == {"run_precision": "bf16", "run_top1": round(result.test.top1, 2)}
    assert command.logged(replace(halved, weights="ema"))["run_top1"] is None
