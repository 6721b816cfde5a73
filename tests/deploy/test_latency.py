"""Functions are timed after a warm-up, taking turns, and the machine is named."""

import time

from mobilenet_train.deploy.latency import measure
from mobilenet_train.machine import describe_machine


def test_median_and_95th_percentile_are_those_of_the_calls() -> None:
    timing = measure({"pause": lambda: time.sleep(0.002)}, seconds=0.1)["pause"]
    assert 2 <= timing.median_ms < 20
    assert timing.median_ms <= timing.p95_ms
    assert timing.calls >= 10


def test_functions_take_turns_and_the_first_call_of_a_turn_is_not_counted() -> None:
    order: list[str] = []
    timings = measure({name: lambda name=name: order.append(name) for name in "ab"}, seconds=1e-9, rounds=4)
    assert order == ["a"] * 3 + ["b"] * 3 + ["a", "a", "b", "b"] * 4
    assert {name: timing.calls for name, timing in timings.items()} == {"a": 4, "b": 4}


def test_the_warm_up_does_not_count() -> None:
    pauses = iter([0.1] * 3 + [0.0] * 1000)
    assert measure({"slow start": lambda: time.sleep(next(pauses))}, seconds=0.01, rounds=2)["slow start"].p95_ms < 50


def test_the_machine_is_named_with_what_decides_its_speed() -> None:
    machine = describe_machine()
    assert "cores" in machine
    assert "torch 2." in machine
    assert "\n" not in machine
