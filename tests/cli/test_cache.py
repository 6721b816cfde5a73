"""mnet-cache: what is kept is listed, and what the user names is removed, but nothing that is not ours or is in use."""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilenet_train.cli.cache import ago
from mobilenet_train.data import inventory
from mobilenet_train.data.cache import SILENT, Listener, StoppedError, locked, on_disk
from mobilenet_train.data.listing import Listing, list_tree
from tests.children import Child, become_nobody
from tests.data.image_files_for_tests import draw, encoded
from tests.tools import tool

__all__ = ["tool"]

COUNT = 150  # of images, in three chunks
Tool = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Listing:
    root = tmp_path_factory.mktemp("images")
    (root / "[a]").mkdir()
    for number in range(COUNT):
        (root / f"[a]/{number}.jpg").write_bytes(encoded(draw(number % 5)))
    return list_tree(root, None, {}).listing


def stopped(images: Listing, folder: Path) -> None:
    """Prepares one chunk."""
    with pytest.raises(StoppedError):
        on_disk(images, 8, True, folder, 1, Listener(lambda *_: None, lambda *_: None, lambda: True))


def listed(tool: Tool, capsys: Capture, folder: Path) -> list[dict[str, Any]]:
    assert tool("mnet-cache", "--cache-dir", folder, "--json") == 0
    return json.loads(capsys.readouterr().out)


def refusal(tool: Tool, capsys: Capture, *arguments: object) -> str:
    """Its only line, for a removal that fails."""
    assert tool("mnet-cache", "remove", *arguments) in (1, 2)
    message = capsys.readouterr().err
    assert message.startswith("mnet-cache remove: ")
    assert message.count("\n") == 1
    return message


def test_the_list_says_what_is_kept_of_which_folder_how_large_and_how_old(
    images: Listing, tmp_path: Path, tool: Tool, capsys: Capture
) -> None:
    on_disk(images, 8, True, tmp_path, 1, SILENT)
    on_disk(images, 8, False, tmp_path, 1, SILENT)
    stopped(images.take(np.arange(100)), tmp_path)
    (tmp_path / f"{'0' * 32}.bad.txt").write_text("one\n")
    (tmp_path / "notes.txt").write_text("not ours")
    (tmp_path / ("f" * 32)).symlink_to("notes.txt")
    found = {row["kind"]: row for row in listed(tool, capsys, tmp_path)}
    assert set(found) == {"images", "digests", "unfinished", "list of bad images"}
    whole = found["images"]
    home = tmp_path / whole["name"]
    assert whole["bytes"] == sum(512 * file.stat().st_blocks for file in home.iterdir()) >= COUNT * 8 * 8 * 3
    assert (whole["images"], whole["root"], whole["in_use"]) == (COUNT, str(images.root), False)
    assert whole["made"] == max(file.stat().st_mtime for file in home.iterdir()) <= whole["last_used"]
    assert (found["unfinished"]["images"], found["unfinished"]["root"]) == (100, str(images.root))


