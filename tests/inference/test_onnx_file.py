"""Exported ONNX files predict and are evaluated as the run that they are of, from pixels too, without torch."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mobilenet_train
from mobilenet_train.data.decode import fill, fill_without_torch
from mobilenet_train.deploy.export import FORMATS, Source, check_file
from mobilenet_train.errors import RunError
from mobilenet_train.inference.evaluate import load_test_data
from mobilenet_train.inference.loading import load_run
from mobilenet_train.inference.onnx_file import load_onnx
from tests.pages import blocks

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
Tool = Callable[..., int]
Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("exported_once")
KINDS = ("onnx", "onnx-int8", "pixels", "pixels-int8")


@pytest.fixture(scope="module")
def files(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The session's finished run in fp32 and int8, taking normalised values or pixels."""
    folder = tmp_path_factory.mktemp("files")
    run = load_run(finished / "run")
    made = {}
    for pixels in (False, True):
        source = Source(run, load_test_data(run, None, trust_factory=False), pixels=pixels)
        for name in ("onnx", "onnx-int8"):
            kind = name.replace("onnx-", "pixels-").replace("onnx", "pixels") if pixels else name
            made[kind] = folder / f"{kind}.onnx"
            made[kind].write_bytes(FORMATS[name].write(source))
    return made


@pytest.fixture
def images(tmp_path: Path, finished: Path) -> list[Path]:
    """Test images as files, and a photograph's shape."""
    dataset = load_test_data(load_run(finished / "run"), None, trust_factory=False)
    pixels = [*dataset.test.images[:6].numpy(), np.random.default_rng(0).integers(0, 256, (90, 150, 3), np.uint8)]
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    return [tmp_path / f"{number}.png" for number in range(len(pixels))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_predicts_what_its_run_does(
    kind: str, files: dict[str, Path], run: Path, images: list[Path], tool: Tool, capsys: Capture
) -> None:
    assert tool("mnet-predict", files[kind], *images, "--json", "--top", 10) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line, expected in zip(found, mobilenet_train.load(run).predict(images, top=10), strict=True):
        shares = {entry["class"]: entry["probability"] for entry in line["ranked"]}
        assert line["file"] == expected.file
        assert sum(shares.values()) == pytest.approx(1)
        assert shares == pytest.approx(dict(expected.ranked), abs=0.1 if "int8" in kind else 0.01)
        if kind == "onnx" and expected.file != str(images[-1]):  # nothing to scale
            assert shares == pytest.approx(dict(expected.ranked), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_mnet_eval_of_a_file_gives_the_runs_numbers(
    kind: str, files: dict[str, Path], run: Path, tool: Tool, capsys: Capture
) -> None:
    assert tool("mnet-eval", files[kind], "--data", run, "--json") == 0
    itself, file = json.loads(capsys.readouterr().out)
    assert itself["top1"] == pytest.approx(json.loads((run / "summary.json").read_text())["final"]["test"]["top1"])
    assert file["top1"] == pytest.approx(itself["top1"], abs=2 if "int8" in kind else 0)
    assert file["top1"] == itself["top1"] - file["drop"]
    assert tool("mnet-eval", files[kind], "--data", run) == 0
    assert f"{file['top1']:.2f}" in capsys.readouterr().out


def test_mnet_eval_of_a_file_wants_its_run_and_refuses_another(
    files: dict[str, Path], run: Path, tool: Tool, capsys: Capture
) -> None:
    assert tool("mnet-eval", files["onnx"]) == 2
    assert "is an exported file: give --data RUN" in capsys.readouterr().err
    trained = load_run(run, "ema")
    with pytest.raises(RunError, match="computes other logits than the network"):
        check_file(files["onnx"], trained, load_test_data(trained, None, trust_factory=False))


def test_a_file_is_predicted_without_importing_torch(files: dict[str, Path], images: list[Path]) -> None:
    code = (
        "import sys, atexit; from mobilenet_train.cli.predict import main; "
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr)); main()"
    )
    words = [str(files["onnx-int8"]), *map(str, images)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "6.png" in done.stdout
    loaded = set(done.stderr.split())
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "torchvision", "hydra", "sklearn", "onnx"}


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_named_and_shaped_for_an_app(kind: str, files: dict[str, Path]) -> None:
    model: Any = onnx.load(files[kind])
    (given,), (result,) = model.graph.input, model.graph.output
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (given, result)]
    assert shapes == [["batch", 32, 32, 3] if "pixels" in kind else ["batch", 3, 32, 32], ["batch", 10]]
    assert (given.name, result.name) == ("images", "logits")
    uint8 = given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert uint8 == ("pixels" in kind)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["labels"]) == list("0123456789")
    assert ("uint8" in json.loads(metadata["preprocessing"])["input"]) == uint8


def test_the_page_s_ten_lines_of_python_for_an_app_work(
    files: dict[str, Path],
    images: list[Path],
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    shutil.copy(files["pixels-int8"], tmp_path / "model.int8.onnx")
    Image.open(images[0]).save(tmp_path / "elephant.jpg", quality=100)
    monkeypatch.chdir(tmp_path)
    exec(blocks("docs/export.md", "python")[0], {})
    assert capsys.readouterr().out.strip() == mobilenet_train.load(run).predict("elephant.jpg")[0].label


def test_a_file_that_is_not_ours_or_torn_is_refused_by_name(
    files: dict[str, Path], images: list[Path], tmp_path: Path, tool: Tool, capsys: Capture
) -> None:
    torn, foreign = tmp_path / "torn.onnx", tmp_path / "foreign.onnx"
    torn.write_bytes(files["onnx"].read_bytes()[:5000])
    model: Any = onnx.load(files["onnx"])
    del model.metadata_props[:]
    onnx.save(model, foreign)
    assert tool("mnet-predict", torn, images[0]) == 1
    assert f"{torn}: onnxruntime cannot load the graph" in capsys.readouterr().err
    with pytest.raises(RunError, match=r"foreign\.onnx does not name labels and preprocessing"):
        load_onnx(foreign)
    assert tool("mnet-predict", files["onnx"], images[0], "--weights", "ema") == 2
    assert "--weights ema and --heatmap are for runs" in capsys.readouterr().err


def test_pillow_scales_as_torch_does_to_2_of_255() -> None:
    draw = np.random.default_rng(0)
    for height, width, side in ((90, 150, 32), (20, 31, 48), (224, 224, 160)):
        pixels = draw.integers(0, 256, (height, width, 3), np.uint8)
        difference = np.abs(fill(pixels, side, side).astype(int) - fill_without_torch(pixels, side, side))
        assert difference.max() <= 2
        assert (difference > 0).mean() < 0.05
