"""A tree of image files is listed in one pass, in order, with little memory; anything else is refused in words."""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mobilenet_train.data import listing
from mobilenet_train.data.listing import BadImageError, ClassTree, list_tree
from mobilenet_train.errors import RunError
from tests.children import Child, become_nobody
from tests.data.image_files_for_tests import draw, encoded

IMAGE = encoded(draw(0))


def make(root: Path, *files: str) -> Path:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(IMAGE)
    return root


def paths(tree: ClassTree) -> list[str]:
    return [str(tree.listing.path(number)) for number in range(len(tree.listing))]


def listed(root: Path, wanted: list[str] | None = None) -> ClassTree:
    return list_tree(root, wanted, {"tench": "n01440764"})


def test_train_and_val_folders_are_listed_in_order_with_their_labels(tmp_path: Path) -> None:
    root = make(tmp_path, "train/b/2.jpg", "train/b/10.jpg", "train/a/1.PNG", "val/a/0.jpeg", "val/b/0.webp")
    tree = listed(root)
    assert paths(tree) == ["train/a/1.PNG", "train/b/10.jpg", "train/b/2.jpg", "val/a/0.jpeg", "val/b/0.webp"]
    assert tree.folders == ("a", "b")
    assert tree.labels.tolist() == [0, 1, 1, 0, 1]
    assert tree.test.tolist() == [False, False, False, True, True]
    assert tree.split
    assert tree.listing.size.tolist() == [len(IMAGE)] * 5
    assert [tree.listing.read(number) for number in range(5)] == [IMAGE] * 5


def test_test_is_another_name_for_val_and_one_tree_has_no_split(tmp_path: Path) -> None:
    assert listed(make(tmp_path / "two", "train/a/1.jpg", "test/a/1.jpg")).test.tolist() == [False, True]
    one = listed(make(tmp_path / "one", "a/1.jpg", "b/1.jpg"))
    assert not one.split
    assert paths(one) == ["a/1.jpg", "b/1.jpg"]


def test_hidden_files_and_files_that_are_not_images_are_ignored(tmp_path: Path) -> None:
    root = make(tmp_path, "a/1.jpg", "a/.hidden.jpg", "a/Thumbs.db", "a/notes.txt", ".git/x.jpg", "b/1.jpg", "c.jpg")
    tree = listed(root)
    assert paths(tree) == ["a/1.jpg", "b/1.jpg"]
    assert tree.others == 2


def test_folders_inside_a_class_folder_belong_to_the_class(tmp_path: Path) -> None:
    tree = listed(make(tmp_path, "a/monday/1.jpg", "a/2.jpg", "a/monday/early/0.jpg", "b/1.jpg"))
    assert paths(tree) == ["a/2.jpg", "a/monday/1.jpg", "a/monday/early/0.jpg", "b/1.jpg"]
    assert tree.labels.tolist() == [0, 0, 0, 1]


def test_links_are_followed_to_files_and_class_folders_but_not_round_in_circles(tmp_path: Path) -> None:
    root = make(tmp_path / "tree", "a/1.jpg")
    (root / "a/circle").symlink_to(root)
    (root / "a/2.jpg").symlink_to(root / "a/1.jpg")
    (root / "b").symlink_to(root / "a")
    assert paths(listed(root)) == ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"]


def test_names_that_are_not_utf8_are_read_all_the_same(tmp_path: Path) -> None:
    root = make(tmp_path, "a/1.jpg", "b/1.jpg")
    with open(os.fsencode(root) + b"/a/\xff\xfe.jpg", "wb") as file:  # noqa: PTH123
        file.write(IMAGE)
    tree = listed(root)
    assert tree.listing.read(1) == IMAGE
    assert os.fsencode(tree.listing.path(1)) == b"a/\xff\xfe.jpg"


def read_as_nobody(root: Path) -> None:
    become_nobody()
    tree = listed(root)
    assert tree.listing.read(0) == IMAGE
    with pytest.raises(BadImageError, match="cannot be read: Permission denied"):
        tree.listing.read(1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_file_without_permission_to_read_is_reported() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = make(Path(name), "a/1.jpg", "a/2.jpg", "b/1.jpg")
        root.chmod(0o755)
        (root / "a/2.jpg").chmod(0)
        child = Child(root / "output", partial(read_as_nobody, root))
        assert child.wait() == 0, child.text()


def test_wanted_classes_are_found_by_folder_or_word_in_the_order_given(tmp_path: Path) -> None:
    root = make(tmp_path, "train/n01440764/1.jpg", "train/b/1.jpg", "train/c/1.jpg", "val/b/1.jpg")
    tree = listed(root, ["c", "tench"])
    assert paths(tree) == ["train/c/1.jpg", "train/n01440764/1.jpg"]
    assert tree.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("files", "wanted", "words"),
    [
        ([], None, ["no class folders"]),
        (["a.jpg"], None, ["no class folders"]),
        (["train/a/1.jpg"], None, ["train/", "neither val/ nor test/", "dataset.test_fraction"]),
        (["train/a/1.jpg", "val/b/1.jpg"], None, ["val has b", "train does not have"]),
        (["a/1.txt", "b/1.txt"], None, ["no images"]),
        (["a/1.jpg", "b/1.jpg"], ["a", "dog"], ["dataset.classes", "dog", "a, b"]),
    ],
    ids=["empty", "no folders", "no val", "another class in val", "no images", "unknown class"],
)
def test_what_is_not_a_tree_of_classes_is_refused_in_words(
    tmp_path: Path, files: list[str], wanted: list[str] | None, words: list[str]
) -> None:
    with pytest.raises(RunError) as refused:
        listed(make(tmp_path, *files), wanted)
    assert [word for word in words if word not in str(refused.value)] == []


def test_for_a_missing_folder_the_message_shows_how_to_name_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere is not a folder; set dataset\.root=FOLDER"):
        listed(tmp_path / "nowhere")


MEASURE = """
import importlib.util, re, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("listing", sys.argv[1])  # by itself: torch alone takes 300 MB
sys.modules["listing"] = listing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(listing)
def peak(): return int(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])  # not the parent's
before = peak()
tree = listing.list_tree(Path(sys.argv[2]), None, {})
print(len(tree.listing), peak() - before)
"""


def test_listing_100_000_files_takes_at_most_30_megabytes(tmp_path: Path) -> None:
    images, classes = tmp_path / "images", tmp_path / "classes"
    images.mkdir()
    classes.mkdir()
    for number in range(10_000):
        (images / f"n01440764_{number:06}.JPEG").touch()
    for label in range(10):
        (classes / f"n{label:08}").symlink_to(images)
    command = [sys.executable, "-c", MEASURE, str(listing.__file__), str(classes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    files, kilobytes = map(int, done.stdout.split())
    print(f"{files:,} files, {kilobytes / 1024:.1f} MiB")
    assert files == 100_000
    assert 1024 < kilobytes < 30 * 1024  # less than a megabyte would be no measurement


def test_a_listing_takes_part_of_itself(tmp_path: Path) -> None:
    tree = listed(make(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg"))
    part = tree.listing.take(np.array([2, 0]))
    assert [str(part.path(number)) for number in range(2)] == ["b/1.jpg", "a/1.jpg"]
