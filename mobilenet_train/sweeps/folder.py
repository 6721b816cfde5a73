"""A sweep's folder: which jobs belong to it, and how far each has come."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobilenet_train import run_folder
from mobilenet_train.errors import RunError
from mobilenet_train.sweeps.jobs import Job
from mobilenet_train.tracking.files import write_text
from mobilenet_train.tracking.summary import read_summary

UNFINISHED = ("waiting", "running", "interrupted", "killed", "failed")


@dataclass(frozen=True)
class Manifest:
    """What sweep.json holds: the overrides that all jobs share, and every job there ever was."""

    overrides: list[str]
    jobs: list[Job]

    def with_jobs(self, more: Iterable[Job]) -> "Manifest":
        """Adds those jobs that are not in it yet."""
        known = {job.hash for job in self.jobs}
        return Manifest(self.overrides, [*self.jobs, *(job for job in more if job.hash not in known)])


def read_manifest(folder: Path) -> Manifest:
    """Raises RunError if the folder holds no sweep."""
    path = folder / "sweep.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} holds no sweep: cannot read {path} ({error})") from error
    return Manifest(values["overrides"], [Job(**job) for job in values["jobs"]])


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_text(folder / "sweep.json", json.dumps(asdict(manifest), indent=2) + "\n")


def known_names(folder: Path, jobs: Sequence[Job]) -> list[Job]:
    """The jobs under the names that their configurations have in this folder already."""
    names = {job.hash: job.name for job in read_manifest(folder).jobs} if (folder / "sweep.json").exists() else {}
    return [Job(names.get(job.hash, job.name), job.swept, job.seed, job.group) for job in jobs]


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
    """What a process said last; nothing if it has not begun."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else ""


def log_path(folder: Path, name: str) -> Path:
    """What the job's process said."""
    return folder / "logs" / f"{name}.txt"
