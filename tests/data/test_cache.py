"""Prepared images: the same bytes after any interruption, made once, refused where there is no room."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from mobilenet_train.data import cache
from mobilenet_train.data.cache import CHUNK, SILENT, CachedImages, Listener, StoppedError, in_memory, key_of, on_disk
from mobilenet_train.data.decode import decode
from mobilenet_train.data.listing import Listing, list_tree
from mobilenet_train.errors import RunError
from tests.data.image_files_for_tests import draw, encoded, spoil

SIZE = 24
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def image_files(tmp_path_factory: pytest.TempPathFactory) -> Listing:
    """420 image files, 20 of them bad."""
    root = tmp_path_factory.mktemp("image_files")
    files = [encoded(draw(seed)) for seed in range(40)]
    for name in "ab":
        (root / name).mkdir()
        for number in range(200):
            (root / name / f"{number:03}.jpg").write_bytes(files[number % 40])
    spoil(root / "b", 20)
    return list_tree(root, None, {}).listing


def prepare(listing: Listing, folder: Path, listener: Listener = SILENT, workers: int = 2) -> CachedImages:
    return on_disk(listing, SIZE, True, folder, workers, listener)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(image_files: Listing, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    prepare(image_files, folder)
    return folder


def test_a_cache_holds_every_image_and_names_the_bad_ones(image_files: Listing, undisturbed: Path) -> None:
    prepared = prepare(image_files, undisturbed)
    assert isinstance(prepared.images, np.memmap)
    assert len(prepared.bad) == 20
    assert all("bad" in str(image_files.path(row)) for row in prepared.bad)
    for row in set(range(len(image_files))) - set(prepared.bad):
        assert np.array_equal(prepared.images[row], decode(image_files.read(row), SIZE))
    assert len({digest.tobytes() for digest in prepared.digests[:200]}) == 40


def test_memory_holds_what_the_disk_holds_and_writes_nothing(
    image_files: Listing, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    disk, memory = prepare(image_files, undisturbed), in_memory(image_files, SIZE, 1, SILENT)
    assert np.array_equal(disk.images, memory.images)
    assert np.array_equal(disk.digests, memory.digests)
    assert disk.bad == memory.bad
    assert list(tmp_path.iterdir()) == []


def test_looking_only_finds_the_same_bad_files_and_keeps_no_images(image_files: Listing, tmp_path: Path) -> None:
    looked = on_disk(image_files, SIZE, False, tmp_path, 2, SILENT)
    assert looked.images is None
    assert len(looked.bad) == 20
    assert sum(len(data) for data in contents(tmp_path).values()) < 20_000


def test_a_cache_is_made_once(image_files: Listing, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "decode", None)
    before = contents(undisturbed)
    prepare(image_files, undisturbed)
    assert contents(undisturbed) == before


def _prepare_in_child(listing: Listing, folder: Path) -> None:
    os.setpgid(0, 0)
    prepare(listing, folder)


def test_ten_kills_at_random_moments_end_in_the_same_bytes(
    image_files: Listing, undisturbed: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    prepare(image_files, tmp_path / "timed")
    whole = time.monotonic() - began
    draw_moment = random.Random(6)
    kills = 0
    for _ in range(10):
        child = FORK.Process(target=_prepare_in_child, args=(image_files, tmp_path / "killed"))
        child.start()
        time.sleep(draw_moment.uniform(0, whole / 3))
        kills += child.is_alive()
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
    print(f"{kills} kills within a build of {whole:.2f} s")
    prepare(image_files, tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(undisturbed)
    assert kills >= 3


def noting(reported: list[str]) -> Listener:
    return Listener(lambda message, _: reported.append(message), lambda *_: None, lambda: False)


def stopping_after(chunks: int) -> Listener:
    calls = iter(range(10_000))
    return Listener(lambda *_: None, lambda *_: None, lambda: next(calls) >= chunks)


def test_a_stopped_build_resumes_where_it_was(
    image_files: Listing, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoppedError):
        prepare(image_files, tmp_path, stopping_after(2))
    reported: list[str] = []
    prepared_now: list[int] = []
    run = cache.run
    monkeypatch.setattr(
        cache, "run", lambda task, chunks, *rest: prepared_now.extend(chunks) or run(task, chunks, *rest)
    )
    prepare(image_files, tmp_path, noting(reported))
    assert len(prepared_now) == -(-len(image_files) // CHUNK) - 3
    assert "resuming where a run was stopped" in reported[0]
    assert contents(tmp_path) == contents(undisturbed)


def test_a_kill_just_before_the_last_name_is_given_leaves_no_trace(
    image_files: Listing, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(StoppedError))
        with pytest.raises(StoppedError):
            prepare(image_files, tmp_path)
    assert [path.name for path in tmp_path.glob("*.partial/journal")] == ["journal"]
    prepare(image_files, tmp_path)
    assert contents(tmp_path) == contents(undisturbed)


def test_a_line_of_the_journal_that_a_kill_tore_is_done_again(
    image_files: Listing, undisturbed: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoppedError):
        prepare(image_files, tmp_path, stopping_after(1))
    (journal,) = tmp_path.glob("*.partial/journal")
    journal.write_bytes(journal.read_bytes()[:-4])
    prepare(image_files, tmp_path)
    assert contents(tmp_path) == contents(undisturbed)


def _waiting(listing: Listing, folder: Path, results: "multiprocessing.Queue[tuple[bool, int]]") -> None:
    reported: list[str] = []
    prepared = prepare(listing, folder, noting(reported))
    results.put((any("preparing" in message and "once" in message for message in reported), len(prepared.bad)))


def test_of_two_runs_that_want_a_cache_at_once_one_makes_it_and_both_use_it(
    image_files: Listing, undisturbed: Path, tmp_path: Path
) -> None:
    results: multiprocessing.Queue[tuple[bool, int]] = FORK.Queue()
    children = [FORK.Process(target=_waiting, args=(image_files, tmp_path, results)) for _ in range(3)]
    for child in children:
        child.start()
    answers = [results.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert sorted(answers) == [(False, 20), (False, 20), (True, 20)]
    assert contents(tmp_path) == contents(undisturbed)


def test_a_killed_worker_is_a_clear_message_and_loses_nothing(
    image_files: Listing, undisturbed: Path, tmp_path: Path
) -> None:
    def kill_workers(*_: int) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)

    with pytest.raises(RunError, match=r"was killed.*the same command resumes"):
        prepare(image_files, tmp_path, Listener(lambda *_: None, kill_workers, lambda: False))
    prepare(image_files, tmp_path)
    assert contents(tmp_path) == contents(undisturbed)


def test_a_disk_without_room_is_refused_before_anything_is_written(
    image_files: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=70 * 2**20))
    large = 1000  # 420 x 1000 x 1000 x 3 bytes
    with pytest.raises(
        RunError, match=r"take 1\.26 GB and dataset\.cache_dir=.* has 0\.07 GB free.*dataset\.cache=off"
    ):
        on_disk(image_files, large, True, tmp_path, 1, SILENT)
    assert not list(tmp_path.glob("**/pictures.u8"))


def test_the_size_is_announced(image_files: Listing, tmp_path: Path) -> None:
    reported: list[str] = []
    prepare(image_files, tmp_path, noting(reported))
    assert reported[0] == f"preparing 420 images once: 1 MB in {tmp_path}"
    assert "/s with 2 processes" in reported[1]


@pytest.fixture
def two(tmp_path: Path) -> Path:
    (tmp_path / "tree/a").mkdir(parents=True)
    for number in range(2):
        (tmp_path / f"tree/a/{number}.png").write_bytes(encoded(draw(number), "PNG"))
    return tmp_path / "tree"


def key(root: Path, size: int = SIZE, images: bool = True) -> str:
    return key_of(list_tree(root, None, {}).listing, size, images)


def test_the_key_changes_with_files_their_times_and_every_setting(two: Path) -> None:
    keys = {key(two)}
    assert key(two) in keys
    keys |= {key(two, size=25), key(two, images=False)}
    os.utime(two / "a/0.png", ns=(1, 1))
    keys.add(key(two))
    (two / "a/1.png").chmod(0o600)
    keys.add(key(two))
    (two / "a/2.png").write_bytes(encoded(draw(2), "PNG"))
    keys.add(key(two))
    (two / "a/2.png").rename(two / "a/3.png")
    keys.add(key(two))
    assert len(keys) == 7


def test_a_damaged_cache_is_refused_with_what_to_delete(
    image_files: Listing, undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path / "copy")
    (file,) = (tmp_path / "copy").glob("*/pictures.u8")
    os.truncate(file, 1000)
    with pytest.raises(RunError, match=f"{file.parent} is damaged.*delete that folder"):
        prepare(image_files, tmp_path / "copy")


def test_a_folder_that_can_not_be_written_is_named(image_files: Listing, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"dataset\.cache_dir=.*file/cache"):
        prepare(image_files, tmp_path / "file/cache")
