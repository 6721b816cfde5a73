"""What all figures share."""

from itertools import pairwise

import pytest

from mobilenet_train.figures import label_points, log_axis, new_figure


def test_labels_lie_within_the_axes_and_not_over_each_other() -> None:
    figure = new_figure(5, 4, "crowded", "a machine")
    axes = figure.subplots()
    points = [(1 + 0.02 * number, 50 + 0.2 * (number % 3), f"width_mult={number}", "black") for number in range(30)]
    axes.scatter([x for x, *_ in points], [y for _, y, *_ in points])
    placed = label_points(axes, points)
    boxes = [note.get_window_extent() for note in axes.texts]
    frame = axes.get_window_extent()
    assert 3 < placed == len(boxes) < 30
    assert axes.texts[0].get_text() == "width_mult=0", "the first comes first"
    assert all(box.count_overlaps(boxes) == 1 for box in boxes)
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


@pytest.mark.parametrize("values", [[53.6, 53.6], [8, 95], [0.3, 4.2], [1, 5000], [2e-3, 0.4], [100, 110]])
def test_the_ticks_of_a_logarithmic_axis_are_few_and_do_not_touch(values: list[float]) -> None:
    figure = new_figure(5, 4, "")
    axes = figure.subplots()
    log_axis(axes, values)
    figure.draw_without_rendering()
    ticks = axes.get_xticklabels()
    boxes = sorted((tick.get_window_extent() for tick in ticks), key=lambda box: box.x0)
    assert 2 <= len(ticks) <= 9
    assert all(left.x1 + 3 < right.x0 for left, right in pairwise(boxes))
    assert not axes.get_xticklabels(minor=True)


def test_a_title_is_no_formula() -> None:
    figure = new_figure(3, 2, "$\\frac$ and $x", "$\\frac$")
    figure.draw_without_rendering()
    assert figure.get_suptitle() == "$\\frac$ and $x"
