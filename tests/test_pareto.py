"""The front of what no other beats."""

from mobilenet_train.pareto import pareto_front


def test_the_front_holds_what_no_other_beats() -> None:
    points = {"small": (1.0, 60.0), "worse": (2.0, 59.0), "big": (3.0, 70.0), "same": (3.0, 65.0), "tie": (4.0, 70.0)}
    front = pareto_front(points, cost=lambda name: points[name][0], worth=lambda name: points[name][1])
    assert front == ["small", "big"]
