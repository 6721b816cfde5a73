"""Findings 7 and 13: files that are damaged, odd or hostile are named in one line, and harm nothing else."""

import json
import os
import resource
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobilenet_train import checkpoint
from mobilenet_train.config.saved import read_saved, read_words
from mobilenet_train.data.cache import SILENT, on_disk
from mobilenet_train.data.listing import list_tree
from mobilenet_train.data.shards import list_shards
from mobilenet_train.errors import RunError, UserError
from mobilenet_train.runs.folder import holder, read_summary
from mobilenet_train.sweeps import report
from mobilenet_train.sweeps.folder import find_sweep, read_manifest
from mobilenet_train.sweeps.rows import read_rows
from mobilenet_train.tracking.metrics_csv import read_metrics
from tests.attack.flips import SIDE, campaign, make_cache
from tests.sweeps.made import make_sweep

pytestmark = pytest.mark.faults


# --- 7: one odd file


@pytest.mark.parametrize(
    "text", ["[]", "{}", "5", "null", "[" * 10_000, '{"status": "finished"}', '{"status": 3}', "\0"]
)
def test_an_odd_summary_is_named_in_one_line(run: Path, text: str) -> None:
    (run / "summary.json").write_text(text)
    with pytest.raises(RunError, match=r"run/summary\.json") as caught:
        read_summary(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["5", "{a: 1}", "- [a]", "- 5", "- a=[b", "\0", "- ${", "a: [", b"\xff"])
def test_odd_words_of_a_run_are_named_in_one_line(run: Path, text: str | bytes) -> None:
    (run / "overrides.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RunError, match=r"run/overrides\.yaml") as caught:
        read_words(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "[" * 2000,
        "{a: " * 2000,
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
        f"epochs: {'9' * 100_000}",
        "model: !!python/object/apply:os.system [id]",
    ],
    ids=["a cycle", "lists 2,000 deep", "maps 2,000 deep", "lists that double", "a long number", "code"],
)
def test_yaml_that_would_run_grow_or_nest_is_refused_at_once(run: Path, text: str) -> None:
    began = time.process_time()
    for name, read in {"config.yaml": read_saved, "overrides.yaml": read_words}.items():
        (run / name).write_text(text)
        with pytest.raises(UserError, match=rf"run/{name}") as caught:
            read(run)
        assert "\n" not in str(caught.value)
    assert time.process_time() - began < 10


@pytest.mark.parametrize("name", ["config.yaml", "overrides.yaml", "summary.json", "metrics.csv", "lock", "sweep.json"])
def test_a_pipe_among_the_files_of_a_run_holds_nobody_up(run: Path, name: str) -> None:
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    readers: dict[str, Callable[[Path], object]] = {"summary.json": read_summary, "metrics.csv": read_metrics}
    readers |= {"config.yaml": read_saved, "overrides.yaml": read_words, "lock": holder, "sweep.json": read_manifest}
    with pytest.raises((UserError, OSError), match=rf"not a regular file.*|{name}.*not a regular file"):
        readers[name](run)


def test_a_damaged_table_of_metrics_is_named(run: Path) -> None:
    (run / "metrics.csv").write_text("epoch,test_top1\n0\n")
    with pytest.raises(RunError, match=r"run/metrics\.csv"):
        read_metrics(run)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "5",
        '{"overrides": 5, "jobs": []}',
        '{"format": 2, "overrides": [], "jobs": [{}]}',
        '{"format": "x"}',
    ],
)
def test_an_odd_sweep_json_is_named_and_no_other_sweep_minds(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "sweep.json").write_text(text)
    with pytest.raises(RunError, match=r"odd/sweep\.json") as caught:
        read_manifest(folder)
    assert "\n" not in str(caught.value)
    assert find_sweep(tmp_path, ["epochs=1,2"]).name == "by_epochs"


def test_an_unreadable_summary_is_the_state_of_that_job_alone(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "sweep", {(0.1, 0): 60.0, (0.25, 0): 61.0})
    (folder / read_manifest(folder).jobs[0].name / "summary.json").write_text("[]")
    broken, whole = sorted(read_rows([folder]), key=lambda row: row.label)
    assert (broken.state, broken.top1) == ("summary.json damaged", None)
    assert (whole.state, whole.top1_text) == ("finished", "61.00")
    report.write(folder, figure=False)
    assert "summary.json damaged" in (folder / "sweep.md").read_text()


