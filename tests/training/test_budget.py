"""A budget: plans that fit the time, and a run that still ends on time when its pace turns out different."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from mobilenet_train.config.schema import budget_seconds
from mobilenet_train.ranks import ALONE
from mobilenet_train.training.budget import CLOSING_SECONDS, Budget, Pace, affordable_updates
from mobilenet_train.training.schedule import Plan
from tests.conftest import configure


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
    assert affordable_updates(step, seconds, Pace({32: 1.0}, 10.0), plan(100, 500)) == updates


@pytest.mark.parametrize(
    ("step", "seconds", "updates"),
    [
        (0, 410.0, 400),  # four epochs and one evaluation
        (0, 420.9, 400),  # an update more would bring a second one
        (0, 421.0, 401),
        (100, 30.0, 120),
        (100, 5.0, 101),  # late, but evaluated
        (400, 5.0, 400),
    ],
)
def test_a_plan_pays_for_the_evaluations_to_come_and_ends_with_one(step: int, seconds: float, updates: int) -> None:
    every_fourth = plan(100, 500, "eval.every_epochs=4")
    assert affordable_updates(step, seconds, Pace({32: 1.0}, 10.0), every_fourth) == updates


def test_a_plan_pays_for_every_resolution_what_it_takes() -> None:
    progressive = plan(100, 10**9, "progressive.start=16")  # 16 pixels to 37.5 %, 24 to 75 %, then 32
    pace = Pace({16: 0.25, 24: 0.5, 32: 1.0}, 10.0)
    assert progressive.resolutions == [16, 24, 32]
    assert pace.seconds(progressive, 0, 80) == 30 * 0.25 + 30 * 0.5 + 20 * 1.0
    assert pace.seconds(progressive, 50, 80) == 10 * 0.5 + 20 * 1.0
    assert affordable_updates(0, 42.5 + 10, pace, progressive) == 80
    assert affordable_updates(50, 25 + 10, pace, progressive) == 80


def plan(updates_per_epoch: int, updates: int, *options: str) -> Plan:
    runtime: Any = SimpleNamespace(ranks=ALONE, drain=lambda: None)
    return Plan(configure(*options), runtime, updates_per_epoch, updates, divisor=8)


class Simulation:
    """A run on a clock of its own: `pace(update)` seconds an update, `epoch_end` seconds at an epoch's end."""

    def __init__(
        self, seconds: float, updates_per_epoch: int, pace: Any, epoch_end: float, measured: Pace, *options: str
    ) -> None:
        self.now = 0.0
        self.sides: list[int] = []
        state: Any = SimpleNamespace(step=0, updates=0, elapsed=0.0)
        whole = plan(updates_per_epoch, 10**9, *options)
        budget = Budget(seconds, whole, state, measured, clock=lambda: self.now)
        self.planned = [state.updates]
        while state.step < state.updates:
            while state.step < state.updates:
                self.sides.append(whole.resolution(state.step, state.updates))
                state.step += 1
                self.now += pace(state.step) * (self.sides[-1] / 32) ** 1.5
                budget.updated(state)
                if state.step % updates_per_epoch == 0:
                    break
            budget.epoch_trained()
            self.now += epoch_end
            budget.epoch_ended(state, evaluated=True)
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
    run = Simulation(600, updates_per_epoch, pace, epoch_end=4.0, measured=Pace({32: 0.2}, 5.0))
    assert 0.95 * 600 <= run.now <= 1.05 * 600
    assert run.state.elapsed == pytest.approx(run.now - CLOSING_SECONDS)


@pytest.mark.parametrize("updates_per_epoch", [50, 390, 5000], ids=["many epochs", "some", "less than one"])
@pytest.mark.parametrize("slower", [1.0, 1.5, 0.7])
def test_a_run_with_progressive_resizing_ends_on_time_and_at_full_resolution(
    slower: float, updates_per_epoch: int
) -> None:
    measured = Pace({16: 0.07, 24: 0.13, 32: 0.2}, 5.0)
    options = ("progressive.start=16", "epochs=null", "budget=10m")
    run = Simulation(600, updates_per_epoch, lambda _: 0.2 * slower, 4.0, measured, *options)
    assert 0.95 * 600 <= run.now <= 1.05 * 600
    assert run.sides[0] == 16
    assert 0.15 < run.sides.count(32) / len(run.sides) < 0.4  # a quarter of the plan, which changes during the run
    assert set(run.sides[-len(run.sides) // 10 :]) == {32}


def test_a_plan_whose_end_is_reached_is_not_opened_again() -> None:
    run = Simulation(60, 100, lambda step: 0.5 if step < 100 else 0.1, epoch_end=0.1, measured=Pace({32: 0.5}, 0.1))
    assert run.planned[-1] == run.state.step
