"""Shards that the webdataset library wrote are read in place, and are the same data set as the folder they hold."""

import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset

from mobilenet_train.config.schema import WebDatasetConfig
from mobilenet_train.data import shards
from mobilenet_train.data.images import Split
from mobilenet_train.data.sources import load
from mobilenet_train.errors import RunError
from tests.data.image_files_for_tests import SMALL, folder_config, tree

NAMES = ("ant", "bee", "cat")


def write(root: Path, split: str, pattern: str) -> None:
    with webdataset.ShardWriter(f"{root.parent}/{pattern}", maxcount=10, verbose=0) as writer:
        for label, name in enumerate(NAMES):
            for path in sorted((root / split / name).iterdir()):
                key = f"{split}/{name}_{path.stem}"
                writer.write({"__key__": key, "jpg": path.read_bytes(), "cls": label, "json": {"name": path.name}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tree beside `train-000000.tar` ... and `val.tar` with the same images."""
    root = tree(tmp_path / "tree", names=NAMES)
    write(root, "train", "train-%06d.tar")
    write(root, "val", "val-%d.tar")
    return root


def shard_config(folder: Path, **changes: Any) -> WebDatasetConfig:
    (folder.parent / "names.txt").write_text("\n".join(NAMES) + "\n")
    own: dict[str, Any] = {
        "name": "webdataset",
        "train": str(folder.parent / "train-*.tar"),
        "test": str(folder.parent / "val-*.tar"),
        "class_names": str(folder.parent / "names.txt"),
        "cache_dir": str(folder.parent / "cache"),
    }
    return WebDatasetConfig(**{**SMALL, **own, **changes})


def everything(split: Split) -> torch.Tensor:
    return torch.cat(list(split.batches(torch.arange(len(split)).split(7))))


@pytest.mark.parametrize("cache", ["memory", "disk", "off"])
def test_shards_are_the_data_set_of_the_folder_they_hold(folder: Path, cache: str) -> None:
    assert len(list(folder.parent.glob("train-*.tar"))) == 4
    expected, data = load(folder_config(folder)), load(shard_config(folder, cache=cache))
    assert data.class_names == expected.class_names
    assert data.fingerprint == expected.fingerprint
    assert torch.equal(everything(data.train), everything(expected.train))
    assert torch.equal(data.test.labels, expected.test.labels)


def test_a_tar_is_gone_through_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(shard_config(folder))
    monkeypatch.setattr(shards, "_read_members", None)
    assert len(load(shard_config(folder)).train) == 36


def test_without_names_classes_are_numbers(folder: Path) -> None:
    assert load(shard_config(folder, class_names=None)).class_names == ("0", "1", "2")


def test_names_that_do_not_fit_the_classes_are_refused(folder: Path) -> None:
    config = shard_config(folder)
    Path(str(config.class_names)).write_text("ant\nbee\n")
    with pytest.raises(RunError, match="has 2 names for 3 classes"):
        load(config)


def test_a_bad_member_is_named_with_its_shard(folder: Path) -> None:
    with webdataset.ShardWriter(f"{folder.parent}/train-9%05d.tar", verbose=0) as writer:
        writer.write({"__key__": "spoiled", "jpg": b"not an image", "cls": 0})
    with pytest.raises(
        RunError, match=r"1 of 49 image files cannot be used:\n .*train-900000\.tar/spoiled\.jpg is not"
    ):
        load(shard_config(folder))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a.jpg": b"x"}, r"a\.jpg and 0 others have no \.cls"),
        ({"a.jpg": b"x", "a.cls": b"cat"}, r"a\.cls holds b'cat'; give the number"),
        (None, r"is not a plain tar"),
    ],
    ids=["no class", "a word as class", "compressed"],
)
def test_a_shard_of_another_kind_is_refused(folder: Path, members: dict[str, bytes] | None, words: str) -> None:
    path = folder.parent / "train-1.tar"
    with tarfile.open(path, "w:gz" if members is None else "w") as tar:
        for name, data in (members or {"a.txt": b"x" * 2000}).items():
            file = folder.parent / name
            file.write_bytes(data)
            tar.add(file, name)
    with pytest.raises(RunError, match=words):
        load(shard_config(folder))
