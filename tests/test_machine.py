"""What the machine says: GPUs that nvidia-smi can name, cores that other processes keep busy."""

import os
from pathlib import Path

import pytest

from mobilenet_train import machine
from mobilenet_train.machine import share_cores, visible_gpus

NO_DRIVER = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."


@pytest.mark.parametrize(
    ("said", "code", "gpus"),
    [
        ("0\n1\n", 0, ["0", "1"]),
        (NO_DRIVER, 9, []),
        (NO_DRIVER, 0, []),
        ("No devices were found", 0, []),
        ("0\nUnable to determine the device handle for GPU 1", 15, []),
    ],
    ids=["two", "no driver", "no driver, and success", "none", "one is broken"],
)
def test_only_gpus_that_nvidia_smi_names_are_counted(
    said: str, code: int, gpus: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "{said}"\nexit {code}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == gpus


@pytest.mark.parametrize(("allowed", "gpus"), [("", []), ("-1", []), ("2,0", ["2", "0"]), ("GPU-1a", ["GPU-1a"])])
def test_cuda_visible_devices_is_taken_at_its_word(
    allowed: str, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert visible_gpus() == gpus


@pytest.mark.parametrize(
    ("runnable", "spins"),
    [([1], None), ([3], machine.SPINS_BESIDE_OTHERS), ([3, 3, 1, 3], None)],
    ids=["alone", "beside two", "beside some that run for a moment"],
)
def test_threads_give_up_their_cores_sooner_where_others_are_busy(
    runnable: list[int], spins: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = tmp_path / "loadavg"
    looks = iter(runnable * machine.LOOKS)
    monkeypatch.setattr(machine, "LOAD", load)
    monkeypatch.setattr(machine.time, "sleep", lambda _: load.write_text(f"0.5 0.5 0.5 {next(looks)}/200 77\n"))
    load.touch()
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    share_cores()
    assert os.environ.get("GOMP_SPINCOUNT") == spins
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    share_cores()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_what_the_user_says_of_waiting_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.setenv("GOMP_SPINCOUNT", "")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    share_cores()
    assert "GOMP_SPINCOUNT" not in os.environ
