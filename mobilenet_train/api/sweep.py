"""`sweep()`: the command in a process of its own, whose output is shown here, and what came out of it."""

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose

from mobilenet_train.api.figures import inline
from mobilenet_train.api.run import Run
from mobilenet_train.api.words import words_of
from mobilenet_train.config.compose import hydra_of_its_own
from mobilenet_train.config.overrides import check_line, parsed
from mobilenet_train.disk import expanded
from mobilenet_train.errors import ConfigError, RunError, require
from mobilenet_train.sweeps.figures import pareto_figure
from mobilenet_train.sweeps.folder import read_manifest
from mobilenet_train.sweeps.processes import spawn
from mobilenet_train.sweeps.report import as_values
from mobilenet_train.sweeps.rows import read_rows
from mobilenet_train.sweeps.sweep import sweep_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROGRAM = "mnet-train: "  # how the one line of an error begins


class Sweep:
    """The folder of a sweep, finished or not."""

    def __init__(self, path: str | Path) -> None:
        """Raises RunError if the folder is not a sweep."""
        self.path = expanded(path).absolute()
        read_manifest(self.path)

    def __repr__(self) -> str:
        return f"Sweep({str(self.path)!r}: {len(self.runs)} runs)"

    @property
    def runs(self) -> list[Run]:
        """Those of its jobs that have started, in the order of sweep.json."""
        folders = (self.path / job.name for job in read_manifest(self.path).jobs)
        return [Run(folder) for folder in folders if (folder / "config.yaml").exists()]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What `mnet-report --json` prints: one row a configuration, repeats over seeds merged."""
        return as_values(read_rows([self.path]))

    def frame(self) -> Any:
        """The rows as a pandas DataFrame. Raises RunError without pandas."""
        return require("pandas", "pandas").DataFrame(self.rows)

    def figure(self) -> "Figure":
        """Top-1 against cost; a notebook shows it. Raises RunError before a job has finished."""
        rows = read_rows([self.path])
        if not any(row.top1 for row in rows):
            raise RunError(f"{self.path} has no finished job yet")
        return inline(pareto_figure(rows, self.path.name))


def sweep(*overrides: str, **keys: Any) -> Sweep:
    """Runs `mnet-train -m OVERRIDES` in a process of its own and returns the sweep; the same call continues it.

        sweep("dataset=digits", "model.width_mult=0.25,0.5", seed=(0, 1, 2))

    A tuple or range holds the values of a key. Ctrl-C lets the jobs save and returns the sweep. Networks and data sets
    of one's own are named by import path, since jobs are processes. Raises UserError with the message of the command.
    """
    words = [*overrides, *words_of(keys)]
    check_line(words)
    code, message, interrupted = _command(["-m", *words])
    if code == 0 or interrupted:
        return Sweep(_folder_of(words))
    kind = ConfigError if code == ConfigError.exit_code else RunError
    raise kind(message)


def _command(arguments: Sequence[str]) -> tuple[int, str, bool]:
    """The exit code of `mnet-train ARGUMENTS`, the message that it ended with, and whether Ctrl-C stopped it here."""
    said: list[str] = []
    interrupted = False
    process = spawn(["-m", "mobilenet_train", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    errors = threading.Thread(target=lambda: said.extend(process.stderr or ()))
    errors.start()
    while True:
        try:
            for line in process.stdout or ():
                print(line, end="", flush=True)
            break
        except KeyboardInterrupt:
            interrupted = True
            process.send_signal(signal.SIGTERM)
    errors.join()
    text = "".join(said)
    _, found, message = text.rpartition(PROGRAM)
    if not found and text:
        print(text, file=sys.stderr, end="")
    return process.wait(), message.strip() or f"mnet-train ended with {process.returncode}", interrupted


def _folder_of(words: Sequence[str]) -> Path:
    """The folder that the sweep of a command line has."""
    fixed = [str(override.input_line) for override in parsed(words) if not override.is_sweep_override()]
    with hydra_of_its_own():
        master = compose("train", overrides=fixed, return_hydra_config=True)
    grid = [f"{key}={value}" for key, value in (master.hydra.sweeper.get("params") or {}).items()]
    return sweep_folder(master, [*grid, *words])
