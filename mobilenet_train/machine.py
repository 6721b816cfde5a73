"""What this machine has, asked without torch: cores, GPUs and how to describe it."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path


def usable_cores() -> int:
    """Cores this process may run on, where the system reports them (Linux), else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The CUDA devices this process may use, as CUDA_VISIBLE_DEVICES names them."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name for name in allowed.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()


def describe_machine() -> str:
    """Processor, cores that this process may use, system and the versions that throughput depends on, in one line."""
    parts = [f"{_processor()}, {usable_cores()} cores", f"{platform.system()} {platform.release()}"]
    for package in ("torch", "onnxruntime", "executorch"):
        with suppress(importlib.metadata.PackageNotFoundError):
            parts.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(parts)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
