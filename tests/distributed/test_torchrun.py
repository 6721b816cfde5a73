"""torchrun itself: a killed rank, a Slurm script, and two network namespaces that stand in for two nodes."""

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest

from mobilenet_train.runs.folder import read_summary
from tests.children import Child, Forked, mnet_train
from tests.conftest import RUN, TINY
from tests.pages import blocks
from tests.records import everything, rows

from .conftest import Start

RESTARTED = ("--standalone", "--nproc-per-node=2", "--max-restarts=1", "-m", "mobilenet_train")
CLONE_NEWNET = 0x40000000  # linux/sched.h
STUBS = {
    "srun": 'for node in $(seq "$SLURM_NNODES"); do "$@" & done; for node in $(seq "$SLURM_NNODES"); do wait -n; done',
    "scontrol": "echo localhost; echo other",
    "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
}


def torchrun(*arguments: str, network: str | None = None) -> None:
    """`torchrun ARGUMENTS -m mobilenet_train ...` whose ranks are forked; each leaves its process in a file.

    `network` names the network namespace that they live in.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    if network:
        with Path("/run/netns", network).open() as namespace:
            assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) == 0
    SubprocessHandler._popen = fork_rank  # type: ignore[assignment, method-assign]
    run.main(arguments)


def fork_rank(_: object, command: Sequence[str], environment: Mapping[str, str]) -> Forked:
    rank = Forked(mnet_train(*command[command.index("mobilenet_train") + 1 :]), environment)
    Path(f"process{environment['RANK']}").write_text(str(rank.pid))
    return rank


def kill_rank(number: int) -> None:
    os.kill(int(Path(f"process{number}").read_text()), signal.SIGKILL)


Launch = Callable[..., Child]


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launch]:
    """`launch(name, function, **environment)` calls it in a process, in an empty folder, with its output in `name`."""
    monkeypatch.chdir(tmp_path)
    launched: list[Child] = []

    def start_launcher(name: str, function: Callable[[], None], **environment: str) -> Child:
        launched.append(Child(tmp_path / name, function, **environment))
        return launched[-1]

    yield start_launcher
    for child in launched:
        child.kill()  # the ranks follow
        child.wait()


OWN = """
from torch import nn

def build(num_classes, resolution):
    layers = nn.Conv2d(3, 4, 3, 4), nn.BatchNorm2d(4), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4, num_classes))
"""


def inside_an_epoch(folder: Path) -> bool:
    """True once a checkpoint was written after an update of the second epoch or a later one."""
    log, saved = folder / "train.log", folder / "checkpoints/last.pt"
    begun = log.exists() and "epoch: 1/" in log.read_text()
    return begun and saved.stat().st_mtime_ns > log.stat().st_mtime_ns


def test_a_killed_rank_starts_again_without_losing_or_repeating_a_sample(
    launch: Launch, start_command: Start, tmp_path: Path
) -> None:
    """The end is, to the byte, that of a run that was never disturbed.

    The command names the network's function, so that nobody has to say at the restart that it is trusted.
    """
    (tmp_path / "own.py").write_text(OWN)
    own = ("model=custom", "model.factory=own:build", *(word for word in TINY if not word.startswith("model")))
    options = (*own, "epochs=4", "ema.decay=0.9", "checkpoint.every_minutes=0.0001")
    whole = start_command(2, *options, "run_dir=whole")
    assert whole.wait() == [0, 0], whole.text()
    launcher = launch("output", partial(torchrun, *RESTARTED, *options, "run_dir=run"))
    launcher.wait_for(lambda: inside_an_epoch(tmp_path / "run"))
    kill_rank(1)
    assert launcher.wait() == 0, launcher.text()
    text = launcher.text()
    assert len(re.findall("^mnet-train: rank 0: another rank was killed", text, re.MULTILINE)) == 1
    assert "resuming run at epoch" in text
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")


def test_the_slurm_script_of_the_page_trains_on_all_nodes(tmp_path: Path) -> None:
    """With stand-ins for srun, which starts its command once a node, and scontrol, which lists the nodes."""
    (script,) = blocks("docs/clusters.md", "bash")
    (tmp_path / "train.sh").write_text(script)
    for name, text in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "8675309", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "localhost,other"}
    environment = {**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = ["bash", "train.sh", *TINY, "epochs=1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, timeout=240, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
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
    def node(number: int) -> Child:
        network, is_host = two_nodes[number], int(number == 0)  # torchrun would tell by the host's name
        rendezvous = ("--rdzv-backend=c10d", "--rdzv-endpoint=10.99.0.1:29400", "--rdzv-id=7")
        heartbeat = "keep_alive_interval=1,keep_alive_max_attempt=2"  # a dead node is missed after 2 s
        elastic = ("--nnodes=1:2", "--max-restarts=1", f"--rdzv-conf=is_host={is_host},last_call_timeout=1,{heartbeat}")
        options = (f"--local-addr=10.99.0.{number + 1}", "-m", "mobilenet_train", *RUN, "epochs=10")
        saving = "checkpoint.every_minutes=0.001"
        command = partial(torchrun, *rendezvous, *elastic, *options, saving, network=network)
        return launch(network, command, GLOO_SOCKET_IFNAME=network)

    first, second = node(0), node(1)
    first.wait_for(lambda: inside_an_epoch(tmp_path / "run"))
    assert "2 ranks" in first.text()
    second.kill()
    kill_rank(1)
    assert first.wait() == 0, first.text()
    assert "another rank was killed" in first.text()
    assert [row["epoch"] for row in rows(tmp_path / "run")] == [str(epoch) for epoch in range(10)]
    assert read_summary(tmp_path / "run")["environment"]["ranks"] == 1
