"""The figures of an evaluation: confusion matrix, worst mistakes, accuracy over resolution."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mobilenet_train.console import printable, shortened
from mobilenet_train.data.batches import EvalBatches
from mobilenet_train.data.images import Dataset, Preprocessing, Split
from mobilenet_train.data.indian_pines import Windows
from mobilenet_train.figures import BLUE, GREY, new_figure, plain_axes, save
from mobilenet_train.inference.evaluate import Evaluated, ResolutionPoint, worst_mistakes
from mobilenet_train.inference.heat_maps import heat_maps
from mobilenet_train.models import MobileNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_COUNTED = 30  # classes of a confusion matrix with a number in each cell; above, the commonest mistakes are listed
MOST_NAMED = 100  # classes with their names beside the matrix
MOST_CELLS = 250  # of a side of the matrix; more classes share cells, which show the largest of their shares
MISTAKES_LISTED = 40
LONGEST_NAME = 24  # characters of a class's name beside the matrix
SHEET = (6, 5)  # rows and columns of the mistakes


@dataclass(frozen=True)
class Subject:
    """What the figures of an evaluation are about. `title` names network and data, `machine` what computed it."""

    model: nn.Module
    test: Split
    preprocessing: Preprocessing
    class_names: Sequence[str]
    title: str
    machine: str


def confusion_figure(counts: Tensor, subject: Subject) -> "Figure":
    """counts: (classes, classes). Rows are the true classes, coloured by share of the row."""
    from matplotlib.colors import PowerNorm

    classes, images = len(counts), int(counts.sum())
    listed = classes > MOST_COUNTED
    side = 10.0 if listed else max(4.5, 0.42 * classes + 2)
    title = f"{subject.title}\n{100 * int(counts.trace()) / images:.2f} % of {images:,} test images correct"
    made = new_figure(side + (6 if listed else 1), side, title, subject.machine)
    axes, beside = made.subplots(1, 2, width_ratios=(2, 1)) if listed else (made.subplots(), None)
    shares, width = (counts / counts.sum(1, keepdim=True).clamp_min(1)).float(), -(-classes // MOST_CELLS)
    cells = nn.functional.max_pool2d(shares[None], width, ceil_mode=True)[0]
    end = len(cells) * width - 0.5
    norm = PowerNorm(0.5, 0, 1)  # a few mistakes show beside many right answers
    shown = axes.imshow(cells.numpy(), cmap="Blues", norm=norm, interpolation="nearest", extent=(-0.5, end, end, -0.5))
    bar = made.colorbar(shown, ax=axes, shrink=0.6, label="share of the true class's images in %")
    bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1], labels=["0", "1", "5", "20", "50", "100"])
    axes.set(xlabel="predicted class", ylabel="true class")
    if classes <= MOST_NAMED:
        names = [printable(shortened(name, LONGEST_NAME)) for name in subject.class_names]
        size: dict[str, Any] = {"fontsize": 5 if listed else 8, "parse_math": False}
        axes.set_xticks(range(classes), names, rotation=90, **size)
        axes.set_yticks(range(classes), names, **size)
    if beside is not None:
        _list_mistakes(beside, counts, subject.class_names)
    else:
        _write_counts(axes, counts, norm(shares.numpy()))
    return made


def _write_counts(axes: Any, counts: Tensor, darkness: Any) -> None:
    for row, column in counts.nonzero().tolist():
        colour = "white" if darkness[row, column] > 0.6 else "black"
        axes.text(column, row, f"{int(counts[row, column]):,}", ha="center", va="center", color=colour, fontsize=7)


def _list_mistakes(axes: Any, counts: Tensor, class_names: Sequence[str]) -> None:
    """The commonest mistakes by name."""
    axes.axis("off")
    axes.set_title("most frequent mistakes", fontsize=10, loc="left")
    wrong = counts.clone().fill_diagonal_(0)
    most, cells = wrong.flatten().topk(MISTAKES_LISTED)
    totals = counts.sum(1)
    for line, (count, cell) in enumerate(zip(most.tolist(), cells.tolist(), strict=True)):
        if count:
            true, taken = divmod(cell, len(counts))
            names = " as ".join(printable(shortened(class_names[k], 30)) for k in (true, taken))
            text = f"{count:,} of {int(totals[true]):,}  {names}"
            axes.text(0, 1 - (line + 1) / (MISTAKES_LISTED + 1), text, fontsize=8, parse_math=False)


def mistakes_figure(evaluated: Evaluated, subject: Subject, numbers: Tensor | None = None) -> "Figure | None":
    """A sheet of the images with the largest losses, as the network sees them; None if all are right.

    Under each is where a MobileNet saw what it took it for. numbers: of the images in the test set, if those of
    `subject.test` are not all of it.
    """
    rows, columns = SHEET
    worst = worst_mistakes(evaluated, rows * columns)
    if len(worst) == 0:
        return None
    inputs, images = as_seen(subject.test, subject.preprocessing, worst)
    shown = [images]
    if isinstance(subject.model, MobileNet):
        device = next(subject.model.parameters()).device
        guesses = evaluated.predicted[worst].to(device)
        shown.append(overlaid(images, heat_maps(subject.model, inputs.to(device), guesses).cpu()))
    captions = [
        caption(evaluated, index, index if numbers is None else int(numbers[index]), subject.class_names)
        for index in worst.tolist()
    ]
    looked = "" if len(shown) == 1 else "; below each, what spoke for the class that it was taken for (LayerCAM)"
    return _sheet(shown, captions, f"{subject.title}: the worst mistakes{looked}", subject.machine)


def _sheet(shown: list[Tensor], captions: list[str], title: str, machine: str) -> "Figure":
    """Captions, and below each its image of every one of `shown`."""
    columns = SHEET[1]
    rows, height = -(-len(captions) // columns), 0.27 + 1.03 * len(shown)
    inches = 2 * height * rows + 0.7
    made = new_figure(2.2 * columns, inches, "", constrained=False)
    axes = made.add_axes((0, 0.3 / inches, 1, 1 - 0.7 / inches))  # one for all, drawn ten times faster than one each
    axes.set(xlim=(0, 1.1 * columns), ylim=(height * rows, 0))
    axes.axis("off")
    made.text(0.01, 1 - 0.25 / inches, printable(title), fontsize=10, parse_math=False)
    made.text(0.99, 0.1 / inches, printable(machine), fontsize=7, color=GREY, ha="right", parse_math=False)
    for place, text in enumerate(captions):
        left, top = 1.1 * (place % columns) + 0.05, height * (place // columns) + 0.25
        axes.text(left, top - 0.02, text, fontsize=8, va="bottom", parse_math=False)
        for number, sheet in enumerate(shown):
            edges = (left, left + 1, top + 1.03 * number + 1, top + 1.03 * number)
            axes.imshow(sheet[place].permute(1, 2, 0).numpy(), extent=edges, aspect="auto")
    return made


def draw_heat_map(image: Tensor, heat: Tensor, title: str, path: Path) -> None:
    """An image (3, H, W) from 0 to 1, and beside it the same with its heat map (H, W) over it."""
    both = torch.cat([image, overlaid(image[None], heat[None])[0]], dim=2)
    made = new_figure(8, 4.4, title)
    axes = made.subplots()
    axes.imshow(both.permute(1, 2, 0).numpy())
    axes.axis("off")
    save(made, path)


def overlaid(images: Tensor, heat: Tensor) -> Tensor:
    """(N, 3, H, W) from 0 to 1 in grey, and over them (N, H, W) from 0 to 1 in colours: (N, 3, H, W)."""
    from matplotlib import colormaps

    colours = torch.from_numpy(colormaps["jet"](heat.numpy())[..., :3]).float().permute(0, 3, 1, 2)
    return (0.5 * images.mean(1, keepdim=True) + 0.5 * colours).clamp(0, 1)


def caption(evaluated: Evaluated, index: int, number: int, class_names: Sequence[str]) -> str:
    """Which image of the test set it is, and what it was taken for."""
    probability, guess = evaluated.logits[index].softmax(0).max(0)
    labels = evaluated.labels[index], guess
    true, predicted = (printable(shortened(class_names[int(label)], LONGEST_NAME)) for label in labels)
    return f"{number}: {true}\ntaken for {predicted} ({probability:.0%})"


def as_seen(test: Split, preprocessing: Preprocessing, index: Tensor) -> tuple[Tensor, Tensor]:
    """Test images after the preprocessing: the network's inputs (N, 3, R, R), and the same from 0 to 1."""
    chosen = test.take(index.to(test.labels.device))
    batches = EvalBatches(chosen, preprocessing, len(index), torch.contiguous_format)
    inputs, _ = next(iter(batches))
    return inputs, batches.prepare.shown(inputs).cpu()


