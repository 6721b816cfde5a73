"""summary.json: what became of a run, for programs."""

import json
from pathlib import Path
from typing import Any

from mobilenet_train.errors import RunError
from mobilenet_train.tracking.files import write_text


def write_summary(folder: Path, values: dict[str, Any]) -> None:
    """Writes `folder`/summary.json in one go: a reader finds the old summary or the new one, never a part."""
    write_text(folder / "summary.json", json.dumps(values, indent=2) + "\n")


def read_summary(folder: Path) -> dict[str, Any]:
    """Raises RunError if there is no summary, or none that can be read."""
    path = folder / "summary.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
