"""Odd surroundings end in one line or change nothing: streams, encodings, the current folder, rights of others."""

import json
import os
import pwd
import subprocess
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest

from mobilenet_train.disk import expanded, write_text
from mobilenet_train.errors import RunError
from tests.attack.helpers import NETWORK, command, only_line, tool_command
from tests.attack.test_paths import COMMANDS, outcome
from tests.children import Child, become_nobody, mnet_train
from tests.data.image_files_for_tests import tree
from tests.sweeps.made import make_sweep

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
MAIN = "import sys; sys.argv[0] = {0!r}; from mobilenet_train.cli.{1} import main; main()"
NOT_UTF8 = os.fsdecode(b"\xff\xfe")


def shell(name: str, module: str, rest: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `NAME REST` through a shell, whose redirections `rest` may use."""
    line = f'exec "{sys.executable}" -c "$CODE" {rest}'
    variables = {**os.environ, **environment, "CODE": MAIN.format(name, module)}
    return subprocess.run(["sh", "-c", line], env=variables, capture_output=True, text=True, check=False)


# --- streams


@pytest.mark.parametrize(
    ("name", "module", "rest"),
    [
        ("mnet-train", "train", "--help >&-"),
        ("mnet-train", "train", "--cfg job model=v1 >&-"),
        ("mnet-cache", "cache", "--cache-dir /nowhere >&-"),
        ("mnet-cache", "cache", "--cache-dir /nowhere <&- >&- 2>&-"),
    ],
    ids=lambda value: value,
)
def test_a_closed_stream_is_as_if_nobody_looked(name: str, module: str, rest: str) -> None:
    done = shell(name, module, rest)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_file_gets_the_number_of_a_closed_stream() -> None:
    code = "import os; from mobilenet_train.cli.guard import prepare_streams as p; p(); os._exit(os.open('/', 0) < 3)"
    done = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("name", "module", "rest", "code"),
    [
        ("mnet-train", "train", "--help > /dev/full", 1),
        ("mnet-train", "train", "--cfg job model=v1 > /dev/full", 1),
        ("mnet-cache", "cache", "--cache-dir /nowhere > /dev/full", 1),
        ("mnet-cache", "cache", "--cache-dir /nowhere 2> /dev/full", 0),
    ],
    ids=lambda value: str(value),
)
def test_output_that_has_no_room_is_one_line(name: str, module: str, rest: str, code: int) -> None:
    done = shell(name, module, rest)
    assert done.returncode == code
    assert done.stderr == ("" if code == 0 else f"{name}: No space left on device: no file named\n")


@pytest.mark.parametrize("rest", ["--help", "--cfg job model=v1"])
def test_a_reader_who_has_had_enough_is_no_error(rest: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command_line = [sys.executable, "-c", MAIN.format("mnet-train", "train"), *rest.split()]
    done = subprocess.run(command_line, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


# --- encodings


def test_a_locale_without_unicode_changes_no_file_and_ends_no_command(tmp_path: Path) -> None:
    """`±` stands in the table of a sweep."""
    folder = make_sweep(tmp_path / "s", {(0.1, 0): 60.0, (0.1, 1): 62.0})
    done = shell("mnet-report", "report", str(folder), **ASCII)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"61.00 \xb1 12.71" in done.stdout
    assert "61.00 ± 12.71" in (folder / "sweep.md").read_text(encoding="utf-8")
    for rest in ("--help", "--cfg job model=v1"):
        done = shell("mnet-train", "train", rest, **ASCII)
        assert (done.returncode, done.stderr) == (0, "")


def test_names_that_are_no_text_go_through_training_evaluation_and_prediction(tmp_path: Path) -> None:
    root = tree(tmp_path / "images", names=(NOT_UTF8, "größe"))
    small = ("dataset.resolution=16", "batch_size=8", "max_updates=1", "tensorboard=false", "device.threads=1")
    data = ("dataset=folder", f"dataset.root={root}", "dataset.cache_dir=cache")
    code, said = command(tmp_path, *NETWORK, *small, *data, "run_dir=run")
    assert code == 0, said
    for name, words in {"evaluate": ["run", "--json"], "predict": ["run", "images", "--json"]}.items():
        code, said = tool_command(tmp_path, name, *words)
        assert code == 0, said
        assert r'"\udcff\udcfe"' in said
    report = json.loads((tmp_path / "run/evaluation/report.json").read_text())
    assert {row["name"] for row in report["classes"]} >= {NOT_UTF8, "größe"}


def test_what_is_no_text_is_written_so_that_json_reads_it_again(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", json.dumps({"name": NOT_UTF8 + "größe"}, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text()) == {"name": NOT_UTF8 + "größe"}


# --- folders and rights


@pytest.mark.parametrize("name", COMMANDS)
def test_a_current_folder_that_was_deleted_is_said_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    (tmp_path / "gone").rmdir()
    said = f"{name}: the current folder does not exist any more: change to another one\n"
    assert outcome([name, "model=v1"]) == (1, said)


def test_a_user_without_a_home_is_told_which_path_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: int) -> None:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(RunError, match=r"^~/\.cache/x: ~ has no home directory here"):
        expanded("~/.cache/x")
    assert expanded("/a/~/b") == Path("/a/~/b")


def resume_as_nobody(run: Path) -> None:
    import_module("multiprocessing.popen_fork")
    become_nobody()
    mnet_train(f"resume={run}", "epochs=9", "resume_schedule=restart")()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become someone else")
def test_a_run_of_another_user_is_left_alone(run: Path, tmp_path: Path) -> None:
    for folder in (run, *run.parents[: len(run.parts) - 3]):
        folder.chmod(0o755)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    child = Child(tmp_path / "output", partial(resume_as_nobody, run), tmp_path)
    assert child.wait() == 1
    assert f"{run}/lock cannot be written: Permission denied" in only_line(child.text())
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_second_resume_at_once_names_the_first(run: Path, tmp_path: Path) -> None:
    words = (f"resume={run}", "epochs=500", "resume_schedule=restart")
    first = Child(tmp_path / "first", mnet_train(*words), tmp_path)
    first.wait_for(lambda: "resuming" in first.text())
    code, said = command(tmp_path, *words)
    first.kill()
    first.wait()
    assert code == 1
    assert f"in use by process {first.pid}" in only_line(said)


@pytest.mark.parametrize(
    ("line", "variable"), [("mnet-train dataset=cifar10 model=v1", "MNET_DATA"), ("mnet-cache", "MNET_CACHE")]
)
def test_an_empty_variable_does_not_name_the_current_folder(
    line: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "")
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    code, said = outcome(line.split())
    assert (code, said) == (1, f"{line.split()[0]}: '' is not a path: it is empty or has a NUL character\n")
