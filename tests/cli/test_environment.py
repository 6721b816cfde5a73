"""What is wrong with the machine, the data or the user's own code gets one line and leaves no run folder behind."""

import gc
import json
import os
import select
import signal
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torchvision.datasets import CIFAR10

from mobilenet_train import runtime
from mobilenet_train.cli.guard import guarded
from mobilenet_train.config.resume import resolve
from mobilenet_train.config.rules import check
from mobilenet_train.config.saved import Saved
from mobilenet_train.config.schema import SCHEMAS, TrainConfig
from mobilenet_train.data import sources
from mobilenet_train.runs import folder as run_folder
from mobilenet_train.runs import session
from tests.children import become_nobody
from tests.cli.helpers import exit_code, one_line
from tests.conftest import TINY, configure

CIFAR = ("dataset=cifar10", "model=v3_small", "device.threads=1")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty current folder, no data, and signals, paths and Hydra as they were before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNET_DATA", str(tmp_path / "no-data"))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()
    for number, handler in handlers.items():
        signal.signal(number, handler)


composed = cache(configure)


def configured(*arguments: str) -> TrainConfig:
    """Like configure(), but Hydra composes each set of choices only once: half a second for each test saved."""
    choices = [argument for argument in arguments if argument.partition("=")[0] in SCHEMAS]
    own = [f"{argument.partition('=')[0]}.factory=a:b" for argument in choices if argument.endswith("=custom")]
    config = deepcopy(composed(*choices, *own))
    for argument in arguments:
        key, _, value = argument.partition("=")
        *parents, leaf = key.split(".")
        part: Any = config
        for parent in parents:
            part = getattr(part, parent)
        if key not in SCHEMAS:
            assert hasattr(part, leaf)
            setattr(part, leaf, yaml.safe_load(value))
    check(config)
    return config


def run_code(*arguments: str) -> int:
    """The exit code of the command from the moment that the configuration is known to be good."""

    def go() -> int:
        return session.run(resolve(OmegaConf.structured(configured(*arguments)), arguments), arguments)

    return guarded(go, tracebacks=False)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """refused(1, "key=value", ...): the one line of stderr, after checking the exit code."""

    def run(code: int, *arguments: str) -> str:
        assert run_code(*arguments) == code
        return one_line(capsys.readouterr().err)

    return run


