"""Trees of small drawn images, and files that are spoiled in ten ways."""

import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mobilenet_train.config.schema import FolderConfig

COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40))


def draw(seed: int, colour: tuple[int, ...] = COLOURS[0], width: int = 40, height: int = 32) -> Image.Image:
    """Noise around a colour."""
    noise = np.random.default_rng(seed).integers(-40, 41, (height, width, 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tree(root: Path, train: int = 12, test: int = 4, names: tuple[str, ...] = ("ant", "bee", "cat")) -> Path:
    """`root`/train|val/NAME/*.jpg, a colour a class."""
    for split, count in (("train", train), ("val", test)):
        for label, name in enumerate(names):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                seed = number + 1000 * label + 100_000 * (split == "val")
                (folder / f"{number:03}.jpg").write_bytes(encoded(draw(seed, COLOURS[label])))
    return root


SMALL: dict[str, Any] = {
    "crop_ratio": 0.875,
    "resolution": 32,
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "fraction": 1.0,
    "max_per_class": None,
    "val_fraction": 0.0,
    "split_seed": 0,
    "store_size": 32,
    "cache": "memory",
    "workers": 1,
    "on_bad_image": "error",
}


def folder_config(root: Path, **changes: Any) -> FolderConfig:
    own = {"name": "folder", "root": str(root), "classes": None, "test_fraction": 0.25}
    return FolderConfig(**{**SMALL, **own, "cache_dir": str(root.parent / "cache"), **changes})


def bomb() -> bytes:
    """A PNG of 20,000 x 20,000 pixels in a few hundred bytes: the size in its header is enough."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def _write(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def _flipped_bit(kind: str) -> bytes:
    data = bytearray(encoded(draw(3, width=64, height=64), kind))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


# kind: how to make such a file, and what its reason must contain
SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.touch(), "is empty"),
    "truncated": (_write(encoded(draw(1))[:-200]), "truncated"),
    "text": (_write(b"this is not an image\n" * 20), "not an image"),
    "web page": (_write(b"<!DOCTYPE html><html><body>404</body></html>"), "not an image"),
    "loop of links": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "broken link": (lambda path: path.symlink_to("nowhere.jpg"), "No such file"),
    "named pipe": (os.mkfifo, "not a regular file"),
    "bomb": (_write(bomb()), "decompression bomb"),
    "damaged PNG": (_write(_flipped_bit("PNG")), "cannot be decoded"),
    "header only": (_write(encoded(draw(2))[:120]), "cannot"),
}


def spoil(folder: Path, count: int) -> dict[str, str]:
    """Adds `count` spoiled files of all kinds in turn; returns what each one's reason must contain, by path."""
    kinds = list(SPOILED.items())
    random.Random(0).shuffle(kinds)
    reasons = {}
    for number in range(count):
        name, (make, reason) = kinds[number % len(kinds)]
        path = folder / f"bad{number:03} {name}.jpg"
        make(path)
        reasons[str(path)] = reason
    return reasons
