"""pareto.png: top-1 against multiply-adds and against parameters, the front marked."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenet_train.console import printable
from mobilenet_train.disk import replacing
from mobilenet_train.pareto import pareto_front
from mobilenet_train.sweeps.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRONT, OTHERS = "#1f6fb4", "#8a8f98"


def draw_pareto(rows: Sequence[Row], path: Path, title: str) -> None:
    """Draws the configurations of which at least one run has finished; replaces the image at once."""
    figure = pareto_figure(rows, title)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def pareto_figure(rows: Sequence[Row], title: str) -> "Figure":
    """The same as a figure that pyplot does not know."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = [row for row in rows if row.top1]
    figure = Figure(figsize=(11, 4.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, measured, "multiply_adds", "multiply-adds of one image, millions")
    _draw(right, measured, "parameters", "parameters, millions")
    left.set_ylabel("test top-1 after the last epoch, %")
    figure.suptitle(printable(title), fontsize=11, parse_math=False)
    return figure


def _draw(axes: Any, rows: Sequence[Row], cost: str, label: str) -> None:
    """One panel; error bars are the mean's 95 % interval."""
    points = {row.label: (getattr(row.finished[0], cost) / 1e6, row.top1.mean) for row in rows if row.top1}
    bars = {row.label: row.top1.interval or 0.0 for row in rows if row.top1}
    front = pareto_front(points, cost=lambda name: points[name][0], worth=lambda name: points[name][1])
    axes.plot(*zip(*(points[name] for name in front), strict=True), color=FRONT, linewidth=1.2, zorder=1)
    for name, (x, y) in points.items():
        colour = FRONT if name in front else OTHERS
        axes.errorbar(x, y, yerr=bars[name], fmt="o", color=colour, markersize=6, capsize=3)
        place = {"textcoords": "offset points", "xytext": (7, -10)}
        axes.annotate(printable(name), (x, y), **place, fontsize=8, color=colour, parse_math=False)
    axes.margins(x=0.16, y=0.12)
    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.grid(color="#e4e6ea", linewidth=0.8, which="both")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="both", labelsize=8)
