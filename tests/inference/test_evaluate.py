"""mnet-eval: the logged accuracy again, to the last image, or the images that differ."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mobilenet_train import checkpoint
from mobilenet_train.cli.train import main as train
from mobilenet_train.inference import evaluate
from mobilenet_train.inference.evaluate import (
    Evaluated,
    FlipAveraged,
    Verdict,
    calibration_error,
    classification_report,
    evaluate_run,
    load_test_data,
    verify,
)
from mobilenet_train.inference.loading import load_run
from mobilenet_train.results import Score
from mobilenet_train.runtime import set_up
from tests.conftest import TINY
from tests.tools import rewrite

Tool = Callable[..., int]
Capture = pytest.CaptureFixture[str]


def evaluated(logits: Tensor, labels: list[int]) -> Evaluated:
    return Evaluated("raw", False, Score(0.0, 0.0), logits, torch.tensor(labels))


def report(tool: Tool, capsys: Capture, *arguments: object, code: int = 0) -> dict[str, Any]:
    """What `mnet-eval ARGUMENTS --json` prints."""
    assert tool("mnet-eval", *arguments, "--json") == code
    values = json.loads(capsys.readouterr().out)
    assert isinstance(values, dict)
    return values


def ink(path: Path) -> float:
    """The share of an image's pixels that are not white."""
    return float((np.asarray(Image.open(path).convert("L")) < 250).mean())


def test_the_logged_accuracy_is_verified_of_both_sets_of_weights(run: Path, tool: Tool, capsys: Capture) -> None:
    values = report(tool, capsys, run)
    logged = json.loads((run / "summary.json").read_text())["final"]
    assert values["verification"]["status"] == "verified"
    assert values["verification"]["changed"] == []
    raw, ema = values["scores"]
    assert (raw["weights"], ema["weights"]) == ("raw", "ema")
    assert {key: raw[key] for key in ("loss", "top1", "top5")} == logged["test"]
    assert {key: ema[key] for key in ("loss", "top1", "top5")} == logged["ema_test"]
    assert ink(run / "evaluation/confusion_matrix.png") > 0.05
    assert ink(run / "evaluation/mistakes.png") > 0.2
    assert {path.name for path in (run / "evaluation").iterdir()} == {
        "report.json",
        "confusion_matrix.png",
        "mistakes.png",
    }
    assert json.loads((run / "evaluation/report.json").read_text()) == values


def test_people_read_verified_and_every_class(run: Path, tool: Tool, capsys: Capture) -> None:
    assert tool("mnet-eval", run, "--flip", "--out", run / "elsewhere") == 0
    output = capsys.readouterr().out
    assert "verified: " in output
    assert "ema, flip TTA" in output
    assert all(f"\n {digit} " in output for digit in range(10))
    assert str(run / "elsewhere/confusion_matrix.png") in output
    assert not (run / "evaluation").exists()


def test_best_is_verified_against_its_own_epoch(run: Path) -> None:
    assert verdict(run / "checkpoints/best.pt").status == "verified"


def verdict(run: Path, deterministic: bool = True) -> Verdict:
    """The verdict on a run, evaluated with one thread as in its training."""
    trained = load_run(run)
    dataset = load_test_data(trained, None, trust_factory=False)
    runtime = replace(set_up(trained.config.device), deterministic=deterministic)
    return verify(trained, dataset, list(evaluate_run(trained, dataset, runtime, flip=False)), runtime)


def test_altered_weights_fail_and_the_images_that_changed_are_named(run: Path, tool: Tool, capsys: Capture) -> None:
    saved = checkpoint.load(run / "checkpoints/last.pt")
    model = {**saved["model"], "classifier.3.bias": saved["model"]["classifier.3.bias"] + torch.arange(10.0)}
    rewrite(run, model=model)
    found = verdict(run)
    assert found.status == "failed"
    assert len(found.changed) > 0
    assert all(image.logged == str(int(saved["test_predictions"][image.index])) != image.now for image in found.changed)
    assert tool("mnet-eval", run) == 1
    first = found.changed[0]
    line = f"image {first.index} ({first.true}): was {first.logged}, now {first.now}"
    assert line in capsys.readouterr().out


