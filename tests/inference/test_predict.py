"""Predictions: the run's own preprocessing to the last bit, any image, bad ones named and passed over."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mobilenet_train
from mobilenet_train.data.batches import EvalBatches
from mobilenet_train.data.decode import decode
from mobilenet_train.data.sources import load as load_data
from mobilenet_train.errors import RunError
from mobilenet_train.inference.loading import load_run
from mobilenet_train.runtime import Runtime
from mobilenet_train.training.evaluation import evaluate
from tests.inference.odd_images import BAD, GOOD, encoded, sample, write_all
from tests.pages import blocks

Tool = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd") / "images"
    write_all(folder)
    return folder


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Three images and a note, one of them a folder further down."""
    (tmp_path / "few/more").mkdir(parents=True)
    for name in ("b.png", "a.png", "more/c.png"):
        sample().save(tmp_path / "few" / name)
    (tmp_path / "few/note.txt").write_text("not an image, and not meant as one")
    return tmp_path / "few"


def test_files_of_test_images_get_the_probabilities_of_the_evaluation(run: Path, tmp_path: Path) -> None:
    trained = load_run(run)
    dataset = load_data(trained.config.dataset)
    logits: list[torch.Tensor] = []
    runtime = Runtime(torch.device("cpu"), 1, None, torch.channels_last)
    batches = EvalBatches(dataset.test, trained.preprocessing, 16, torch.channels_last)
    evaluate(trained.model, batches, runtime, lambda: False, logits.append)
    expected = torch.cat(logits).softmax(1)[:16]
    files = []
    for number, pixels in enumerate(dataset.test.images[:16].numpy()):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(files[-1])
    model = mobilenet_train.load(run)
    for images in (files, list(dataset.test.images[:16].numpy())):
        predictions = model.predict(images, top=10, batch_size=16)
        for prediction, probabilities in zip(predictions, expected, strict=True):
            found = dict(prediction.ranked)
            assert [found[name] for name in model.class_names] == probabilities.tolist()
            assert prediction.label == model.class_names[int(probabilities.argmax())]


def test_thirty_odd_images_are_predicted_or_named(run: Path, odd: Path, tool: Tool, capsys: Capture) -> None:
    assert tool("mnet-predict", run, odd, "--json") == 1
    output = capsys.readouterr()
    lines = {Path(line["file"]).name: line for line in map(json.loads, output.out.splitlines())}
    assert len(lines) == len(GOOD) + len(BAD) > 30
    for name in GOOD:
        assert lines[name]["error"] is None, lines[name]
        assert len(lines[name]["ranked"]) == 5
        assert sum(entry["probability"] for entry in lines[name]["ranked"]) <= 1 + 1e-5
    for name in BAD:
        assert lines[name]["ranked"] == []
        assert f"mnet-predict: {odd / name} " in output.err
    assert len(output.err.splitlines()) == len(BAD) + 1
    assert f"{len(BAD)} of {len(lines)} images could not be read" in output.err


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("rgb.jpg", (200, 30, 40)),
        ("rotated.jpg", (200, 30, 40)),
        ("progressive.JPEG", (200, 30, 40)),
        ("cmyk.jpg", (200, 30, 40)),
        ("cmyk.tiff", (200, 30, 40)),
        ("animated.gif", (200, 30, 40)),
        ("animated.webp", (200, 30, 40)),
        ("pages.tiff", (200, 30, 40)),
        ("rgb_16_bit.png", (0xC8, 0x1E, 0x28)),
        ("grey_16_bit.png", (0x80, 0x80, 0x80)),
        ("grey_16_bit.tif", (0x80, 0x80, 0x80)),
        ("one_pixel.png", (200, 30, 40)),
        ("60_megapixels.png", (90, 90, 90)),
        ("rgba.png", (255, 255, 255)),
    ],
)
def test_odd_images_come_out_in_their_true_colours(odd: Path, name: str, left: tuple[int, int, int]) -> None:
    pixels = decode((odd / name).read_bytes(), 32)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels[16, 4].astype(int) - left).max() <= 4


def test_nothing_is_squashed_whatever_shape_was_stored() -> None:
    wide = decode(encoded(sample(400, 40), "PNG"), 20)
    assert (wide[:, :9, 0] > 150).all()
    assert (wide[:, 11:, 2] > 150).all()
    assert decode(encoded(sample(400, 40), "PNG"), 20, 30).shape == (20, 30, 3)


