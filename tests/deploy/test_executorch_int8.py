"""int8 in ExecuTorch: what is rewritten computes the same, all of it is one part of XNNPACK's, and it loses little."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mobilenet_train.data.images import Dataset
from mobilenet_train.deploy.executorch_program import load_program, to_executorch, traced
from mobilenet_train.deploy.export import FORMATS, DeployRow, Source, all_logits, check_file, export, top1
from mobilenet_train.deploy.runtimes import eager_logits
from mobilenet_train.deploy.xnnpack_graph import quantise, suited_to_xnnpack
from mobilenet_train.inference.evaluate import load_test_data
from mobilenet_train.inference.loading import TrainedRun, load_run
from mobilenet_train.models import NETWORKS
from mobilenet_train.models.blocks import ConvNormActivation
from tests.deploy.networks import Own, Small, lively, train, without_repeats

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("executorch.exir")
pytestmark = pytest.mark.usefixtures("short_timings")


def operators(model: nn.Module) -> set[str]:
    return {str(node.target) for node in model.graph.nodes if node.op == "call_function"}  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore")  # ExecuTorch's own
@pytest.mark.parametrize("name", NETWORKS)
def test_a_rewritten_network_computes_the_same_without_what_xnnpack_leaves(name: str) -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    whole = NETWORKS[name](num_classes=10, resolution=32, width_mult=0.25)
    model = lively(without_repeats(whole, images), images)
    suited = suited_to_xnnpack(traced(model, images))
    torch.testing.assert_close(suited(images), model(images), rtol=1e-4, atol=1e-4)
    assert not {"aten.linear.default", "aten.hardsigmoid.default", "aten.unsqueeze.default"} & operators(suited)
    int8 = quantise(traced(suited, images).module(check_guards=False), [images])
    assert (int8(images) - model(images)).abs().max() < 0.15 * model(images).abs().max()


class Gates(nn.Module):
    """Hard-sigmoids after convolutions that somebody else uses too, or that have no biases, or of no convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.unbiased = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        gate = nn.functional.hardsigmoid
        shared = self.shared(images)
        return (shared * gate(shared) + gate(self.unbiased(images)) + gate(images))[:, :, None].sum((2, 3, 4))


