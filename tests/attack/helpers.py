"""Commands as children, what they say, and the processes that they leave."""

import sys
import tempfile
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from mobilenet_train.console import LONGEST
from tests.children import Child, mnet_train

NETWORK = ("model=v1", "model.width_mult=0.03", "model.stride_plan=2")
DIGITS = (
    *("dataset=digits", "dataset.resolution=16", "dataset.max_per_class=16", "batch_size=16", "tensorboard=false"),
    "device.threads=1",
)


def command(folder: Path, *arguments: str, **options: Any) -> tuple[int, str]:
    child = Child(folder / "output", mnet_train(*arguments, **options), folder)
    return child.wait(), child.text()


def tool_command(folder: Path, module: str, *words: str, temporary: Path | None = None) -> tuple[int, str]:
    """A command of cli/`module` in `folder`, with its temporary files in `temporary`."""
    child = Child(folder / "output", partial(run_tool, module, words, temporary), folder)
    return child.wait(), child.text()


def run_tool(module: str, words: tuple[str, ...], temporary: Path | None) -> None:
    """In a child: a command of cli/`module`."""
    if temporary is not None:
        tempfile.tempdir = str(temporary)
    sys.argv = [f"mnet-{module}", *words]
    import_module(f"mobilenet_train.cli.{module}").main()


def only_line(text: str, program: str = "mnet-train") -> str:
    """The message of a command that failed, which is one line."""
    lines = [line for line in text.splitlines() if line.startswith(f"{program}: ")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    assert len(lines[0]) <= LONGEST
    return lines[0]


def children_of(parent: int) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if f"\nPPid:\t{parent}\n" in status(pid)]


def status(pid: int) -> str:
    """What Linux says about a process; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def alive(pid: int) -> bool:
    return status(pid) != "" and "\nState:\tZ" not in status(pid)