def test_a_deleted_sweep_json_is_rebuilt_from_the_jobs_beside_it(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "sweep", {(0.1, 0): 60.0, (0.25, 1): 61.0})
    before = read_manifest(folder)
    for job in before.jobs:
        words = ["epochs=3", *(f"{key}={value}" for key, value in job.swept.items()), f"run_dir='{folder / job.name}'"]
        (folder / job.name / "overrides.yaml").write_text(json.dumps(words))
    (folder / "sweep.json").unlink()
    rebuilt = read_manifest(folder)
    assert sorted(rebuilt.jobs, key=lambda job: job.name) == sorted(before.jobs, key=lambda job: job.name)
    assert rebuilt.overrides == ["epochs=3"]
    report.write(folder, figure=False)
    assert len(read_manifest(folder).jobs) == 2
    with pytest.raises(RunError, match="is not a sweep"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["overrides.yaml", "config.yaml"])
def test_a_job_whose_record_is_damaged_does_not_keep_the_others_from_being_found(tmp_path: Path, name: str) -> None:
    folder = make_sweep(tmp_path / "sweep", {(0.1, 0): 60.0, (0.25, 1): 61.0})
    broken, whole = read_manifest(folder).jobs
    for job in (broken, whole):
        words = ["epochs=3", *(f"{key}={value}" for key, value in job.swept.items()), f"run_dir='{folder / job.name}'"]
        (folder / job.name / "overrides.yaml").write_text(json.dumps(words))
    (folder / broken.name / name).write_text("{")
    report.write(folder, figure=False)  # with sweep.json
    assert (folder / "sweep.md").read_text().count("finished") == 2
    manifest = json.loads((folder / "sweep.json").read_text())
    del manifest["format"]  # as 0.1.0 wrote it, so that the hashes are made again
    (folder / "sweep.json").write_text(json.dumps(manifest))
    assert {job.name for job in read_manifest(folder).jobs} == {broken.name, whole.name}
    (folder / "sweep.json").unlink()
    assert [job.name for job in read_manifest(folder).jobs] == [whole.name]
    (folder / whole.name / name).write_text("{")
    with pytest.raises(RunError, match="is not a sweep"):
        read_manifest(folder)


ODD_JSON = [
    *("[]", "{}", "5", "null", "[" * 10_000, "\0", b"\xff"),
    *('{"bad": 5}', '{"bad": {"x": ""}}', '{"bad": {"70": ""}}'),
    *('{"bad": {}, "images": 5}', '{"bad": {}, "images": ""}', '{"bad": {}, "images": "zzzzzzzzzzzzzzzz"}'),
]


@pytest.mark.parametrize("text", ODD_JSON, ids=lambda text: str(text)[:25])
def test_an_odd_index_of_prepared_images_is_named_and_made_again_once_it_is_deleted(
    tmp_path: Path, text: str | bytes
) -> None:
    cached = make_cache(tmp_path)
    listing = list_tree(tmp_path / "images", None, {}).listing
    (index,) = cached.glob("*/index.json")
    index.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RunError, match=rf"{index.parent.name} is damaged.*delete that folder") as caught:
        on_disk(listing, SIDE, True, cached, 1, SILENT)
    assert "\n" not in str(caught.value)
    shutil.rmtree(index.parent)
    assert len(on_disk(listing, SIDE, True, cached, 1, SILENT).bad) == 1


@pytest.mark.parametrize(
    "line",
    [
        *("[]", "5", "null", "[" * 10_000, "\0", "\xff", '{"chunk": 0}', '{"chunk": [], "crc": 0, "bad": {}}'),
        *('{"chunk": 0, "crc": "x", "bad": {}}', '{"chunk": 0, "crc": 0, "bad": {"x": ""}}', '{"chunk": 0, "crc": 0}'),
        '{"chunk": 1000000, "crc": 0, "bad": {}}',
    ],
    ids=lambda line: line[:25],
)
def test_odd_lines_of_a_journal_are_passed_over(tmp_path: Path, line: str) -> None:
    cached = make_cache(tmp_path)
    listing = list_tree(tmp_path / "images", None, {}).listing
    whole = on_disk(listing, SIDE, True, cached, 1, SILENT)
    (home,) = (path for path in cached.iterdir() if path.is_dir())
    partial = home.rename(home.with_suffix(".partial"))
    (partial / "index.json").unlink()
    (partial / "journal").write_bytes(line.encode("latin1") + b"\n")
    again = on_disk(listing, SIDE, True, cached, 1, SILENT)
    assert (again.images == whole.images).all()  # type: ignore[union-attr]
    assert again.bad == whole.bad


