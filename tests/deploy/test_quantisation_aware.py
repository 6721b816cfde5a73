"""`--qat-epochs`: a network that int8 spoils learns to be rounded; nothing else changes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mobilenet_train.cli import export as command
from mobilenet_train.data.batches import EvalBatches
from mobilenet_train.data.images import Dataset
from mobilenet_train.deploy.export import Checked, Source, calibration_batches, export, properties
from mobilenet_train.deploy.onnx_graph import to_onnx
from mobilenet_train.deploy.onnx_int8 import quantise
from mobilenet_train.deploy.quantisation_aware import fine_tuned, round_activations, round_weights, rounded
from mobilenet_train.inference.evaluate import load_test_data
from mobilenet_train.inference.loading import TrainedRun, load_run

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
EPOCHS = 24  # of five batches


class Small(nn.Module):
    """A depthwise-separable network for digits."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.pointwise = nn.Sequential(nn.Conv2d(16, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.classifier = nn.Linear(64 * 16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.pointwise(self.depthwise(self.first(images)))
        return self.classifier(F.max_pool2d(maps, 2).flatten(1))

    @torch.no_grad()
    def stretch(self, factor: float) -> None:
        """Computes the same with one channel of `factor` times the range, which costs the others their steps."""
        norm, convolution = self.first[1], self.depthwise[0]
        norm.weight[0] *= factor
        norm.bias[0] *= factor
        convolution.weight[0] /= factor


@dataclass(frozen=True)
class Spoiled:
    """A trained network that static quantisation spoils, and what plain and fine-tuned exports of it are."""

    run: TrainedRun
    dataset: Dataset
    plain: dict[str, Checked]
    tuned: dict[str, Checked]
    folder: Path  # with plain/ and tuned/


@pytest.fixture(scope="module", autouse=True)
def short_runs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mobilenet_train.deploy.export.TIMED_SECONDS", 0.001)
        patch.setattr("mobilenet_train.deploy.quantisation_aware.PEAK_LEARNING_RATE", 0.03)  # for 120 updates in all
        yield


@pytest.fixture(scope="module")
def spoiled(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Spoiled:
    torch.set_num_threads(1)
    run = load_run(finished / "run")
    dataset = load_test_data(run, None, trust_factory=False)
    run = replace(run, model=trained(run, dataset))
    folder = tmp_path_factory.mktemp("spoiled")
    results = {}
    for name, epochs in (("plain", 0), ("tuned", EPOCHS)):
        rows = export(Source(run, dataset, epochs), ["onnx", "onnx-int8"], folder / name, max_drop=100)
        results[name] = {row.checked.format: row.checked for row in rows}
    return Spoiled(run, dataset, results["plain"], results["tuned"], folder)


def trained(run: TrainedRun, dataset: Dataset) -> nn.Module:
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batches = list(EvalBatches(dataset.train, run.preprocessing, 32, torch.contiguous_format))
    for _ in range(20):
        for images, labels in batches:
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    model.stretch(1000)
    return model.eval().requires_grad_(False)


def test_fine_tuning_recovers_what_plain_quantisation_loses(spoiled: Spoiled) -> None:
    assert spoiled.plain["onnx-int8"].drop > 50
    assert spoiled.tuned["onnx-int8"].drop < 0.3 * spoiled.plain["onnx-int8"].drop


def test_the_drop_is_against_the_network_as_it_was_trained(spoiled: Spoiled) -> None:
    assert spoiled.tuned["pytorch"] == spoiled.plain["pytorch"]
    assert spoiled.tuned["onnx-int8"].drop == spoiled.plain["pytorch"].top1 - spoiled.tuned["onnx-int8"].top1


def test_fp32_exports_are_not_fine_tuned(spoiled: Spoiled) -> None:
    plain, tuned = ((spoiled.folder / name / "model.onnx").read_bytes() for name in ("plain", "tuned"))
    assert plain == tuned


def test_the_same_seed_gives_the_same_file(spoiled: Spoiled, tmp_path: Path) -> None:
    export(Source(spoiled.run, spoiled.dataset, EPOCHS), ["onnx-int8"], tmp_path, max_drop=100)
    again = (tmp_path / "model.int8.onnx").read_bytes()
    assert again == (spoiled.folder / "tuned/model.int8.onnx").read_bytes()


def test_batch_norm_keeps_its_statistics_and_the_run_its_network(spoiled: Spoiled) -> None:
    before = {name: value.clone() for name, value in spoiled.run.model.state_dict().items()}
    lines: list[str] = []
    after = fine_tuned(spoiled.run, spoiled.dataset, 1, lines.append).state_dict()
    assert all(torch.equal(before[name], value) for name, value in spoiled.run.model.state_dict().items())
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert kept == {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert len(lines) == 1
    assert lines[0].startswith("quantisation-aware epoch 1 of 1: training loss ")


def test_values_are_rounded_wherever_onnxruntime_rounds_them(finished: Path) -> None:
    run = load_run(finished / "run")
    dataset = load_test_data(run, None, trust_factory=False)
    graph = to_onnx(run.model, 32, properties(run))
    quantised = onnx.load_from_string(quantise(graph, calibration_batches(run, dataset.train))).graph
    moved = {node.output[0] for node in quantised.node if node.op_type == "Squeeze"}  # rounded already
    activations = sum(node.op_type == "QuantizeLinear" and node.input[0] not in moved for node in quantised.node)
    weighted = sum(node.op_type in ("Conv", "Gemm") for node in quantised.node)
    targets = [node.target for node in rounded(run.model, 32).graph.nodes]
    assert targets.count(round_activations) == activations > 100
    assert targets.count(round_weights) == weighted - 1  # the first convolution is in fp32


def test_rounding_has_int8s_steps_and_passes_gradients_on() -> None:
    weights = torch.tensor([[1.27, 0.504, -0.016], [12.7, 0.06, 0.0]], requires_grad=True)
    torch.testing.assert_close(round_weights(weights), torch.tensor([[1.27, 0.5, -0.02], [12.7, 0.1, 0.0]]))
    round_weights(weights).sum().backward()
    assert torch.equal(weights.grad, torch.ones(2, 3))  # type: ignore[arg-type]
    torch.testing.assert_close(round_activations(torch.tensor([-0.55, 0.012, 2.0])), torch.tensor([-0.55, 0.01, 2.0]))
    assert round_activations(torch.zeros(3)).tolist() == [0, 0, 0]


def test_it_is_refused_where_it_would_do_nothing(
    run: Path, tool: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool("mnet-export", run, "--to", "onnx,safetensors", "--qat-epochs", 2) == 2
    assert "--qat-epochs 2 has no effect: it is for onnx-int8 and executorch-int8" in capsys.readouterr().err
    assert not (run / "export").exists()
    assert tool("mnet-export", run, "--to", "onnx-int8", "--qat-epochs", -1) == 2


def test_the_table_names_it_and_a_large_drop_suggests_it(spoiled: Spoiled) -> None:
    plain, tuned = spoiled.plain["onnx-int8"], spoiled.tuned["onnx-int8"]
    assert command.label(plain) == "onnx-int8"
    assert command.label(tuned) == f"onnx-int8 after {EPOCHS} epochs quantisation-aware"
    assert "--qat-epochs 3 " in command.advice([plain])
    assert f"--qat-epochs {2 * EPOCHS} " in command.advice([tuned])
    assert command.advice([spoiled.plain["onnx"]]) == ""
