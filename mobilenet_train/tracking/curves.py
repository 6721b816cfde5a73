"""curves.png: loss and accuracy over the epochs, side by side."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from mobilenet_train.figures import new_figure, plain_axes, save
from mobilenet_train.results import EpochResult, Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKS = {  # colour, line and marker: told apart without the colours too
    "train": ("#8a8f98", "--", "s"),
    "val": ("#2a9d62", "-.", "^"),
    "test": ("#1f6fb4", "-", "o"),
    "EMA, test": ("#d9722b", ":", "D"),
}
SPIKE = 3  # times what is usual
Curves = dict[str, dict[int, float]]  # by epoch


def draw_curves(history: Sequence[EpochResult], path: Path, title: str, machine: str) -> None:
    """Draws a history of at least one epoch; replaces the image at `path` atomically."""
    save(curves_figure(history, title, machine), path)


def curves_figure(history: Sequence[EpochResult], title: str, machine: str) -> "Figure":
    """The curves of a history of at least one epoch, as a figure that pyplot does not know."""
    figure = new_figure(10, 4.2, title, machine)
    left, right = figure.subplots(1, 2)
    by_name = losses(history)
    _draw(left, by_name, "loss per image", "{:.4f}")
    _cut_spikes(left, by_name)
    _draw(right, accuracies(history), "top-1 accuracy in %", "{:.2f} %")
    return figure


def losses(history: Sequence[EpochResult]) -> Curves:
    """The mean loss per image in every epoch, for each set of images that was measured."""
    return {name: {epoch: s.loss for epoch, s in scores.items()} for name, scores in _measured(history).items()}


def accuracies(history: Sequence[EpochResult]) -> Curves:
    """Top-1 in percent in every epoch, for each set of images that was measured."""
    return {name: {epoch: s.top1 for epoch, s in scores.items()} for name, scores in _measured(history).items()}


def _measured(history: Sequence[EpochResult]) -> dict[str, dict[int, Score]]:
    scores = {
        "train": {result.epoch: result.train for result in history},
        "val": {result.epoch: result.val for result in history if result.val},
        "test": {result.epoch: result.test for result in history if result.test},
        "EMA, test": {result.epoch: result.ema_test for result in history if result.ema_test},
    }
    return {name: found for name, found in scores.items() if found}


def _draw(axes: Any, curves: Curves, label: str, number: str) -> None:
    """One panel; the legend gives each curve's last value."""
    from matplotlib.ticker import MaxNLocator

    for name, by_epoch in curves.items():
        epochs, values = list(by_epoch), list(by_epoch.values())
        legend, every = f"{name}  {number.format(values[-1])}", -(-len(epochs) // 20)
        colour, line, marker = LOOKS[name]
        look = {"color": colour, "linestyle": line, "linewidth": 1.6, "marker": marker, "markersize": 4}
        axes.plot(epochs, values, label=legend, markevery=every, **look)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    plain_axes(axes)
    axes.legend(frameon=False, handlelength=3)


def _cut_spikes(axes: Any, curves: Curves) -> None:
    """Ends the axis below losses that would flatten all others, and writes those at its edge."""
    limit = usual_limit([list(by_epoch.values()) for by_epoch in curves.values()])
    values = [value for by_epoch in curves.values() for value in by_epoch.values()]
    shown = [value for value in values if value <= limit]
    if not any(value > limit for value in values) or not shown:
        return
    height = max(shown) - min(shown)
    top = max(shown) + 0.12 * height
    axes.set_ylim(min(shown) - 0.05 * height, top)
    for epoch in curves["train"]:
        at_epoch = {name: by_epoch[epoch] for name, by_epoch in curves.items() if epoch in by_epoch}
        beyond = [f"{name} {loss:.3g}" for name, loss in at_epoch.items() if loss > limit]
        if beyond:
            look = {"textcoords": "offset points", "rotation": 90, "ha": "center", "va": "top", "fontsize": 8}
            axes.annotate("\n".join(beyond), (epoch, top), (0, -2), **look)


def usual_limit(curves: Sequence[Sequence[float]]) -> float:
    """SPIKE times the largest median of five epochs in a row: one or two epochs alone do not move it."""
    medians = [
        median(near)
        for values in curves
        for first in range(max(1, len(values) - 4))
        if (near := [value for value in values[first : first + 5] if isfinite(value)])
    ]
    return SPIKE * max(medians, default=float("inf"))
