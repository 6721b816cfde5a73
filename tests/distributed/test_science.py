"""The same samples, gradients, losses and scores at any number of ranks."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobilenet_train.config.schema import DistillConfig
from mobilenet_train.data.batches import EvalBatches
from mobilenet_train.models import Cost
from mobilenet_train.models.build import build_model
from mobilenet_train.ranks import Ranks
from mobilenet_train.results import Score
from mobilenet_train.runs import build
from mobilenet_train.runs.build import RunParts, build_run
from mobilenet_train.training.evaluation import evaluate
from mobilenet_train.training.step import train_update
from mobilenet_train.training.teacher import Teacher
from tests.conftest import configure
from tests.small_cifar10 import accept_small

from .conftest import Start

SIZES = (1, 2, 3, 7, 64, 65, 131)
STEPS = 50


OPTIONS = (
    "dataset.download=false",
    "dataset.max_per_class=40",
    "model=custom",
    "model.factory=tests.small_network:small_network",
    "batch_size=16",
    "device.threads=1",
    "optim.lr=0.05",
    "optim.clip_norm=5",
)


@pytest.fixture
def photographs(small_cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real photographs for all the ranks of a test."""
    monkeypatch.setenv("MNET_DATA", str(small_cifar10))


def prepare(*overrides: str) -> RunParts:
    accept_small(Path(os.environ["MNET_DATA"]))
    return build_run(configure(*OPTIONS, *overrides))


def train_in_float64() -> dict[str, Any]:
    """Some updates with batch-norm in evaluation mode: what this rank saw, its gradients, and the losses."""
    torch.set_default_dtype(torch.float64)
    build.cost_of = lambda *_: Cost(0, 0)  # which would refuse the network: float64 is for this test alone
    parts = prepare("optim.accumulate=2", "epochs=20", "label_smoothing=0.1")
    config = replace(parts.config, distill=DistillConfig(teacher="", weight=0.5, temperature=2.0))
    teacher = Teacher(build_model(replace(config, seed=1), 10).eval(), digest="", about="", custom=True)
    state, plan = parts.state, replace(parts.plan, config=config, teacher=teacher)
    for module in state.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    seen: list[tuple[Tensor, Tensor]] = []
    gradients: list[list[Tensor]] = []
    losses: list[float] = []
    keep = state.optimizer.register_step_pre_hook(
        lambda optimizer, *_: gradients.append([p.grad.clone() for g in optimizer.param_groups for p in g["params"]])
    )
    while state.step < STEPS:
        stream = parts.batches.train.epoch(state.step)
        for first, second in zip(stream, stream, strict=False):
            train_update(state, [(images.double(), labels) for images, labels in (first, second)], plan)
            losses.append(float(state.sums.last_batch[0]))
            seen += [first, second]
            if len(gradients) == 3:
                keep.remove()
    return {"seen": seen, "gradients": gradients, "losses": losses, "top1": state.sums.score().top1}


@pytest.mark.real_data
@pytest.mark.usefixtures("photographs")
def test_1_2_and_3_ranks_see_the_same_samples_and_take_the_same_steps(start: Start) -> None:
    """With accumulation, clipping, dropout, label smoothing, a teacher and shares of 5, 5 and 6 images."""
    (alone,) = start(1, train_in_float64).results()
    assert len(alone["losses"]) >= STEPS
    for size in (2, 3):
        ranks = start(size, train_in_float64).results()
        for number, (images, labels) in enumerate(alone["seen"]):
            assert torch.equal(torch.cat([rank["seen"][number][0] for rank in ranks]), images)
            assert torch.equal(torch.cat([rank["seen"][number][1] for rank in ranks]), labels)
        for rank in ranks:
            for ours, theirs in zip(rank["gradients"], alone["gradients"], strict=True):
                error = sum(float((a - b).square().sum()) for a, b in zip(ours, theirs, strict=True)) ** 0.5
                assert error < 1e-6 * sum(float(b.square().sum()) for b in theirs) ** 0.5
            assert rank["losses"] == pytest.approx(alone["losses"], abs=1e-4)
            assert rank["top1"] == alone["top1"]


def train_with_local_norms() -> dict[str, Any]:
    """A few updates as users run them: batch-norm trains on this rank's share."""
    parts = prepare("ema.decay=0.9")
    state, rows = parts.state, parts.batches.train.rows
    first = next(module for module in state.model.modules() if isinstance(module, nn.BatchNorm2d))
    inputs: list[Tensor] = []
    first.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    train_update(state, [next(parts.batches.train.epoch(0))], parts.plan)
    statistics = first.running_mean.clone()
    for batch in parts.batches.train.epoch(1):
        train_update(state, [batch], parts.plan)
    return {
        "local_mean": inputs[0].mean((0, 2, 3)),
        "share": (rows.stop - rows.start) / parts.config.batch_size,
        "momentum": first.momentum,
        "statistics": statistics,
        "state": {**state.model.state_dict(), **{f"ema.{k}": v for k, v in state.ema.model.state_dict().items()}},
    }


@pytest.mark.real_data
@pytest.mark.usefixtures("photographs")
def test_running_statistics_are_the_mean_over_ranks_and_all_ranks_hold_the_same_state(start: Start) -> None:
    ranks = start(3, train_with_local_norms).results()
    mean = sum(rank["share"] * rank["local_mean"] for rank in ranks)
    assert torch.allclose(ranks[0]["statistics"], ranks[0]["momentum"] * mean, rtol=1e-4, atol=1e-6)
    for rank in ranks[1:]:
        assert not torch.allclose(rank["local_mean"], ranks[0]["local_mean"])
        assert all(torch.equal(rank["state"][name], value) for name, value in ranks[0]["state"].items())


def scores() -> list[tuple[int, Score]]:
    """For each of SIZES test images: how many this rank saw, and the score."""
    parts = prepare()
    data, runtime = parts.dataset, parts.runtime
    found = []
    for size in SIZES:
        part = data.test.take(torch.arange(size))
        batches = EvalBatches(part, data.preprocessing, 64, runtime.memory_format, runtime.ranks)
        score = evaluate(parts.state.model, batches, runtime, lambda: False)
        found.append((sum(len(labels) for _, labels in batches), score))
    return found


@pytest.mark.real_data
@pytest.mark.usefixtures("photographs")
def test_every_test_image_is_counted_once_for_any_number_of_images_and_ranks(start: Start) -> None:
    (alone,) = start(1, scores).results()
    for ranks in (2, 3):
        found = start(ranks, scores).results()
        for number, size in enumerate(SIZES):
            assert sum(rank[number][0] for rank in found) == size
            for rank in found:
                assert rank[number][1].top1 == alone[number][1].top1
                assert rank[number][1].loss == pytest.approx(alone[number][1].loss, rel=1e-5)


def test_shares_cover_a_batch_without_overlap_and_differ_by_one_at_most() -> None:
    for size in (1, 2, 3, 7):
        for count in (0, 1, 6, 7, 128):
            shares = [range(count)[Ranks(rank, size).rows(count)] for rank in range(size)]
            assert [row for share in shares for row in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