# --- as an unprivileged user: root could write and read everything, and the tests would pass for nothing


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that any user can reach (pytest's own belong to one user alone)."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir():
                path.chmod(0o777)


def drop_privileges() -> None:
    if os.geteuid() == 0:
        become_nobody()


def unprivileged_from(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Gives up root's rights just before `owner.name` is called.

    By then everything is imported and composed, so it does not matter whether that user can read the code.
    """
    real = owner[name] if isinstance(owner, dict) else getattr(owner, name)

    def step(*arguments: Any) -> Any:
        drop_privileges()
        assert os.geteuid() != 0
        return real(*arguments)

    if isinstance(owner, dict):
        monkeypatch.setitem(owner, name, step)
    else:
        monkeypatch.setattr(owner, name, step)


def in_child(command: Callable[[], Any], seconds: float = 60) -> Any:
    """What `command` returns in a forked child, whose loss of privileges does not touch this process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        gc.freeze()  # what other tests left behind is not collected here
        try:
            answer: Any = command()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        ready = select.select([answers], [], [], seconds)[0]
        if not ready:
            os.kill(child, signal.SIGKILL)
        answer = answers.read()
    os.waitpid(child, 0)
    assert ready, f"the child did not answer within {seconds} s"
    return json.loads(answer)


@pytest.fixture
def refused_in_child(refused: Callable[..., str]) -> Callable[..., str]:
    def run(code: int, *arguments: str) -> str:
        message = in_child(lambda: refused(code, *arguments))
        assert str(message).startswith("mnet-train: "), message
        return str(message)

    return run


@pytest.mark.parametrize("key", ["outputs", "run_dir"])
def test_a_folder_that_cannot_be_made_is_named_with_its_key(
    key: str, shared_folder: Path, refused_in_child: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_folder.chmod(0o555)
    unprivileged_from(monkeypatch, run_folder, "create")
    message = refused_in_child(1, *TINY, f"{key}={shared_folder}/new")
    assert f"{key}={shared_folder}/new" in message
    assert "Permission denied" in message
    assert list(shared_folder.iterdir()) == []


@pytest.mark.parametrize("key", ["outputs", "run_dir"])
def test_a_folder_that_cannot_be_written_is_named_with_its_key(
    key: str, shared_folder: Path, refused_in_child: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_folder.chmod(0o555)
    unprivileged_from(monkeypatch, run_folder, "create")
    message = refused_in_child(1, *TINY, f"{key}={shared_folder}")
    assert f"{key}={shared_folder}" in message
    assert "Permission denied" in message
    assert list(shared_folder.iterdir()) == []


def test_the_same_user_can_use_a_folder_that_is_writable(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the tests above: it is the folder's mode that they see, not something else on the way."""

    def train(prepared: object, folder: Path, *_: object) -> int:
        del prepared
        (folder / "seen").touch()
        return 0

    unprivileged_from(monkeypatch, run_folder, "create")
    monkeypatch.setattr(session, "train", train)
    assert in_child(lambda: run_code(*TINY, f"outputs={shared_folder}/new")) == 0
    (folder,) = (shared_folder / "new").iterdir()
    assert {path.name for path in folder.iterdir()} >= {"seen", "config.yaml", "overrides.yaml"}


def test_a_run_that_cannot_be_locked_is_named(
    shared_folder: Path, refused_in_child: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder.write_config(shared_folder, Saved(configured(*TINY)))
    (shared_folder / "config.yaml").chmod(0o644)
    shared_folder.chmod(0o555)
    unprivileged_from(monkeypatch, run_folder, "lock")
    message = refused_in_child(1, f"resume={shared_folder}")
    assert str(shared_folder) in message
    assert "cannot be written: Permission denied" in message


@pytest.mark.parametrize("download", ["true", "false"])
def test_a_data_root_that_cannot_be_read_is_named(
    download: str, shared_folder: Path, refused_in_child: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shared_folder / "data"
    root.mkdir()
    root.chmod(0)
    unprivileged_from(monkeypatch, sources.ARRAYS, "cifar10")
    message = refused_in_child(1, *CIFAR, f"dataset.root={root}", f"dataset.download={download}")
    assert f"dataset.root={root}" in message
    assert "Permission denied" in message


def test_a_data_file_that_cannot_be_read_is_named(
    shared_folder: Path, refused_in_child: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shared_folder / CIFAR10.base_folder
    folder.mkdir()
    folder.chmod(0o755)
    file = folder / "data_batch_1"
    file.touch()
    file.chmod(0)
    assert stat.S_IMODE(file.stat().st_mode) == 0
    unprivileged_from(monkeypatch, sources.ARRAYS, "cifar10")
    message = refused_in_child(1, *CIFAR, f"dataset.root={shared_folder}")
    assert f"dataset.root={shared_folder}" in message
    assert "Permission denied" in message
    assert str(file) in message


# --- folders and devices


@pytest.mark.parametrize("key", ["outputs", "run_dir"])
def test_a_file_in_place_of_the_output_folder_is_named(key: str, refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    assert f"{key}=taken" in refused(1, *TINY, f"{key}=taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_run_dir_with_other_files_is_left_alone(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    message = refused(1, *TINY, "run_dir=.")
    assert "run_dir=." in message
    assert "not empty" in message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_cuda_without_a_gpu_says_what_to_use_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert exit_code(monkeypatch, *TINY, "device=cuda") == 1  # all the way through the command
    message = one_line(capsys.readouterr().err)
    assert "device=cuda" in message
    assert "device=cpu" in message
    assert list(tmp_path.iterdir()) == []


def test_half_precision_on_a_cpu_found_by_auto_is_a_wrong_configuration(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(runtime, "cpu_flags", lambda: {"avx2"})
    assert "AVX512_BF16" in refused(2, *TINY, "device=auto", "device.precision=bf16")
    assert "device.precision=fp16" in refused(2, *TINY, "device=auto", "device.precision=fp16")
    assert list(tmp_path.iterdir()) == []


def test_out_of_memory_says_what_to_lower(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def follow(*_: object) -> None:
        raise torch.OutOfMemoryError("20 GiB")

    monkeypatch.setattr(session, "follow", follow)
    message = refused(1, *TINY, "run_dir=run")
    assert "out of memory" in message
    assert "batch_size" in message
    assert json.loads(Path("run/summary.json").read_text())["status"] == "failed"


# --- data


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("batch_size=100000", ["batch_size=100000", "1438 images"]),
        ("dataset.max_per_class=3 batch_size=31", ["batch_size=31", "30 images"]),
        ("dataset.val_fraction=0.9999", ["dataset.val_fraction=0.9999", "class"]),
    ],
    ids=["batch", "batch of a small share", "hold-out"],
)
def test_a_configuration_that_the_data_cannot_serve_is_a_wrong_one(
    key: str, words: list[str], refused: Callable[..., str], tmp_path: Path
) -> None:
    message = refused(2, "dataset=digits", "model=v3_small", "device.threads=1", *key.split())
    assert [word for word in words if word not in message] == [], message
    assert list(tmp_path.iterdir()) == []


def test_a_missing_data_root_without_download_says_where_to_put_the_files(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    message = refused(1, *CIFAR, "dataset.root=nowhere", "dataset.download=false")
    for word in ("dataset.root=nowhere", "data_batch_1", "dataset.download=false", "MNET_DATA"):
        assert word in message
    assert list(tmp_path.iterdir()) == []


class NotFound(BaseHTTPRequestHandler):
    """A server that has nothing."""

    def do_GET(self) -> None:
        self.send_error(404)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        del format, args


@pytest.fixture
def dead_address() -> Iterator[str]:
    """host:port of this machine on which nothing answers: bound, but not listening."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def empty_server() -> Iterator[str]:
    """host:port of this machine where every address answers 404."""
    server = HTTPServer(("127.0.0.1", 0), NotFound)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("host", ["dead_address", "empty_server"])
def test_no_network_says_where_to_put_the_files_and_what_needs_none(
    host: str,
    refused: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(CIFAR10, "url", f"http://{request.getfixturevalue(host)}/{CIFAR10.filename}")
    root = tmp_path / "data"
    message = refused(1, *CIFAR, f"dataset.root={root}")
    for word in (f"dataset.root={root}", CIFAR10.filename, "cifar-10-batches-py/", "MNET_DATA", "dataset=digits"):
        assert word in message
    assert {path.name for path in tmp_path.iterdir()} <= {"data"}


@pytest.mark.parametrize("download", ["true", "false"])
def test_a_truncated_archive_is_named(download: str, refused: Callable[..., str], tmp_path: Path) -> None:
    archive = tmp_path / "data" / CIFAR10.filename
    archive.parent.mkdir()
    archive.write_bytes(b"\x1f\x8b\x08 and then the disk was full")
    message = refused(1, *CIFAR, f"dataset.root={archive.parent}", f"dataset.download={download}")
    assert str(archive) in message
    assert "damaged" in message
    assert "delete it" in message
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert archive.exists()


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch"])
def test_a_truncated_data_file_is_named(name: str, refused: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "data" / CIFAR10.base_folder / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\x80\x02}")
    message = refused(1, *CIFAR, f"dataset.root={tmp_path / 'data'}")
    assert str(file) in message
    assert "damaged" in message
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


# --- the user's own functions

OWN = """
import numpy as np
from torch import nn

from mobilenet_train.data.images import ImageData

IMAGES = np.zeros((8, 16, 16, 3), np.uint8)
LABELS = np.arange(8) % 2


def data(images=IMAGES, labels=LABELS, names=("a", "b"), test=IMAGES):
    return ImageData(images, labels, test, LABELS[: len(test)], list(names))


def number(**sizes): return 3
def integers(): return data(IMAGES.astype(int))
def channels_first(): return data(IMAGES.transpose(0, 3, 1, 2))
def too_few_labels(): return data(labels=LABELS[:5])
def float_labels(): return data(labels=LABELS / 1)
def words(): return data(labels=["a", "b"] * 4)
def labels_out_of_range(): return data(labels=LABELS + 5)
def negative_labels(): return data(labels=LABELS - 1)
def one_class(): return data(labels=LABELS * 0, names="a")
def no_images(): return data(IMAGES[:0], LABELS[:0])
def no_test_images(): return data(test=IMAGES[:0])
"""

FACTORIES: list[tuple[str, int, list[str]]] = [
    ("dataset.factory=no_such_module:data", 2, ["dataset.factory=no_such_module:data", "'no_such_module'"]),
    ("dataset.factory=OWN:nothing", 2, ["no function 'nothing'", "integers"]),
    ("dataset.factory=OWN:IMAGES", 2, ["no function 'IMAGES'"]),
    ("dataset.factory=OWN:number", 1, ["dataset.factory=OWN:number", "int", "ImageData"]),
    ("dataset.factory=OWN:integers", 1, ["training images", "int64", "uint8"]),
    ("dataset.factory=OWN:channels_first", 1, ["training images", "(8, 3, 16, 16)", "(N, H, W, C)"]),
    ("dataset.factory=OWN:too_few_labels", 1, ["training labels", "(5,)", "8 images"]),
    ("dataset.factory=OWN:float_labels", 1, ["training labels", "float64", "whole number"]),
    ("dataset.factory=OWN:words", 1, ["training labels"]),
    ("dataset.factory=OWN:labels_out_of_range", 1, ["training labels", "5 to 6", "0 to 1"]),
    ("dataset.factory=OWN:negative_labels", 1, ["training labels", "-1 to 0"]),
    ("dataset.factory=OWN:one_class", 1, ["1 class"]),
    ("dataset.factory=OWN:no_images", 1, ["no training images"]),
    ("dataset.factory=OWN:no_test_images", 1, ["no test images"]),
    ("model.factory=no_such_module:net", 2, ["model.factory=no_such_module:net", "'no_such_module'"]),
    ("model.factory=OWN:nothing", 2, ["no function 'nothing'"]),
    ("model.factory=OWN:number", 1, ["model.factory=OWN:number", "int", "torch.nn.Module"]),
]


@pytest.mark.parametrize(("choice", "code", "words"), FACTORIES, ids=[choice for choice, _, _ in FACTORIES])
def test_a_wrong_function_of_the_users_own_is_explained(
    choice: str,
    code: int,
    words: list[str],
    refused: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "own_of_environment_tests.py").write_text(OWN)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "own_of_environment_tests", raising=False)
    group = choice.partition(".")[0]
    other = "model=v3_small" if group == "dataset" else "dataset=digits"
    arguments = (f"{group}=custom", choice, other, "device.threads=1", "batch_size=2")
    message = refused(code, *(argument.replace("OWN", "own_of_environment_tests") for argument in arguments))
    message = message.replace("own_of_environment_tests", "OWN")
    assert [word for word in words if word not in message] == [], message
    assert [path.name for path in tmp_path.iterdir()] == ["own_of_environment_tests.py"]
