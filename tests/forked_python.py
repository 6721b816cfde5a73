"""Inside a child of tests/children.py: what the scripts start with `python ...` is forked, with everything imported."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.children import end_with, mnet_train


def fork_pythons() -> None:
    """From here on `subprocess.run` and `multiprocessing` fork this process instead of starting Python."""
    start = subprocess.run
    subprocess.run = lambda command, **options: (  # type: ignore[assignment]
        run_forked(command, **options) if command[0] == sys.executable else start(command, **options)
    )
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda _method=None: fork  # type: ignore[assignment]


def run_forked(
    command: Sequence[str], cwd: Path | None = None, check: bool = False, **_outputs: Any
) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` with both outputs caught; its messages are also passed on."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            os.chdir(cwd or Path.cwd())
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            end_with(what_python_runs(command[1:]))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = [Path(f"/proc/self/fd/{file.fileno()}").read_text() for file in (out, err)]
    sys.stderr.write(texts[1])
    if check and code != 0:
        raise subprocess.CalledProcessError(code, command, *texts)
    return subprocess.CompletedProcess(command, code, *texts)


def what_python_runs(arguments: Sequence[str]) -> Callable[[], object]:
    if arguments[:2] == ["-m", "mobilenet_train"]:
        return mnet_train(*arguments[2:])
    return partial(run_script, *arguments)


def run_script(path: str, *arguments: str) -> None:
    """As `python PATH ARGUMENTS`."""
    sys.argv = [path, *arguments]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path, run_name="__main__")
