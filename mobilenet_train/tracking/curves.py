"""curves.png: loss and accuracy over the epochs, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mobilenet_train.disk import replacing
from mobilenet_train.results import EpochResult

COLOURS = {"train": "#8a8f98", "test": "#1f6fb4", "val": "#2a9d62", "EMA, test": "#d9722b"}
Curves = dict[str, list[float]]


def draw_curves(history: Sequence[EpochResult], path: Path, title: str) -> None:
    """Draws a history of at least one epoch; replaces the picture at `path` in one go."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(10, 4.2), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    FigureCanvasAgg(figure)
    epochs = [result.epoch for result in history]
    left, right = figure.subplots(1, 2)
    _draw(left, epochs, losses(history), "loss per image", "{:.4f}")
    _draw(right, epochs, accuracies(history), "top-1 accuracy in %", "{:.2f} %")
    figure.suptitle(title, fontsize=12)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def losses(history: Sequence[EpochResult]) -> Curves:
    curves = {
        "train": [result.train.loss for result in history],
        "val": [result.val.loss for result in history if result.val],
        "test": [result.test.loss for result in history],
        "EMA, test": [result.ema_test.loss for result in history if result.ema_test],
    }
    return _measured(curves)


def accuracies(history: Sequence[EpochResult]) -> Curves:
    curves = {
        "train": [result.train.top1 for result in history],
        "val": [result.val.top1 for result in history if result.val],
        "test": [result.test.top1 for result in history],
        "EMA, test": [result.ema_test.top1 for result in history if result.ema_test],
    }
    return _measured(curves)


def _measured(curves: Curves) -> Curves:
    return {name: values for name, values in curves.items() if values}


def _draw(axes: Any, epochs: list[int], curves: Curves, label: str, number: str) -> None:
    """One panel; the legend gives each curve's last value."""
    from matplotlib.ticker import MaxNLocator

    marker = "o" if len(epochs) <= 30 else None
    for name, values in curves.items():
        legend = f"{name}  {number.format(values[-1])}"
        axes.plot(epochs, values, label=legend, color=COLOURS[name], marker=marker, markersize=4, linewidth=1.6)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="#e4e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
