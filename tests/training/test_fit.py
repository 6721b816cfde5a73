"""The main path's order: what a checkpoint knows has been written down before."""

import time

import pytest

from mobilenet_train.results import EpochResult, Progress
from mobilenet_train.runs.build import build_run
from mobilenet_train.runtime import Runtime
from mobilenet_train.training.fit import fit
from tests.conftest import TINY, configure


def test_an_epoch_is_handed_out_to_be_recorded_before_a_checkpoint_knows_of_it() -> None:
    parts = build_run(configure(*TINY))
    recorded: list[int] = []
    known: list[int] = []

    def save() -> None:
        known.append(len(parts.state.history))
        assert len(recorded) == known[-1]

    for event in fit(parts.state, parts.batches, parts.plan, save):
        if isinstance(event, EpochResult):
            recorded.append(event.epoch)
    assert (recorded, known) == ([0, 1], [1, 2])


def test_with_progressive_resizing_the_network_is_tested_at_full_resolution() -> None:
    parts = build_run(configure(*TINY, "dataset.resolution=32", "progressive.start=16", "epochs=2"))
    plan, sides = parts.plan, {True: [], False: []}
    network = parts.state.model
    network.register_forward_pre_hook(lambda module, inputs: sides[module.training].append(inputs[0].shape[2]))
    list(fit(parts.state, parts.batches, plan, save=lambda: None))
    assert sides[True] == [plan.resolution(update, plan.updates) for update in range(plan.updates)]
    assert sides[True][0] == 16
    assert sides[True][-1] == 32
    assert set(sides[False]) == {32}


DRAIN_SECONDS = 0.6  # more than five updates take on a busy machine


def test_rates_count_what_a_gpu_still_has_to_do_when_the_clock_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "drain", lambda _: time.sleep(DRAIN_SECONDS))
    parts = build_run(configure(*TINY, "epochs=1", "log_every=2"))
    events = list(fit(parts.state, parts.batches, parts.plan, save=lambda: None))
    logged = [event for event in events if isinstance(event, Progress)]
    (result,) = (event for event in events if isinstance(event, EpochResult))
    assert [event.step for event in logged] == [2, 4]
    for drains, seen, event in ((1, 64, logged[0]), (2, 128, logged[1]), (3, 160, result)):
        assert drains * DRAIN_SECONDS < seen / event.images_per_second < (drains + 1) * DRAIN_SECONDS
