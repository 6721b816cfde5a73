"""Finding 21: a full disk names itself and the path, whoever wrote, and nothing half-written stays."""

import os
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mobilenet_train.disk import new_file
from tests.attack.flips import TINY
from tests.attack.helpers import command, only_line, tool_command

pytestmark = pytest.mark.faults


def test_a_writer_that_hides_why_it_failed_does_not_hide_the_full_disk() -> None:
    def write() -> None:
        with new_file(full) as file:
            try:
                file.write(b"0" * 10**6)
            except OSError as error:
                raise RuntimeError("unexpected pos 64 vs 0") from error

    full = Path(tempfile.mkdtemp()) / "file"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=f"File too large: '{full}'"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        shutil.rmtree(full.parent)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=False, capture_output=True)
    if done.returncode != 0:
        pytest.skip("mounting a file system is not permitted here; the test of `new_file` above still runs")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path, left: int) -> None:
    """Leaves so many bytes."""
    free = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(free.f_bavail * free.f_bsize - left))


def test_resuming_without_a_byte_left_ends_in_one_line_and_leaves_no_temporary_file(run: Path, disk: Path) -> None:
    shutil.copytree(run, disk / "run")
    (disk / "run/summary.json").unlink()
    before = {path: path.read_bytes() for path in (disk / "run").rglob("*.pt")}
    fill(disk, 0)
    code, text = command(run.parent, f"resume={disk}/run")
    assert code == 1
    assert "No space left on device" in only_line(text)
    assert f"{disk}/run" in only_line(text)
    assert not [path for path in (disk / "run").rglob("*") if ".tmp" in path.name]
    assert {path: path.read_bytes() for path in (disk / "run").rglob("*.pt")} == before


def test_the_first_file_that_did_not_fit_is_the_one_that_is_named(run: Path, disk: Path) -> None:
    """Not the curves, which are drawn once more at the end."""
    fill(disk, 100_000)
    code, text = command(run.parent, *TINY, f"run_dir={disk}/run", "model.width_mult=0.1")
    assert code == 1
    assert "checkpoint could not be written" in only_line(text)
    assert "No space left on device" in only_line(text)


@pytest.mark.parametrize(("form", "file"), [("safetensors", "model.safetensors"), ("onnx", "model.onnx")])
def test_an_export_that_does_not_fit_names_its_file_and_leaves_nothing(
    run: Path, disk: Path, form: str, file: str
) -> None:
    fill(disk, 20_000)
    code, said = tool_command(run.parent, "export", str(run), "--to", form, "--out", f"{disk}/out")
    assert code == 1
    message = only_line(said, "mnet-export")
    assert message == f"mnet-export: cannot write {disk}/out/unchecked_{file}: No space left on device"
    assert list((disk / "out").iterdir()) == []


def test_an_export_without_room_for_temporary_files_names_their_folder_and_leaves_nothing(
    run: Path, disk: Path
) -> None:
    fill(disk, 8192)
    code, said = tool_command(run.parent, "export", str(run), "--to", "onnx-int8", temporary=disk)
    assert code == 1
    assert only_line(said, "mnet-export") == f"mnet-export: cannot write {disk}: No space left on device"
    assert [path.name for path in disk.iterdir() if path.is_file()] == ["ballast"]
    assert list((run / "export").iterdir()) == []
