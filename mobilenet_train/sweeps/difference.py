"""Runs side by side: the keys of configuration and results that are not the same in all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mobilenet_train.config.checked import flat_values, leaves
from mobilenet_train.config.saved import read_saved
from mobilenet_train.runs.folder import read_summary
from mobilenet_train.sweeps.report import duration

PLACES = ("run_dir", "outputs", "resume", "sweep")  # where a run lies is not part of what it is
RESULT = "result: "
MAIN_RESULTS = {  # what people look at first -> what it is called for them
    f"{RESULT}status": "status",
    f"{RESULT}final.test.top1": "test top-1 in %",
    f"{RESULT}final.test.loss": "test loss",
    f"{RESULT}training_seconds": "training time",
}


@dataclass(frozen=True)
class Difference:
    """A key of which runs have different values, in the order of the runs; None where a run has no value."""

    key: str
    found: tuple[Any, ...]

    @property
    def is_main(self) -> bool:
        """Whether it is of the configuration, or a result that people look at first."""
        return not self.key.startswith(RESULT) or self.key in MAIN_RESULTS

    @property
    def cells(self) -> list[str]:
        """Key and values for people."""
        return [MAIN_RESULTS.get(self.key, self.key), *(_shown(self.key, value) for value in self.found)]

    @property
    def values(self) -> list[Any]:
        """The values for programs; None for a number that is not finite, which JSON lacks."""
        return [None if isinstance(value, float) and not isfinite(value) else value for value in self.found]


def differences(runs: Sequence[Path]) -> list[Difference]:
    """The keys of configuration, then of results ("result: ..."), whose values do not look the same in six digits.

    Raises RunError for a folder that is not a run.
    """
    values = [dict(_values(run)) for run in runs]
    keys = sorted(dict.fromkeys(key for one in values for key in one), key=lambda key: key.startswith(RESULT))
    both = [Difference(key, tuple(one.get(key) for one in values)) for key in keys]
    return [one for one in both if len(set(map(_text, one.found))) > 1]


def _values(run: Path) -> Iterator[tuple[str, Any]]:
    for key, value in flat_values(read_saved(run).config).items():
        if key not in PLACES:
            yield key, value
    for key, value in leaves(OmegaConf.create(read_summary(run))):
        yield f"{RESULT}{key}", value


def _shown(key: str, value: Any) -> str:
    if value is None:
        return _text(value)
    if key == f"{RESULT}training_seconds":
        return duration(value)
    if key.startswith(RESULT) and key.endswith(".top1"):
        return f"{value:.2f}"
    if key.endswith("_bytes"):
        return f"{value / 2**20:,.1f} MiB"
    return _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