def test_the_table_shows_names_as_they_are_and_an_empty_folder_says_so(
    images: Listing, tmp_path: Path, tool: Tool, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    assert tool("mnet-cache") == 0
    assert capsys.readouterr().out == f"nothing is kept in {tmp_path}/cache\n"
    on_disk(images, 8, True, tmp_path / "cache", 1, SILENT)
    os.utime(next(tmp_path.glob("cache/*/index.json")), (0, 0))
    assert tool("mnet-cache") == 0
    text = capsys.readouterr().out
    for shown in (f"{COUNT} ", "seconds", str(images.root)):
        assert shown in text


@pytest.mark.parametrize(
    ("seconds", "said"), [(-5, "0 seconds"), (59.9, "59 seconds"), (3600, "1 hour"), (2e5, "2 days")]
)
def test_an_age_is_given_in_its_largest_unit(seconds: float, said: str) -> None:
    assert ago(seconds) == said


def test_opening_a_cache_is_its_last_use(images: Listing, tmp_path: Path, tool: Tool, capsys: Capture) -> None:
    on_disk(images, 8, True, tmp_path, 1, SILENT)
    (home,) = (path for path in tmp_path.iterdir() if path.is_dir())
    for path in (*home.iterdir(), home):
        os.utime(path, (1000, 1000))
    assert [(row["made"], row["last_used"]) for row in listed(tool, capsys, tmp_path)] == [(1000, 1000)]
    on_disk(images, 8, True, tmp_path, 1, SILENT)
    assert [(row["made"], row["last_used"] > 1000) for row in listed(tool, capsys, tmp_path)] == [(1000, True)]


# --- removal


def test_what_is_named_is_removed_and_the_rest_stays(
    images: Listing, tmp_path: Path, tool: Tool, capsys: Capture
) -> None:
    on_disk(images, 8, True, tmp_path, 1, SILENT)
    on_disk(images, 12, True, tmp_path, 1, SILENT)
    stopped(images, tmp_path / "other")
    shutil.move(next((tmp_path / "other").glob("*.partial")), tmp_path)
    (tmp_path / f"{'0' * 32}.shard.npz").write_bytes(b"an index")
    names = [row["name"] for row in listed(tool, capsys, tmp_path)]
    small = names[1]
    gone = [name for name in names if name != small]
    short = [kept.short_name for kept in inventory.kept_in(tmp_path) if kept.name in gone]
    assert tool("mnet-cache", "remove", *short, gone[0], "--cache-dir", tmp_path) == 0
    assert capsys.readouterr().out.splitlines() == [f"removed {tmp_path / name}" for name in gone]
    assert [row["name"] for row in listed(tool, capsys, tmp_path)] == [small]
    assert on_disk(images, 12, True, tmp_path, 1, SILENT).images is not None  # made again
    assert tool("mnet-cache", "remove", small, "--cache-dir", tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out) == [str(tmp_path / small)]


def test_nothing_is_removed_that_is_not_ours(images: Listing, tmp_path: Path, tool: Tool, capsys: Capture) -> None:
    on_disk(images, 8, True, tmp_path, 1, SILENT)
    (home,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (tmp_path / "photographs").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ("f" * 32)).symlink_to(home)
    folder = ("--cache-dir", tmp_path)
    for name, said in {
        "photo": "photographs is not a cache of mnet-train",
        "notes.txt": "notes.txt is not a cache of mnet-train",
        "ffff": "is a symbolic link",
        "..": "0 things",
        f"../{tmp_path.name}/{home.name}": "0 things",
        "nothing": "0 things",
    }.items():
        assert said in refusal(tool, capsys, name, home.name, *folder)
    (home / "mine.txt").write_text("mine")
    assert "holds mine.txt, which does not belong to a cache" in refusal(tool, capsys, home.name, *folder)
    (tmp_path / f"{home.name[:4]}{'0' * 28}").mkdir()
    assert "2 things" in refusal(tool, capsys, home.name[:4], *folder)
    assert "NAME" in refusal(tool, capsys, *folder)
    assert (home / "index.json").exists()
    assert (home / "mine.txt").exists()


def test_a_cache_whose_images_are_open_is_left_alone(
    images: Listing, tmp_path: Path, tool: Tool, capsys: Capture
) -> None:
    opened = on_disk(images, 8, True, tmp_path, 1, SILENT)
    taken = opened.images[:2] if opened.images is not None else None
    del opened
    (row,) = listed(tool, capsys, tmp_path)
    assert row["in_use"]
    assert "is in use by a running process" in refusal(tool, capsys, row["name"], "--cache-dir", tmp_path)
    assert (tmp_path / row["name"] / "index.json").exists()
    del taken
    assert tool("mnet-cache", "remove", row["name"], "--cache-dir", tmp_path) == 0


def test_a_cache_that_is_being_prepared_is_left_alone(
    images: Listing, tmp_path: Path, tool: Tool, capsys: Capture
) -> None:
    stopped(images, tmp_path)
    (row,) = listed(tool, capsys, tmp_path)
    with locked((tmp_path / row["name"]).with_suffix(".lock"), SILENT):
        assert listed(tool, capsys, tmp_path)[0]["in_use"]
        assert "is in use by a running process" in refusal(tool, capsys, row["name"], "--cache-dir", tmp_path)
    assert not listed(tool, capsys, tmp_path)[0]["in_use"]


@pytest.mark.parametrize("unlinked", range(len(inventory.FILES)))
def test_a_removal_that_is_killed_leaves_a_cache_that_is_prepared_again(
    unlinked: int, images: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = np.array(on_disk(images, 8, True, tmp_path, 1, SILENT).images)
    (home,) = (path for path in tmp_path.iterdir() if path.is_dir())
    unlink, left = Path.unlink, iter(range(unlinked))

    def until_killed(self: Path, missing_ok: bool = False) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", until_killed)
    with pytest.raises(KeyboardInterrupt):
        inventory.remove(home)
    monkeypatch.undo()
    assert np.array_equal(on_disk(images, 8, True, tmp_path, 1, SILENT).images, whole)


def remove_as_nobody(home: Path) -> None:
    import_module("multiprocessing.popen_fork")
    become_nobody()
    try:
        inventory.remove(home)
    except inventory.RunError as error:
        print(error)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become someone else")
def test_what_belongs_to_someone_else_stays_and_is_said_in_one_line(images: Listing, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[: len(tmp_path.parts) - 3]):  # pytest's own are closed to others
        folder.chmod(0o755)
    on_disk(images, 8, True, tmp_path, 1, SILENT)
    (home,) = (path for path in tmp_path.iterdir() if path.is_dir())
    child = Child(tmp_path / "output", partial(remove_as_nobody, home))
    assert child.wait(60) == 0
    assert child.text().startswith(f"{home} cannot be removed: Permission denied")
    assert child.text().count("\n") == 1
    assert sorted(path.name for path in home.iterdir()) == ["digests.u8", "index.json", "pictures.u8"]
