"""`hydra/launcher=local`: every job a process of its own, several at once, the same command as by hand."""

import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console

from mobilenet_train.console import say
from mobilenet_train.errors import ConfigError, RunError
from mobilenet_train.signals import StopSignals
from mobilenet_train.sweeps.folder import last_line, log_path
from mobilenet_train.sweeps.live import LiveJob, View
from mobilenet_train.sweeps.processes import Slots, make_slots, spawn

SECONDS_BETWEEN_LOOKS = 0.1
STOPPED = -signal.SIGTERM, 128 + signal.SIGTERM  # what a job ends with when the sweep asks it to


@dataclass
class LocalJob:
    """A job and, once it was started, its process."""

    folder: Path
    arguments: list[str]
    epochs: int | None  # None with a budget
    expected: float  # seconds, or any measure of how long it takes beside the others
    threads: int | None
    tracebacks: bool
    process: subprocess.Popen[str] | None = None
    slot: int = -1
    started: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def log(self) -> Path:
        """The file that its output goes to."""
        return log_path(self.folder.parent, self.name)

    @property
    def exit_code(self) -> int | None:
        """None before its end."""
        return self.process.poll() if self.process else None

    @property
    def failed(self) -> bool:
        """Whether it has ended otherwise than by itself or by the stop that was asked for."""
        return self.exit_code not in (None, 0, *STOPPED)

    @property
    def outcome(self) -> JobReturn:
        """What Hydra wants to know of it; a job that did not complete is a RunError."""
        if self.exit_code == 0:
            return JobReturn(status=JobStatus.COMPLETED)
        return JobReturn(_return_value=RunError(self.last_words()), status=JobStatus.FAILED)

    def last_words(self) -> str:
        """Why it failed, in one line."""
        reason = last_line(self.log).removeprefix("mnet-train: ") or "it printed nothing"
        return f"{self.name} ended with {self.exit_code}: {reason} ({self.log})"

    def start(self, slot: int, slots: Slots) -> None:
        """Starts its process in `slot`, with the threads of a slot unless the user has set them."""
        self.log.parent.mkdir(exist_ok=True)
        capped = [] if self.threads else [f"device.threads={slots.threads}"]
        command = ["-m", "mobilenet_train", *self.arguments, *capped]
        environment = {**slots.environment(slot), "HYDRA_FULL_ERROR": str(int(self.tracebacks))}
        with self.log.open("w") as log:
            self.process = spawn(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        self.slot, self.started = slot, time.monotonic()


class Crew:
    """Keeps every slot busy until all jobs have ended or a stop is asked for."""

    def __init__(self, jobs: Sequence[LocalJob], slots: Slots, after_job: Callable[[], None]) -> None:
        self.waiting = deque(jobs)
        self.running: list[LocalJob] = []
        self.slots = slots
        self.after_job = after_job
        self.view = View([LiveJob(job.folder, job.epochs, job.expected) for job in jobs], Console())

    def run(self, stop: Callable[[], int], stop_on_failure: bool) -> None:
        """Until all have ended, `stop` is true, or one fails and `stop_on_failure` is set."""
        with self.view:
            while self.waiting or self.running:
                self.fill()
                time.sleep(SECONDS_BETWEEN_LOOKS)
                ended = self.collect()
                if stop() or (stop_on_failure and any(job.failed for job in ended)):
                    self.stop()
                    break
                self.view.refresh()

    def fill(self) -> None:
        """Starts waiting jobs in free slots."""
        free = set(range(self.slots.count)) - {job.slot for job in self.running}
        for slot in sorted(free)[: len(self.waiting)]:
            job = self.waiting.popleft()
            job.start(slot, self.slots)
            self.running.append(job)
            self.view.started(job.folder)

    def collect(self) -> list[LocalJob]:
        """Takes the ended jobs away, and reports them."""
        ended = [job for job in self.running if job.exit_code is not None]
        for job in ended:
            self.running.remove(job)
            self.view.ended(job.folder, job.last_words() if job.failed else "")
            self.after_job()
        return ended

    def stop(self) -> None:
        """Asks the running jobs to save their state and leave, and waits for them."""
        for job in self.running:
            assert job.process is not None
            job.process.terminate()
        for job in self.running:
            assert job.process is not None
            job.process.wait()
            self.view.ended(job.folder, "")
        self.running.clear()


class LocalLauncher(Launcher):
    """Runs jobs in `slots` processes at once; one that fails or is killed does not touch the others."""

    tracebacks = False  # in the jobs' logs

    def __init__(self) -> None:
        self.after_job: Callable[[], None] = lambda: None
        self.expected: dict[str, float] = {}  # seconds of each job by its name, as far as they are known

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        del task_function  # the jobs are processes: they find it themselves
        self.loader = hydra_context.config_loader
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Runs all jobs and returns their exit codes as COMPLETED or FAILED.

        Stopped by a signal, it stops the jobs, which save their state, and exits with 128 + the signal.
        """
        del initial_job_idx  # jobs are known by their folders
        jobs = [self.local_job(overrides) for overrides in job_overrides]
        slots = make_slots(self.config.slots, len(jobs), self.config.device.name, self.config.device.threads)
        stop = StopSignals()
        stop_on_failure = self.config.on_failure == "stop"
        Crew(jobs, slots, self.after_job).run(stop, stop_on_failure)
        if stop():
            say(Console(), "stopped; the same command continues")
            sys.exit(stop.exit_code)
        return [job.outcome for job in jobs]

    def local_job(self, overrides: Sequence[str]) -> LocalJob:
        """The job of these overrides. Raises ConfigError if no sweeper has named its run folder."""
        composed = self.loader.load_sweep_config(self.config, list(overrides))
        if composed.run_dir is None:
            raise ConfigError("hydra/launcher=local needs hydra/sweeper=grid or optuna, which name the run folders")
        epochs = composed.epochs if composed.budget is None else None
        words = [*self.config_dir(), *overrides]
        folder = Path(composed.run_dir)
        expected = self.expected.get(folder.name, 1.0)
        return LocalJob(folder, words, epochs, expected, composed.device.threads, self.tracebacks)

    def config_dir(self) -> list[str]:
        """The user's own --config-dir, for the jobs."""
        sources = [source for source in self.config.hydra.runtime.config_sources if source.provider == "command-line"]
        return [part for source in sources for part in ("--config-dir", source.path)]
