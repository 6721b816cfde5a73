"""torchvision's sets, read from files made in its formats: no network, and the published ones are large."""

import json
import pickle
import struct
from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from mobilenet_train.config.compose import compose_config
from mobilenet_train.config.rules import check_effect
from mobilenet_train.config.schema.dataset import ARRAY_KINDS, FILE_KINDS
from mobilenet_train.data.images import Dataset
from mobilenet_train.data.sources import load
from mobilenet_train.data.torchvision_sets import KINDS
from mobilenet_train.errors import ConfigError, RunError

DRAW = np.random.default_rng(0)


def read(kind: str, root: Path, *words: str) -> Dataset:
    own = ("dataset=torchvision", f"dataset.kind={kind}", f"dataset.root={root}", "dataset.download=false")
    return load(compose_config(*own, f"dataset.cache_dir={root / 'cache'}", *words).dataset)


def idx(path: Path, values: np.ndarray) -> None:
    """The format of MNIST: big-endian sizes, then bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.mark.parametrize("kind", ["MNIST", "FashionMNIST", "KMNIST", "EMNIST"])
def test_sets_in_mnists_format_are_grey_arrays_with_their_own_split(kind: str, tmp_path: Path) -> None:
    names = ("train", "t10k") if kind != "EMNIST" else ("emnist-balanced-train", "emnist-balanced-test")
    images, labels = DRAW.integers(0, 256, (20, 28, 28), np.uint8), np.arange(20) % 10
    for name, count in zip(names, (20, 10), strict=True):
        idx(tmp_path / kind / "raw" / f"{name}-images-idx3-ubyte", images[:count])
        idx(tmp_path / kind / "raw" / f"{name}-labels-idx1-ubyte", labels[:count])
    data = read(kind, tmp_path)
    assert (len(data.train), len(data.test)) == (20, 10)
    assert data.class_names == tuple(getattr(datasets, kind).classes if kind != "EMNIST" else data.class_names)
    assert len(data.class_names) == (47 if kind == "EMNIST" else 10)
    assert np.array_equal(np.asarray(data.train.images), np.repeat(images[..., None], 3, axis=3))
    assert data.test.labels.tolist() == labels[:10].tolist()


def test_cifar100_has_its_fine_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    planes = DRAW.integers(0, 256, (12, 3072), np.uint8)
    contents = {
        "train": {"data": planes, "fine_labels": [0, 1, 2] * 4},
        "test": {"data": planes[:3], "fine_labels": [0, 1, 2]},
        "meta": {"fine_label_names": ["apple", "aquarium_fish", "baby"]},
    }
    sums = {}
    for name, values in contents.items():
        (folder / name).write_bytes(pickle.dumps(values))
        sums[name] = md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", {**datasets.CIFAR100.meta, "md5": sums["meta"]})
    data = read("CIFAR100", tmp_path)
    assert data.class_names == ("apple", "aquarium_fish", "baby")
    assert np.array_equal(np.asarray(data.train.images)[0, ..., 1].ravel(), planes[0, 1024:2048])
    held = read("CIFAR100", tmp_path, "dataset.val_fraction=0.25")
    assert held.val is not None
    assert (len(held.train), len(held.val), len(held.test)) == (9, 3, 3)
    (folder / "train").write_bytes(b"")
    with pytest.raises(RunError, match=r"CIFAR100 is not whole in dataset.root=.*: put cifar-100-python/ there"):
        read("CIFAR100", tmp_path)


def test_svhn_is_read_from_matlab_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = DRAW.integers(0, 256, (32, 32, 3, 6), np.uint8)
    files = {}
    for split, count in (("train", 6), ("test", 3)):
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": images[..., :count], "y": np.array([[10], [1], [2]] * (count // 3))})
        files[split] = ["", path.name, md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", files)
    data = read("SVHN", tmp_path)
    assert np.array_equal(np.asarray(data.train.images), images.transpose(3, 0, 1, 2))
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.class_names == ("0", "1", "2")


def photo(path: Path, size: tuple[int, int] = (50, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(DRAW.integers(0, 256, (*size, 3), np.uint8)).save(path)


def food(root: Path) -> tuple[str, ...]:
    for split, count in (("train", 3), ("test", 2)):
        names = {name: [f"{name}/{split}{i}" for i in range(count)] for name in ("apple_pie", "waffles")}
        for file in (file for files in names.values() for file in files):
            photo(root / "food-101/images" / f"{file}.jpg")
        (root / "food-101/meta").mkdir(exist_ok=True)
        (root / f"food-101/meta/{split}.json").write_text(json.dumps(names))
    return "apple_pie", "waffles"


def pets(root: Path) -> tuple[str, ...]:
    for split, count in (("trainval", 3), ("test", 2)):
        lines = []
        for label, name in enumerate(("Abyssinian", "yorkshire_terrier"), start=1):
            for number in range(count):
                photo(root / f"oxford-iiit-pet/images/{name}_{split}{number}.jpg")
                lines.append(f"{name}_{split}{number} {label} 1 1\n")
        (root / "oxford-iiit-pet/annotations").mkdir(exist_ok=True)
        (root / f"oxford-iiit-pet/annotations/{split}.txt").write_text("".join(lines))
    return "Abyssinian", "Yorkshire Terrier"


@pytest.mark.parametrize(("kind", "make"), [("Food101", food), ("OxfordIIITPet", pets)])
def test_photographs_pass_through_the_image_cache(
    kind: str, make: Callable[[Path], tuple[str, ...]], tmp_path: Path
) -> None:
    names = make(tmp_path)
    data = read(kind, tmp_path, "dataset.resolution=24", "dataset.cache=disk", "dataset.workers=0")
    assert data.class_names == names
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert tuple(data.train.images.shape) == (6, 24, 24, 3)
    assert any((tmp_path / "cache").iterdir())


def test_flowers_train_on_both_published_training_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "flowers-102"
    for number in range(1, 7):
        photo(folder / f"jpg/image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.array([1, 2, 1, 2, 1, 2])})
    savemat(folder / "setid.mat", {"trnid": [1, 2], "valid": [3, 4], "tstid": [5, 6]})
    files = {key: (name, None) for key, (name, _) in datasets.Flowers102._file_dict.items()}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", files)
    names = ["pink primrose", "hard-leaved pocket orchid"]  # old torchvisions have none
    monkeypatch.setattr(datasets.Flowers102, "classes", names, raising=False)
    data = read("Flowers102", tmp_path, "dataset.resolution=24", "dataset.cache=memory", "dataset.workers=0")
    assert data.class_names[0] == "pink primrose"
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 1, 0, 1], [0, 1])


def test_a_missing_photograph_is_reported_by_its_name(tmp_path: Path) -> None:
    food(tmp_path)
    (tmp_path / "food-101/images/waffles/train1.jpg").unlink()
    with pytest.raises(RunError, match=r"waffles/train1\.jpg"):
        read("Food101", tmp_path, "dataset.resolution=24", "dataset.cache=memory", "dataset.workers=0")


@pytest.mark.parametrize("kind", [*ARRAY_KINDS, *FILE_KINDS])
def test_where_a_set_is_missing_the_message_says_where_its_files_go(kind: str, tmp_path: Path) -> None:
    with pytest.raises(RunError) as missing:
        read(kind, tmp_path)
    assert f"{kind} is not whole in dataset.root={tmp_path}, and dataset.download=false" in str(missing.value)
    assert f"put {KINDS[kind].place} there" in str(missing.value)


def test_keys_of_the_image_cache_are_refused_for_arrays() -> None:
    for kind, refused in (("MNIST", True), ("Food101", False)):
        config = compose_config("dataset=torchvision", f"dataset.kind={kind}", "dataset.workers=1")
        if refused:
            with pytest.raises(ConfigError, match=r"dataset\.workers has no effect with dataset\.kind=MNIST"):
                check_effect(config, ["dataset.workers"])
        else:
            check_effect(config, ["dataset.workers"])
