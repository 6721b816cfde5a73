"""Updates that are replayed, as far as that goes without a GPU: a stand-in for a graph computes its update again."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mobilenet_train import checkpoint
from mobilenet_train.data.batches import Batch
from mobilenet_train.runs.build import RunParts, build_run, updates_alone
from mobilenet_train.runtime import Runtime
from mobilenet_train.training import graphs
from mobilenet_train.training.fit import fit
from mobilenet_train.training.graphs import Recorded, UpdateGraphs
from mobilenet_train.training.step import train_update
from tests.conftest import TINY, configure

OPTIONS = (*TINY, "progressive.start=16", "ema.decay=0.9", "optim.clip_norm=1", "augment=strong", "epochs=3")


def build(monkeypatch: pytest.MonkeyPatch, *overrides: str, replays: bool = True) -> tuple[RunParts, list[torch.Size]]:
    """A run whose updates are replayed, and the shapes that have been recorded."""
    parts = build_run(configure(*OPTIONS, *overrides))
    parts.state.graphs = made = UpdateGraphs(parts.state.optimizer, replays)
    shapes: list[torch.Size] = []

    def record(update: Callable[[Batch], Tensor], batch: Batch) -> Recorded:
        shapes.append(batch[0].shape)
        inputs, measured = (batch[0].clone(), batch[1].clone()), torch.zeros(2, dtype=torch.float64)

        def replay() -> None:
            with made._rates_on_the_device():
                measured.copy_(update(inputs))

        return Recorded(replay, inputs, measured)

    monkeypatch.setattr(graphs, "record", record)
    return parts, shapes


def trained(parts: RunParts) -> str:
    """What is left after all epochs."""
    for _ in fit(parts.state, parts.batches, parts.plan, save=lambda: None):
        pass
    assert all(isinstance(group["lr"], float) for group in parts.state.optimizer.param_groups)
    return checkpoint.digest(parts.state.state_dict()["model"]) + checkpoint.digest(parts.state.optimizer.state_dict())


@pytest.mark.parametrize("optim", ["sgd", "muon", "rmsprop", "adam", "adamw"])
def test_a_replayed_update_sees_its_own_batch_learning_rate_and_dropout(
    optim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, shapes = build(monkeypatch, f"optim={optim}")
    replayed = trained(parts)
    assert [shape[-1] for shape in shapes] == [16, 32]
    launched, never = build(monkeypatch, f"optim={optim}", replays=False)
    assert trained(launched) == replayed
    assert never == []
    usual = build_run(configure(*OPTIONS, f"optim={optim}"))
    trained(usual)
    ends = [[p.detach().flatten() for p in one.state.model.parameters()] for one in (parts, usual)]
    alike = 0.995 if optim == "muon" else 0.999  # Muon's differences grow
    assert torch.cosine_similarity(*map(torch.cat, ends), dim=0) > alike


def test_graphs_are_recorded_anew_for_the_tensors_of_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, shapes = build(monkeypatch, "progressive.start=null")
    batch = next(parts.batches.train.epoch(0))
    for _ in range(4):
        train_update(parts.state, [batch], parts.plan)
    assert len(shapes) == 1
    parts.state.load_state_dict(parts.state.state_dict())
    for _ in range(4):
        train_update(parts.state, [batch], parts.plan)
    assert len(shapes) == 2


@pytest.mark.parametrize(
    ("option", "precision", "expected"),
    [
        ("model=v1", torch.bfloat16, True),
        ("model=v1 optim=muon", None, True),
        ("device.compile=default", None, False),
        ("device.compile=reduce-overhead", torch.bfloat16, False),
        ("optim.accumulate=2", torch.bfloat16, False),
        ("device.precision=fp16", torch.float16, False),
    ],
)
def test_what_needs_the_cpu_within_an_update_is_not_left_to_the_gpu(
    option: str, precision: torch.dtype | None, expected: bool
) -> None:
    cuda = Runtime(torch.device("cuda"), 1, precision, torch.channels_last)
    assert updates_alone(configure(*TINY, *option.split()), cuda) == expected
    assert not updates_alone(configure(*TINY, "model=v1"), Runtime(torch.device("cpu"), 1, None, torch.channels_last))
