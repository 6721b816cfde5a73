"""Where a trained network lies, found without torch: what is wrong with a path is known before anything is loaded."""

from collections.abc import Collection
from pathlib import Path

from mobilenet_train.disk import expanded
from mobilenet_train.errors import ConfigError, RunError

EXPORTED = (".onnx", ".pte")  # endings of exported files that are run as they are


def trained_path(source: str | Path) -> Path:
    """The path of a run folder or a file. Raises RunError if it does not exist, or the folder has no checkpoint."""
    path = expanded(source)
    if not path.exists():
        raise RunError(f"{path} does not exist; give a run folder or a checkpoint file")
    last, previous = (path / "checkpoints" / name for name in ("last.pt", "previous.pt"))
    if path.is_dir() and not last.exists() and not previous.exists():
        raise RunError(f"{path} is not a trained run: {last} does not exist")
    return path


def check_source(source: str | Path, networks: Collection[str]) -> None:
    """Raises ConfigError for what is neither one of the names nor a path, RunError for a folder that is not a run."""
    if source in networks:
        return
    if not expanded(source).exists():
        raise ConfigError(f"{source} is neither a network ({', '.join(networks)}) nor a run folder or checkpoint file")
    trained_path(source)
