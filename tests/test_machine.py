"""The GPUs that a sweep shares out: only those that nvidia-smi can name."""

from pathlib import Path

import pytest

from mobilenet_train.machine import visible_gpus

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
