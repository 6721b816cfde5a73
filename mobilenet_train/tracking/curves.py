"""curves.png: loss and accuracy over the epochs, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenet_train.disk import replacing
from mobilenet_train.results import EpochResult, Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"train": "#8a8f98", "test": "#1f6fb4", "val": "#2a9d62", "EMA, test": "#d9722b"}
Curves = dict[str, dict[int, float]]  # by epoch


def draw_curves(history: Sequence[EpochResult], path: Path, title: str) -> None:
    """Draws a history of at least one epoch; replaces the image at `path` atomically."""
    figure = curves_figure(history, title)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def curves_figure(history: Sequence[EpochResult], title: str) -> "Figure":
    """The curves of a history of at least one epoch, as a figure that pyplot does not know."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(10, 4.2), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw(left, losses(history), "loss per image", "{:.4f}")
    _draw(right, accuracies(history), "top-1 accuracy in %", "{:.2f} %")
    figure.suptitle(title, fontsize=12)
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
        legend, marker = f"{name}  {number.format(values[-1])}", "o" if len(epochs) <= 30 else None
        axes.plot(epochs, values, label=legend, color=COLOURS[name], marker=marker, markersize=4, linewidth=1.6)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="#e4e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
