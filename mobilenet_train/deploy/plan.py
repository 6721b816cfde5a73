"""Which network fits a latency budget: some are measured, the others predicted, accuracy is what was published."""

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from sklearn.linear_model import LinearRegression

from mobilenet_train.config.trained import trained_weights
from mobilenet_train.console import counted
from mobilenet_train.deploy.bench import Row
from mobilenet_train.deploy.latency import Timing
from mobilenet_train.deploy.published import PUBLISHED, Published, published
from mobilenet_train.deploy.settings import MODELS
from mobilenet_train.errors import RunError
from mobilenet_train.figures import GREY, label_points, log_axis, new_figure, plain_axes, save
from mobilenet_train.inference.info import info
from mobilenet_train.models.layer_costs import Layer, total
from mobilenet_train.models.strides import SMALLEST_PUBLISHED_RESOLUTION
from mobilenet_train.pareto import pareto_front

RESOLUTIONS = (96, 128, 160, 192, 224)
PUBLISHED_RESOLUTION = 224  # the one at which all networks have published numbers


@dataclass(frozen=True)
class Candidate:
    """One network at one width and resolution."""

    model: str
    width: float
    resolution: int
    parameters: int
    multiply_adds: int
    work: tuple[float, ...]  # what the latency model sees, see `work_of`
    published: Published | None  # at this resolution
    ranked_by: Published | None  # the same, or what orders candidates where nothing is published of any
    predicted_ms: float = 0.0
    measured: Timing | None = None

    @property
    def ms(self) -> float:
        """Latency: measured where it was, else predicted."""
        return self.measured.median_ms if self.measured else self.predicted_ms

    @property
    def command(self) -> str:
        """What trains it on image files: fine-tuning of ImageNet's weights where there are any."""
        trained = trained_weights(self.model, self.width)
        network = (
            f"model={self.model}",
            f"model.width_mult={self.width:g}",
            *(("experiment=finetune", *trained[0].overrides) if trained else ()),
        )
        data = ("dataset=folder", "dataset.root=FOLDER", f"dataset.resolution={self.resolution}")
        return shlex.join(("mnet-train", *network, *data))


@dataclass(frozen=True)
class PredictionError:
    """How far predictions were from measurements that the latency model had not seen (leave-one-out), as shares."""

    median: float
    worst: float
    measured: int


Measure = Callable[[Sequence[Candidate]], list[Timing]]


def candidates(models: Sequence[str], resolutions: Sequence[int], classes: int) -> list[Candidate]:
    """Every network at every width with published numbers and every resolution, at its exact cost.

    A candidate's published numbers are those at its own resolution. Where nothing is published of any candidate, they
    are ranked by what the networks reach at 224 pixels, which still shows how these compare.
    """
    widths = {model: sorted({line.width for line in PUBLISHED if line.network == model}) for model in models}
    pairs = [(model, width) for model in models for width in widths[model]]
    return _ranked([c for model, width in pairs for c in _at(model, width, resolutions, classes)])


def measured_candidates(rows: Sequence[Row], classes: int) -> list[Candidate]:
    """What a table of `mnet-bench` has of single images, with its latencies. Raises as `single_images` does."""
    found = [
        replace(_at(model, width, [resolution], classes)[0], measured=row.timing)
        for (model, width, resolution), row in single_images(rows).items()
    ]
    return _ranked(found)


def single_images(rows: Sequence[Row]) -> dict[tuple[str, float, int], Row]:
    """The rows with batch 1 by network, width and resolution. Raises RunError for two of one, or none at all."""
    timings: dict[tuple[str, float, int], Row] = {}
    for row in rows:
        s = row.setting
        if s.batch != 1 or s.runtime == "train" or s.model not in MODELS:
            continue
        first = timings.setdefault((s.model, s.width, s.resolution), row)
        if first is not row:
            known, other = (f"{r.setting.runtime} with {counted(r.setting.threads, 'thread')}" for r in (first, row))
            raise RunError(
                f"the table has {s.model} {s.width:g} at {s.resolution} twice ({known}, {other}): keep one of each"
            )
    if not timings:
        raise RunError(f"the table has no row with batch 1 of {', '.join(MODELS)}")
    return timings


