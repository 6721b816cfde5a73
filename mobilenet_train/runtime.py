"""The machine a run is on: device, precision, threads, and an allocator that keeps its memory."""

import ctypes
import platform
from dataclasses import dataclass

import torch

from mobilenet_train.config import DeviceConfig
from mobilenet_train.errors import ConfigError, RunError
from mobilenet_train.machine import usable_cores

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


@dataclass(frozen=True)
class Runtime:
    """Where and how tensors are computed; `autocast` is None for plain fp32."""

    device: torch.device
    threads: int
    autocast: torch.dtype | None
    memory_format: torch.memory_format

    @property
    def precision(self) -> str:
        return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.autocast]


def prepare(config: DeviceConfig) -> Runtime:
    """Chooses the device and sets up threads and memory for this process.

    Raises RunError if the device is not there, ConfigError if it lacks the precision asked for.
    """
    keep_freed_memory()
    threads = config.threads or usable_cores()
    torch.set_num_threads(threads)
    device = _device(config.name)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    return Runtime(device, threads, _autocast(config.precision, device), layout)


def keep_freed_memory() -> None:
    """Stops glibc from handing memory back to the system between steps.

    A step frees and asks again for the same large blocks; returned memory costs a page fault every 4 KiB
    (tens of thousands a step). Other C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(M_TOP_PAD, 2**30)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError("device=cuda was asked for, but torch sees no CUDA device; use device=cpu or device=auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _autocast(precision: str, device: torch.device) -> torch.dtype | None:
    if device.type == "cpu":
        if precision in ("bf16", "fp16"):
            raise ConfigError(f"device.precision={precision} needs a CUDA device; use device.precision=fp32")
        return None
    if precision == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
