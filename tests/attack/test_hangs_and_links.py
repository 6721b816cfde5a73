"""Nothing hangs, nobody is left behind, and no link leads a file of ours elsewhere."""

import ctypes
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from torch.distributed import TCPStore

from mobilenet_train import checkpoint, disk
from mobilenet_train.data import stored
from mobilenet_train.data.cache import CHUNK, SILENT, on_disk
from mobilenet_train.data.listing import BadImageError, Listing, list_tree
from mobilenet_train.data.shards import list_shards
from mobilenet_train.data.stored import MappedImages
from mobilenet_train.distributed import _listening
from mobilenet_train.errors import RunError
from mobilenet_train.factory import load_factory
from mobilenet_train.inference.predict import _read
from mobilenet_train.ranks import Ranks
from mobilenet_train.runs import folder as run_folder
from mobilenet_train.sweeps import forecast
from mobilenet_train.sweeps.processes import make_slots, spawn
from tests.children import NOBODY, Child, become_nobody, end_with, mnet_train
from tests.cli.helpers import exit_code
from tests.conftest import configure
from tests.data.image_files_for_tests import draw, encoded
from tests.sweeps.conftest import TINY_SWEEP, fork_jobs
from tests.tools import tool

__all__ = ["tool"]

NETWORK = ("model=v1", "model.width_mult=0.03", "model.stride_plan=2", "batch_size=16", "device.threads=1")
DIGITS = (*NETWORK, "tensorboard=false", "dataset=digits", "dataset.resolution=16", "dataset.max_per_class=16")
CLONE_NEWNS = 0x00020000  # linux/sched.h
Tool = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Child]]:
    """Starts `mnet-train ARGUMENTS` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    started: list[Child] = []

    def command(*arguments: str, prepare: Callable[[], None] | None = None) -> Child:
        started.append(Child(tmp_path / f"output{len(started)}", mnet_train(*arguments, prepare=prepare)))
        return started[-1]

    yield command
    for child in started:
        child.kill()
        child.wait()


def files(root: Path, count: int = 16) -> Path:
    """`root`/train|val/CLASS/*.jpg."""
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                (root / split / name / f"{number}.jpg").write_bytes(encoded(draw(number)))
    return root


def streaming(tmp_path: Path) -> tuple[str, ...]:
    """The arguments of a run whose images are decoded by two workers in every epoch."""
    data = ("dataset=folder", f"dataset.root={files(tmp_path / 'images')}", "dataset.resolution=16")
    cached = ("dataset.cache=off", "dataset.workers=2", f"dataset.cache_dir={tmp_path / 'cache'}")
    return (*NETWORK, "tensorboard=false", *data, *cached, "run_dir=run", "epochs=1")


# --- shared memory


def small_shared_memory(size: str) -> None:
    """Gives this process alone a /dev/shm of that size."""
    multiprocessing.set_start_method("fork", force=True)  # Linux's, which the server of this process has changed
    if ctypes.CDLL(None).unshare(CLONE_NEWNS) != 0:
        os._exit(77)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm"], check=True)


def without_a_check() -> None:
    """As if the room were lost between the check and the batch."""
    small_shared_memory("256k")
    stored.free_shared_memory = lambda: None


def outcome(child: Child) -> tuple[int, str]:
    code = child.wait(60)
    if code == 77:
        pytest.skip("a mount namespace is not permitted here")
    assert "Traceback" not in child.text()
    return code, child.text()


@pytest.mark.parametrize(
    ("size", "side", "said"),
    [
        ("64k", 16, "room for 0.1 MB only, so the run itself decodes the images"),
        ("64m", 560, "room for 64.0 MB only, so 1 of the dataset.workers=2 processes decode the images"),
    ],
    ids=["64k", "64m"],
)
def test_a_small_dev_shm_takes_fewer_workers_and_one_line(
    size: str, side: int, said: str, start: Callable[..., Child], tmp_path: Path
) -> None:
    child = start(*streaming(tmp_path), f"dataset.store_size={side}", prepare=partial(small_shared_memory, size))
    code, text = outcome(child)
    assert (code, " ".join(text.split()).count(said)) == (0, 1), text


def test_a_dev_shm_that_fills_up_ends_the_run_with_a_reason(start: Callable[..., Child], tmp_path: Path) -> None:
    child = start(*streaming(tmp_path), "dataset.store_size=160", prepare=without_a_check)
    code, text = outcome(child)
    assert (code, text.count("/dev/shm has no room for a batch any more")) == (1, 1), text


def hang_in_workers() -> None:
    multiprocessing.set_start_method("fork", force=True)
    stored.decode = lambda *_: time.sleep(1000)  # type: ignore[assignment]


def test_sigterm_ends_a_run_whose_workers_hang_and_saves_it(start: Callable[..., Child], tmp_path: Path) -> None:
    child = start(*streaming(tmp_path), prepare=hang_in_workers)
    child.wait_for(lambda: (tmp_path / "run/train.log").exists())
    child.wait_for(lambda: len(children_of(child.pid)) >= 2)
    pids = children_of(child.pid)
    child.kill(signal.SIGTERM)
    assert child.wait(20) == 128 + signal.SIGTERM, child.text()
    assert checkpoint.load(tmp_path / "run/checkpoints/last.pt")["progress"]["step"] == 0
    assert not any(alive(pid) for pid in pids)


def children_of(parent: int) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if f"\nPPid:\t{parent}\n" in status(pid)]


def status(pid: int) -> str:
    """What Linux says about a process; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def alive(pid: int) -> bool:
    return status(pid) != "" and "\nState:\tZ" not in status(pid)


# --- threads, pipes, and what hangs


@pytest.mark.parametrize(
    "words",
    ["mnet-predict RUN x.jpg", "mnet-eval RUN", "mnet-bench", "mnet-plan", "mnet-bench --threads 1"],
)
def test_every_tool_has_the_limit_of_device_threads(words: str, tool: Tool, capsys: Capture) -> None:
    assert tool(*words.split(), "--threads", "1025") == 2
    message = capsys.readouterr().err
    assert "--threads: 1025 is not a whole number from 1 to 1024" in message
    assert message.count("\n") == 1


def test_a_pipe_or_device_in_the_place_of_a_file_holds_nobody_up(tmp_path: Path, tool: Tool, capsys: Capture) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.jpg").symlink_to("pipe")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    signal.alarm(20)  # ends the whole session, should it block
    assert tool("mnet-predict", tmp_path / "pipe", "x.jpg") == 1
    assert "pipe is damaged or not a checkpoint: [Errno 22] it is not a regular file" in capsys.readouterr().err
    for name in ("pipe", "link.jpg", "zero.jpg"):
        with pytest.raises(BadImageError, match="not a regular file"):
            _read(tmp_path / name)
    signal.alarm(0)


def test_a_measurement_that_hangs_is_ended_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []

    def hang(_: object, **pipes: int) -> "subprocess.Popen[str]":
        started.append(subprocess.Popen(["sleep", "60"], text=True, **pipes))
        return started[-1]

    monkeypatch.setattr(forecast, "spawn", hang)
    monkeypatch.setattr(forecast, "PATIENCE", 0.2)
    configs = [configure(*DIGITS)] * 2
    with pytest.raises(RunError, match=r"cannot be measured: .*no sign of life for 0\.2 s.*dry_run=true"):
        forecast.forecast_all(configs, make_slots(2, 2, "cpu", 1))
    assert [child.poll() for child in started] == [-signal.SIGKILL] * 2


def test_a_slow_measurement_that_gives_signs_of_life_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = '[{"parameters": 1, "multiply_adds": 2, "seconds": 3.0}]'
    script = f"for i in 1 2 3 4 5 6; do echo .; sleep 0.2; done; echo '{answer}'"
    monkeypatch.setattr(
        forecast, "spawn", lambda _, **pipes: subprocess.Popen(["sh", "-c", script], text=True, **pipes)
    )
    monkeypatch.setattr(forecast, "PATIENCE", 0.6)
    assert forecast.forecast_all([configure(*DIGITS)], make_slots(1, 1, "cpu", 1)) == [forecast.Forecast(1, 2, 3.0)]


# --- signals and parents


def ignore_as_nohup_does() -> None:
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def ignored_in_a_sweep() -> None:
    ignore_as_nohup_does()
    fork_jobs()


@pytest.mark.parametrize(
    ("arguments", "prepare", "log"),
    [
        ((*DIGITS, "run_dir=run", "epochs=8"), ignore_as_nohup_does, "run/train.log"),
        ((*TINY_SWEEP, "seed=0", "slots=1"), ignored_in_a_sweep, "outputs/s/*/train.log"),
    ],
    ids=["run", "sweep"],
)
def test_a_signal_that_is_ignored_at_the_start_stays_ignored(
    arguments: tuple[str, ...], prepare: Callable[[], None], log: str, start: Callable[..., Child], tmp_path: Path
) -> None:
    child = start(*arguments, prepare=prepare)
    child.wait_for(lambda: any(tmp_path.glob(log)))
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGHUP, signal.SIGINT):
        child.kill(number)
    assert child.wait(60) == 0, child.text()


