"""Whatever stands in the place of a path, every command ends in one line that says what is wrong; none hangs."""

import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from mobilenet_train.cli import train
from mobilenet_train.console import LONGEST, printable
from tests.attack.helpers import DIGITS, NETWORK
from tests.children import NOBODY, Child, become_nobody
from tests.data.image_files_for_tests import draw, encoded, tree
from tests.sweeps.made import make_sweep
from tests.tools import MAINS, WITHOUT_RUN

COMMANDS = {"mnet-train": train.main, **MAINS, **WITHOUT_RUN}
TRAINED = (*NETWORK, *DIGITS, "max_updates=1")
IMAGES = "mnet-train NETWORK batch_size=4 device.threads=1 max_updates=1 tensorboard=false dataset.resolution=16 "
PLACES = [
    "mnet-eval PATH",
    "mnet-eval RUN --data PATH",
    "mnet-eval RUN --out PATH",
    "mnet-predict PATH text",
    "mnet-predict RUN PATH",
    "mnet-info PATH",
    "mnet-export PATH",
    "mnet-export RUN --to safetensors --data PATH",
    "mnet-export RUN --to safetensors --out PATH",
    "mnet-bench --model v1 --width 0.1 --resolution 32 --runtime eager --seconds 0.001 --csv PATH",
    "mnet-bench --compare PATH PATH",
    "mnet-plan --budget-ms 10000 --resolution 32 --model v1 --runtime eager --seconds 0.001 --picture PATH",
    "mnet-plan --budget-ms 8 --measured PATH",
    "mnet-bench PATH",
    "mnet-report PATH",
    "mnet-report SWEEP --output PATH",
    "mnet-report diff PATH RUN",
    "mnet-cache --cache-dir PATH",
    "mnet-cache remove --cache-dir PATH 0123",
    "mnet-cache remove PATH --cache-dir empty",
    "mnet-train --config-dir PATH --cfg job TRAINED",
    "mnet-train resume=PATH",
    "mnet-train TRAINED run_dir=PATH",
    "mnet-train TRAINED outputs=PATH",
    "mnet-train TRAINED sweep=s -m seed=0,1 dry_run=true outputs=PATH",
    "mnet-train TRAINED model.weights=PATH",
    f"{IMAGES} dataset=folder dataset.root=PATH",
    f"{IMAGES} dataset=folder dataset.root=IMAGES run_dir=kept dataset.cache_dir=PATH",
    f"{IMAGES} dataset=webdataset dataset.test=SHARD dataset.train=PATH dataset.cache_dir=c run_dir=kept",
    f"{IMAGES} dataset=webdataset dataset.test=SHARD dataset.train=SHARD dataset.cache_dir=c dataset.class_names=PATH",
]
NOT_UTF8 = os.fsdecode(b"\xff\xfe")
HOSTILE = ["", "~nobody-at-all/x", "a\0b", "x" * 5000, "pipe", "empty", "broken", "loop", "full", "text", NOT_UTF8]
LIMIT = 60  # seconds


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the hostile things in it, which is the current one."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("MNET_DATA", "/nowhere")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    os.mkfifo("pipe")
    Path("empty").mkdir()
    for name, target in {"broken": "no/where", "loop": "loop", "full": "/dev/full"}.items():
        Path(name).symlink_to(target)
    Path("text").write_text("hello\n")
    return place


