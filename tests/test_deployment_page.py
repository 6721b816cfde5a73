"""docs/deployment.md: every command of the page, as it stands and in its order, on real photographs."""

import shlex
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.tools import tool

__all__ = ["tool"]
PAGE = Path(__file__).parents[1] / "docs/deployment.md"
CLASSES = ("n01440764", "n03425413")  # a fish and a petrol pump
pytestmark = pytest.mark.real_data


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
    for split, count in (("train", 60), ("val", 20)):
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
