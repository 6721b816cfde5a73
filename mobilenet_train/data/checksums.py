"""A checksum for each chunk of prepared images, compared before the first use of an image in it."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mobilenet_train.errors import RunError

CHUNK = 64  # images that a worker prepares at a time, and that have one checksum


def checksum(data: Any) -> int:
    """CRC-32: it finds what disks and memory do to a file, at the speed that images are read with."""
    return zlib.crc32(data)


class Checksums:
    """Those of the images (N, S, S, 3) in `file`; each chunk is read and compared once in a process."""

    @classmethod
    def of(cls, file: Path, images: np.ndarray, written: str) -> "Checksums":
        """`written` has eight hexadecimal digits for each chunk. Raises ValueError if it has not."""
        if len(written) != 8 * -(-len(images) // CHUNK):
            raise ValueError("its checksums are not those of so many images")
        return cls(file, images, [int(written[start : start + 8], 16) for start in range(0, len(written), 8)])

    def __init__(self, file: Path, images: np.ndarray, sums: Sequence[int]) -> None:
        self.file = file
        self.images = images
        self.sums = sums
        self.seen = np.zeros(len(sums), bool)

    def check(self, rows: np.ndarray) -> None:
        """Raises RunError if a chunk with one of these images is not what was written."""
        for chunk in np.unique(rows // CHUNK):
            if self.seen[chunk]:
                continue
            if checksum(self.images[chunk * CHUNK : (chunk + 1) * CHUNK]) != self.sums[chunk]:
                raise RunError(
                    f"{self.file} is damaged: its images from number {chunk * CHUNK} on are not those that were "
                    f"written. Delete the folder {self.file.parent.name}, it will be made again; the run can be resumed"
                )
            self.seen[chunk] = True
