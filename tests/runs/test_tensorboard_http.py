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

    def ask(path: str, body: dict[str, Any] | None = None, text: bool = False) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{url}data/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode() if text else json.load(answer)

    yield ask
    urllib.request.urlopen(urllib.request.Request(f"{url}data/runs"), timeout=60).close()


def test_there_is_one_run_with_all_scalars(ask: Ask) -> None:
    (run,) = ask("runs")
    assert run == "run"
    assert set(ask("plugin/scalars/tags")[run]) == {
        "train/learning_rate",
        "train/loss_batch",
        "train/loss",
        "train/top1",
        "test/loss",
        "test/top1",
        "test/top1_ema",
        "train/images_per_second",
    }


def test_the_step_is_the_optimiser_update(ask: Ask) -> None:
    points = ask("plugin/scalars/scalars?run=run&tag=train/loss_batch")
    assert [step for _, step, _ in points] == [2, 4, 6, 8, 10]
    points = ask("plugin/scalars/scalars?run=run&tag=test/top1")
    assert [step for _, step, _ in points] == [5, 10]


def test_training_images_are_shown_and_what_is_confused_at_the_end(ask: Ask) -> None:
    assert set(ask("plugin/images/tags")["run"]) == {"train/images", "wrong/confusion_matrix", "wrong/worst_mistakes"}


def test_accuracy_and_loss_come_first_in_the_custom_charts(ask: Ask) -> None:
    first, *_ = ask("plugin/custom_scalars/layout")["category"]
    assert [chart["title"] for chart in first["chart"]] == ["top-1 in %", "loss per image"]
    assert ask("plugin/custom_scalars/scalars?run=run&tag=test/top1$")["tag_to_events"].keys() == {"test/top1"}


def test_command_and_plan_are_on_a_card(ask: Ask) -> None:
    (card,) = ask("plugin/text/text?run=run&tag=run/text_summary")
    assert "mnet-train" in card["text"]
    assert "model=v3_small" in card["text"]
    assert "<td>stride plan</td>" in card["text"].replace("\n", "")


def test_the_network_is_a_graph_of_boxes_within_boxes(ask: Ask) -> None:
    assert ask("plugin/graphs/info")["run"]["run_graph"] is True
    graph = ask("plugin/graphs/graph?run=run&conceptual=false", text=True)
    assert 'name: "features/0/0/convolution"' in graph
    assert 'input: "images"' in graph


def test_hparams_show_one_row_for_the_run(ask: Ask) -> None:
    experiment = ask("plugin/hparams/experiment", {"experimentName": ""})
    names = {info["name"] for info in experiment["hparamInfos"]}
    assert {"model.name", "optim.lr", "batch_size", "seed"} <= names
    first = [info["name"] for info in experiment["hparamInfos"][:3]]
    assert first == ["batch_size", "dataset.max_per_class", "dataset.name"], "what was typed comes first"
    assert not {"optim.nesterov", "dataset.mean"} & names, "what hardly ever differs has no column"
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
