"""Child processes forked from a server that has imported the trainer and trained nothing (tests/preloaded.py).

So they start in a moment, can be killed often, and inherit no thread, lock or garbage of the tests before them.
"""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import chdir, suppress
from functools import partial
from pathlib import Path
from typing import IO

NOBODY = 65534
ROOT = Path(__file__).parents[1]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preloaded"])


def become_nobody() -> None:
    """Gives up root's rights, for whom no file is unreadable and no folder closed."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


class Child:
    """A process that calls `function` (picklable) now, in `folder` or here.

    What it prints goes to the file `output`; its messages too, unless `errors` names a file for them.
    """

    def __init__(
        self,
        output: Path,
        function: Callable[[], object],
        folder: Path | None = None,
        errors: Path | None = None,
        **environment: str,
    ) -> None:
        self.output = output
        self.output.write_text("")
        self.started = time.monotonic()
        arguments = (function, output, errors or output, folder or Path.cwd(), {**os.environ, **environment})
        self.process = SERVER.Process(target=_become, args=arguments)
        with chdir(ROOT):  # where the server, which starts with the first child, finds tests.preloaded
            self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def kill(self, number: int = signal.SIGKILL) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(self.pid, number)

    def ended(self) -> int | None:
        """The exit code, or None while it runs; negative for a signal."""
        return self.process.exitcode

    def wait(self, seconds: float = 240) -> int:
        self.process.join(seconds)
        code = self.ended()
        if code is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"no end after {seconds} s: {self.text()}")
        return code

    def wait_for(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.ended() is None or condition(), self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.01)

    def text(self) -> str:
        return self.output.read_text()


class Forked:
    """What `subprocess.Popen` returns, for a process that is forked from this one and calls `function`.

    It has a session of its own. What it prints goes to `output`, or where this one's goes.
    """

    def __init__(
        self, function: Callable[[], object], environment: Mapping[str, str], output: IO[str] | None = None
    ) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            if output:
                os.dup2(output.fileno(), 1)  # under sys.stdout
                os.dup2(output.fileno(), 2)
            os.environ.update(environment)
            end_with(function)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def wait(self, timeout: float = math.inf) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a forked process", timeout)
            time.sleep(0.01)
        return code


def mnet_train(*arguments: str, prepare: Callable[[], None] | None = None) -> Callable[[], None]:
    """For a Child: `mnet-train ARGUMENTS`, after `prepare()` (picklable) if that is given."""
    return partial(_run_command, arguments, prepare)


def _run_command(arguments: tuple[str, ...], prepare: Callable[[], None] | None) -> None:
    from hydra.core.global_hydra import GlobalHydra

    from mobilenet_train.cli.train import main

    GlobalHydra.instance().clear()  # of a sweep that was forked
    if prepare:
        prepare()
    sys.argv = ["mnet-train", *arguments]
    main()


def _become(
    function: Callable[[], object], output: Path, errors: Path, folder: Path, environment: dict[str, str]
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 1)
    os.dup2(1 if errors == output else os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    end_with(function)


def end_with(function: Callable[[], object]) -> None:
    """Calls `function` and ends this process at once, with the code that a command would end with."""
    code: object = 0
    try:
        function()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 70
    with suppress(OSError):  # a closed terminal
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)