def draw_map(evaluated: Evaluated, dataset: Dataset, subject: Subject, path: Path) -> None:
    """The labels of an image that is seen in windows, what the test pixels were taken for, and which are wrong."""
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    tab20 = colormaps["tab20"]
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
    title = f"{subject.title}: {evaluated.score.top1:.2f} % of {len(evaluated.labels):,} test pixels correct"
    made = new_figure(13, 5.6, title, subject.machine)
    panels = zip(made.subplots(1, 3), ("labels", "test pixels, predicted", "errors in red"), strict=True)
    for (axes, name), values in zip(panels, (truth, prediction, errors), strict=True):
        colours = {"cmap": "coolwarm"} if values is errors else {"cmap": tab20, "vmin": 0, "vmax": 19}
        axes.imshow(values.numpy(), interpolation="nearest", **colours)
        axes.set_title(name)
        axes.axis("off")
    classes = [Patch(color=tab20(label), label=printable(name)) for label, name in enumerate(subject.class_names)]
    made.legend(handles=classes, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    save(made, path)


def draw_resolutions(points: Sequence[ResolutionPoint], subject: Subject, path: Path) -> None:
    """Accuracy over resolution; the run's own is marked."""
    made = new_figure(6, 4, subject.title, subject.machine)
    axes: Any = made.subplots()
    axes.plot([p.resolution for p in points], [p.score.top1 for p in points], "o-", color=BLUE)
    axes.axvline(subject.preprocessing.resolution, color=GREY, linestyle="--", label="trained at")
    axes.set(xlabel="resolution in pixels", ylabel="test top-1 in %", xticks=[p.resolution for p in points])
    axes.legend(frameon=False)
    plain_axes(axes)
    save(made, path)
