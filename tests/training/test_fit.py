"""The main path's order: what a checkpoint knows has been written down before."""

from mobilenet_train.results import EpochResult
from mobilenet_train.runs.build import build_run
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
