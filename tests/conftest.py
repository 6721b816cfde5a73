"""What all tests share: one thread, configurations, the real images, and the command as a child process."""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mobilenet_train.config.compose import compose_config
from mobilenet_train.config.schema import TrainConfig
from tests.children import Child
from tests.children import mnet_train as command_line
from tests.small_cifar10 import write_small

TINY = (  # real images and a real network, a few milliseconds a step
    "dataset=digits",
    "model=v3_small",
    "model.width_mult=0.25",
    "model.stride_plan=imagenet",
    "dataset.max_per_class=16",
    "dataset.resolution=32",
    "batch_size=32",
    "device.threads=1",
    "epochs=2",
    "log_every=2",
)
RUN = ("run_dir=run", *TINY)
EXTRAS = (  # what tests are skipped without
    *("check_jsonschema", "executorch", "ipykernel", "material", "mkdocstrings"),
    *("nbclient", "onnx", "onnxruntime", "onnxscript"),
)
LONGEST = (  # a long file that starts last would leave the other worker idle
    "distributed/test_torchrun.py",
    "sweeps/test_sweep.py",
    "test_scripts.py",
    "faults/test_kill.py",
    "training/test_golden_losses.py",
    "runs/test_command.py",
    "faults/test_faults.py",
    "distributed/test_runs.py",
    "runs/test_resume.py",
    "deploy/test_executorch.py",
    "distributed/test_science.py",
    "faults/test_long_runs.py",
    "sweeps/test_engines.py",
)


def pytest_sessionstart() -> None:
    """With MNET_REQUIRE_EXTRAS=1 no test may be skipped because a package is not installed.

    What a shell starts in the background ignores Ctrl-C; the tests send it to their children.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    missing = [name for name in EXTRAS if find_spec(name) is None]
    if missing and os.environ.get("MNET_REQUIRE_EXTRAS") == "1":
        raise pytest.UsageError(f"not installed: {', '.join(missing)}; pip install -e '.[dev]'")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the others keep their order."""
    places = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    """What the modules of all tests hold stays: looking through it for garbage would take a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Batches of a few small images: on a busy machine a second thread costs far more than it gains."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def configure(*overrides: str) -> TrainConfig:
    """The checked configuration of a command line."""
    return compose_config(*overrides)


@pytest.fixture(scope="session")
def cifar10_root() -> Path:
    """The folder with the official CIFAR-10 files. Skips where there is none, unless MNET_REQUIRE_DATA=1."""
    root = Path(os.environ.get("MNET_DATA", "~/.cache/mnet-train")).expanduser()
    if not (root / "cifar-10-batches-py").is_dir():
        message = f"no CIFAR-10 in {root}; set MNET_DATA to the folder that holds cifar-10-batches-py"
        if os.environ.get("MNET_REQUIRE_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return root


@pytest.fixture(scope="session")
def small_cifar10(cifar10_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tenth of the real CIFAR-10 files, for a process that calls `accept_small` on this folder."""
    root = tmp_path_factory.mktemp("small")
    write_small(cifar10_root, root)
    return root


@pytest.fixture
def imagenet_subset() -> Path:
    """The folder with the ten classes of photographs. Skips where there is none, unless MNET_REQUIRE_DATA=1."""
    root = Path(os.environ.get("MNET_DATA", "~/.cache/mnet-train")).expanduser() / "imagenet_subset"
    if not root.is_dir():
        message = f"no photographs in {root}; set MNET_DATA to the folder that holds imagenet_subset"
        if os.environ.get("MNET_REQUIRE_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return root


@pytest.fixture(scope="module")
def short_timings() -> Iterator[None]:
    """That a latency is given is tested, not how exact it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mobilenet_train.deploy.export.TIMED_SECONDS", 0.001)
        yield


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def mnet_train(tmp_path: Path) -> Command:
    """Runs `python -m mobilenet_train ARGUMENTS` in an empty folder: a cold start, seconds of imports alone."""

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mobilenet_train", *arguments]
        settings = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 300, **options}
        return subprocess.run(command, check=False, **settings)  # type: ignore[call-overload]

    return run


@pytest.fixture
def forked(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Runs `mnet-train ARGUMENTS` in an empty folder, in a forked child: for all that is not about the start."""
    outputs = tmp_path_factory.mktemp("outputs")
    return lambda *arguments, folder=tmp_path, **options: run_forked(outputs, folder, *arguments, **options)


def run_forked(
    outputs: Path,
    folder: Path,
    *arguments: str,
    prepare: Callable[[], None] | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """`mnet-train ARGUMENTS` in `folder`, after `prepare()`; its two outputs pass through files in `outputs`."""
    out, err = outputs / "out", outputs / "err"
    child = Child(out, command_line(*arguments, prepare=prepare), folder, err, **environment)
    return subprocess.CompletedProcess(arguments, child.wait(), child.text(), err.read_text())


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small run in a child process, shared by the tests that only look at it."""
    folder = tmp_path_factory.mktemp("command")
    done = run_forked(tmp_path_factory.mktemp("outputs"), folder, *RUN, "ema.decay=0.9", MNET_DRAW="1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (folder / "stdout").write_text(done.stdout)
    return folder
