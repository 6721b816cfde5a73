"""A budget: plans that fit the time, and a run that still ends on time when its pace turns out different."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from mobilenet_train.config import budget_seconds
from mobilenet_train.ranks import ALONE
from mobilenet_train.training.budget import CLOSING_SECONDS, Budget, Pace, affordable_updates


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("2m5s", 125), ("", 0), ("10", 0), ("1.2.3m", 0)],
)
def test_a_budget_is_read_as_people_write_it(text: str, seconds: float) -> None:
    assert budget_seconds(text) == seconds


@pytest.mark.parametrize(
    ("step", "seconds", "updates"),
    [
        (0, 100.0, 90),  # 90 updates of 1 s and one epoch end of 10 s
        (0, 109.9, 99),
        (0, 110.0, 100),  # exactly one epoch
        (0, 120.9, 100),  # an update in a second epoch would bring an end of 10 s with it
        (0, 121.0, 101),
        (0, 3.0, 1),  # never nothing
        (50, 30.0, 70),
        (100, 30.0, 120),
        (100, 5.0, 100),  # an update more would be late
        (0, 1e6, 500),  # the limit
    ],
)
def test_a_plan_pays_for_its_updates_and_for_every_epochs_end(step: int, seconds: float, updates: int) -> None:
    assert affordable_updates(step, seconds, Pace(1.0, 10.0), 100, 500) == updates


class Simulation:
    """A run on a clock of its own: `pace(update)` seconds an update, `epoch_end` seconds at an epoch's end."""

    def __init__(self, seconds: float, updates_per_epoch: int, pace: Any, epoch_end: float, measured: Pace) -> None:
        self.now = 0.0
        state: Any = SimpleNamespace(step=0, updates=0, elapsed=0.0)
        runtime = SimpleNamespace(ranks=ALONE)
        plan: Any = SimpleNamespace(updates_per_epoch=updates_per_epoch, updates=10**9, runtime=runtime)
        budget = Budget(seconds, plan, state, measured, clock=lambda: self.now)
        self.planned = [state.updates]
        while state.step < state.updates:
            while state.step < state.updates:
                state.step += 1
                self.now += pace(state.step)
                budget.updated(state)
                if state.step % updates_per_epoch == 0:
                    break
            budget.epoch_trained()
            self.now += epoch_end
            budget.epoch_ended(state)
            self.planned.append(state.updates)
        self.now += CLOSING_SECONDS
        self.state = state


@pytest.mark.parametrize("updates_per_epoch", [50, 390, 5000], ids=["many epochs", "some", "less than one"])
@pytest.mark.parametrize(
    "pace",
    [
        lambda _: 0.2,
        lambda _: 0.4,  # twice what was measured
        lambda _: 0.1,
        lambda step: 0.2 + 0.15 * math.sin(step / 40),
        lambda step: 0.2 if step < 500 else 0.3,
    ],
    ids=["as measured", "slower", "faster", "swinging", "slower later"],
)
def test_a_run_ends_within_five_percent_of_its_budget(pace: Any, updates_per_epoch: int) -> None:
    run = Simulation(600, updates_per_epoch, pace, epoch_end=4.0, measured=Pace(0.2, 5.0))
    assert 0.95 * 600 <= run.now <= 1.05 * 600
    assert run.state.elapsed == pytest.approx(run.now - CLOSING_SECONDS)


def test_a_plan_whose_end_is_reached_is_not_opened_again() -> None:
    run = Simulation(60, 100, lambda step: 0.5 if step < 100 else 0.1, epoch_end=0.1, measured=Pace(0.5, 0.1))
    assert run.planned[-1] == run.state.step
