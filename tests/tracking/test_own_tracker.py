"""The tracker of docs/your_own.md, with a stand-in for MLflow."""

import sys
from typing import Any
from unittest.mock import Mock

import pytest

from mobilenet_train.tracking import RunDescription
from tests.pages import blocks
from tests.tracking.conftest import epoch_events


def test_the_page_s_tracker_logs_each_epoch_once(description: RunDescription, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = Mock()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    names: dict[str, Any] = {}
    (code,) = [code for code in blocks("docs/your_own.md", "python") if code.startswith("# tracked.py")]
    exec(code, names)
    tracker = names["log_to_mlflow"](description)
    for event in epoch_events(0):
        tracker(event)
    tracker.close(finished=True)
    mlflow.log_metrics.assert_called_once_with(
        {"train_loss": 1.58124, "test_loss": 1.21834, "test_top1": 57.58}, step=0
    )
    mlflow.end_run.assert_called_once_with("FINISHED")
