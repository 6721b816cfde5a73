"""docs/python.md: its code runs as it stands, on smaller images and fewer of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilenet_train.results import EpochResult
from tests.pages import blocks
from tests.small_network import small_network

FULL = '"dataset=digits"'
SMALL = (
    f'{FULL}, "dataset.max_per_class=4", "dataset.resolution=16", "batch_size=16", "device.threads=1", "max_updates=2"'
)


@pytest.mark.usefixtures("forked_command", "short_timings")
def test_the_code_of_python_s_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save("seven.png")
    x, y = np.random.default_rng(0).integers(0, 256, (128, 16, 16, 3), np.uint8), np.arange(128) % 2
    names: dict[str, Any] = {"x": x, "y": y, "x_test": x, "y_test": y, "my_network": small_network}
    (code,) = blocks("docs/python.md", "python")
    assert code.count(FULL) == 2
    exec(code.replace(FULL, SMALL), names)
    history = names["run"].history  # of the arrays
    assert len(history) == 5
    assert isinstance(history[-1], EpochResult)
    (swept,) = [path for path in tmp_path.glob("outputs/*") if (path / "sweep.csv").exists()]
    assert len(list(swept.glob("*/summary.json"))) == 6
