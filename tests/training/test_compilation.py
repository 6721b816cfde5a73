"""device.compile: what is compiled, that it is done before the clocks start, and that it trains the same network."""

import pytest
import torch
from torch import nn

from mobilenet_train import checkpoint
from mobilenet_train.runs.build import RunParts, build_run
from mobilenet_train.training.budget import measure_pace
from mobilenet_train.training.compilation import warm_up
from mobilenet_train.training.evaluation import evaluate
from mobilenet_train.training.fit import fit
from mobilenet_train.training.step import train_update
from tests.conftest import TINY, configure

OPTIONS = (*TINY, "dataset.resolution=32", "progressive.start=16", "ema.decay=0.9", "model.dropout=0")


def build(*overrides: str) -> RunParts:
    return build_run(configure(*OPTIONS, *overrides))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes that were compiled, without a compiler: a compiled network computes as usual."""
    shapes: list[torch.Size] = []

    def call(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        if images.shape not in shapes:
            shapes.append(images.shape)
        return network._call_impl(images)

    def compile_it(network: nn.Module, mode: str, dynamic: bool) -> None:
        assert (mode, dynamic) == ("reduce-overhead", False)
        network._compiled_call_impl = lambda images: call(network, images)

    monkeypatch.setattr(nn.Module, "compile", compile_it)
    return shapes


def test_everything_is_compiled_before_the_clocks_start_and_that_leaves_no_trace(compiled: list[torch.Size]) -> None:
    parts = build("device.compile=reduce-overhead", "dataset.val_fraction=0.2", "eval.batch_size=48")
    train_update(parts.state, [next(parts.batches.train.epoch(0))], parts.plan)
    before = checkpoint.digest(parts.state.state_dict())
    warm_up(parts.state, parts.batches, parts.plan)
    assert checkpoint.digest(parts.state.state_dict()) == before
    seen = list(compiled)
    measure_pace(parts.state, parts.batches.train, parts.batches.test, parts.plan)
    assert checkpoint.digest(parts.state.state_dict()) == before
    for split in (parts.batches.test, parts.batches.val):
        evaluate(parts.state.model, split, parts.runtime, lambda: 0, evaluator=parts.state.evaluator)
    assert {shape[2] for shape in seen} == set(parts.plan.resolutions) == {16, 32}
    assert compiled == seen


def test_a_compiled_evaluation_follows_the_weights(compiled: list[torch.Size]) -> None:
    parts = build("device.compile=reduce-overhead", "eval.batch_size=48")
    for batch in parts.batches.train.epoch(0):
        train_update(parts.state, [batch], parts.plan)
        for model in (parts.state.model, parts.state.ema.model):
            eager = evaluate(model, parts.batches.test, parts.runtime, lambda: 0)
            assert (
                evaluate(model, parts.batches.test, parts.runtime, lambda: 0, evaluator=parts.state.evaluator) == eager
            )
    assert (48, 3, 32, 32) in compiled


def test_with_cuda_graphs_accumulated_gradients_are_kept_in_memory_of_our_own(compiled: list[torch.Size]) -> None:
    """A graph overwrites the gradients that it made when it runs again, so the first may not become the .grad."""
    ends = []
    for options in ((), ("device.compile=reduce-overhead",)):
        parts = build("optim.accumulate=2", *options)
        batches = list(parts.batches.train.epoch(0))
        for first in (0, 2):
            train_update(parts.state, batches[first : first + 2], parts.plan)
            kept = [parameter.grad for parameter in parts.state.model.parameters()]
            assert all((grad is not None and not grad.any()) if options else grad is None for grad in kept)
        ends.append(checkpoint.digest(parts.state.state_dict()["model"]))
    assert compiled
    assert ends[0] == ends[1]


def test_torchs_compiler_has_nothing_left_to_do_once_a_run_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced by torch as ever, but not translated, which takes minutes."""
    compile_it = nn.Module.compile

    def traced(network: nn.Module, dynamic: bool, **_: str) -> None:
        compile_it(network, backend="eager", dynamic=dynamic)

    monkeypatch.setattr(nn.Module, "compile", traced)
    parts = build("device.compile=default", "dataset.val_fraction=0.2", "eval.batch_size=48", "device.precision=fp32")
    warm_up(parts.state, parts.batches, parts.plan)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs > 0
    results = [event for event in fit(parts.state, parts.batches, parts.plan, lambda: None) if hasattr(event, "test")]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    eager = build("dataset.val_fraction=0.2", "eval.batch_size=48", "device.precision=fp32")
    usual = [event for event in fit(eager.state, eager.batches, eager.plan, lambda: None) if hasattr(event, "test")]
    for ours, theirs in zip(results, usual, strict=True):
        assert ours.train.loss == pytest.approx(theirs.train.loss, rel=1e-3)
        assert ours.test.loss == pytest.approx(theirs.test.loss, rel=1e-3)
