"""The sheet that `preview=true` writes: training and test images as the network would see them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobilenet_train.console import printable
from mobilenet_train.data.batches import EvalBatches, Preprocessor
from mobilenet_train.disk import expanded, replacing
from mobilenet_train.runs.build import RunParts

COLUMNS, TRAINING_ROWS, TEST_ROWS = 8, 4, 1
INCHES, DOTS_PER_INCH = 1.1, 100  # of one image


def write_sheet(parts: RunParts) -> Path:
    """Draws the first images of epoch 0 and test images from all over the set; returns the file.

    Raises RunError if it cannot be written.
    """
    config, data, batches = parts.config, parts.dataset, parts.batches
    images, labels = next(batches.train.epoch(0))
    index = torch.linspace(0, len(data.test) - 1, min(COLUMNS * TEST_ROWS, len(data.test))).long()
    test = EvalBatches(data.test.take(index), data.preprocessing, len(index), parts.runtime.memory_format)
    test_images, test_labels = next(iter(test))
    path = expanded(config.outputs) / f"preview_{config.dataset.name}_{config.augment.name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    _draw(
        path,
        [
            (f"training, augment={config.augment.name}, epoch 0", _pixels(batches.train.prepare, images), labels),
            ("test", _pixels(test.prepare, test_images), test_labels),
        ],
        tuple(map(printable, data.class_names)),
    )
    return path


def caption(label: Tensor, class_names: tuple[str, ...]) -> str:
    """The class of an image, or the two of a mixed one with their shares in percent."""
    if label.ndim == 0:
        return class_names[int(label)]
    shares, classes = label.topk(min(2, len(label)))
    named = [f"{class_names[k]} {100 * share:.0f}%" for share, k in zip(shares, classes.tolist(), strict=True) if share]
    return "\n".join(named)


def _pixels(prepare: Preprocessor, images: Tensor) -> Tensor:
    """Network inputs -> (N, R, R, 3), values in 0..1."""
    return prepare.shown(images).permute(0, 2, 3, 1).cpu()


def _draw(path: Path, parts: list[tuple[str, Tensor, Tensor]], class_names: tuple[str, ...]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [TRAINING_ROWS, TEST_ROWS]
    figure = Figure(figsize=(COLUMNS * INCHES, 1.3 * INCHES * sum(heights) + 0.5), dpi=DOTS_PER_INCH)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subfigures(2, 1, height_ratios=heights)
    for panel, rows, (title, images, labels) in zip(panels, heights, parts, strict=True):
        panel.suptitle(title, fontsize=9)
        places = panel.subplots(rows, COLUMNS, squeeze=False).flatten()
        for place in places:
            place.axis("off")
        for place, image, label in zip(places, images, labels, strict=False):
            place.imshow(image.numpy())
            place.set_title(caption(label.cpu(), class_names), fontsize=6)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="jpg", pil_kwargs={"quality": 85})
