"""Two runs side by side: the keys of configuration and results that are not the same."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mobilenet_train.config.checked import flat_values, leaves
from mobilenet_train.config.saved import read_saved
from mobilenet_train.runs.folder import read_summary

PLACES = ("run_dir", "outputs", "resume", "sweep")  # where a run lies says nothing about it


def differences(a: Path, b: Path) -> list[tuple[str, str, str]]:
    """(key, value in a, value in b), configuration first; a key that one of them lacks shows as "-" there.

    Raises RunError for a folder without a run.
    """
    both = dict(_values(a)), dict(_values(b))
    keys = dict.fromkeys((*both[0], *both[1]))
    table = [(key, *(_text(values.get(key)) for values in both)) for key in keys]
    return [(key, left, right) for key, left, right in table if left != right]


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
