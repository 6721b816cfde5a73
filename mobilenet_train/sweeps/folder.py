"""A sweep's folder: which jobs belong to it, and how far each has come."""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobilenet_train.config.overrides import parsed
from mobilenet_train.config.saved import Saved, read_saved, read_words
from mobilenet_train.disk import read_json, regular, write_text
from mobilenet_train.errors import ConfigError, RunError, UserError
from mobilenet_train.runs import folder as run_folder
from mobilenet_train.runs.folder import read_summary
from mobilenet_train.sweeps.jobs import Job, hashes, identity, typed_by_key

FORMAT = 3  # of sweep.json; without a number it is of version 0.1.0
JOB_NAME = re.compile(r".+_[0-9a-f]{8}")  # as `make_job` names it
NEVER_STARTED = ""  # the hash of an older version's job that saved nothing
UNFINISHED = ("waiting", "running", "interrupted", "killed", "failed")
DAMAGED = "summary.json damaged"


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


@dataclass(frozen=True)
class Begun:
    """A job that was started before."""

    job: Job
    typed: dict[str, str]  # for this job, its folder and free keys left out
    saved: Saved


def read_manifest(folder: Path) -> Manifest:
    """What sweep.json says; without that file, what the jobs in the folder say themselves.

    Raises RunError if the folder does not hold a sweep, or naming the file if it is damaged.
    """
    path = folder / "sweep.json"
    if not path.exists():
        found = rebuilt_manifest(folder)
        if not found.jobs:
            raise RunError(f"{folder} is not a sweep: {path} does not exist")
        return found
    values = read_json(path)
    try:
        number = values.get("format", 1)
        if number > FORMAT:
            raise RunError(f"{path} has format {number}, which is newer than this version's, {FORMAT}")
        _check_manifest(values)
        read = _job if number == FORMAT else _rehashed
        return Manifest(values["overrides"], [read(folder, job) for job in values["jobs"]])
    except (LookupError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise RunError(f"{path} is damaged: delete it, and it is written again from the jobs beside it") from error


def _check_manifest(values: dict[str, Any]) -> None:
    """Raises ValueError, ConfigError, or what a wrong type raises, for words and names that no sweep of ours has."""
    swept = {f"{key}={value}" for job in values["jobs"] for key, value in job["swept"].items()}
    parsed([*values["overrides"], *swept])
    for job in values["jobs"]:
        texts = [text for key, text in job.items() if key not in ("swept", "seed")]
        if not all(isinstance(text, str) for text in (*texts, *job["swept"].values())) or "/" in job["name"]:
            raise ValueError("a text is none")
        if type(job["seed"]) is not int:
            raise ValueError("a seed is none")


def rebuilt_manifest(folder: Path) -> Manifest:
    """The sweep that the run folders in `folder` come from, by what they saved; without jobs if there is none.

    What was typed for all of them was fixed, the rest was swept.
    """
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    typed: dict[str, list[str]] = {}
    for path in paths:
        with suppress(UserError):  # a job whose files are damaged says so itself when it is started again
            if (path / "config.yaml").exists() and _started_as(words := read_words(path), path.name):
                read_saved(path)
                typed[path.name] = words
    fixed = [word for word in next(iter(typed.values()), []) if all(word in words for words in typed.values())]
    jobs = []
    for name, words in typed.items():
        own = parsed([word for word in words if word not in fixed and not word.startswith("run_dir=")])
        swept = {override.key_or_group: override.get_value_element_as_str() for override in own}
        seed = read_saved(folder / name).config.seed
        jobs.append(_rehashed(folder, {"name": name, "swept": swept, "seed": seed}))
    return Manifest(fixed, jobs)


def _started_as(words: Sequence[str], name: str) -> bool:
    """True for a job of a sweep, which names its folder after what it sweeps."""
    folders = [override.value() for override in parsed(words) if override.key_or_group == "run_dir"]
    return any(Path(str(folder)).name == name for folder in folders) and bool(JOB_NAME.fullmatch(name))


def _job(folder: Path, values: dict[str, Any]) -> Job:
    del folder
    return Job(**values)


def _rehashed(folder: Path, values: dict[str, Any]) -> Job:
    """Older versions hashed configurations otherwise: the hash is made from what the job itself saved."""
    try:
        own, group = hashes(read_saved(folder / values["name"]).config, values["swept"])
    except UserError:  # it saved nothing, or nothing that can be read
        return Job(**{"group": NEVER_STARTED, **values, "hash": NEVER_STARTED})
    return Job(values["name"], values["swept"], values["seed"], group, own)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replaces sweep.json in one go. Raises RunError if it cannot be written."""
    write_text(folder / "sweep.json", json.dumps({"format": FORMAT, **asdict(manifest)}, indent=2) + "\n")


def known_manifest(folder: Path, overrides: list[str]) -> Manifest:
    """What a sweep's folder has so far; without sweep.json, the jobs beside it, if any, under these overrides."""
    if (folder / "sweep.json").exists():
        return read_manifest(folder)
    return Manifest(overrides, rebuilt_manifest(folder).jobs)


def begun_jobs(folder: Path, jobs: Iterable[Job], swept: Collection[str]) -> list[Begun]:
    """Those of a sweep's jobs that have a run folder, with what was typed for them and what they saved."""
    begun = []
    for job in jobs:
        with suppress(UserError):  # nothing was saved, or it is damaged, which the job says itself when it goes on
            begun.append(Begun(job, typed_by_key(read_words(folder / job.name), swept), read_saved(folder / job.name)))
    return begun


def find_sweep(outputs: Path, words: Sequence[str]) -> Path:
    """The folder of the sweep that a command line asks for, whichever order its words had when it was made."""
    wanted = identity(words)
    for path in sorted(outputs.glob("*/sweep.json")):
        try:
            there = read_manifest(path.parent).overrides
        except RunError:  # another sweep's, or said when this one's is read
            continue
        if identity(there) == wanted and not any(word.startswith("sweep=") for word in there):
            return path.parent
    return outputs / wanted.name


def state_of(folder: Path, name: str) -> str:
    """ "finished", DAMAGED or one of UNFINISHED, read off the job's run folder and its log."""
    run = folder / name
    if not (run / "summary.json").exists():
        return "failed" if last_line(log_path(folder, name)).startswith("mnet-train: ") else "waiting"
    try:
        status = str(read_summary(run)["status"])
    except RunError:
        return DAMAGED
    return "killed" if status == "running" and run_folder.holder(run) is None else status


def summary_of(folder: Path, name: str) -> dict[str, Any]:
    """The run's summary.json; empty if it has none that can be read."""
    try:
        return read_summary(folder / name)
    except RunError:
        return {}


def last_line(log: Path) -> str:
    """What a process said last; nothing if it has not started."""
    if not log.exists():
        return ""
    with open(log, encoding="utf-8", errors="replace", opener=regular) as file:
        return (file.read().strip().splitlines() or [""])[-1]


def log_path(folder: Path, name: str) -> Path:
    """What the job's process said."""
    return folder / "logs" / f"{name}.txt"
