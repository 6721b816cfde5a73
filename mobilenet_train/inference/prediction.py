"""Images in, class names and probabilities out: what every classifier here shares. Imports no torch."""

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mobilenet_train.data.decode import upright
from mobilenet_train.data.listing import SUFFIXES, BadImageError
from mobilenet_train.disk import expanded, regular
from mobilenet_train.errors import RunError

STDIN = "-"
MISSING = "does not exist"

ImageLike = str | Path | np.ndarray | Image.Image  # an image file or .npy file, (H, W, C) or (H, W), an image of PIL
Ranked = tuple[tuple[str, float], ...]  # (class name, probability from 0 to 1), the likeliest first


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image, the likeliest first; or why there are none."""

    file: str
    ranked: Ranked
    error: str | None = None

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.ranked[0][0]


def predictions(
    images: Sequence[ImageLike],
    batch_size: int,
    read: Callable[[ImageLike], np.ndarray],
    rank: Callable[[np.ndarray], list[Ranked]],
) -> Iterator[Prediction]:
    """A Prediction for each image, in order, a batch at a time; one that cannot be read has an `error`.

    read: an image to the pixels that `rank` takes a batch of; raises BadImageError.
    """

    def attempt(image: ImageLike) -> np.ndarray | str:
        try:
            return read(image)
        except BadImageError as error:
            return str(error)

    names = iter(str(x) if isinstance(x, str | Path) else f"image {i}" for i, x in enumerate(images))
    waiting = iter(images)
    while batch := list(islice(waiting, batch_size)):
        found = [attempt(image) for image in batch]
        good = [pixels for pixels in found if isinstance(pixels, np.ndarray)]
        ranked = iter(rank(np.stack(good)) if good else [])
        for pixels in found:
            error = pixels if isinstance(pixels, str) else None
            yield Prediction(next(names), () if error else next(ranked), error)


def pixels_of(
    image: ImageLike,
    channels: int,
    scale: float,
    decode: Callable[[bytes], np.ndarray],
    fill: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """An image as training would have stored it: a file by `decode`, pixels by `fill`. Raises BadImageError.

    channels, scale: of the preprocessing.
    """
    if isinstance(image, str | Path) and Path(image).suffix == ".npy":
        image = _npy(Path(image))
    if isinstance(image, np.ndarray):
        return fill(_array(image, channels, scale))
    if scale != 255 or channels not in (1, 3):
        kind = "uint8" if scale == 255 else "floating-point"
        raise BadImageError(f"is an image in colour; the network takes {kind} arrays (H, W, {channels}), also as .npy")
    pixels = fill(upright(image)) if isinstance(image, Image.Image) else decode(_read(Path(image)))
    return pixels if channels == 3 else np.asarray(Image.fromarray(pixels).convert("L"))[..., None]


def find_image_files(arguments: Sequence[str]) -> list[str]:
    """Files, folders (with all below them), patterns and "-" as a list of files, in order.

    A file that is named is taken whatever its ending; in folders those with an image's ending are taken.
    Raises RunError for a folder without image files and a pattern without files.
    """
    return [file for argument in arguments for file in _expand(argument)]


def _expand(argument: str) -> list[str]:
    path = expanded(argument)
    if argument == STDIN or path.is_file():
        return [str(path)]
    if path.is_dir():
        files = sorted(str(file) for file in path.rglob("*") if _is_image_file(file))
        if not files:
            raise RunError(f"there are no image files in {path} ({b', '.join(sorted(SUFFIXES)).decode()})")
        return files
    if any(letter in argument for letter in "*?["):
        files = sorted(file for file in glob(str(path), recursive=True) if Path(file).is_file())  # noqa: PTH207 (absolute)
        if not files:
            raise RunError(f"no file matches {argument}")
        return files
    return [str(path)]


def is_there(file: str) -> bool:
    """Whether one of `find_image_files` can be opened at all."""
    return file == STDIN or Path(file).exists()


def _is_image_file(path: Path) -> bool:
    return os.fsencode(path.name).lower().endswith(SUFFIXES) and path.is_file()


def _read(path: Path) -> bytes:
    """The bytes of a regular file, or of the standard input for "-". Raises BadImageError."""
    if str(path) == STDIN:
        return sys.stdin.buffer.read()
    if not path.exists():
        raise BadImageError(MISSING)
    try:
        with open(path, "rb", opener=regular) as file:
            return file.read()
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror}") from error


def _npy(path: Path) -> np.ndarray:
    """The array of a .npy file. Raises BadImageError."""
    try:
        return np.lib.format.read_array(io.BytesIO(_read(path)), allow_pickle=False)
    except ValueError as error:
        raise BadImageError(f"is not an array: {error}") from error


def _array(pixels: np.ndarray[Any, Any], channels: int, scale: float) -> np.ndarray:
    """(H, W, channels) of an array of the network's kind. Raises BadImageError for any other."""
    grey = pixels.ndim == 2 and channels in (1, 3)
    kind = np.uint8 if scale == 255 else np.floating
    if not np.issubdtype(pixels.dtype, kind) or not (grey or (pixels.ndim == 3 and pixels.shape[2] == channels)):
        also = " or (H, W)" if channels in (1, 3) else ""
        raise BadImageError(
            f"is a {pixels.dtype} array of {pixels.shape}; give {kind.__name__} (H, W, {channels}){also}"
        )
    values = np.repeat(pixels[..., None], channels, axis=2) if grey else pixels
    return np.array(values, dtype=np.uint8 if scale == 255 else np.float32)  # a copy: torch takes no read-only arrays
