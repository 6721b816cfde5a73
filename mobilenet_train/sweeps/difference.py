"""Two runs side by side: the keys of configuration and results that are not the same."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mobilenet_train.config.checked import flat_values, leaves
from mobilenet_train.config.saved import read_saved
from mobilenet_train.runs.folder import read_summary

PLACES = ("run_dir", "outputs", "resume", "sweep")  # where a run lies is not part of what it is


@dataclass(frozen=True)
class Difference:
    """A key of which two runs have different values; None where a run has no value."""

    key: str
    a: Any
    b: Any

    @property
    def cells(self) -> tuple[str, str, str]:
        """Key and values for people."""
        return self.key, _text(self.a), _text(self.b)

    @property
    def values(self) -> tuple[Any, Any]:
        """Both values for programs; None for a number that is not finite, which JSON lacks."""
        a, b = (None if isinstance(value, float) and not isfinite(value) else value for value in (self.a, self.b))
        return a, b


def differences(a: Path, b: Path) -> list[Difference]:
    """The keys of configuration, then of results ("result: ..."), whose values do not look the same in six digits.

    Raises RunError for a folder that is not a run.
    """
    in_a, in_b = dict(_values(a)), dict(_values(b))
    both = [Difference(key, in_a.get(key), in_b.get(key)) for key in dict.fromkeys((*in_a, *in_b))]
    return [found for found in both if _text(found.a) != _text(found.b)]


def _values(run: Path) -> Iterator[tuple[str, Any]]:
    for key, value in flat_values(read_saved(run).config).items():
        if key not in PLACES:
            yield key, value
    for key, value in leaves(OmegaConf.create(read_summary(run))):
        yield f"result: {key}", value


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
