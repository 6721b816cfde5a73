"""A sweep from its command line to its last table: check all, skip what is done, launch the rest, report."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os.path import realpath  # which takes a loop of links
from pathlib import Path
from typing import IO, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, open_dict, read_write
from rich.console import Console
from rich.table import Table

from mobilenet_train.config.checked import check_use, checked_config
from mobilenet_train.config.explain import explain
from mobilenet_train.config.overrides import as_typed, check_words
from mobilenet_train.config.rules import check_sweep
from mobilenet_train.config.schema import SWEEP_KEYS, TrainConfig
from mobilenet_train.console import add_rows, counted, say, title_of
from mobilenet_train.disk import expanded
from mobilenet_train.errors import ConfigError, RunError, UserError
from mobilenet_train.runs import folder as run_folder
from mobilenet_train.sweeps import report
from mobilenet_train.sweeps.folder import (
    begun_jobs,
    find_sweep,
    known_manifest,
    rebuilt_manifest,
    state_of,
    summary_of,
    write_manifest,
)
from mobilenet_train.sweeps.forecast import Forecast, forecast_all
from mobilenet_train.sweeps.jobs import Job, make_job, typed_by_key
from mobilenet_train.sweeps.local_launcher import LocalLauncher
from mobilenet_train.sweeps.processes import Slots, make_slots

REFUSED = ("run_dir", "resume")
ACTIONS = {"finished": "finished", "waiting": "start", "failed": "try again"}  # else: resume


@dataclass(frozen=True)
class Planned:
    """A job whose configuration has been checked."""

    job: Job
    config: TrainConfig
    overrides: list[str]
    state: str


@dataclass
class Sweep:
    """One sweep's folder, and what is needed to compose and launch its jobs."""

    folder: Path
    overrides: list[str]  # as typed, and as the experiment's grid has them
    swept: list[str]  # the keys that differ between jobs
    loader: ConfigLoader
    master: DictConfig
    console: Console = field(default_factory=Console)
    held: IO[str] | None = None

    @classmethod
    def of(cls, loader: ConfigLoader, master: DictConfig, grid: Sequence[str]) -> "Sweep":
        """The sweep that a composed configuration asks for. Raises ConfigError for keys that a sweep cannot have."""
        check_sweep(master)
        typed = [*grid, *as_typed(master.hydra)]
        parsed = OverridesParser.create().parse_overrides(typed)
        local = master.hydra.launcher._target_.startswith("hydra_plugins._mobilenet_train.")
        for override in parsed:
            key = override.key_or_group
            if key in REFUSED:
                raise ConfigError(f"{key} cannot be given with -m: a sweep names its own run folders; give sweep=NAME")
            if key in SWEEP_KEYS and override.is_sweep_override():
                raise ConfigError(f"{override.input_line} is not allowed: {key} belongs to the whole sweep")
            if key in ("slots", "on_failure") and not local:
                raise ConfigError(f"{key} has no effect with this hydra/launcher; it belongs to hydra/launcher=local")
        swept = list(dict.fromkeys(override.key_or_group for override in parsed if override.is_sweep_override()))
        return cls(sweep_folder(master, typed), typed, swept, loader, master)

    def run(self, launcher: Launcher, batch: Sequence[Sequence[str]]) -> list[JobReturn]:
        """Runs a batch of jobs, each given by its overrides, and returns what became of each, in order.

        Raises UserError before anything is started or written if any job is not fine.
        """
        planned = self.plan(batch)
        if self.folder.exists():
            self.take()
            planned = [replace(one, state=state_of(self.folder, one.job.name)) for one in planned]
        todo = list({one.job.hash: one for one in planned if one.state != "finished"}.values())
        slots = self.slots(launcher, todo)
        forecasts = self.forecast(todo, slots)
        self.show_plan(planned, forecasts, slots)
        if self.master.dry_run:
            self.say("dry run: nothing was started or written")
            sys.exit(0)
        self.take()
        known = known_manifest(self.folder, self.overrides)
        write_manifest(self.folder, known.with_jobs(one.job for one in planned))
        self.launch(launcher, todo, forecasts)
        return [self.outcome(one.job) for one in planned]

    def plan(self, batch: Sequence[Sequence[str]]) -> list[Planned]:
        """Composes and checks every job. Raises ConfigError naming the first job that is wrong."""
        configs = []
        for number, words in enumerate(batch, start=1):
            overrides = [word for word in words if word.partition("=")[0] not in SWEEP_KEYS]
            try:
                composed = self.loader.load_sweep_config(self.master, overrides)
                with read_write(composed), open_dict(composed):
                    del composed["hydra"]
                check_words(overrides)
                config = checked_config(composed, overrides)
                check_use(config, overrides)
                configs.append((config, overrides))
            except Exception as error:  # of the user's making: composing runs nothing
                swept = " ".join(word for word in words if word.partition("=")[0] in self.swept)
                reason = str(error) if isinstance(error, UserError) else explain(error)
                job = f"job {number} of {len(batch)} ({swept}): " if swept else ""
                raise ConfigError(f"{job}{reason}") from error
        return [
            Planned(job, config, [*overrides, f"run_dir='{self.folder / job.name}'"], "waiting")
            for job, (config, overrides) in zip(self.as_begun(configs), configs, strict=True)
        ]

    def as_begun(self, configs: Sequence[tuple[TrainConfig, list[str]]]) -> list[Job]:
        """The jobs for these configurations and words; equal ones, and what is in the folder already, have one name.

        A job for which the same was typed before is the job of then: what nobody typed is its own, as when a run is
        resumed, whatever a later version's default is.
        """
        jobs = [make_job(config, self.swept_values(words)) for config, words in configs]
        known = known_manifest(self.folder, self.overrides).jobs
        names = {job.hash: job.name for job in known}
        begun = begun_jobs(self.folder, known, self.swept) if {job.hash for job in jobs} - names.keys() else []
        changed: dict[str, list[str]] = {}
        for number, (config, words) in enumerate(configs):
            job = jobs[number]
            typed = typed_by_key(words, self.swept) if begun else {}
            before = [one for one in begun if one.typed == typed]
            if job.hash in names or not before:
                jobs[number] = replace(job, name=names.setdefault(job.hash, job.name))
            else:
                jobs[number] = before[0].job
                changed[job.label] = before[0].saved.differences(config)
        keys = list(dict.fromkeys(key for found in changed.values() for key in found))
        if keys:
            jobs_of_then = f"{counted(len(changed), 'job')} began with other defaults ({', '.join(keys)})"
            self.say(f"{jobs_of_then}, which stay; sweep=NAME starts from scratch with today's")
        return jobs

    def swept_values(self, overrides: Sequence[str]) -> dict[str, str]:
        """The values of a job's swept keys, as typed."""
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        return {o.key_or_group: o.get_value_element_as_str() for o in parsed if o.key_or_group in self.swept}

    def take(self) -> None:
        """Makes the folder if need be, locks it, and waits for jobs that still save their state in it.

        Raises RunError naming the process that runs this sweep already.
        """
        if self.held is not None:
            return
        others = self.folder.is_dir() and not (self.folder / "sweep.json").exists() and self.names() - {"lock"}
        if others and not rebuilt_manifest(self.folder).jobs:
            raise RunError(f"{self.folder} is not empty and is not a sweep; choose another name: sweep=NAME")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.folder} cannot be made: {error.strerror} ({error.filename})") from error
        self.held = run_folder.lock(self.folder)
        for path in self.folder.glob("*/lock"):
            run_folder.wait_until_free(path.parent, self.say)

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def say(self, message: str) -> None:
        say(self.console, message)

    def slots(self, launcher: Launcher, todo: Sequence[Planned]) -> Slots | None:
        """How many jobs run side by side here; None if they run elsewhere."""
        if not isinstance(launcher, LocalLauncher):
            return None
        device = self.master.device
        return make_slots(self.master.slots, len(todo), device.name, device.threads)

    def forecast(self, todo: Sequence[Planned], slots: Slots | None) -> dict[str, Forecast]:
        """What each group of repeats will cost, by its hash."""
        groups = {one.job.group: one.config for one in todo}
        if not groups:
            return {}
        self.say(f"measuring {counted(len(groups), 'configuration')} ...")
        return dict(zip(groups, forecast_all(list(groups.values()), slots), strict=True))

    def show_plan(self, planned: Sequence[Planned], forecasts: dict[str, Forecast], slots: Slots | None) -> None:
        """Prints every job with what it will cost, and what will be done with it."""
        table = Table(title=title_of(f"sweep {self.folder.name}"), title_justify="left")
        for column in ("job", "", "parameters", "MAdds", "time"):
            table.add_column(column, justify="left" if column in ("job", "") else "right")
        total = 0.0
        for one in planned:
            cells = ["", "", ""]
            if one.state == "finished":
                done = summary_of(self.folder, one.job.name)
                cells = [f"{done['parameters']:,}", f"{done['multiply_adds'] / 1e6:.2f} M", "-"]
            else:
                cost = forecasts[one.job.group]
                total += cost.seconds or 0.0
                time = report.duration(cost.seconds) if cost.seconds is not None else "?"
                cells = [f"{cost.parameters:,}", f"{cost.multiply_adds / 1e6:.2f} M", time]
            add_rows(table, [(one.job.label, ACTIONS.get(one.state, "resume"), *cells)])
        self.console.print(table)
        if slots is not None and forecasts:
            at_once = f"{slots.count} at once, {counted(slots.threads, 'thread')} each"
            about = report.duration(total / slots.count)
            self.say(f"about {about} if all of these start from scratch, {at_once}")
        self.say(f"sweep folder: {self.folder}")

    def launch(self, launcher: Launcher, todo: Sequence[Planned], forecasts: dict[str, Forecast]) -> None:
        """Runs the jobs, the longest first, so that none is left alone at the end; reports whatever happens."""
        longest_first = sorted(todo, key=lambda one: -(forecasts[one.job.group].seconds or 0.0))
        if isinstance(launcher, LocalLauncher):
            launcher.after_job = lambda: report.write(self.folder, figure=False)
            launcher.expected = {one.job.name: forecasts[one.job.group].seconds or 1.0 for one in todo}
        try:
            if longest_first:
                launcher.launch([one.overrides for one in longest_first], initial_job_idx=0)
        finally:
            report.write(self.folder)
            report.show([self.folder], self.console)

    def outcome(self, job: Job) -> JobReturn:
        """The job's objective, or the reason why it has none."""
        state, summary = state_of(self.folder, job.name), summary_of(self.folder, job.name)
        if state == "finished":
            return JobReturn(_return_value=objective(summary), status=JobStatus.COMPLETED)
        return JobReturn(_return_value=RunError(f"job {job.name} {state}"), status=JobStatus.FAILED)


def sweep_folder(master: DictConfig, typed: Sequence[str]) -> Path:
    """The folder of the sweep that was composed from what is typed and the experiment's grid."""
    outputs = Path(realpath(expanded(master.outputs)))
    return outputs / master.sweep if master.sweep else find_sweep(outputs, typed)


def objective(summary: dict[str, Any]) -> float:
    """What a search maximises: the last epoch's top-1 in percent, on the hold-out split if there is one."""
    final = summary["final"]
    return float((final["val"] or final["test"])["top1"])


def refuse_failures(outcomes: Sequence[JobReturn]) -> None:
    """Raises RunError if any job did not finish."""
    failed = [outcome for outcome in outcomes if outcome.status is JobStatus.FAILED]
    if failed:
        sys.stdout.flush()
        raise RunError(
            f"{len(failed)} of {len(outcomes)} jobs did not finish; the same command tries them again: "
            + ", ".join(str(outcome._return_value).removeprefix("job ") for outcome in failed)
        )
