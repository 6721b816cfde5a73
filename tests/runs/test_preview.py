"""preview=true: a sheet of what the network would see, and what stands above the pictures."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from mobilenet_train.runs.preview import caption
from tests.cli.helpers import exit_code
from tests.conftest import TINY


def test_a_preview_writes_one_sheet_and_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [*TINY, "augment=strong", "preview=true", "dataset.resolution=100"]
    assert exit_code(monkeypatch, *arguments) == 0
    sheet = Path("outputs/preview_digits_strong.jpg")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / sheet]
    with Image.open(sheet) as picture:
        assert picture.width == 880
        assert picture.convert("L").getextrema()[0] < 50  # there is something on it
    said = capsys.readouterr().out
    assert f"what the network would see: {sheet}" in said
    assert "dataset.resolution=100 is not a multiple of 32" in said
    assert "96 makes better use" in said


def test_a_picture_is_named_by_its_class_and_a_mixed_one_by_both() -> None:
    names = ("cat", "dog", "owl")
    assert caption(torch.tensor(1), names) == "dog"
    assert caption(torch.tensor([0.25, 0.0, 0.75]), names) == "owl 75%\ncat 25%"
    assert caption(torch.tensor([0.0, 1.0, 0.0]), names) == "dog 100%"
