"""What all figures share: look, title and machine, labels that leave each other room, and the way into a file."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenet_train.console import printable
from mobilenet_train.disk import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

BLUE, GREY = "#1f6fb4", "#6b7078"
PLACES = (  # of a label beside its point, in points: first below and above, then further away
    *((6, -9, "left"), (-6, -9, "right"), (6, 4, "left"), (-6, 4, "right"), (0, -12, "center"), (0, 7, "center")),
    *((9, -16, "left"), (-9, -16, "right"), (9, 11, "left"), (-9, 11, "right")),
)
NICE = (1, 1.5, 2, 3, 4, 5, 6, 8)  # ticks of a logarithmic axis that spans about a decade; a longer one has fewer


def new_figure(width: float, height: float, title: str, machine: str = "", constrained: bool = True) -> "Figure":
    """A figure of so many inches that pyplot does not know; `machine`, which made the numbers, stands small below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100)
    if constrained:
        figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.08)
    FigureCanvasAgg(figure)
    if title:
        lines = "\n".join(map(printable, title.splitlines()))
        figure.suptitle(lines, fontsize=11, parse_math=False)
    if machine:
        figure.supxlabel(printable(machine), x=0.99, ha="right", fontsize=7, color=GREY, parse_math=False)
    return figure


def save(figure: "Figure", path: Path) -> None:
    """Replaces the PNG at `path` atomically. Raises RunError if it cannot be written."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def plain_axes(axes: Any) -> None:
    """A light grid behind the data, no box around it."""
    axes.grid(color="#e4e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def log_axis(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic x axis for positive `values`, with a few round ticks that leave each other room."""
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = min(values), max(values)
    margin = max((high / low) ** 0.12, 1.6)
    low, high = low / margin, high * margin
    steps = NICE if high / low < 15 else (1, 2, 5) if high / low < 150 else (1,)
    ticks = [step * 10.0**power for power in range(-6, 13) for step in steps]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")


def label_points(axes: Any, labels: Iterable[tuple[float, float, str, str]], fontsize: float = 8) -> int:
    """Writes (x, y, text, colour) beside their points, the first of them first; returns how many found room.

    A label lies within the axes, and neither over another nor over a point that is to be labelled. Lines below it end
    at its white rim.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    wanted = list(labels)
    axes.figure.draw_without_rendering()  # the layout decides where the axes are
    frame, renderer = axes.get_window_extent(), axes.figure.canvas.get_renderer()
    dots = axes.transData.transform([(x, y) for x, y, *_ in wanted]) if wanted else []
    taken: list[Bbox] = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in dots]
    placed = 0
    for x, y, text, colour in wanted:
        for right, up, side in PLACES:
            note = axes.annotate(
                printable(text), (x, y), (right, up), textcoords="offset points", ha=side, fontsize=fontsize,
                color=colour, parse_math=False, path_effects=[withStroke(linewidth=3, foreground="white")],
            )  # fmt: skip
            box = note.get_window_extent(renderer)
            if _inside(box, frame) and not box.count_overlaps(taken):
                taken.append(box)
                placed += 1
                break
            note.remove()
    return placed


def _inside(box: "Bbox", frame: "Bbox") -> bool:
    return bool(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)