def _at(model: str, width: float, resolutions: Sequence[int], classes: int) -> list[Candidate]:
    """One network at each resolution."""
    found = []
    for resolution, layers in layers_at(model, width, resolutions, classes).items():
        printed = next(iter(published(model, width, resolution)), None)
        cost, work = total(layers), work_of(layers)
        found.append(Candidate(model, width, resolution, cost.parameters, cost.multiply_adds, work, printed, printed))
    return found


def _ranked(found: Sequence[Candidate]) -> list[Candidate]:
    """The candidates as they are, or ranked by 224 pixels if nothing is published of any."""
    if any(candidate.published for candidate in found):
        return list(found)
    largest = [next(iter(published(c.model, c.width, PUBLISHED_RESOLUTION)), None) for c in found]
    return [replace(candidate, ranked_by=line) for candidate, line in zip(found, largest, strict=True)]


def layers_at(model: str, width: float, resolutions: Sequence[int], classes: int) -> dict[int, list[Layer]]:
    """The layers at each resolution. From 96 pixels up the strides are the same, so one network gives them all."""
    traced: dict[int, tuple[Layer, ...]] = {}
    for resolution in resolutions:
        at = max(resolutions) if resolution >= SMALLEST_PUBLISHED_RESOLUTION else resolution
        if at not in traced:
            traced[at] = info(model, width=width, resolution=at, classes=classes).layers
        traced[resolution] = tuple(resized(layer, resolution) for layer in traced[at])
    return {resolution: list(traced[resolution]) for resolution in resolutions}


def resized(layer: Layer, resolution: int) -> Layer:
    """A layer on an image of another size: halving n times, each time rounding up, is dividing by 2^n, rounded up."""
    if layer.stride is None:
        return layer
    channels, height, width = layer.output
    side = ceil(resolution / layer.stride)
    areas = 1 if layer.kind == "SE" else side * side / (height * width)
    return replace(layer, output=(channels, side, side), multiply_adds=round(layer.multiply_adds * areas))


def work_of(layers: Sequence[Layer]) -> tuple[float, ...]:
    """What takes time, each with its own price: number of layers, multiply-adds of depthwise convolutions (few for
    each number fetched), all other multiply-adds, numbers written by the layers, and weights read.
    """
    depthwise = sum(layer.multiply_adds for layer in layers if layer.kind == "depthwise")
    written = sum(prod(layer.output) for layer in layers)
    cost = total(layers)
    return len(layers), depthwise, cost.multiply_adds - depthwise, written, cost.parameters


