"""What came out of a sweep: one row a configuration, its repeats over seeds merged."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from mobilenet_train.sweeps.folder import Manifest, read_manifest, state_of, summary_of
from mobilenet_train.sweeps.jobs import SPLIT_SEED, Job, label


@dataclass(frozen=True)
class Run:
    """One job's numbers; None is what has not been measured yet, or not in the last epoch so far. Top-1 in percent."""

    folder: Path
    job: Job
    state: str
    top1: float | None  # of the last epoch, on the test images
    hold_out_top1: float | None  # the same on the hold-out images
    best: float | None
    best_chosen_on: str
    parameters: int | None
    multiply_adds: int | None
    images_per_second: float | None
    seconds: float | None  # of training
    machine: str | None
    fingerprint: str  # of the data set; empty without a summary


@dataclass(frozen=True)
class Spread:
    """Repeats of a number: mean, sample standard deviation, half of the mean's 95 % interval (None for one)."""

    mean: float
    std: float | None
    interval: float | None


def spread(values: Sequence[float]) -> Spread:
    """The interval is Student's: it holds for a few repeats too."""
    if len(values) == 1:
        return Spread(values[0], None, None)
    from scipy.stats import t

    std = statistics.stdev(values)
    interval = float(t.ppf(0.975, len(values) - 1)) * std / math.sqrt(len(values))
    return Spread(statistics.fmean(values), std, interval)


@dataclass(frozen=True)
class Row:
    """The runs of one configuration, in the order of their seeds."""

    swept: dict[str, str]  # without the seed
    runs: list[Run]

    @property
    def label(self) -> str:
        return label(self.swept)

    def swept_value(self, key: str) -> Any:
        """What the text of a swept value stands for, read as Hydra reads it; None for a key that was not swept."""
        text = self.swept.get(key)
        return None if text is None else OverridesParser.create().parse_override(f"{key}={text}").value()

    @property
    def finished(self) -> list[Run]:
        """Those that got to their end."""
        return [run for run in self.runs if run.state == "finished"]

    @property
    def state(self) -> str:
        """`finished`, or how many of the repeats are in which state."""
        counts = Counter(run.state for run in self.runs)
        return self.runs[0].state if len(counts) == 1 else ", ".join(f"{n} {state}" for state, n in counts.items())

    @property
    def top1(self) -> Spread | None:
        """Of the runs that finished."""
        values = [run.top1 for run in self.finished if run.top1 is not None]
        return spread(values) if values else None

    @property
    def top1_text(self) -> str:
        """`88.12`, or `88.12 ± 0.31 (0.12)` over several seeds; nothing if none has finished."""
        top1 = self.top1
        if top1 is None:
            return ""
        return f"{top1.mean:.2f}" + ("" if top1.interval is None else f" ± {top1.interval:.2f} ({top1.std:.2f})")

    def mean(self, name: str) -> float | None:
        """Of a number of the finished runs, e.g. `images_per_second`."""
        values = [getattr(run, name) for run in self.finished]
        return statistics.fmean(values) if values else None


def read_rows(folders: Sequence[Path]) -> list[Row]:
    """The configurations of one or several sweeps. Raises RunError for a folder that is not a sweep.

    What is fixed within each sweep, but not the same in all of them, counts as swept.
    """
    manifests = {folder: read_manifest(folder) for folder in folders}
    extra = {folder: _different(manifest, list(manifests.values())) for folder, manifest in manifests.items()}
    repeats: dict[tuple[str, str | None], dict[int, Run]] = defaultdict(dict)
    swept: dict[tuple[str, str | None], dict[str, str]] = {}
    for folder, manifest in manifests.items():
        for job in manifest.jobs:
            run = read_run(folder, job)
            group = job.group, extra[folder].get(SPLIT_SEED)
            known = repeats[group].get(job.seed)
            if known is None or known.state != "finished" or run.state == "finished":  # the newest counts
                repeats[group][job.seed] = run
            swept[group] = {**extra[folder], **{k: v for k, v in job.swept.items() if k != "seed"}}
    return [Row(swept[group], [runs[seed] for seed in sorted(runs)]) for group, runs in repeats.items()]


def read_run(folder: Path, job: Job) -> Run:
    """One job's numbers from the summary.json in its folder."""
    summary = summary_of(folder, job.name)
    final, best = summary.get("final"), summary.get("best")
    return Run(
        folder=folder / job.name,
        job=job,
        state=state_of(folder, job.name),
        top1=final["test"]["top1"] if final and final["test"] else None,
        hold_out_top1=final["val"]["top1"] if final and final["val"] else None,
        best=best["top1"] if best else None,
        best_chosen_on=best["chosen_on"] if best else "",
        parameters=summary.get("parameters"),
        multiply_adds=summary.get("multiply_adds"),
        images_per_second=summary.get("images_per_second"),
        seconds=summary.get("training_seconds"),
        machine=summary.get("machine"),
        fingerprint=summary.get("data_fingerprint", ""),
    )


def _different(manifest: Manifest, others: Sequence[Manifest]) -> dict[str, str]:
    fixed = [_fixed(other) for other in others]
    return {k: v for k, v in _fixed(manifest).items() if any(other.get(k) != v for other in fixed)}


def _fixed(manifest: Manifest) -> dict[str, str]:
    parsed = OverridesParser.create().parse_overrides(manifest.overrides)
    return {o.key_or_group: o.get_value_element_as_str() for o in parsed if not o.is_sweep_override()}