def test_one_image_gets_the_tutorials_line(run: Path, few: Path, tool: Tool, capsys: Capture) -> None:
    assert tool("mnet-predict", run, few / "a.png", "--top", 3) == 0
    best, *others = mobilenet_train.load(run).predict(few / "a.png", top=3)[0].ranked
    output = capsys.readouterr()
    assert output.out.startswith(f"Predicted: {best[0]} ({best[1]:.2%}), {others[0][0]} (")
    assert output.out.count("%") == 3
    assert output.err == ""


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["few"], ["few/a.png", "few/b.png", "few/more/c.png"]),
        (["few/*.png"], ["few/a.png", "few/b.png"]),
        (["few/**/c.png"], ["few/more/c.png"]),
        (["few/b.png", "few/more"], ["few/b.png", "few/more/c.png"]),
    ],
    ids=str,
)
def test_files_folders_and_patterns(
    arguments: list[str],
    names: list[str],
    run: Path,
    few: Path,
    tool: Tool,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(few.parent)
    assert tool("mnet-predict", run, *arguments, "--csv", "--top", 2) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["file"] for row in rows] == names
    assert all(set(row) == {"file", "error", "class_1", "probability_1", "class_2", "probability_2"} for row in rows)
    assert all(float(row["probability_1"]) >= float(row["probability_2"]) > 0 for row in rows)


def test_the_table_shows_every_image_and_their_folder_once(run: Path, few: Path, tool: Tool, capsys: Capture) -> None:
    assert tool("mnet-predict", run, few, few / "gone.png") == 1
    output = capsys.readouterr()
    folded = "".join(output.out.split())
    assert all(name in folded for name in ("a.png", "b.png", "c.png"))
    assert folded.count(str(few)) == 1
    assert "gone.png does not exist" in output.err


def test_a_table_of_images_with_no_folder_in_common_has_their_whole_names(
    run: Path, few: Path, tool: Tool, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(few)
    monkeypatch.setenv("COLUMNS", "300")
    assert tool("mnet-predict", run, "a.png", few / "b.png") == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if ".png" in line]
    assert rows == ["a.png", f"{few}/b.png"]


def test_an_image_from_the_standard_input(
    run: Path, tool: Tool, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(sample(), "PNG")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert tool("mnet-predict", run, "-", "--json") == 0
    line = json.loads(capsys.readouterr().out)
    (expected,) = mobilenet_train.load(run).predict(np.asarray(sample()))
    assert line["file"] == "-"
    assert [(entry["class"], entry["probability"]) for entry in line["ranked"]] == list(expected.ranked)


def test_averaged_weights_predict_otherwise(run: Path, few: Path) -> None:
    raw, ema = (mobilenet_train.load(run, weights).predict(few / "a.png")[0] for weights in ("raw", "ema"))
    assert raw.ranked != ema.ranked


def test_the_batch_size_does_not_matter(run: Path, odd: Path) -> None:
    model = mobilenet_train.load(run)
    files = [odd / name for name in GOOD if "mega" not in name]
    small, large = (model.predict(files, top=10, batch_size=size) for size in (1, 64))
    for one, other in zip(small, large, strict=True):
        found = dict(other.ranked)
        assert all(value == pytest.approx(found[name], abs=1e-5) for name, value in one.ranked)


def test_the_page_s_python_loads_a_run_which_gives_a_detectors_maps(
    run: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.parent / "outputs").mkdir()
    run.rename(run.parent / "outputs/RUN")
    monkeypatch.chdir(run.parent)
    for name in ("cat.jpg", "dog.jpg"):
        sample().save(name)
    names: dict[str, Any] = {}
    exec(blocks("docs/finished_runs.md", "python")[0], names)
    model = names["model"]
    x = model.preprocess([few / "a.png", few / "b.png"])
    assert x.shape == (2, 3, 32, 32)
    assert [tuple(maps.shape[2:]) for maps in model.features(x, strides=(8, 16, 32))] == [(4, 4), (2, 2), (1, 1)]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("gone.png", "gone.png does not exist"),
        (np.zeros((4, 4, 3)), "image 0 is a float64 array"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\); give uint8"),
    ],
    ids=str,
)
def test_the_python_functions_name_a_bad_image(run: Path, image: str | np.ndarray, message: str) -> None:
    with pytest.raises(RunError, match=message):
        mobilenet_train.load(run).predict(image)


def test_wrong_use_is_one_line(run: Path, tmp_path: Path, tool: Tool, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, code, message in (
        ([run], 2, "IMAGE|FOLDER|GLOB|-"),
        ([run, "x.png", "--csv", "--json"], 2, "--csv and --json"),
        ([run, "x.png", "--top", "0"], 2, "--top"),
        ([run, tmp_path / "empty"], 1, "no image files in"),
        ([run, tmp_path / "*.gif"], 1, "no file matches"),
        ([run, tmp_path / "gone.png", "--weights", "mean"], 2, "--weights"),
    ):
        assert tool("mnet-predict", *arguments) == code
        error = capsys.readouterr().err
        assert error.startswith("mnet-predict: ")
        assert message in error
        assert error.count("\n") == 1
