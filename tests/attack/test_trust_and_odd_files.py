"""Files that are damaged, odd or hostile: each is named in one line; none runs code, hangs or harms the others."""

import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mobilenet_train import checkpoint
from mobilenet_train.config.compose import compose_values
from mobilenet_train.config.overrides import parsed
from mobilenet_train.config.resume import Start, resolve
from mobilenet_train.config.saved import Saved, read_words
from mobilenet_train.disk import new_file
from mobilenet_train.errors import ConfigError, RunError
from mobilenet_train.runs import session
from mobilenet_train.runs.advice import resume_command
from mobilenet_train.runs.folder import create, read_summary, write_config
from mobilenet_train.sweeps import report
from mobilenet_train.sweeps.folder import find_sweep, read_manifest
from mobilenet_train.sweeps.jobs import make_job
from mobilenet_train.sweeps.rows import read_rows
from mobilenet_train.tracking.metrics_csv import read_metrics
from tests.attack.flips import TINY, campaign, make_cache
from tests.children import Child, mnet_train
from tests.conftest import configure
from tests.sweeps.made import make_sweep

pytestmark = pytest.mark.faults


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny network; not to be changed."""
    folder = tmp_path_factory.mktemp("small")
    child = Child(folder / "output", mnet_train(*TINY, f"run_dir={folder}/run"), folder)
    assert child.wait() == 0, child.text()
    return folder / "run"


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "run"))


def command(folder: Path, *arguments: str, **options: Any) -> tuple[int, str]:
    child = Child(folder / "output", mnet_train(*arguments, **options), folder)
    return child.wait(), child.text()


def only_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("mnet-train: ")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    assert len(lines[0]) <= 300 + len("mnet-train: ")
    return lines[0]


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


# --- 14: whose function is called


FACTORY = ("dataset=custom", "dataset.factory=os:system", "+dataset.args.command=id")


def start_of(*words: str) -> Start:
    return resolve(compose_values(*words), words)


@pytest.fixture
def hostile_run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    write_config(tmp_path / "run", Saved(configure(*FACTORY)))
    return tmp_path / "run"


def test_resume_calls_no_function_that_only_the_saved_file_names(hostile_run: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"run/config\.yaml.*dataset\.factory=os:system.*trust_factory=true"
    ) as caught:
        start_of(f"resume={hostile_run}", "dataset=custom")
    assert "\n" not in str(caught.value)
    (hostile_run / "overrides.yaml").write_text("[seed=0]")  # says that the data set was not typed
    with pytest.raises(ConfigError, match="trust_factory"):
        start_of(f"run_dir={hostile_run}", "seed=0")


@pytest.mark.parametrize("words", [("trust_factory=true",), FACTORY[:2], FACTORY])
def test_a_function_that_the_user_names_or_trusts_is_called(hostile_run: Path, words: tuple[str, ...]) -> None:
    chosen = () if "dataset=custom" in words else ("dataset=custom",)  # as `choices_of_run` adds it
    assert start_of(f"resume={hostile_run}", *chosen, *words).folder == hostile_run
    if words == FACTORY:  # a requeued command, a sweep's child
        assert start_of(f"run_dir={hostile_run}", *words).folder == hostile_run


def test_trust_is_for_one_command_and_never_saved_or_hashed() -> None:
    trusting, plain = configure(*FACTORY, "trust_factory=true"), configure(*FACTORY)
    assert trusting.trust_factory
    assert Saved(trusting).record == Saved(plain).record
    assert "trust_factory" not in Saved(trusting).record
    assert make_job(trusting, {}) == make_job(plain, {})


def test_the_resume_command_that_is_printed_says_what_is_needed(tmp_path: Path) -> None:
    assert resume_command(configure("dataset=digits"), Path("runs/a")) == "mnet-train resume=runs/a"
    assert resume_command(configure(*FACTORY), Path("a")) == "mnet-train resume=a trust_factory=true"
    odd = tmp_path / "lr=0.1 (it's)"
    words = shlex.split(resume_command(configure("dataset=digits"), odd))
    assert parsed(words[1:])[0].value() == str(odd)


# --- 21: a full disk


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


# --- 23: two at once


def wait_for_the_other(place: Path) -> None:
    """Both starts are ready before either makes the folder."""
    real = session.make_folder

    def together(*arguments: Any) -> Any:
        (place / f"ready{os.getpid()}").touch()
        while len(list(place.glob("ready*"))) < 2:
            time.sleep(0.01)
        return real(*arguments)

    session.make_folder = together


def test_of_two_starts_at_once_with_one_run_dir_the_second_names_the_first(tmp_path: Path) -> None:
    words = (*TINY, f"run_dir={tmp_path}/run", "epochs=200")
    children = [
        Child(tmp_path / f"output{n}", mnet_train(*words, prepare=partial(wait_for_the_other, tmp_path)), tmp_path)
        for n in range(2)
    ]
    children[0].wait_for(lambda: any(child.ended() is not None for child in children))
    second, first = sorted(children, key=lambda child: child.ended() is None)
    first.kill()
    first.wait()
    assert second.ended() == 1, second.text()
    assert f"in use by process {first.pid}" in only_line(second.text())


def test_a_folder_of_someone_else_gets_no_lock(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunError, match=r"notes\.txt"):
        create(configure(*TINY, f"run_dir={tmp_path}"), [])
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


# --- flipped bits


def test_a_flipped_bit_is_detected_or_changes_nothing(run: Path, tmp_path: Path) -> None:
    """The long campaign is a command: python -m tests.attack.flips."""
    assert campaign(run, make_cache(tmp_path / "images"), flips=100, seed=7).total() == 100
