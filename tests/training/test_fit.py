"""The main path's order: what a checkpoint knows has been written down before."""

from conftest import TINY, configure

from mobilenet_train.cli.prepare import prepare_run
from mobilenet_train.training.fit import fit
from mobilenet_train.training.results import EpochResult


def test_an_epoch_is_handed_out_to_be_recorded_before_a_checkpoint_knows_of_it() -> None:
    prepared = prepare_run(configure(*TINY))
    recorded: list[int] = []
    known: list[int] = []

    def save() -> None:
        known.append(len(prepared.state.history))
        assert len(recorded) == known[-1]

    for event in fit(prepared.state, prepared.batches, prepared.plan, save):
        if isinstance(event, EpochResult):
            recorded.append(event.epoch)
    assert (recorded, known) == ([0, 1], [1, 2])
