"""Folders of image files as a data set: classes, shares, words, bad files, duplicates, and every way to hold them."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models import MobileNet_V2_Weights

from mobilenet_train.config.schema import FolderConfig
from mobilenet_train.data.cache import Listener, NoRoomError
from mobilenet_train.data.images import Dataset, Split
from mobilenet_train.data.sources import load
from mobilenet_train.data.stored import MappedImages, StreamedImages
from mobilenet_train.data.synsets import imagenet_words
from mobilenet_train.errors import RunError
from tests.conftest import configure
from tests.data.image_files_for_tests import COLOURS, draw, encoded, folder_config, spoil, tree


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 classes, 12 + 4 images each."""
    return tree(tmp_path_factory.mktemp("image_files") / "tree")


def load_and_listen(config: FolderConfig) -> tuple[Dataset, list[str]]:
    reported: list[str] = []
    listener = Listener(lambda message, kind: reported.append(f"{kind}: {message}"), lambda *_: None, lambda: False)
    return load(config, listener), reported


def everything(split: Split, size: int = 5) -> Tensor:
    return torch.cat(list(split.batches(torch.arange(len(split)).split(size))))


def counts(split: Split) -> list[int]:
    return split.labels.bincount().tolist()


# --- classes and shares


def test_a_tree_is_a_data_set_with_its_folders_names(image_folder: Path) -> None:
    data = load(folder_config(image_folder))
    assert data.class_names == ("ant", "bee", "cat")
    assert counts(data.train) == [12, 12, 12]
    assert counts(data.test) == [4, 4, 4]
    colours = everything(data.train).double().mean((1, 2))
    for label, colour in enumerate(COLOURS[:3]):
        assert (colours[data.train.labels == label] - torch.tensor(colour)).abs().max() < 12


def test_one_tree_is_split_by_the_seed_with_the_same_share_of_every_class(image_folder: Path) -> None:
    one, again, other = (
        load(folder_config(image_folder / "train", test_fraction=0.25, split_seed=seed)) for seed in (0, 0, 1)
    )
    assert counts(one.train) == [9, 9, 9]
    assert counts(one.test) == [3, 3, 3]
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert torch.equal(everything(one.test), everything(again.test))


def test_chosen_classes_keep_the_order_they_are_given_in(image_folder: Path) -> None:
    data = load(folder_config(image_folder, classes=["cat", "ant"]))
    assert data.class_names == ("cat", "ant")
    assert counts(data.train) == [12, 12]
    first = everything(data.test)[data.test.labels == 0].double().mean((0, 1, 2))
    assert (first - torch.tensor(COLOURS[2])).abs().max() < 12


def test_a_class_may_be_made_of_several_folders(image_folder: Path) -> None:
    data = load(folder_config(image_folder, classes={"insect": ["bee", "ant"], "mammal": ["cat"]}))
    assert data.class_names == ("insect", "mammal")
    assert counts(data.train) == [24, 12]
    assert counts(data.test) == [8, 4]


def test_groups_of_folders_can_be_given_on_the_command_line() -> None:
    config = configure("dataset=imagenet_subset", "dataset.classes={fish:[tench],house:[church,n03425413]}").dataset
    assert isinstance(config, FolderConfig)
    assert config.classes == {"fish": ["tench"], "house": ["church", "n03425413"]}


def test_shares_are_taken_before_any_image_is_opened(image_folder: Path) -> None:
    few = load(folder_config(image_folder, max_per_class=2))
    assert (counts(few.train), counts(few.test)) == ([2, 2, 2], [2, 2, 2])
    half, reported = load_and_listen(folder_config(image_folder, fraction=0.5, val_fraction=0.5))
    assert half.val is not None
    assert (counts(half.train), counts(half.val), counts(half.test)) == ([3] * 3, [3] * 3, [4] * 3)
    assert reported[0].startswith(": 30 images in ")