@pytest.fixture(scope="module")
def others(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What stands for itself in a command line."""
    import io
    import tarfile

    folder = tmp_path_factory.mktemp("others")
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for number in range(8):
            for suffix, data in (("jpg", encoded(draw(number))), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    sweep = make_sweep(folder / "sweep", {(0.1, 0): 60.0})
    paths = {"RUN": small_run, "SWEEP": sweep, "IMAGES": tree(folder / "images"), "SHARD": folder / "shard.tar"}
    return {name: str(path) for name, path in paths.items()}


def words_of(line: str, path: str, others: dict[str, str]) -> list[str]:
    """The words of a command line, with `path` in the place of PATH, in quotes where Hydra reads it."""
    words: list[str] = []
    for word in line.split():
        key, equals, value = word.partition("=")
        if word in ("TRAINED", "NETWORK"):
            words += TRAINED if word == "TRAINED" else NETWORK
        elif equals and value in ("PATH", *others):
            words.append(f"{key}='{path if value == 'PATH' else others[value]}'")
        else:
            words.append(path if word == "PATH" else others.get(word, word))
    return words


def outcome(words: list[str]) -> tuple[object, str]:
    """The exit code and the errors of a command in this process. A hang is one that the alarm ends."""
    errors = StringIO()
    GlobalHydra.instance().clear()
    sys.argv = words
    code: object = 0
    signal.alarm(LIMIT)
    with redirect_stdout(StringIO()), redirect_stderr(errors):
        try:
            COMMANDS[words[0]]()
        except SystemExit as end:
            code = end.code or 0
        except BaseException as error:
            code = repr(error)
    signal.alarm(0)
    return code, errors.getvalue()


def faults(code: object, errors: str, path: str) -> str:
    """What is wrong with how a command ended; empty if nothing is."""
    lines = errors.splitlines()
    if code == 0:
        return "" if errors == "" else f"says {errors}"
    if code not in (1, 2) or "Traceback" in errors:
        return f"ends with {code}: {errors}"
    if len(lines) != 1 or len(lines[0]) > LONGEST or not lines[0].isprintable():
        return f"says more than a line: {errors}"
    named = printable(path)[:12] in errors if path else "empty" in errors
    return "" if named else f"does not name it: {errors}"


class HangError(BaseException):
    """A command did not end."""


def ring(*_: object) -> None:
    raise HangError


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", PLACES)
def test_a_hostile_path_is_one_line_in_every_command(
    line: str, others: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [])
    before = signal.signal(signal.SIGALRM, ring)
    hostile = [*HOSTILE[1:4], "loop"] if "-m" in line else HOSTILE  # a sweep measures its jobs, for seconds
    found = {path[:20]: faults(*outcome(words_of(line, path, others)), path) for path in hostile}
    signal.signal(signal.SIGALRM, before)
    assert {path: said for path, said in found.items() if said} == {}


def as_nobody(warm_up: list[list[str]], lines: list[list[str]]) -> None:
    """Prints what is wrong with how each command ends. First root imports what it needs, from folders of its own."""
    for module in ("multiprocessing.popen_fork", "encodings.cp437"):
        import_module(module)
    for words in warm_up:
        assert outcome(words)[0] == 0
    become_nobody()
    for words in lines:
        code, errors = outcome(words)
        if code == 0 or (said := faults(code, errors, "closed")):
            print(words, "worked" if code == 0 else said)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become someone else")
def test_what_a_user_may_neither_read_nor_write_is_one_line_in_every_command(
    here: Path, others: dict[str, str]
) -> None:
    for path in others.values():
        for folder in (here, *here.parents, Path(path), *Path(path).parents):
            if len(folder.parts) > 2:
                folder.chmod(0o755)
    (here / "closed").mkdir()
    (here / "c").mkdir()
    os.chown(here / "c", NOBODY, NOBODY)
    (here / "closed_file").write_text("secret")
    for name in ("closed", "closed_file"):
        (here / name).chmod(0o700)
    lines = [
        words_of(line, path, others)
        for line in PLACES
        for path in ("closed", "closed/below", "closed_file")
        if not any(word in line for word in ("--data", "remove PATH", "--config-dir", "-m "))
    ]
    warm_up = [words_of(line, "kept", others) for line in PLACES if "--out " in line]
    child = Child(here / "output", partial(as_nobody, warm_up, lines))
    assert (child.wait(), child.text()) == (0, "")
