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
Curves = dict[str, list[float]]


def draw_curves(history: Sequence[EpochResult], path: Path, title: str, machine: str) -> None:
    """Draws a history of at least one epoch; replaces the image at `path` atomically."""
    save(curves_figure(history, title, machine), path)


def curves_figure(history: Sequence[EpochResult], title: str, machine: str) -> "Figure":
    """The curves of a history of at least one epoch, as a figure that pyplot does not know."""
    figure = new_figure(10, 4.2, title, machine)
    epochs = [result.epoch for result in history]
    left, right = figure.subplots(1, 2)
    _draw(left, epochs, losses(history), "loss per image", "{:.4f}")
    _cut_spikes(left, epochs, losses(history))
    _draw(right, epochs, accuracies(history), "top-1 accuracy in %", "{:.2f} %")
    return figure


def losses(history: Sequence[EpochResult]) -> Curves:
    """The mean loss per image in every epoch, for each set of images that was measured."""
    return {name: [score.loss for score in scores] for name, scores in _measured(history).items()}


def accuracies(history: Sequence[EpochResult]) -> Curves:
    """Top-1 in percent in every epoch, for each set of images that was measured."""
    return {name: [score.top1 for score in scores] for name, scores in _measured(history).items()}


def _measured(history: Sequence[EpochResult]) -> dict[str, list[Score]]:
    scores = {
        "train": [result.train for result in history],
        "val": [result.val for result in history if result.val],
        "test": [result.test for result in history],
        "EMA, test": [result.ema_test for result in history if result.ema_test],
    }
    return {name: found for name, found in scores.items() if found}


def _draw(axes: Any, epochs: list[int], curves: Curves, label: str, number: str) -> None:
    """One panel; the legend gives each curve's last value."""
    from matplotlib.ticker import MaxNLocator

    every = -(-len(epochs) // 20)
    for name, values in curves.items():
        legend = f"{name}  {number.format(values[-1])}"
        colour, line, marker = LOOKS[name]
        look = {"color": colour, "linestyle": line, "linewidth": 1.6, "marker": marker, "markersize": 4}
        axes.plot(epochs, values, label=legend, markevery=every, **look)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    plain_axes(axes)
    axes.legend(frameon=False, handlelength=3)


def _cut_spikes(axes: Any, epochs: list[int], curves: Curves) -> None:
    """Ends the axis below losses that would flatten all others, and writes those at its edge."""
    limit = usual_limit(list(curves.values()))
    shown = [value for values in curves.values() for value in values if value <= limit]
    if not any(value > limit for values in curves.values() for value in values) or not shown:
        return
    height = max(shown) - min(shown)
    top = max(shown) + 0.12 * height
    axes.set_ylim(min(shown) - 0.05 * height, top)
    for at, epoch in enumerate(epochs):
        beyond = [
            f"{name} {values[at]:.3g}" for name, values in curves.items() if at < len(values) and values[at] > limit
        ]
        if beyond:
            axes.annotate("\n".join(beyond), (epoch, top), (5, -2), textcoords="offset points", va="top", fontsize=8)


def usual_limit(curves: Sequence[Sequence[float]]) -> float:
    """SPIKE times the largest running median of five epochs: one or two epochs alone do not move it."""
    medians = [
        median(near)
        for values in curves
        for at in range(len(values))
        if (near := [value for value in values[max(0, at - 2) : at + 3] if isfinite(value)])
    ]
    return SPIKE * max(medians, default=float("inf"))
