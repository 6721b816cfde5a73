"""Where the YAML files are. Standard library only."""

from pathlib import Path


def conf_dir() -> Path:
    """The folder with the YAML files: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"