def first_to_measure(found: Sequence[Candidate]) -> list[Candidate]:
    """Of each network the corners (smallest and largest width and resolution) and the middle."""
    chosen = []
    for model in dict.fromkeys(candidate.model for candidate in found):
        own = [candidate for candidate in found if candidate.model == model]
        widths, resolutions = (sorted({getattr(c, axis) for c in own}) for axis in ("width", "resolution"))
        corners = {(w, r) for w in (widths[0], widths[-1]) for r in (resolutions[0], resolutions[-1])}
        wanted = corners | {(widths[len(widths) // 2], resolutions[len(resolutions) // 2])}
        chosen += [candidate for candidate in own if (candidate.width, candidate.resolution) in wanted]
    return chosen


def with_latency(found: Sequence[Candidate], measure: Measure) -> tuple[list[Candidate], PredictionError]:
    """Measures some candidates and predicts all; the error is that of the predictions."""
    chosen = first_to_measure(found)
    timings = dict(zip(chosen, measure(chosen), strict=True))
    work = np.array([candidate.work for candidate in chosen])
    latency = np.array([timings[candidate].median_ms for candidate in chosen])
    prices = fit(work, latency)
    known = [
        replace(candidate, predicted_ms=float(np.dot(candidate.work, prices)), measured=timings.get(candidate))
        for candidate in found
    ]
    return known, leave_one_out(work, latency)


def fit(work: np.ndarray, latency: np.ndarray) -> np.ndarray:
    """The price of each kind of work, none negative, with the least squared relative error.

    work: (networks, kinds); latency: (networks,) ms. Returns (kinds,) ms.
    """
    scale = work.max(axis=0)
    model = LinearRegression(positive=True, fit_intercept=False)
    model.fit(work / scale / latency[:, None], np.ones_like(latency))
    return model.coef_ / scale


def leave_one_out(work: np.ndarray, latency: np.ndarray) -> PredictionError:
    """Predicts each measured latency from all the others."""
    errors = []
    for index in range(len(latency)):
        others = np.arange(len(latency)) != index
        predicted = work[index] @ fit(work[others], latency[others])
        errors.append(abs(float(predicted / latency[index]) - 1))
    return PredictionError(median(errors), max(errors), len(errors))


def fastest_for_accuracy(known: Iterable[Candidate]) -> list[Candidate]:
    """The Pareto front: those with published accuracy that no faster one equals, the fastest first."""
    return pareto_front([c for c in known if c.ranked_by], cost=lambda c: c.ms, worth=_top1)


def choose(
    known: Sequence[Candidate], budget_ms: float, min_accuracy: float, measure: Measure
) -> tuple[list[Candidate], Candidate | None]:
    """The most accurate candidate within the budget, by a measurement: a predicted one is measured before it is named.

    Returns the candidates with what was measured meanwhile, and the choice, or None if nothing fits.
    """
    known = list(known)
    while True:
        fitting = [c for c in known if c.ms <= budget_ms and c.ranked_by and c.ranked_by.top1 >= min_accuracy]
        if not fitting:
            return known, None
        best = max(fitting, key=lambda candidate: (_top1(candidate), -candidate.ms))
        if best.measured:
            return known, best
        known[known.index(best)] = replace(best, measured=measure([best])[0])


def _top1(candidate: Candidate) -> float:
    assert candidate.ranked_by is not None
    return candidate.ranked_by.top1


def _at_another_resolution(known: Iterable[Candidate]) -> str:
    return "" if any(c.published for c in known) else f" at {PUBLISHED_RESOLUTION} pixels"


def draw(known: Sequence[Candidate], budget_ms: float, machine: str, path: Path) -> None:
    """Accuracy over latency of all candidates, each labelled where there is room, the front first.

    machine: and runtime. Raises RunError if it is not written.
    """
    ranked, front = [c for c in known if c.ranked_by], fastest_for_accuracy(known)
    figure = new_figure(11, 7, f"Networks within {budget_ms:g} ms", " - ".join(machine.splitlines()))
    axes: Any = figure.add_subplot(
        xlabel="latency of one image in ms", ylabel=f"published ImageNet top-1 in %{_at_another_resolution(known)}"
    )
    models = list(dict.fromkeys(c.model for c in known))
    for number, model in enumerate(models):
        for measured in (True, False):
            points = [c for c in ranked if c.model == model and (c.measured is not None) == measured]
            look = {"edgecolors": f"C{number}", "facecolors": f"C{number}" if measured else "none", "s": 22}
            label = f"{model}, {'measured' if measured else 'predicted'}"
            if points:
                axes.scatter([c.ms for c in points], [_top1(c) for c in points], label=label, **look)
    axes.plot([c.ms for c in front], [_top1(c) for c in front], color="black", linewidth=0.8, label="Pareto front")
    axes.axvline(budget_ms, color=GREY, linestyle="--", label=f"budget {budget_ms:g} ms")
    log_axis(axes, [budget_ms, *(c.ms for c in ranked)])
    plain_axes(axes)
    axes.legend(fontsize="small", loc="lower right", title="labels: width, pixels", title_fontsize="small")
    first = [*front, *(c for c in ranked if c not in front)]
    labels = [(c.ms, _top1(c), f"{c.width:g}, {c.resolution}", f"C{models.index(c.model)}") for c in first]
    label_points(axes, labels, fontsize=6.5)
    save(figure, path)
