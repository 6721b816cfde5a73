"""torchrun itself: a killed rank, a Slurm script, and two network namespaces that stand in for two nodes."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mobilenet_train import checkpoint
from mobilenet_train.errors import RunError
from mobilenet_train.runs.folder import read_summary
from tests.conftest import RUN, TINY
from tests.records import everything, rows

from .conftest import Start

README = Path(__file__).parents[2] / "README.md"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
STUBS = {
    "srun": 'for node in $(seq "$SLURM_NNODES"); do "$@" & done; for node in $(seq "$SLURM_NNODES"); do wait -n; done',
    "scontrol": "echo localhost; echo other",
    "torchrun": f'exec {" ".join(TORCHRUN)} "$@"',
}


class Launcher:
    """A process group with the output of all its processes in one file."""

    def __init__(self, output: Path, command: tuple[str, ...], **environment: str) -> None:
        self.output = output
        self.process = subprocess.Popen(
            command,
            stdout=output.open("w"),
            stderr=subprocess.STDOUT,
            cwd=output.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            start_new_session=True,
        )

    def ranks(self) -> dict[int, int]:
        """The process of each rank that torchrun, a child of this launcher, has started."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                variables = (folder / "environ").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            rank = next((int(v[5:]) for v in variables if v.startswith(b"RANK=")), None)
            if rank is not None and parent == self.process.pid:
                found[rank] = int(folder.name)
        return found

    def wait_for(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            ended = self.process.poll() is not None
            assert not ended, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.05)

    def wait(self, seconds: float = 240) -> int:
        return self.process.wait(seconds)

    def end(self) -> None:
        for pid in (*self.ranks().values(), self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


Launch = Callable[..., Launcher]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """`launch(name, command, **environment)` starts a launcher in an empty folder, with its output in `name`."""
    launchers: list[Launcher] = []

    def start_launcher(name: str, *command: str, **environment: str) -> Launcher:
        launchers.append(Launcher(tmp_path / name, command, **environment))
        return launchers[-1]

    yield start_launcher
    for launcher in launchers:
        launcher.end()


def inside_epoch(folder: Path, epoch: int) -> bool:
    """True once a checkpoint within that epoch, or a later one, was written."""
    try:
        progress = checkpoint.load_latest(folder / "checkpoints")[0]["progress"]
    except RunError:
        return False
    return progress["epoch"] >= epoch and progress["batch"] > 0


def test_a_killed_rank_starts_again_without_losing_or_repeating_a_sample(
    launch: Launch, start_command: Start, tmp_path: Path
) -> None:
    """The end is, to the byte, that of a run that was never disturbed."""
    options = (*TINY, "epochs=4", "ema.decay=0.9", "model.dropout=0.2", "checkpoint.every_minutes=0.0001")
    whole = start_command(2, *options, "run_dir=whole")
    assert whole.wait() == [0, 0], whole.text()
    elastic = (*TORCHRUN, "--standalone", "--nproc-per-node=2", "--max-restarts=1", "-m", "mobilenet_train")
    launcher = launch("output", *elastic, *options, "run_dir=run")
    launcher.wait_for(lambda: inside_epoch(tmp_path / "run", 1))
    os.kill(launcher.ranks()[1], signal.SIGKILL)
    assert launcher.wait() == 0, launcher.output.read_text()
    text = launcher.output.read_text()
    assert len(re.findall("^mnet-train: rank 0: another rank was killed", text, re.MULTILINE)) == 1
    assert "resuming run at epoch" in text
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")


def test_the_slurm_script_of_the_readme_trains_on_all_nodes(launch: Launch, tmp_path: Path) -> None:
    """With stand-ins for srun, which starts its command once a node, and scontrol, which lists the nodes."""
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "train.sh").write_text(script)
    for name, text in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "8675309", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "localhost,other"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    launcher = launch("output", "bash", "train.sh", *TINY, "epochs=1", PATH=path, **job)
    assert launcher.wait() == 0, launcher.output.read_text()
    summary = read_summary(tmp_path / "runs/8675309")
    assert (summary["status"], summary["environment"]["ranks"]) == ("finished", 2)


@pytest.fixture
def two_nodes() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them, 10.99.0.1 and 10.99.0.2."""
    names = (f"mnet{os.getpid()}a", f"mnet{os.getpid()}b")
    commands = [
        *(f"netns add {name}" for name in names),
        f"link add {names[0]} netns {names[0]} type veth peer name {names[1]} netns {names[1]}",
        *(f"-n {name} addr add 10.99.0.{number}/24 dev {name}" for number, name in enumerate(names, 1)),
        *(f"-n {name} link set {device} up" for name in names for device in ("lo", name)),
    ]
    try:
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True, capture_output=True)
        yield names
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces are not permitted here: {error}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.faults
def test_a_node_that_dies_leaves_the_others_to_go_on(
    launch: Launch, two_nodes: tuple[str, str], tmp_path: Path
) -> None:
    def node(number: int) -> Launcher:
        name, is_host = two_nodes[number], int(number == 0)  # torchrun would tell by the host's name
        rendezvous = ("--rdzv-backend=c10d", "--rdzv-endpoint=10.99.0.1:29400", "--rdzv-id=7")
        heartbeat = "keep_alive_interval=1,keep_alive_max_attempt=3"  # a dead node is missed after 3 s
        elastic = ("--nnodes=1:2", "--max-restarts=1", f"--rdzv-conf=is_host={is_host},last_call_timeout=5,{heartbeat}")
        command = ("ip", "netns", "exec", name, *TORCHRUN, *rendezvous, *elastic, f"--local-addr=10.99.0.{number + 1}")
        options = ("-m", "mobilenet_train", *RUN, "epochs=10", "checkpoint.every_minutes=0.001")
        return launch(name, *command, *options, GLOO_SOCKET_IFNAME=name)

    first, second = node(0), node(1)
    first.wait_for(lambda: inside_epoch(tmp_path / "run", 1))
    assert "2 ranks" in first.output.read_text()
    second.end()
    assert first.wait() == 0, first.output.read_text()
    assert "another rank was killed" in first.output.read_text()
    assert [row["epoch"] for row in rows(tmp_path / "run")] == [str(epoch) for epoch in range(10)]
    assert read_summary(tmp_path / "run")["environment"]["ranks"] == 1