def stand_in_for_torchrun(folder: Path) -> None:
    """Forks two ranks, leaves their ids in files, and waits."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            local = {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": store.port, "TORCHELASTIC_RUN_ID": 1}
            variables = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", **local}
            os.environ |= {name: str(value) for name, value in variables.items()} | {
                "TORCHELASTIC_USE_AGENT_STORE": "True"
            }
            end_with(mnet_train(*DIGITS, "run_dir=run", "epochs=5000", "checkpoint.every_minutes=1000"))
        (folder / f"rank{rank}").write_text(str(pid))
    signal.pause()


def test_ranks_end_with_a_torchrun_that_is_killed_and_save_what_they_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    agent = Child(tmp_path / "output", partial(stand_in_for_torchrun, tmp_path))
    pids: list[int] = []
    try:
        agent.wait_for(lambda: (tmp_path / "run/metrics.csv").exists())
        pids = [int((tmp_path / f"rank{rank}").read_text()) for rank in range(2)]
        agent.kill(signal.SIGKILL)
        deadline = time.monotonic() + 5
        while any(alive(pid) for pid in pids):
            assert time.monotonic() < deadline, agent.text()
            time.sleep(0.02)
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        agent.kill()
        agent.wait()
    assert run_folder.read_summary(tmp_path / "run")["status"] == "interrupted"


# --- the current folder


def test_a_users_random_py_is_not_taken_for_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong one')\n")
    child = spawn(["-c", "import random, sys; print(random.__file__)"], stdout=subprocess.PIPE)
    found = Path(child.communicate()[0].strip())
    assert (found.name, found.parent == tmp_path) == ("random.py", False)
    command = [sys.executable, "-m", "mobilenet_train", "--cfg", "job", "dataset=digits", "model=v1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_factory_is_found_in_the_current_folder_after_pythons_own_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    (tmp_path / "of_the_user.py").write_text("def build(): return 7\n")
    assert load_factory("model.factory", "of_the_user:build")() == 7
    assert sys.path[-1] == str(tmp_path)


# --- links


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
    root = files(tmp_path_factory.mktemp("images"), 20)
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


# --- the network between ranks, and pickles


@pytest.mark.parametrize(
    ("host", "ranks", "listens"),
    [
        ("127.0.0.1", Ranks(0, 2, 0, 2), "0100007F"),
        ("localhost", Ranks(0, 2, 0, 2), "0100007F"),
        ("127.0.0.1", Ranks(0, 4, 0, 2), None),
    ],
    ids=["address", "name", "other machines"],
)
def test_the_ranks_store_listens_where_master_addr_is(host: str, ranks: Ranks, listens: str | None) -> None:
    store = _listening(host, ranks)
    ends = [
        line.split()[1] for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    addresses = {end.partition(":")[0] for end in ends if end.endswith(f":{store.port:04X}")}
    client = TCPStore(host, store.port, wait_for_workers=False)
    client.set("word", "kept")
    assert store.get("word") == b"kept"
    assert addresses - {"0100007F", "0000000000000000FFFF00000100007F"} == (set() if listens else {"0" * 32})


@pytest.mark.parametrize("option", ["--experimental-rerun", "--experimental-rerun=x.pickle", "--exp"])
def test_hydras_rerun_which_reads_a_pickle_is_refused(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert exit_code(monkeypatch, option, "x.pickle") == 2
    message = capsys.readouterr().err
    assert option.partition("=")[0] in message
    assert message.count("\n") == 1
