"""What this machine has, asked without torch: cores, GPUs, shared memory; and processes that end with their parent."""

import ctypes
import importlib.metadata
import os
import platform
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

SPINS_BESIDE_OTHERS = "300"  # of a thread that waits; docs/results.md has what other numbers cost
LOAD = Path("/proc/loadavg")
LOOKS = 4  # a process that runs for a moment only is not busy
PR_SET_PDEATHSIG = 1  # linux/prctl.h
SHARED_MEMORY = Path("/dev/shm")  # what torch's processes hand each other tensors in


def usable_cores() -> int:
    """Cores this process may run on, where the system reports them (Linux), else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores() -> None:
    """Has threads that wait for each other give up their core soon, if other processes keep cores busy now.

    Left to itself, GNU's OpenMP spins for milliseconds, on cores that the threads waited for may need; on a quiet
    machine that is fastest. It asks when torch is loaded, so this comes before; what the user has set stays.
    """
    unset = not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
    if unset and LOAD.exists() and min(_others() for _ in range(LOOKS)) > 0:
        os.environ["GOMP_SPINCOUNT"] = SPINS_BESIDE_OTHERS


def _others() -> int:
    """Threads of other processes that run or could, after a short pause."""
    time.sleep(0.005)
    return int(LOAD.read_text().split()[3].partition("/")[0]) - 1


def cpu_flags() -> frozenset[str]:
    """The instruction sets of an x86 processor as Linux names them, such as avx512_bf16; empty elsewhere."""
    return frozenset(_cpuinfo("flags").split())


def visible_gpus() -> list[str]:
    """The CUDA devices this process may use, as CUDA_VISIBLE_DEVICES names them."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name for name in allowed.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    numbers = done.stdout.split("\n") if done.returncode == 0 else []  # without a driver it prints why, and fails
    return [number.strip() for number in numbers if number.strip().isdecimal()]


def free_shared_memory() -> int | None:
    """Bytes that processes can still share; None where that has no limit of its own."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None


def follow_parent(parent: int) -> None:
    """Asks Linux to send this process SIGTERM when its parent dies, however it dies."""
    if platform.system() != "Linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above
        os._exit(128 + signal.SIGTERM)


def describe_machine() -> str:
    """Processor, cores that this process may use, system and the versions that throughput depends on, in one line."""
    parts = [processor(), f"{platform.system()} {platform.release()}"]
    for package in ("torch", "onnxruntime", "executorch"):
        with suppress(importlib.metadata.PackageNotFoundError):
            parts.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(parts)


def processor() -> str:
    """Its model, and the cores that this process may use."""
    return f"{processor_model()}, {usable_cores()} cores"


def processor_model() -> str:
    """What the processor calls itself."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    """What Linux says of the first processor; empty elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")