def test_a_change_that_leaves_the_number_of_right_images_is_seen_too(run: Path) -> None:
    predictions = checkpoint.load(run / "checkpoints/last.pt")["test_predictions"]
    predictions[7] = (predictions[7] + 1) % 10
    rewrite(run, test_predictions=predictions)
    found = verdict(run)
    assert found.status == "failed"
    assert [image.index for image in found.changed] == [7]


def test_on_another_machine_a_single_image_is_rounding_and_many_are_a_failure(run: Path) -> None:
    saved = checkpoint.load(run / "checkpoints/last.pt")
    elsewhere = {**saved["environment"], "processor": "Another"}
    one = saved["test_predictions"].clone()
    one[3] = (one[3] + 1) % 10
    rewrite(run, environment=elsewhere, test_predictions=one)
    found = verdict(run)
    assert found.status == "rounding"
    assert "processor Another -> " in found.message
    assert len(found.changed) == 1
    rewrite(run, test_predictions=(saved["test_predictions"] + 1) % 10)
    assert verdict(run).status == "failed"


@pytest.mark.parametrize("why", ["device.deterministic=false", "device.compile=default"])
def test_an_image_may_change_sides_on_a_gpu_that_does_not_repeat_and_after_a_compiled_training(
    why: str, run: Path
) -> None:
    """cuDNN's search may take another algorithm each time; a compiled evaluation rounds otherwise than this one."""
    saved = checkpoint.load(run / "checkpoints/last.pt")
    one = saved["test_predictions"].clone()
    one[3] = (one[3] + 1) % 10
    compiled = {"compile": "default"} if "compile" in why else {}
    rewrite(run, environment={**saved["environment"], **compiled}, test_predictions=one)
    found = verdict(run, deterministic="deterministic" not in why)
    assert found.status == "rounding"
    assert f"{why}, so the last bits differ" in found.message


def test_a_checkpoint_from_before_there_were_predictions_is_verified_by_its_count(run: Path) -> None:
    path = run / "checkpoints/last.pt"
    contents = checkpoint.load(path)
    del contents["test_predictions"]
    torch.save({**contents, "digest": checkpoint.digest(contents)}, path)
    assert verdict(run).status == "verified"


def test_other_images_and_unlogged_weights_are_told_apart(run: Path) -> None:
    progress = checkpoint.load(run / "checkpoints/last.pt")["progress"]
    rewrite(run, progress={**progress, "batch": 2})
    assert verdict(run).status == "not logged"
    rewrite(run, progress=progress, fingerprint="another")
    assert verdict(run).status == "other images"


def test_other_classes_are_refused(run: Path, tool: Tool, capsys: Capture) -> None:
    rewrite(run, class_names=["zero", *map(str, range(1, 10))])
    assert tool("mnet-eval", run) == 1
    error = capsys.readouterr().err
    assert "the run has 10 classes (zero, 1, 2, ...)" in error
    assert "(0, 1, 2, ...)" in error


def test_the_resolution_curve_has_the_runs_own_point(run: Path, tool: Tool, capsys: Capture) -> None:
    values = report(tool, capsys, run, "--resolutions", "24,48")
    points = {point["resolution"]: point for point in values["resolutions"]}
    assert list(points) == [24, 32, 48]
    assert points[32]["score"]["top1"] == values["scores"][0]["top1"]
    assert points[24]["multiply_adds"] < points[32]["multiply_adds"] < points[48]["multiply_adds"]
    assert ink(run / "evaluation/resolutions.png") > 0.001


def test_flip_averages_the_logits_of_an_image_and_its_mirror_image() -> None:
    left = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 2 * 2, 4))
    images = torch.randn(5, 3, 2, 2)
    flipped = FlipAveraged(left)
    assert torch.allclose(flipped(images), flipped(images.flip(3)))
    assert torch.allclose(flipped(images), (left(images) + left(images.flip(3))) / 2)


