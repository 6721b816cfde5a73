"""A run that ends on time: how many updates a budget of seconds pays for, planned again while it runs."""

import statistics
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from mobilenet_train.data.batches import EvalBatches, TrainBatches
from mobilenet_train.distributed import from_first
from mobilenet_train.training.evaluation import evaluate
from mobilenet_train.training.schedule import Plan
from mobilenet_train.training.state import TrainState, restored
from mobilenet_train.training.step import train_update

CLOSING_SECONDS = 4.0  # the last checkpoint, curves.png, TensorBoard's figures and summary.json
FEWEST_UPDATES = 20  # fewer are too short a sample of the pace, and not worth another plan
MEASURED_UPDATES = 6  # on a copy of the state; the first two warm up


@dataclass(frozen=True)
class Pace:
    """Seconds of one update, and seconds between the last update of an evaluated epoch and the first of the next."""

    updates: Mapping[int, float]  # by resolution
    epoch_end: float

    def seconds(self, plan: Plan, first: int, updates: int) -> float:
        """Of the updates from number `first` to the end of a run of `updates`, without the ends of epochs."""
        total = 0.0
        for resolution, seconds in sorted(self.updates.items()):
            left = range(first, updates)
            done = bisect_right(left, resolution, key=lambda update: plan.resolution(update, updates))
            total += done * seconds
            first += done
        return total

    def times(self, factor: float) -> "Pace":
        """The same with slower updates."""
        return replace(self, updates={resolution: factor * seconds for resolution, seconds in self.updates.items()})


def measure_pace(state: TrainState, train: TrainBatches, test: EvalBatches, plan: Plan) -> Pace:
    """Times a few updates on real batches and one batch of evaluation, which leave no trace in `state`."""
    with restored(state):
        updates = {resolution: _seconds_of_update(state, train, plan, resolution) for resolution in plan.resolutions}
        began = time.perf_counter()
        evaluate(state.model, islice(test, 1), plan.runtime, lambda: 0, evaluator=state.evaluator)
    return Pace(updates, (time.perf_counter() - began) * len(test))


def _seconds_of_update(state: TrainState, train: TrainBatches, plan: Plan, resolution: int) -> float:
    stream = train.epoch(state.epoch, resolution=lambda: resolution)
    seconds: list[float] = []
    while len(seconds) < MEASURED_UPDATES and (group := list(islice(stream, plan.config.optim.accumulate))):
        began = time.perf_counter()
        train_update(state, group, plan)
        state.sums.score()  # waits for the device
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:] or seconds)


def affordable_updates(step: int, seconds: float, pace: Pace, plan: Plan) -> int:
    """The updates of the whole run, at most the plan's and at least one, if `seconds` are left after `step` of them.

    The time of a plan is that of its updates and of an epoch's end for every evaluation to come. After an epoch without
    one there is at least one more update, so that the last epoch is evaluated.
    """
    between = plan.updates_per_evaluation
    passed_over = step % plan.updates_per_epoch == 0 and step % between > 0

    def time_to(updates: int) -> float:
        evaluations = plan.evaluations(updates) - step // between
        return pace.seconds(plan, step, updates) + evaluations * pace.epoch_end

    upper = min(plan.updates, step + 1 + int(max(0.0, seconds) / min(pace.updates.values())))
    least = step + 1 if passed_over else 1
    return max(least, step + bisect_right(range(step + 1, upper + 1), seconds, key=time_to))


class Budget:
    """Keeps `state.updates` to what the time left pays for.

    Planned at the end of every epoch, and inside one whenever a quarter of the updates left is done, so that a
    run of less than an epoch ends on time too. The time already taken is in the checkpoint (`state.elapsed`).
    """

    def __init__(
        self, seconds: float, plan: Plan, state: TrainState, pace: Pace, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds = seconds
        self._plan = plan
        self._pace = pace
        self._clock = clock
        self._began = clock() - state.elapsed
        self._trained_at = self._began
        self._plan_again(state)

    def updated(self, state: TrainState) -> None:
        """Call after every update."""
        if self._next_plan <= state.step < state.updates:
            self._plan.runtime.drain()
        state.elapsed = self._clock() - self._began
        if self._next_plan <= state.step < state.updates:
            step, at = self._mark
            expected = self._pace.seconds(self._plan, step, state.updates) - self._pace.seconds(
                self._plan, state.step, state.updates
            )
            self._pace = self._pace.times((self._clock() - at) / expected)
            self._plan_again(state)

    def epoch_trained(self) -> None:
        """Call after the last update of an epoch."""
        self._trained_at = self._clock()

    def epoch_ended(self, state: TrainState, evaluated: bool) -> None:
        """Call once the epoch is recorded and saved, `evaluated` or not. A run at the end of its plan stays there."""
        if evaluated:
            self._pace = replace(self._pace, epoch_end=self._clock() - self._trained_at)
        state.elapsed = self._clock() - self._began
        if state.step < state.updates:
            self._plan_again(state)

    def _plan_again(self, state: TrainState) -> None:
        self._mark = (state.step, self._clock())
        state.elapsed = self._clock() - self._began
        left = self.seconds - state.elapsed - CLOSING_SECONDS
        plan = partial(affordable_updates, state.step, left, self._pace, self._plan)
        state.updates = from_first(self._plan.runtime.ranks, plan)  # the ranks' clocks differ
        self._next_plan = state.step + max(FEWEST_UPDATES, (state.updates - state.step) // 4)
