"""pareto.png: top-1 against what a configuration costs, the front marked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenet_train.config.saved import read_saved
from mobilenet_train.errors import RunError
from mobilenet_train.figures import BLUE, GREY, label_points, log_axis, new_figure, plain_axes, save
from mobilenet_train.pareto import pareto_front
from mobilenet_train.sweeps.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mobilenet_train.deploy.bench import Row as Timed

Costs = Mapping[str, float]  # label of a configuration -> what it costs


def draw_pareto(rows: Sequence[Row], path: Path, title: str, timings: "Sequence[Timed]" = ()) -> None:
    """Draws the configurations of which at least one run has finished; replaces the image at once."""
    save(pareto_figure(rows, title, timings), path)


def pareto_figure(rows: Sequence[Row], title: str, timings: "Sequence[Timed]" = ()) -> "Figure":
    """The same as a figure that pyplot does not know. timings: of mnet-bench; what they have of it gets a panel.

    Raises RunError if they have none of it, or two of one network.
    """
    found = [row for row in rows if row.top1]
    panels = {
        label: {row.label: getattr(row.finished[0], name) / 1e6 for row in found}
        for label, name in (
            ("multiply-adds of one image, millions", "multiply_adds"),
            ("parameters, millions", "parameters"),
        )
    }
    if timings:
        label, latency = _latency(found, timings)
        panels[label] = latency
    machines = list(dict.fromkeys(run.machine for row in found for run in row.finished if run.machine))
    trained = f"trained on {machines[0]}{' and others' if len(machines) > 1 else ''}" if machines else ""
    figure = new_figure(5.5 * len(panels), 4.8, title, trained)
    axes = figure.subplots(1, len(panels), sharey=True)
    for panel, (label, costs) in zip(axes, panels.items(), strict=True):
        _draw(panel, [row for row in found if row.label in costs], costs)
        panel.set_xlabel(label, parse_math=False, wrap=True)
    axes[0].set_ylabel("test top-1 after the last epoch, %")
    for panel, costs in zip(axes, panels.values(), strict=True):
        _label(panel, [row for row in found if row.label in costs], costs)
    return figure


def _latency(rows: Sequence[Row], timings: "Sequence[Timed]") -> tuple[str, dict[str, float]]:
    """What was measured, and the ms of each configuration that it was measured of."""
    from mobilenet_train.deploy.plan import single_images

    known = single_images(timings)
    latency, used = {}, None
    for row in rows:
        config = read_saved(row.finished[0].folder).config
        network = config.model.name, getattr(config.model, "width_mult", 1.0), config.dataset.resolution
        if network in known:
            used = known[network]
            latency[row.label] = used.timing.median_ms
    if used is None:
        raise RunError("--measured has no latency of the networks of this sweep (model, width, resolution, batch 1)")
    return f"latency of one image, ms\n{used.setting.runtime}, {used.machine}", latency


def _draw(axes: Any, rows: Sequence[Row], costs: Costs) -> None:
    """One panel; error bars are the mean's 95 % interval."""
    front = _front(rows, costs)
    axes.plot([costs[r.label] for r in front], [_top1(r) for r in front], color=BLUE, linewidth=1.2, zorder=1)
    for row in rows:
        assert row.top1 is not None
        look = {"fmt": "o", "color": BLUE if row in front else GREY, "markersize": 5, "capsize": 3}
        axes.errorbar(costs[row.label], row.top1.mean, yerr=row.top1.interval or 0.0, **look)
    axes.margins(y=0.12)
    log_axis(axes, [costs[row.label] for row in rows])
    plain_axes(axes)


def _label(axes: Any, rows: Sequence[Row], costs: Costs) -> None:
    """Names the points of the front first, the others where there is room."""
    front = _front(rows, costs)
    ordered = [*((row, BLUE) for row in front), *((row, GREY) for row in rows if row not in front)]
    label_points(axes, [(costs[row.label], _top1(row), row.label, colour) for row, colour in ordered])


def _front(rows: Sequence[Row], costs: Costs) -> list[Row]:
    return pareto_front(rows, cost=lambda row: costs[row.label], worth=_top1)


def _top1(row: Row) -> float:
    assert row.top1 is not None
    return row.top1.mean
