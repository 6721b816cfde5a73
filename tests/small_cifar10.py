"""Real CIFAR-10 images in files of a tenth of the size: the official ones take a second of every start to read."""

import hashlib
import pickle
from pathlib import Path

from mobilenet_train.data import cifar10

IMAGES = 1000  # of the 10,000 in each file


def write_small(official: Path, root: Path) -> None:
    """The first images of each file under `official`, in files of the same names and format under `root`."""
    (root / cifar10.FOLDER).mkdir(parents=True)
    for name in cifar10.TRAIN | cifar10.TEST:
        batch = pickle.loads((official / cifar10.FOLDER / name).read_bytes(), encoding="bytes")
        few = {b"data": batch[b"data"][:IMAGES].copy(), b"labels": batch[b"labels"][:IMAGES]}
        (root / cifar10.FOLDER / name).write_bytes(pickle.dumps(few))


def accept_small(root: Path) -> None:
    """In a child process: the files under `root` are taken for the official ones."""
    for files in (cifar10.TRAIN, cifar10.TEST):
        for name in files:
            files[name] = hashlib.md5((root / cifar10.FOLDER / name).read_bytes()).hexdigest()
