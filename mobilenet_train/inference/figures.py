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
from mobilenet_train.inference.heat_maps import heat_maps
from mobilenet_train.inference.loading import TrainedRun
from mobilenet_train.models import MobileNet

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


def draw_mistakes(evaluated: Evaluated, dataset: Dataset, run: TrainedRun, path: Path) -> int:
    """A sheet of the images with the largest losses, as the network sees them; returns how many there are.

    Under each is where a MobileNet saw what it took it for.
    """
    rows, columns = SHEET
    worst = worst_mistakes(evaluated, rows * columns)
    if len(worst) == 0:
        return 0
    rows = -(-len(worst) // columns)
    inputs, images = as_seen(dataset, run.preprocessing, worst)
    shown = [images]
    if isinstance(run.model, MobileNet):
        device = next(run.model.parameters()).device
        guesses = evaluated.predicted[worst].to(device)
        shown.append(overlaid(images, heat_maps(run.model, inputs.to(device), guesses).cpu()))
    height = 0.27 + 1.03 * len(shown)
    with figure(path, 2.2 * columns, 2 * height * rows, constrained=False) as made:
        axes = made.add_axes((0, 0, 1, 1))  # one for all, which draws ten times faster than one each
        axes.set(xlim=(0, 1.1 * columns), ylim=(height * rows, 0))
        axes.axis("off")
        for place, index in enumerate(worst):
            left, top = 1.1 * (place % columns) + 0.05, height * (place // columns) + 0.25
            axes.text(left, top - 0.02, caption(evaluated, int(index), run.class_names), fontsize=8, va="bottom")
            for number, sheet in enumerate(shown):
                edges = (left, left + 1, top + 1.03 * number + 1, top + 1.03 * number)
                axes.imshow(sheet[place].permute(1, 2, 0).numpy(), extent=edges, aspect="auto")
    return len(worst)


def draw_heat_map(image: Tensor, heat: Tensor, title: str, path: Path) -> None:
    """An image (3, H, W) from 0 to 1, and beside it the same with its heat map (H, W) over it."""
    both = torch.cat([image, overlaid(image[None], heat[None])[0]], dim=2)
    with figure(path, 8, 4.4) as made:
        axes = made.subplots()
        axes.imshow(both.permute(1, 2, 0).numpy())
        axes.set_title(printable(title))
        axes.axis("off")


def overlaid(images: Tensor, heat: Tensor) -> Tensor:
    """(N, 3, H, W) from 0 to 1 in grey, and over them (N, H, W) from 0 to 1 in colours: (N, 3, H, W)."""
    from matplotlib import colormaps

    colours = torch.from_numpy(colormaps["jet"](heat.numpy())[..., :3]).float().permute(0, 3, 1, 2)
    return (0.5 * images.mean(1, keepdim=True) + 0.5 * colours).clamp(0, 1)


def caption(evaluated: Evaluated, index: int, class_names: Sequence[str]) -> str:
    """Which image it is, and what it was taken for."""
    probability, guess = evaluated.logits[index].softmax(0).max(0)
    true, predicted = (printable(class_names[int(label)]) for label in (evaluated.labels[index], guess))
    return f"{index}: {true}\ntaken for {predicted} ({probability:.0%})"


def as_seen(dataset: Dataset, preprocessing: Preprocessing, index: Tensor) -> tuple[Tensor, Tensor]:
    """Test images after the preprocessing: the network's inputs (N, 3, R, R), and the same from 0 to 1."""
    chosen = dataset.test.take(index.to(dataset.test.labels.device))
    batches = EvalBatches(chosen, preprocessing, len(index), torch.contiguous_format)
    inputs, _ = next(iter(batches))
    return inputs, batches.prepare.shown(inputs).cpu()


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
