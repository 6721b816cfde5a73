"""The figures of an evaluation: confusion matrix, worst mistakes, accuracy over resolution."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mobilenet_train.console import printable
from mobilenet_train.data.batches import EvalBatches
from mobilenet_train.data.images import Dataset, Preprocessing
from mobilenet_train.data.indian_pines import Windows
from mobilenet_train.disk import replacing
from mobilenet_train.inference.evaluate import Evaluated, ResolutionPoint, confusion_matrix, worst_mistakes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NAMED_CLASSES = 30  # above it a confusion matrix shows no names and no counts
SHEET = (6, 5)  # rows and columns of the mistakes


@contextmanager
def figure(path: Path, width: float, height: float, constrained: bool = True) -> Iterator["Figure"]:
    """A figure of so many inches that is written to `path` (PNG) at once. Raises RunError if it cannot be."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=100, layout="constrained" if constrained else None)
    FigureCanvasAgg(made)
    with rc_context({"text.parse_math": False}):  # class names are no formulas
        yield made
        with replacing(path) as temporary:
            made.savefig(temporary, format="png")


def draw_confusion(evaluated: Evaluated, class_names: Sequence[str], path: Path) -> None:
    """Rows are the true classes, coloured by share of the row, with the numbers of images."""
    counts = confusion_matrix(evaluated, len(class_names))
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
    named = len(class_names) <= MOST_NAMED_CLASSES
    side = max(5.0, 0.45 * len(class_names) + 2) if named else 10
    with figure(path, side, side) as made:
        axes = made.subplots()
        axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
        axes.set(xlabel="predicted", ylabel="true", title=f"{evaluated.score.top1:.2f} % of {len(evaluated.labels):,}")
        if named:
            names = [printable(name) for name in class_names]
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(names)), names)
            for row, column in counts.nonzero().tolist():
                colour = "white" if shares[row, column] > 0.5 else "black"
                text = str(int(counts[row, column]))
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)


def draw_mistakes(
    evaluated: Evaluated, dataset: Dataset, preprocessing: Preprocessing, class_names: Sequence[str], path: Path
) -> int:
    """A sheet of the images with the largest losses, as the network sees them; returns how many there are."""
    rows, columns = SHEET
    worst = worst_mistakes(evaluated, rows * columns)
    if len(worst) == 0:
        return 0
    rows = -(-len(worst) // columns)
    with figure(path, 2.2 * columns, 2.6 * rows, constrained=False) as made:
        axes = made.add_axes((0, 0, 1, 1))  # one for all, which draws ten times faster than one each
        axes.set(xlim=(0, 1.1 * columns), ylim=(1.3 * rows, 0))
        axes.axis("off")
        for place, (image, index) in enumerate(zip(as_seen(dataset, preprocessing, worst), worst, strict=True)):
            left, top = 1.1 * (place % columns) + 0.05, 1.3 * (place // columns) + 0.25
            axes.imshow(image.permute(1, 2, 0).numpy(), extent=(left, left + 1, top + 1, top), aspect="auto")
            axes.text(left, top - 0.02, caption(evaluated, int(index), class_names), fontsize=8, va="bottom")
    return len(worst)


def caption(evaluated: Evaluated, index: int, class_names: Sequence[str]) -> str:
    """Which image it is, and what it was taken for."""
    probability, guess = evaluated.logits[index].softmax(0).max(0)
    true, predicted = (printable(class_names[int(label)]) for label in (evaluated.labels[index], guess))
    return f"{index}: {true}\ntaken for {predicted} ({probability:.0%})"


def as_seen(dataset: Dataset, preprocessing: Preprocessing, index: Tensor) -> Tensor:
    """Test images (N, 3, R, R), 0..1, after the preprocessing."""
    chosen = dataset.test.take(index.to(dataset.test.labels.device))
    batches = EvalBatches(chosen, preprocessing, len(index), torch.contiguous_format)
    inputs, _ = next(iter(batches))
    return batches.prepare.shown(inputs).cpu()


def draw_map(evaluated: Evaluated, dataset: Dataset, path: Path) -> None:
    """The labels of an image that is seen in windows, what the test pixels were taken for, and which are wrong."""
    train, test = dataset.train, dataset.test
    assert isinstance(train.images, Windows)
    assert isinstance(test.images, Windows)
    truth = torch.full(test.images.sides, torch.nan)
    prediction, errors = truth.clone(), truth.clone()
    for split, windows in ((train, train.images), (test, test.images)):
        truth[tuple(windows.pixels.T)] = split.labels.float().cpu()
    tested = tuple(test.images.pixels.T)
    prediction[tested] = evaluated.predicted.float()
    errors[tested] = (evaluated.predicted != evaluated.labels).float()
    with figure(path, 13, 4.8) as made:
        panels = zip(made.subplots(1, 3), ("labels", "test pixels, predicted", "errors"), strict=True)
        for (axes, title), values in zip(panels, (truth, prediction, errors), strict=True):
            colours = {"cmap": "tab20", "vmin": 0, "vmax": 19} if title != "errors" else {"cmap": "coolwarm"}
            axes.imshow(values.numpy(), interpolation="nearest", **colours)
            axes.set_title(title)
            axes.axis("off")


def draw_resolutions(points: Sequence[ResolutionPoint], own: int, path: Path) -> None:
    """Accuracy over resolution; the run's own is marked."""
    with figure(path, 6, 4) as made:
        axes: Any = made.subplots()
        axes.plot([p.resolution for p in points], [p.score.top1 for p in points], "o-", color="#1f6fb4")
        axes.axvline(own, color="#8a8f98", linestyle="--", label="trained at")
        axes.set(xlabel="resolution in pixels", ylabel="test top-1 in %", xticks=[p.resolution for p in points])
        axes.legend()
        axes.grid(alpha=0.3)
