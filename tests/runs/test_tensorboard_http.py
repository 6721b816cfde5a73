"""What TensorBoard itself serves for a finished run, asked through its own HTTP API."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard import program

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def ask(finished: Path) -> Iterator[Ask]:
    """Asks a TensorBoard that shows the folder of a finished run."""
    board = program.TensorBoard()
    board.configure(argv=["tensorboard", "--logdir", str(finished), "--host", "127.0.0.1", "--port", "0"])
    url = board.launch()

    def ask(path: str, body: dict[str, Any] | None = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{url}data/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    yield ask
    urllib.request.urlopen(urllib.request.Request(f"{url}data/runs"), timeout=60).close()


def test_there_is_one_run_with_all_scalars(ask: Ask) -> None:
    (run,) = ask("runs")
    assert run == "run/tensorboard"
    assert set(ask("plugin/scalars/tags")[run]) == {
        "run/learning_rate",
        "train/learning_rate",
        "train/loss_batch",
        "train/loss",
        "train/top1",
        "test/loss",
        "test/top1",
        "ema/test_top1",
        "run/images_per_second",
    }


def test_the_step_is_the_optimiser_update(ask: Ask) -> None:
    points = ask("plugin/scalars/scalars?run=run/tensorboard&tag=train/loss_batch")
    assert [step for _, step, _ in points] == [2, 4, 6, 8, 10]
    points = ask("plugin/scalars/scalars?run=run/tensorboard&tag=test/top1")
    assert [step for _, step, _ in points] == [5, 10]


def test_a_grid_of_training_images_is_shown(ask: Ask) -> None:
    assert "train/images" in ask("plugin/images/tags")["run/tensorboard"]


def test_hparams_show_one_row_for_the_run(ask: Ask) -> None:
    experiment = ask("plugin/hparams/experiment", {"experimentName": ""})
    names = {info["name"] for info in experiment["hparamInfos"]}
    assert {"model.name", "optim.lr", "batch_size", "seed"} <= names
    first = [info["name"] for info in experiment["hparamInfos"][:3]]
    assert first == ["batch_size", "dataset.max_per_class", "dataset.name"], "what was typed comes first"
    groups = ask(
        "plugin/hparams/session_groups",
        {
            "experimentName": "",
            "allowedStatuses": ["STATUS_SUCCESS", "STATUS_RUNNING", "STATUS_UNKNOWN", "STATUS_FAILURE"],
            "colParams": [],
            "startIndex": 0,
            "sliceSize": 10,
        },
    )
    (row,) = groups["sessionGroups"]
    assert row["hparams"]["model.name"] == "v3_small"
    assert row["hparams"]["batch_size"] == 32
