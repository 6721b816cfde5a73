import os
from pathlib import Path

import pytest

from mobilenet_train import disk
from mobilenet_train.disk import own, replacing
from mobilenet_train.errors import RunError
from mobilenet_train.runs.folder import read_summary, write_summary
from tests.tracking.conftest import Open, progress, result


def test_a_summary_reads_back_as_it_was_written(tmp_path: Path) -> None:
    values = {"status": "running", "test_top1": 88.5, "versions": {"torch": "2.14.1"}}
    write_summary(tmp_path, values)
    assert read_summary(tmp_path) == values


def write_half(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text('{"status": "fin')
        raise OSError(28, "No space left on device")


def test_a_summary_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_summary(tmp_path, {"status": "running"})
    with pytest.raises(TypeError):
        write_summary(tmp_path, {"status": object()})
    with pytest.raises(RunError, match="No space left"):
        write_half(tmp_path / "summary.json")
    assert read_summary(tmp_path) == {"status": "running"}
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_summary_takes_its_name_only_when_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
    )
    write_summary(tmp_path, {"status": "running"})
    assert synced == [".summary.json.tmp"]
    assert read_summary(tmp_path) == {"status": "running"}


@pytest.mark.parametrize("text", [None, "{", "\x00"])
def test_a_missing_or_damaged_summary_is_a_clear_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    with pytest.raises(RunError, match=r"cannot read .*summary\.json"):
        read_summary(tmp_path)


@pytest.mark.parametrize("name", ["train.log", "metrics.csv"])
def test_a_file_that_cannot_be_written_is_named_with_the_reason(tmp_path: Path, open_trackers: Open, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(RunError, match=rf"cannot write .*{name}: Is a directory"):
        open_trackers().record(result(0))


@pytest.mark.parametrize("name", ["train.log", "metrics.csv"])
def test_a_full_disk_is_named(open_trackers: Open, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trackers = open_trackers()
    trackers.record(result(0))

    def full(path: str, flags: int) -> int:
        return os.open("/dev/full", os.O_WRONLY) if Path(path).name == name else own(path, flags)

    monkeypatch.setattr(disk, "own", full)
    with pytest.raises(RunError, match=rf"cannot write .*{name}: No space left on device"):
        trackers.record(result(1))


def test_a_full_disk_under_tensorboard_is_named(
    tmp_path: Path, open_trackers: Open, capfd: pytest.CaptureFixture[str]
) -> None:
    trackers = open_trackers(tensorboard=True)
    (file,) = tmp_path.glob("events.*")
    descriptor = next(d for d in Path("/proc/self/fd").iterdir() if d.exists() and d.samefile(file))
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, int(descriptor.name))
    os.close(full)
    with pytest.raises(RunError, match=rf"cannot write {tmp_path}: No space left on device"):
        trackers.record(progress(1))
    assert capfd.readouterr().err == ""
