"""What no other beats at two things at once."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def pareto_front(items: Iterable[Item], cost: Callable[[Item], float], worth: Callable[[Item], float]) -> list[Item]:
    """Those that no other beats, the cheapest first: none costs as little and is worth as much."""
    front: list[Item] = []
    for item in sorted(items, key=lambda item: (cost(item), -worth(item))):
        if not front or worth(item) > worth(front[-1]):
            front.append(item)
    return front
