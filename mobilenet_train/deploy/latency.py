"""Latency of functions on this machine: warm-up, interleaved repeats, median and 95th percentile."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Call = Callable[[], object]  # runs once and returns when the result is there
Name = TypeVar("Name")


@dataclass(frozen=True)
class Timing:
    """What one call took, over `calls` of them."""

    median_ms: float
    p95_ms: float
    calls: int


def measure(calls: Mapping[Name, Call], seconds: float, rounds: int = 10) -> dict[Name, Timing]:
    """Times every function for about `seconds` (at least `rounds` calls each), after a warm-up.

    They take turns, `rounds` times, so that a machine that slows down or wakes up does so for all of them. Each turn
    is a burst of calls; its first call, which finds the caches full of another function's data, is not counted.
    """
    bursts = {name: _calls_per_burst(call, seconds / rounds) for name, call in calls.items()}
    samples: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            samples[name] += [_seconds(call) for _ in range(bursts[name])]
    return {name: _timing(values) for name, values in samples.items()}


def _calls_per_burst(call: Call, burst_seconds: float) -> int:
    """Warms up (for as long as a burst, three calls at least), then returns how many calls fill a burst."""
    warm_ups = [_seconds(call) for _ in range(3)]
    while sum(warm_ups) < burst_seconds:
        warm_ups.append(_seconds(call))
    return max(1, round(burst_seconds / statistics.median(warm_ups)))


def _seconds(call: Call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _timing(seconds: Sequence[float]) -> Timing:
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    return Timing(1000 * statistics.median(ordered), 1000 * p95, len(ordered))