@pytest.mark.parametrize("network", [Own, Gates])
def test_a_network_of_ones_own_is_rewritten_rightly(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    images, model = torch.randn(2, 3, 8, 8), network().requires_grad_(False)
    torch.testing.assert_close(suited_to_xnnpack(traced(model, images))(images), model(images))


@pytest.fixture(scope="module")
def run(finished: Path) -> TrainedRun:
    """A run of the small network, well trained."""
    run = load_run(finished / "run")
    torch.manual_seed(0)
    model = Small()
    train(model, load_test_data(run, None, trust_factory=False), run.preprocessing)
    return replace(run, model=model)


@pytest.fixture(scope="module")
def dataset(run: TrainedRun) -> Dataset:
    return load_test_data(run, None, trust_factory=False)


@pytest.fixture(scope="module")
def exported(
    run: TrainedRun, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[DeployRow]]:
    folder = tmp_path_factory.mktemp("executorch")
    return folder, export(Source(run, dataset), ["executorch", "executorch-int8"], folder, max_drop=2)


def test_int8_loses_little_and_is_a_quarter_of_the_size(exported: tuple[Path, list[DeployRow]]) -> None:
    folder, (itself, fp32, int8) = exported
    assert itself.checked.top1 > 40  # of ten classes; it ends at 53 to 65, as rounding has it
    assert abs(int8.checked.drop) <= 2
    assert 0 < int8.checked.difference > fp32.checked.difference
    sizes = [(folder / name).stat().st_size for name in ("model.pte", "model.int8.pte")]
    assert sizes == [fp32.checked.bytes, int8.checked.bytes]


@pytest.mark.parametrize("name", ["model.pte", "model.int8.pte"])
def test_xnnpack_computes_all_of_it_at_once(name: str, exported: tuple[Path, list[DeployRow]]) -> None:
    program = pytest.importorskip("executorch.exir._serialize._program").deserialize_pte_binary(
        (exported[0] / name).read_bytes()
    )
    (forward,) = [plan for plan in program.program.execution_plan if plan.name == "forward"]
    assert len(forward.delegates) == 1
    calls = [type(step.instr_args).__name__ for chain in forward.chains for step in chain.instructions]
    assert calls.count("DelegateCall") == 1
    assert {operator.name for operator in forward.operators} == {"aten::sym_size", "aten::view_copy"}  # of the logits


def test_an_int8_program_is_evaluated_as_what_it_is(
    run: TrainedRun, dataset: Dataset, exported: tuple[Path, list[DeployRow]]
) -> None:
    folder, rows = exported
    for name, row in zip(("model.pte", "model.int8.pte"), rows[1:], strict=True):
        assert check_file(folder / name, run, dataset)[1] == row.checked


def test_clamped_results_use_all_their_steps() -> None:
    """A convolution whose results are far outside of 0 to 6, where they are clamped: its steps are 6 / 255 wide."""
    torch.manual_seed(0)
    first, second, last = (nn.Conv2d(3, 3, 1, groups=3) for _ in range(3))
    for layer in (first, second, last):
        layer.weight.data.fill_(1)
        layer.bias.data.zero_()  # type: ignore[union-attr]
    model = nn.Sequential(first, second, nn.ReLU6(), last, nn.Flatten())  # the first is in fp32
    images = torch.linspace(-60, 60, 3 * 64).reshape(1, 3, 8, 8)
    logits, _ = load_program(to_executorch(model, 8, {}, calibration=[images]), threads=1)
    steps = logits(images / 10).unique()
    assert float(steps.max()) == pytest.approx(6, abs=0.03)
    assert float(steps.diff().max()) <= 120 / 255 + 0.03  # the steps of what is clamped


@pytest.mark.filterwarnings("ignore")  # ExecuTorch's own
def test_the_first_and_depthwise_5x5_convolutions_stay_in_fp32() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 8, 8)
    layers = [ConvNormActivation(3, 8, 3, activation="relu6")]
    layers += [ConvNormActivation(8, 8, size, groups=8, activation="relu") for size in (5, 3)]
    layers += [
        ConvNormActivation(8, 16, 5, activation="relu"),
        ConvNormActivation(16, 16, 5, groups=16, activation=None),
    ]
    model = lively(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), images)
    quantised = quantise(traced(suited_to_xnnpack(traced(model, images)), images).module(check_guards=False), [images])
    convolutions = [node for node in quantised.graph.nodes if "conv2d" in str(node.target)]  # type: ignore[union-attr]
    in_int8 = ["dequantize" in str(node.args[1].target) for node in convolutions]
    assert in_int8 == [False, False, True, True, False]


def test_fine_tuning_serves_both_int8_formats(run: TrainedRun, dataset: Dataset) -> None:
    lines: list[str] = []
    source = Source(run, dataset, qat_epochs=1, log=lines.append)
    logits, _ = load_program(FORMATS["executorch-int8"].write(source), threads=1)
    assert len(lines) == 1
    found, tuned = (
        all_logits(of, dataset.test, run.preprocessing)
        for of in (logits, eager_logits(source.tuned, torch.device("cpu")))
    )
    assert abs(top1(found, dataset.test) - top1(tuned, dataset.test)) <= 2
    assert len(lines) == 1  # one fine-tuning, however many formats


def test_programs_are_timed_by_mnet_bench(
    exported: tuple[Path, list[DeployRow]], tool: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, runtime in (("model.pte", "executorch"), ("model.int8.pte", "executorch-int8")):
        assert tool("mnet-bench", exported[0] / name, "--batch", "1,9", "--seconds", 0.001, "--json") == 0
        rows = json.loads(capsys.readouterr().out)
        assert [(row["batch"], row["runtime"], row["resolution"]) for row in rows] == [
            (1, runtime, 32),
            (9, runtime, 32),
        ]
