"""Finding 16: no link leads a file of ours elsewhere, and no stranger's images are trained on."""

import os
import shutil
import stat
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from mobilenet_train import disk
from mobilenet_train.data.cache import CHUNK, SILENT, on_disk
from mobilenet_train.data.listing import Listing, list_tree
from mobilenet_train.data.shards import list_shards
from mobilenet_train.data.stored import MappedImages
from mobilenet_train.errors import RunError
from mobilenet_train.runs import folder as run_folder
from tests.children import NOBODY, Child, become_nobody
from tests.data.image_files_for_tests import draw, encoded, tree


def test_a_lock_that_is_a_link_is_refused_and_its_target_untouched(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/lock").symlink_to(tmp_path / "precious")
    with pytest.raises(RunError, match=r"run/lock cannot be written: it is a symbolic link.*delete it"):
        run_folder.lock(tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "mine"


def test_neither_logs_nor_temporary_files_are_written_through_links(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    for name in ("train.log", ".summary.json.tmp"):
        (tmp_path / name).symlink_to("precious")
    with pytest.raises(RunError, match=r"train\.log: it is a symbolic link"):
        disk.append_text(tmp_path / "train.log", "more", str)
    disk.write_text(tmp_path / "summary.json", "{}")
    assert ((tmp_path / "precious").read_text(), (tmp_path / "summary.json").read_text()) == ("mine", "{}")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Listing:
    """80 images in two chunks, readable for everyone."""
    root = tree(tmp_path_factory.mktemp("images"), 20, 20, ("ant", "bee"))
    for folder in (root, root.parent):
        folder.chmod(0o755)
    return list_tree(root, None, {}).listing


def prepare(images: Listing, folder: Path) -> MappedImages:
    prepared = on_disk(images, 8, True, folder, 1, SILENT)
    assert prepared.images is not None
    return MappedImages(prepared.images, np.arange(len(images)), prepared.checksums)


def test_a_cache_is_not_made_through_links(images: Listing, tmp_path: Path) -> None:
    prepare(images, tmp_path / "cache")
    (made,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    shutil.move(made, tmp_path / "elsewhere")
    for name, target in (
        (f"{made.name}.partial", "elsewhere"),
        (f"{made.name}.lock", "precious"),
        (made.name, "elsewhere"),
    ):
        link = tmp_path / "cache" / name
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / target)
        with pytest.raises(RunError, match="is a symbolic link"):
            prepare(images, tmp_path / "cache")
        link.unlink()
    (tmp_path / "cache" / f"{made.name}.partial").mkdir()
    (tmp_path / "cache" / f"{made.name}.partial/pictures.u8").symlink_to(tmp_path / "precious")
    with pytest.raises(RunError, match="is a symbolic link"):
        prepare(images, tmp_path / "cache")
    assert not (tmp_path / "precious").exists()


def use_caches(images: Listing, folders: list[Path]) -> None:
    """As nobody: prints what comes of each folder."""
    import_module("multiprocessing.popen_fork")  # Python's own folder may be closed to nobody
    become_nobody()
    for folder in folders:
        try:
            prepare(images, folder)
            print("used")
        except RunError as error:
            print(error)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make folders of others")
def test_a_cache_folder_that_strangers_can_write_in_is_refused(images: Listing, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[: len(tmp_path.parts) - 3]):  # pytest's own are closed to others
        folder.chmod(0o755)
    cases = [("open", NOBODY, 0o777), ("foreign", 1234, 0o777 | stat.S_ISVTX), ("shared", 0, 0o777 | stat.S_ISVTX)]
    cases += [("own", NOBODY, 0o700), ("group", 0, 0o770), ("planted", 0, 0o777 | stat.S_ISVTX)]
    for name, owner, mode in cases:
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, owner, NOBODY)
        (tmp_path / name).chmod(mode)
    prepare(images, tmp_path / "planted")  # root itself may use any folder
    (made,) = (path for path in (tmp_path / "planted").iterdir() if path.is_dir())
    os.chown(made, 1234, 1234)
    child = Child(tmp_path / "output", partial(use_caches, images, [tmp_path / name for name, _, _ in cases]))
    assert child.wait(60) == 0, child.text()
    lines = child.text().splitlines()
    assert f"anyone can write in {tmp_path / 'open'}" in lines[0]
    assert f"{tmp_path / 'foreign'} belongs to another user" in lines[1]
    assert lines[2:5] == ["used"] * 3
    assert f"{made} belongs to another user" in lines[5]


def test_a_shards_index_is_not_written_through_a_link(tmp_path: Path) -> None:
    import tarfile

    (tmp_path / "0.jpg").write_bytes(encoded(draw(0)))
    (tmp_path / "0.cls").write_text("0")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("0.jpg", "0.cls"):
            tar.add(tmp_path / name, name)
    list_shards([tmp_path / "a.tar"], tmp_path / "cache")
    (index,) = (tmp_path / "cache").iterdir()
    index.rename(tmp_path / "elsewhere")
    index.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is a symbolic link"):
        list_shards([tmp_path / "a.tar"], tmp_path / "cache")


def test_a_flipped_bit_in_prepared_images_is_found_before_they_are_used(images: Listing, tmp_path: Path) -> None:
    import torch

    prepare(images, tmp_path)
    (file,) = tmp_path.glob("*/pictures.u8")
    data = bytearray(file.read_bytes())
    data[CHUNK * 8 * 8 * 3 + 5] ^= 4  # in the second chunk
    file.write_bytes(data)
    mapped = prepare(images, tmp_path)
    first, second = torch.arange(4), torch.tensor([CHUNK + 10])
    assert len(list(mapped.batches([first]))) == 1
    with pytest.raises(RunError, match=rf"pictures\.u8 is damaged: its images from number {CHUNK} on"):
        list(mapped.batches([first, second]))
