"""Indian Pines: a hyperspectral image, of which each labelled pixel is classified by the window around it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mobilenet_train.config.schema.dataset import IndianPinesConfig
from mobilenet_train.data.images import Split, fingerprint, stratified_sample
from mobilenet_train.disk import expanded
from mobilenet_train.errors import RunError, installation
from mobilenet_train.seeding import SPLIT, generator

FILES = {"Indian_pines_corrected": "indian_pines_corrected", "Indian_pines_gt": "indian_pines_gt"}  # names in the .mat
CLASSES = [
    *("Alfalfa", "Corn-notill", "Corn-mintill", "Corn", "Grass-pasture", "Grass-trees", "Grass-pasture-mowed"),
    *("Hay-windrowed", "Oats", "Soybean-notill", "Soybean-mintill", "Soybean-clean", "Wheat", "Woods"),
    *("Buildings-Grass-Trees-Drives", "Stone-Steel-Towers"),
]


@dataclass(frozen=True)
class Windows:
    """Windows around pixels, cut when they are needed: all of them would take hundreds of megabytes."""

    padded: Tensor  # fp32 (H + size - 1, W + size - 1, bands), zeros outside of the image
    size: int
    pixels: Tensor  # int64 (N, 2): row and column of each window's centre in the image
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.pixels), self.size, self.size, self.padded.shape[2]

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the whole image."""
        return self.padded.shape[0] - self.size + 1, self.padded.shape[1] - self.size + 1

    def take(self, index: Tensor) -> "Windows":
        return replace(self, pixels=self.pixels[index])

    def batches(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        windows = self.padded.unfold(0, self.size, 1).unfold(1, self.size, 1)  # (H, W, bands, size, size), a view
        for batch in batches:
            rows, columns = self.pixels[batch].unbind(1)
            yield windows[rows, columns].permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Scene:
    """Spectra fp32 (H, W, bands) and classes int64 (H, W), 0 for pixels without a label."""

    spectra: np.ndarray
    classes: Tensor


def load_windows(config: IndianPinesConfig) -> tuple[Split, Split, str]:
    """Training and test windows, and a digest of the image and the split. Raises RunError if the files are missing."""
    scene = _read(expanded(config.root))
    train, test = _split(config, scene)
    fitted = scene.spectra[tuple(train[0].T)] if config.split == "disjoint" else scene.spectra
    border = config.resolution // 2
    bands = _whitened(fitted, scene.spectra, config.components)
    padded = F.pad(bands, (0, 0, border, border, border, border))
    windows = [Split(Windows(padded, config.resolution, pixels), labels) for pixels, labels in (train, test)]
    raw = torch.from_numpy(scene.spectra)
    digest = fingerprint(*(Split(raw, torch.cat([pixels.flatten(), labels])) for pixels, labels in (train, test)))
    return windows[0], windows[1], digest


def _split(config: IndianPinesConfig, scene: Scene) -> list[tuple[Tensor, Tensor]]:
    """Pixels (N, 2) and labels (N,) for training and testing."""
    pixels = scene.classes.nonzero()
    labels = scene.classes[pixels[:, 0], pixels[:, 1]] - 1
    train = training_pixels(config, pixels, labels)
    blocks = _blocks(pixels, config.resolution)
    test = ~torch.isin(blocks, blocks[train]) if config.split == "disjoint" else ~train
    return [(pixels[part], labels[part]) for part in (train, test)]


def training_pixels(config: IndianPinesConfig, pixels: Tensor, labels: Tensor) -> Tensor:
    """Which of the labelled pixels (N, 2) are for training, bool (N,): `train_fraction` of every class.

    They come from anywhere, or for split=disjoint from blocks of the image whose other pixels are left out of testing.
    """
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    if config.split == "random":
        chosen[stratified_sample(labels, config.split_seed, config.train_fraction)] = True
        return chosen
    blocks = _blocks(pixels, config.resolution)
    order = torch.randperm(int(blocks.max()) + 1, generator=generator(config.split_seed, SPLIT))
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        first = members[order[blocks[members]].argsort(stable=True)]  # whole blocks, one after the other
        chosen[first[: max(1, round(config.train_fraction * len(members)))]] = True
    return chosen


def _blocks(pixels: Tensor, side: int) -> Tensor:
    """The number of each pixel's block, of one window's size."""
    rows, columns = (pixels // side).unbind(1)
    return rows * (int(columns.max()) + 1) + columns


def _whitened(fitted: np.ndarray, spectra: np.ndarray, components: int) -> Tensor:
    """Principal components of unit variance, fitted on some pixels: (H, W, bands) -> fp32 (H, W, components)."""
    from sklearn.decomposition import PCA

    bands = spectra.shape[2]
    pca = PCA(components, whiten=True, svd_solver="full").fit(fitted.reshape(-1, bands))
    reduced = pca.transform(spectra.reshape(-1, bands))
    return torch.from_numpy(reduced.astype(np.float32)).view(*spectra.shape[:2], components)


def _read(root: Path) -> Scene:
    """From the published .mat files in `root`, or else from the arrays that the package tensorly carries."""
    found = [root / f"{name}.mat" for name in FILES]
    if all(file.exists() for file in found):
        from scipy.io import loadmat

        cube, classes = (loadmat(file)[key] for file, key in zip(found, FILES.values(), strict=True))
    elif (package := find_spec("tensorly")) and package.origin:
        folder = Path(package.origin).parent / "datasets/data"
        cube, classes = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in FILES)
    else:
        raise RunError(
            f"Indian Pines is not in dataset.root={root}: put {found[0].name} and {found[1].name} there, or "
            + installation("hyperspectral")
        )
    return Scene(np.ascontiguousarray(cube, np.float32), torch.from_numpy(np.asarray(classes, np.int64)))
