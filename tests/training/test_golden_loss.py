"""The losses of thirty updates of each network, as literals: a refactoring or a faster kernel must reproduce them."""

from itertools import islice

import pytest

from mobilenet_train.cli.prepare import prepare_run
from mobilenet_train.training.step import train_update
from tests.conftest import configure

UPDATES = 30
SETTING = ("dataset=digits", "dataset.resolution=24", "batch_size=32", "optim.lr=0.005", "device=cpu", "epochs=1")

# Mean loss of updates 0-9, 10-19 and 20-29; first written at commit 9b1c20f, on a Xeon with AVX-512, torch 2.14.1.
# The rate is low on purpose: at a high one rounding errors grow beyond any tolerance within thirty updates.
GOLDEN = {
    "v1": (2.30335, 2.32712, 2.32357),
    "v2": (2.31804, 2.33785, 2.31809),
    "v3_large": (2.30119, 2.29946, 2.29446),
    "v3_small": (2.30320, 2.30154, 2.30063),
}


def losses(network: str, *overrides: str) -> list[float]:
    prepared = prepare_run(configure(f"model={network}", "model.width_mult=0.5", *SETTING, *overrides))
    values = []
    for batch in islice(prepared.batches.train.epoch(0), UPDATES):
        train_update(prepared.state, [batch], prepared.plan)
        values.append(prepared.state.sums.last_batch[0].item())
    return values


@pytest.mark.parametrize("network", GOLDEN)
def test_thirty_updates_give_the_losses_they_always_gave(network: str) -> None:
    values = losses(network)
    means = [sum(values[start : start + 10]) / 10 for start in (0, 10, 20)]
    assert means == pytest.approx(GOLDEN[network], rel=1e-3)
