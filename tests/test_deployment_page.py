"""docs/deployment.md: every command of the page, as it stands and in its order, on real photographs."""

import shlex
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from mobilenet_train.deploy.latency import measure
from mobilenet_train.deploy.onnx_graph import to_onnx
from mobilenet_train.models import MobileNet
from tests.conftest import Command
from tests.tools import tool

__all__ = ["tool"]
PAGE = Path(__file__).parents[1] / "docs/deployment.md"
CLASSES = ("n01440764", "n03425413")  # a fish and a petrol pump
pytestmark = pytest.mark.real_data


def stem_to_onnx(model: MobileNet, *how: Any) -> bytes:
    """For networks that are only timed: their first layer, since a whole one takes seconds to export."""
    return to_onnx(nn.Sequential(model.features[0], nn.AdaptiveAvgPool2d(1), nn.Flatten()), *how)


@pytest.mark.usefixtures("short_timings")
def test_the_page_takes_a_folder_of_photographs_to_a_file_that_predicts(
    imagenet_subset: Path,
    tmp_path: Path,
    forked: Command,
    tool: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mobilenet_train.deploy.bench.measure", lambda calls, _: measure(calls, seconds=0.001))
    monkeypatch.setattr("mobilenet_train.deploy.bench.to_onnx", stem_to_onnx)
    for split, count in (("train", 40), ("val", 20)):
        for name in CLASSES:
            (tmp_path / "PHOTOS" / split / name).mkdir(parents=True)
            for path in islice(sorted((imagenet_subset / split / name).iterdir()), count):
                shutil.copy(path, tmp_path / "PHOTOS" / split / name)
    shutil.copy(path, tmp_path / "photo.jpg")
    commands = [shlex.split(line) for line in PAGE.read_text().splitlines() if line.startswith("    mnet-")]
    assert [name for name, *_ in commands] == [
        *("mnet-plan", "mnet-train", "mnet-eval", "mnet-predict"),
        *("mnet-export", "mnet-eval", "mnet-predict", "mnet-bench"),
    ]
    printed = []
    for name, *arguments in commands:
        if name == "mnet-train":
            done = forked(*arguments)
            assert done.returncode == 0, done.stderr
            continue
        assert tool(name, *arguments) == 0, (name, arguments, capsys.readouterr())
        printed.append(capsys.readouterr().out)
    plan, _, _, export, evaluated, predicted, bench = printed
    assert "mnet-train model=v3_small" in plan
    assert {path.name for path in (tmp_path / "app/export").iterdir()} == {"model.onnx", "model.int8.onnx"}
    assert "deploy table" in export
    assert "onnx-int8" in evaluated
    assert predicted.startswith("Predicted: ")
    assert "median ms" in bench
    for name in ("plan.png", "app/evaluation/mistakes.png", "app/heatmaps/1_photo.png"):
        assert (tmp_path / name).stat().st_size > 0
