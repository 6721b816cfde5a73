"""A sweep's folder: which jobs belong to it, and how far each has come."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mobilenet_train.config.saved import read_saved
from mobilenet_train.disk import write_text
from mobilenet_train.errors import RunError
from mobilenet_train.runs import folder as run_folder
from mobilenet_train.runs.folder import read_summary
from mobilenet_train.sweeps.jobs import Job, hashes, identity

FORMAT = 2  # of sweep.json; without a number it is of version 0.1.0
NEVER_STARTED = ""  # the hash of a job of version 0.1.0 that saved nothing
UNFINISHED = ("waiting", "running", "interrupted", "killed", "failed")


@dataclass(frozen=True)
class Manifest:
    """What sweep.json holds: the overrides that all jobs share, and every job there ever was."""

    overrides: list[str]
    jobs: list[Job]

    def with_jobs(self, more: Iterable[Job]) -> "Manifest":
        """Adds those jobs that are not in it yet, and leaves out old ones that cannot be told apart from them."""
        known = {job.hash for job in self.jobs}
        kept = [job for job in self.jobs if job.hash != NEVER_STARTED]
        return Manifest(self.overrides, [*kept, *(job for job in more if job.hash not in known)])


def read_manifest(folder: Path) -> Manifest:
    """Raises RunError if the folder does not hold a sweep."""
    path = folder / "sweep.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} is not a sweep: cannot read {path} ({error})") from error
    if values.get("format", 1) > FORMAT:
        raise RunError(f"{path} has format {values['format']}, which is newer than this version's, {FORMAT}")
    read = _job_of_version_1 if "format" not in values else _job
    return Manifest(values["overrides"], [read(folder, job) for job in values["jobs"]])


def _job(folder: Path, values: dict[str, Any]) -> Job:
    del folder
    return Job(**values)


def _job_of_version_1(folder: Path, values: dict[str, Any]) -> Job:
    """Version 0.1.0 hashed configurations otherwise: the hash is made from what the job itself saved."""
    if not (folder / values["name"] / "config.yaml").exists():
        return Job(**values, hash=NEVER_STARTED)
    own, group = hashes(read_saved(folder / values["name"]).config, values["swept"])
    return Job(values["name"], values["swept"], values["seed"], group, own)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replaces sweep.json in one go. Raises RunError if it cannot be written."""
    write_text(folder / "sweep.json", json.dumps({"format": FORMAT, **asdict(manifest)}, indent=2) + "\n")


def known_names(folder: Path, jobs: Sequence[Job]) -> list[Job]:
    """The jobs under the names that they have in this folder already; equal jobs have the first one's."""
    names = {job.hash: job.name for job in read_manifest(folder).jobs} if (folder / "sweep.json").exists() else {}
    return [replace(job, name=names.setdefault(job.hash, job.name)) for job in jobs]


def find_sweep(outputs: Path, words: Sequence[str]) -> Path:
    """The folder of the sweep that a command line asks for, whichever order its words had when it was made."""
    wanted = identity(words)
    for path in sorted(outputs.glob("*/sweep.json")):
        there = read_manifest(path.parent).overrides
        if identity(there) == wanted and not any(word.startswith("sweep=") for word in there):
            return path.parent
    return outputs / wanted.name


def state_of(folder: Path, name: str) -> str:
    """ "finished" or one of UNFINISHED, read off the job's run folder and its log."""
    run = folder / name
    if not (run / "summary.json").exists():
        return "failed" if last_line(log_path(folder, name)).startswith("mnet-train: ") else "waiting"
    status = str(read_summary(run)["status"])
    return "killed" if status == "running" and run_folder.holder(run) is None else status


def summary_of(folder: Path, name: str) -> dict[str, Any]:
    """The run's summary.json; empty if it has none yet."""
    return read_summary(folder / name) if (folder / name / "summary.json").exists() else {}


def last_line(log: Path) -> str:
    """What a process said last; nothing if it has not started."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else ""


def log_path(folder: Path, name: str) -> Path:
    """What the job's process said."""
    return folder / "logs" / f"{name}.txt"
