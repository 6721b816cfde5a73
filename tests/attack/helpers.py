"""Commands as children, what they say, and the processes that they leave."""

from pathlib import Path
from typing import Any

from tests.children import Child, mnet_train

NETWORK = ("model=v1", "model.width_mult=0.03", "model.stride_plan=2")
DIGITS = (
    *("dataset=digits", "dataset.resolution=16", "dataset.max_per_class=16", "batch_size=16", "tensorboard=false"),
    "device.threads=1",
)


def command(folder: Path, *arguments: str, **options: Any) -> tuple[int, str]:
    child = Child(folder / "output", mnet_train(*arguments, **options), folder)
    return child.wait(), child.text()


def only_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("mnet-train: ")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    assert len(lines[0]) <= 300 + len("mnet-train: ")
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