@pytest.mark.parametrize("damage", ["torn", "text", "other arrays", "other lengths", "objects"])
def test_a_damaged_index_of_a_shard_is_named(tmp_path: Path, damage: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("0.jpg", "0.cls"):
            (tmp_path / name).write_bytes(b"0")
            tar.add(tmp_path / name, name)
    list_shards([tmp_path / "a.tar"], tmp_path / "cache")
    (index,) = (tmp_path / "cache").iterdir()
    columns = dict(np.load(index))
    if damage == "torn":
        index.write_bytes(index.read_bytes()[:-40])
    elif damage == "text":
        index.write_text("{}")
    elif damage == "other arrays":
        np.savez(index, names=columns["names"])
    elif damage == "other lengths":
        np.savez(index, **{**columns, "size": np.arange(5)})
    else:
        np.savez(index, **{**columns, "labels": np.array([{}], object)}, allow_pickle=True)
    with pytest.raises(RunError, match=r"shard\.npz is damaged.*delete it") as caught:
        list_shards([tmp_path / "a.tar"], tmp_path / "cache")
    assert "\n" not in str(caught.value)


# --- 13: a file that asks for more than there is


def nested(depth: int, make: Callable[[Any], Any]) -> Any:
    value: Any = [1]
    for _ in range(depth):
        value = make(value)
    return value


def cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def with_pickle(path: Path, pickled: bytes) -> None:
    """A file of torch's whose pickle is this one: torch would not write some of them itself."""
    torch.save({}, path)
    with zipfile.ZipFile(path) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w") as crafted:
        for name, data in members.items():
            crafted.writestr(name, pickled if name.endswith("data.pkl") else data)


def compressed(path: Path) -> None:
    torch.save({"format": 1, "model": torch.zeros(10**6)}, path)
    with zipfile.ZipFile(path) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as crafted:
        for name, data in members.items():
            crafted.writestr(name, data)


DOUBLING_KEY = b"}K\x01\x85q\x00" + b"".join(b"h%c\x86q%c" % (n, n + 1) for n in range(40)) + b"K\x00s."
HOSTILE: dict[str, Callable[[Path], None]] = {
    "lists 40 deep that double": lambda path: saved(path, nested(40, lambda value: [value, value])),
    "a tuple that doubles as a key": lambda path: with_pickle(path, b"\x80\x02" + DOUBLING_KEY),
    "lists 100,000 deep": lambda path: with_pickle(path, b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    "a cycle": lambda path: saved(path, cycle()),
    "a tensor of 4 TB": lambda path: saved(path, torch.zeros(1).expand(10**12)),
    "a number of a million bits": lambda path: saved(path, 1 << 10**6),
    "a buffer of 10 TB": lambda path: with_pickle(
        path, b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x0a\x85R."
    ),
    "a zip that grows": compressed,
}


def saved(path: Path, value: Any) -> None:
    torch.save({"format": 1, "model": value}, path)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_checkpoint_that_asks_for_more_than_its_size_is_refused_at_once(tmp_path: Path, what: str) -> None:
    path = tmp_path / "last.pt"
    HOSTILE[what](path)
    began, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RunError, match=r"last\.pt is damaged") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert time.process_time() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # KB


def test_what_a_checkpoint_of_ours_holds_is_within_the_bounds(small_run: Path) -> None:
    for name in ("last.pt", "previous.pt", "best.pt"):
        assert checkpoint.load(small_run / "checkpoints" / name)["format"] == checkpoint.FORMAT


# --- flipped bits


def test_a_flipped_bit_is_detected_or_changes_nothing(run: Path, tmp_path: Path) -> None:
    """The long campaign is a command: python -m tests.attack.flips."""
    assert campaign(run, make_cache(tmp_path / "images"), flips=100, seed=7).total() == 100
