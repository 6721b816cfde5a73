"""The same training on a GPU: precision, compilation and memory. Skipped where there is none."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mobilenet_train import checkpoint
from mobilenet_train.results import EpochResult
from mobilenet_train.runs import folder as run_folder
from mobilenet_train.runs.build import build_run
from mobilenet_train.runs.session import train
from mobilenet_train.runtime import make_deterministic
from mobilenet_train.signals import StopSignals
from mobilenet_train.training.fit import fit
from mobilenet_train.training.graphs import WARM_UPS
from mobilenet_train.training.step import train_update
from tests.conftest import TINY, configure

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here"),
]


def losses(*overrides: str) -> list[float]:
    """The loss of each update of an epoch."""
    parts = build_run(configure(*TINY, *overrides))
    found = []
    for batch in parts.batches.train.epoch(0):
        train_update(parts.state, [batch], parts.plan)
        found.append(float(parts.state.sums.last_batch[0]))
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("mode", ["null", "default", "reduce-overhead"])
def test_the_first_losses_are_those_of_the_cpu(precision: str, mode: str) -> None:
    ours = losses("device=cuda", f"device.precision={precision}", f"device.compile={mode}")
    assert ours == pytest.approx(losses("device=cpu"), rel=0.05)


@pytest.mark.parametrize("augment", ["none", "basic", "standard", "strong", "strong augment.operations=randaugment"])
@pytest.mark.parametrize("optim", ["sgd", "muon", "rmsprop", "adam", "adamw"])
@pytest.mark.parametrize("cuda_graph", ["true", "false"])
def test_a_step_never_waits_for_the_gpu(augment: str, optim: str, cuda_graph: str) -> None:
    options = (f"device.cuda_graph={cuda_graph}", f"optim={optim}", *f"augment={augment}".split(), "ema.decay=0.9")
    parts = build_run(configure(*TINY, "device=cuda", *options))
    batches = parts.batches.train.epoch(0)
    for _ in range(WARM_UPS + 1):  # cuDNN's search, and the recording of a graph
        train_update(parts.state, [next(batches)], parts.plan)
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_update(parts.state, [next(batches)], parts.plan)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("mode", ["null", "default", "reduce-overhead"])
def test_accumulated_batches_move_the_weights_as_on_the_cpu(mode: str) -> None:
    ends = []
    for options in (("device=cpu",), ("device=cuda", f"device.compile={mode}")):
        parts = build_run(configure(*TINY, *options, "device.precision=fp32", "optim.accumulate=2"))
        batches = list(parts.batches.train.epoch(0))
        for first in (0, 2, 0, 2):
            train_update(parts.state, batches[first : first + 2], parts.plan)
        ends.append(torch.cat([p.detach().flatten().cpu() for p in parts.state.model.parameters()]))
    assert torch.cosine_similarity(*ends, dim=0) > 0.999


@pytest.mark.parametrize("optim", ["sgd", "muon"])
def test_deterministic_runs_are_bit_identical(optim: str) -> None:
    options = (*TINY, "device=cuda", "device.deterministic=true", "augment=strong", f"optim={optim}")
    try:
        ends = []
        for _ in range(2):
            parts = build_run(configure(*options))
            list(fit(parts.state, parts.batches, parts.plan, save=lambda: None))
            ends.append(checkpoint.digest(parts.state.state_dict()["model"]))
        assert ends[0] == ends[1]
    finally:
        make_deterministic(False)


@pytest.mark.parametrize("optim", ["sgd", "muon", "rmsprop", "adam", "adamw"])
def test_replayed_updates_are_the_launched_ones(optim: str) -> None:
    """To the bit, over two resolutions, with dropout and a running average, and in a run that was resumed."""
    options = (*TINY, "device=cuda", "device.deterministic=true", f"optim={optim}", "optim.clip_norm=1", "epochs=3")
    more = ("progressive.start=16", "ema.decay=0.9", "augment=strong")
    try:
        ends = []
        for kind in ("launched", "replayed", "resumed"):
            parts = build_run(configure(*options, *more, f"device.cuda_graph={kind != 'launched'}"))
            results = fit(parts.state, parts.batches, parts.plan, save=lambda: None)
            if kind == "resumed":
                next(event for event in results if isinstance(event, EpochResult))
                saved = deepcopy(parts.state.state_dict())
                parts = build_run(configure(*options, *more))
                parts.state.load_state_dict(saved)
                results = fit(parts.state, parts.batches, parts.plan, save=lambda: None)
            assert list(results)
            assert parts.state.graphs is not None
            assert bool(parts.state.graphs._recorded) == (kind != "launched")
            state = parts.state.state_dict()
            ends.append([checkpoint.digest(state[part]) for part in ("model", "ema", "optimizer")])
        assert ends[0] == ends[1] == ends[2]
    finally:
        make_deterministic(False)


def test_a_gradient_that_overflows_fp16_moves_nothing_and_lowers_the_scale() -> None:
    parts = build_run(configure(*TINY, "device=cuda", "device.precision=fp16"))
    state = parts.state
    before = [parameter.clone() for parameter in state.model.parameters()]
    state.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**60)
    train_update(state, [next(parts.batches.train.epoch(0))], parts.plan)
    assert all(torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True))
    assert state.scaler.get_scale() < 2.0**60


def test_the_summary_holds_how_much_gpu_memory_was_used(tmp_path: Path) -> None:
    config = configure(*TINY, "device=cuda", f"run_dir={tmp_path / 'run'}")
    folder, held = run_folder.create(config, [])
    with held:
        assert train(build_run(config), folder, Console(quiet=True), StopSignals()) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["memory_kind"] == "CUDA allocator"
    assert summary["peak_memory_bytes"] > 1_000_000