def test_calibration_error_is_the_distance_of_confidence_from_accuracy() -> None:
    sure = torch.tensor([[100.0, 0.0]] * 4)
    assert calibration_error(sure, torch.tensor([0, 0, 0, 0])) == pytest.approx(0)
    assert calibration_error(sure, torch.tensor([0, 0, 1, 1])) == pytest.approx(50)
    # two bins: confidence 0.6 with 1 of 2 right, 0.9 with 3 of 3 right: (2 x 10 + 3 x 10) / 5 points
    confidence = torch.tensor([0.6, 0.6, 0.9, 0.9, 0.9])
    logits = torch.stack([confidence.log(), (1 - confidence).log()], 1)
    assert calibration_error(logits, torch.tensor([0, 1, 0, 0, 0])) == pytest.approx(10, abs=1e-4)


def test_the_report_is_scikit_learns_even_where_two_classes_have_one_name() -> None:
    predicted = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 1, 2, 0]), 3).float()
    rows = classification_report(evaluated(predicted, [0, 0, 0, 1, 1, 2]), ["crane", "crane", "ship"])
    assert [row.name for row in rows] == ["crane", "crane", "ship", "mean", "weighted mean"]
    numbers = [(row.precision, row.recall, row.f1, row.images) for row in rows]
    assert numbers[0] == pytest.approx((2 / 3, 2 / 3, 2 / 3, 3))
    assert numbers[1] == pytest.approx((1 / 2, 1 / 2, 1 / 2, 2))
    assert numbers[2] == pytest.approx((0, 0, 0, 1))
    assert numbers[4] == pytest.approx((0.5, 0.5, 0.5, 6))


def test_confusions_count_true_by_predicted_and_the_worst_mistake_comes_first() -> None:
    logits = torch.tensor([[9.0, 0, 0], [0, 1, 0], [0, 5, 0], [0, 0, 2]])
    found = evaluated(logits, [0, 0, 2, 1])
    assert found.confusions.tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]
    assert evaluate.worst_mistakes(found, 2).tolist() == [2, 3]
    perfect = replace(found, labels=torch.tensor([0, 1, 1, 2]))
    assert evaluate.worst_mistakes(perfect, 2).tolist() == []


def test_wrong_use_is_one_line(run: Path, tmp_path: Path, tool: Tool, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    for arguments, code, message in (
        ([], 2, "RUN"),
        ([run, "--resolutions", "96,big"], 2, "'big'"),
        ([run, "--resolutions", "9999"], 2, "4096"),
        ([run, "--data", tmp_path], 2, "--data"),
        ([run, "--threads", "0"], 2, "--threads"),
        ([run, "--device", "cuda"], 1, "no CUDA device") if not torch.cuda.is_available() else ([], 2, "RUN"),
        ([run, "--out", tmp_path / "file/below"], 1, "cannot write"),
    ):
        assert tool("mnet-eval", *arguments) == code
        error = capsys.readouterr().err
        assert error.startswith("mnet-eval: ")
        assert message in error
        assert error.count("\n") == 1


@pytest.mark.real_data
def test_a_run_on_cifar10_is_verified(
    cifar10_root: Path, tmp_path: Path, tool: Tool, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [word for word in TINY if word != "dataset=digits"]
    data = ["dataset=cifar10", f"dataset.root={cifar10_root}", "dataset.max_per_class=60", "tensorboard=false"]
    monkeypatch.setattr(sys, "argv", ["mnet-train", *words, *data, f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(SystemExit) as exit_:
        train()
    assert exit_.value.code == 0
    capsys.readouterr()
    values = report(tool, capsys, tmp_path / "run", "--data", cifar10_root)
    assert values["verification"]["status"] == "verified"
    assert values["images"] == 600
    assert [row["images"] for row in values["classes"][:10]] == [60] * 10


def test_kappa_and_the_class_mean_are_scikit_learns() -> None:
    from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score

    torch.manual_seed(0)
    labels = torch.randint(0, 4, (60,)).tolist()
    found = evaluated(torch.randn(60, 6) + 2 * torch.eye(6)[labels], labels)  # two classes have no image
    predicted = found.predicted.tolist()
    assert found.kappa == pytest.approx(100 * cohen_kappa_score(labels, predicted))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found.average_accuracy == pytest.approx(100 * balanced_accuracy_score(labels, predicted))
    assert evaluated(torch.eye(2)[[0, 0]], [0, 0]).kappa == 100
