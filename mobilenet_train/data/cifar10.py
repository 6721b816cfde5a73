"""CIFAR-10 (Krizhevsky 2009) from its official files, which are fetched and unpacked if they are not there."""

import hashlib
import pickle
import tarfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import numpy as np

from mobilenet_train.errors import RunError

FOLDER = "cifar-10-batches-py"
ARCHIVE, ARCHIVE_MD5 = "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"
TRAIN = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
}
TEST = {"test_batch": "40351d587109b95175f43aff81a1287e"}
FINGERPRINT = "7b11a8c1116e8f33d6e8fa1738ed6023"  # of those files as `read_cifar10` gives them
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

Arrays = tuple[np.ndarray, list[int]]  # images (N, 32, 32, 3) uint8 and labels

_begun: dict[Path, Future[tuple[Arrays, Arrays]]] = {}


def begin_reading(root: Path) -> None:
    """Reads what is under `root` in a thread, for a `read_cifar10` to come: torch can be imported meanwhile."""
    pool = ThreadPoolExecutor(1)
    _begun[root] = pool.submit(_read_both, root / FOLDER)
    pool.shutdown(wait=False)


def read_cifar10(root: Path, download: bool) -> tuple[Arrays, Arrays]:
    """The 50,000 training and the 10,000 test images under `root`; torchvision fetches and unpacks what is missing.

    The files are read here, because importing torchvision takes longer than all the rest of it.
    Raises RunError naming the file that is damaged or missing, or why it cannot be downloaded.
    """
    folder, begun = root / FOLDER, _begun.pop(root, None)
    if begun and begun.exception() is None:
        return begun.result()
    try:
        missing = [folder / name for name in TRAIN | TEST if not (folder / name).exists()]
        if missing:
            _fetch(root, missing, download)
        return _read_both(folder)
    except OSError as error:
        raise RunError(f"dataset.root={root} cannot be read: {error.strerror} ({error.filename})") from error


def _read_both(folder: Path) -> tuple[Arrays, Arrays]:
    return _read(folder, TRAIN), _read(folder, TEST)


def _read(folder: Path, files: dict[str, str]) -> Arrays:
    """The images of several batch files, one after the other."""
    with ThreadPoolExecutor() as pool:
        batches = list(pool.map(_read_batch, [folder / name for name in files], files.values()))
    planes = np.concatenate([images for images, _ in batches]).reshape(-1, 3, 32, 32)
    images = np.stack([planes[:, channel] for channel in range(3)], axis=-1)  # five times as fast as a transposed copy
    return images, [label for _, labels in batches for label in labels]


def _read_batch(path: Path, md5: str) -> tuple[np.ndarray, list[int]]:
    batch = pickle.loads(_verified(path, md5), encoding="bytes")  # the official file, so it runs nothing
    return batch[b"data"], batch[b"labels"]


def _verified(path: Path, md5: str) -> bytes:
    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise RunError(f"{path} is damaged (its md5 is not {md5}): delete it and get it again")
    return content


def _fetch(root: Path, missing: list[Path], download: bool) -> None:
    """Unpacks the archive under `root`, after downloading it if need be."""
    archive = root / ARCHIVE
    files = {root / FOLDER / name: md5 for name, md5 in (TRAIN | TEST).items()}
    present = {archive: ARCHIVE_MD5} if archive.exists() else {path: files[path] for path in files.keys() - missing}
    for path, md5 in present.items():
        _verified(path, md5)
    if not download and not archive.exists():
        raise RunError(
            f"CIFAR-10 is not in dataset.root={root} ({missing[0].relative_to(root)} is missing) and "
            "dataset.download=false; put the official files there, or set dataset.root or MNET_DATA to where you "
            "have them"
        )
    from torchvision.datasets import CIFAR10

    try:
        CIFAR10(root, download=True)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise RunError(
            f"CIFAR-10 is not in dataset.root={root} and cannot be downloaded ({getattr(error, 'reason', error)}): "
            "put cifar-10-python.tar.gz or cifar-10-batches-py/ there, set dataset.root or MNET_DATA, or try "
            "dataset=digits"
        ) from error
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        raise RunError(f"CIFAR-10 could not be read from dataset.root={root}: {error}") from error