def test_imagenets_ids_are_shown_and_asked_for_as_words(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", train=2, test=1, names=("n01440764", "n03394916", "n03888257"))
    assert load(folder_config(root)).class_names == ("tench", "French horn", "parachute")
    chosen = load(folder_config(root, classes=["French horn", "n01440764"]))
    assert chosen.class_names == ("French horn", "tench")


def test_folders_of_which_not_all_are_imagenet_ids_keep_their_names(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", train=2, test=1, names=("n01440764", "mine"))
    assert load(folder_config(root)).class_names == ("mine", "n01440764")


def test_the_table_of_words_has_imagenets_1000_classes_in_the_order_of_torchvisions_weights() -> None:
    words = imagenet_words()
    assert list(words.values()) == MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
    assert list(words) == sorted(words)
    assert len(set(words.values())) == 1000
    assert words["n02102040"] == "English springer"


def test_imagenet_subset_is_the_folder_of_the_same_root(image_folder: Path, tmp_path: Path) -> None:
    shared = (f"dataset.root={image_folder}", f"dataset.cache_dir={tmp_path}", "dataset.val_fraction=0.25")
    one, two = (load(configure(f"dataset={name}", *shared).dataset) for name in ("folder", "imagenet_subset"))
    assert one.class_names == two.class_names
    assert one.preprocessing == two.preprocessing
    assert one.fingerprint == two.fingerprint
    for name in ("train", "val", "test"):
        split, same = getattr(one, name), getattr(two, name)
        assert torch.equal(split.labels, same.labels)
        assert torch.equal(everything(split), everything(same))


# --- holding them


WAYS: list[dict[str, Any]] = [
    {"cache": "memory"},
    {"cache": "disk"},
    {"cache": "auto"},
    {"cache": "off", "workers": 0},
    {"cache": "off", "workers": 2},
]


@pytest.mark.parametrize("way", WAYS[1:], ids=str)
def test_every_way_to_hold_the_images_gives_the_same_data_set(image_folder: Path, way: dict[str, Any]) -> None:
    shares = {"fraction": 0.8, "val_fraction": 0.3, "mean": None, "on_bad_image": "skip"}
    expected = load(folder_config(image_folder, **WAYS[0], **shares, split_seed=3))
    data = load(folder_config(image_folder, **way, **shares, split_seed=3))
    assert isinstance(data.train.images, StreamedImages if way["cache"] == "off" else MappedImages)
    assert data.fingerprint == expected.fingerprint
    assert data.preprocessing == expected.preprocessing
    for name in ("train", "val", "test"):
        one, two = getattr(expected, name), getattr(data, name)
        assert torch.equal(one.labels, two.labels)
        assert torch.equal(everything(one, 4), everything(two, 7))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_batches_come_in_the_order_asked_for(image_folder: Path, way: dict[str, Any]) -> None:
    train = load(folder_config(image_folder, **way)).train
    whole = everything(train)
    order = [torch.tensor(batch) for batch in ([5, 0, 35], [7], [1, 1, 2, 34])]
    for batch, images in zip(order, train.batches(order), strict=True):
        assert torch.equal(images, whole[batch])


def test_the_stored_size_follows_the_resolution_as_224_follows_256(image_folder: Path) -> None:
    sizes = {}
    for resolution in (224, 160, 128):
        data = load(folder_config(image_folder, resolution=resolution, store_size=None, max_per_class=1))
        sizes[resolution] = everything(data.test).shape[1:]
    assert sizes == {224: (256, 256, 3), 160: (183, 183, 3), 128: (146, 146, 3)}


def test_a_disk_without_room_streams_with_auto_and_refuses_with_disk(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenet_train.data.cache.SPARE_BYTES", 2**60)
    data, reported = load_and_listen(folder_config(image_folder, cache="auto", cache_dir=str(tmp_path)))
    assert isinstance(data.train.images, StreamedImages)
    assert any("dataset.cache=auto continues with dataset.cache=off" in line for line in reported)
    with pytest.raises(NoRoomError):
        load(folder_config(image_folder, cache="disk", cache_dir=str(tmp_path)))


def test_an_image_that_vanishes_under_a_streaming_run_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", train=3, test=2)
    train = load(folder_config(root, cache="off", workers=1)).train
    (root / "train/bee/001.jpg").unlink()
    with pytest.raises(RunError, match=r"train/bee/001\.jpg cannot be read: No such file.*whole when this run looked"):
        everything(train)


# --- what is wrong with them


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """200 spoiled files of ten kinds among good ones, and what the reason of each must contain."""
    root = tree(tmp_path_factory.mktemp("spoiled") / "tree")
    return root, {**spoil(root / "train/ant", 90), **spoil(root / "train/cat", 70), **spoil(root / "val/bee", 40)}


def test_200_spoiled_files_are_reported_whole_in_one_go(spoiled: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    root, reasons = spoiled
    with pytest.raises(RunError) as refused:
        load(folder_config(root, cache="disk", workers=2, cache_dir=str(tmp_path / "cache")))
    first, *named, more, advice = str(refused.value).splitlines()
    assert first == "200 of 248 image files cannot be used:"
    assert len(named) == 10
    assert "190 more" in more
    assert "dataset.on_bad_image=skip" in advice
    lines = Path(more.rpartition(" ")[2]).read_text().splitlines()
    assert len(lines) == len(reasons) == 200
    for path, reason in reasons.items():
        assert any(line.startswith(f"{path} ") and reason in line for line in lines), (path, reason)
    assert {line.strip() for line in named} <= set(lines)


@pytest.mark.parametrize("cache", ["memory", "disk", "off"])
def test_skipped_files_leave_the_good_ones(spoiled: tuple[Path, dict[str, str]], cache: str) -> None:
    root, _ = spoiled
    data, reported = load_and_listen(folder_config(root, cache=cache, on_bad_image="skip", workers=2))
    assert (counts(data.train), counts(data.test)) == ([12, 12, 12], [4, 4, 4])
    assert len(everything(data.train)) == 36
    (warning,) = [line for line in reported if line.startswith("warning")]
    assert "200 of 248 image files cannot be used and are left out" in warning


def test_a_class_left_without_training_images_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", train=2, test=1)
    for path in (root / "train/bee").iterdir():
        path.write_bytes(b"")
    with pytest.raises(RunError, match="class 'bee' has no training images"):
        load(folder_config(root, on_bad_image="skip"))


def test_a_split_without_images_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", train=2, test=0)
    with pytest.raises(RunError, match="there are no test images in"):
        load(folder_config(root))


def test_duplicates_across_the_splits_are_warned_of(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", train=4, test=2)
    assert load_and_listen(folder_config(root))[1][1:] == []
    for number in range(2):
        (root / f"val/cat/copy{number}.png").write_bytes((root / "train/ant/001.jpg").read_bytes())
    (root / "train/bee/twin.jpg").write_bytes((root / "train/bee/000.jpg").read_bytes())
    (warning,) = load_and_listen(folder_config(root))[1][1:]
    assert warning.startswith("warning: 2 of 8 test images are also training images, byte for byte")
    assert "val/cat/copy0.png = train/ant/001.jpg" in warning


def test_the_fingerprint_is_of_contents_not_of_times_or_places(image_folder: Path, tmp_path: Path) -> None:
    before = load(folder_config(image_folder)).fingerprint
    copy = tree(tmp_path / "elsewhere")
    assert load(folder_config(copy)).fingerprint == before
    file = copy / "train/ant/000.jpg"
    file.write_bytes(encoded(draw(random.Random(0).randrange(10**6))))
    assert load(folder_config(copy)).fingerprint != before
    assert load(folder_config(image_folder, store_size=40)).fingerprint != before


def test_files_that_are_not_images_by_name_are_counted(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", train=2, test=1)
    (root / "train/ant/Thumbs.db").touch()
    assert (
        "note: 1 files in dataset.root are not images by their names and are ignored"
        in load_and_listen(folder_config(root))[1]
    )


# --- the real photographs


@pytest.mark.real_data
def test_the_real_photographs_are_ten_even_classes_of_whole_images(imagenet_subset: Path, tmp_path: Path) -> None:
    config = folder_config(imagenet_subset, max_per_class=20, workers=2, cache_dir=str(tmp_path), store_size=64)
    data, reported = load_and_listen(config)
    assert data.class_names[:3] == ("tench", "English springer", "cassette player")
    assert counts(data.train) == counts(data.test) == [20] * 10
    assert not [line for line in reported if line.startswith("warning")]
    mean = everything(data.train, 50).double().mean((0, 1, 2)) / 255
    assert np.abs(mean.numpy() - (0.485, 0.456, 0.406)).max() < 0.06
