"""The machine a run is on: device, precision, threads, and an allocator that keeps its memory."""

import ctypes
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mobilenet_train.config.schema import DeviceConfig
from mobilenet_train.errors import ConfigError, RunError
from mobilenet_train.kernels import bindings as kernels
from mobilenet_train.machine import cpu_flags, processor, processor_model, usable_cores
from mobilenet_train.ranks import ALONE, Ranks

OLDER = {"processor": "unknown", "compile": None, "numerics": 1}  # the environment of a checkpoint without these keys
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


@dataclass(frozen=True)
class Runtime:
    """Where and how tensors are computed; `autocast` is None for plain fp32.

    deterministic: the same numbers give the same result to the bit every time, as on a CPU.
    """

    device: torch.device
    threads: int
    autocast: torch.dtype | None
    memory_format: torch.memory_format
    ranks: Ranks = ALONE
    deterministic: bool = True

    @property
    def sum_dtype(self) -> torch.dtype:
        """For totals over many images: Apple's GPUs have no float64."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    @property
    def precision(self) -> str:
        """fp32, bf16 or fp16, as `device.precision` names them."""
        return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.autocast]

    def casting(self) -> torch.autocast:
        """Within it a network computes in this precision."""
        return torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)

    def drain(self) -> None:
        """Waits until a GPU has done all that it was given. A CPU already has."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def set_up(config: DeviceConfig, ranks: Ranks = ALONE, custom: bool = False) -> Runtime:
    """Chooses the device and sets up threads and memory for this process; ranks of a machine share its cores.

    For a `custom` network, and without channels_last, precision=auto is fp32 on a CPU: the compiled kernels are not
    used then, and PyTorch trains depthwise convolutions many times slower in bf16.
    Raises RunError if the device does not exist, ConfigError if it lacks what was asked for.
    """
    keep_freed_memory()
    threads = config.threads or max(1, usable_cores() // ranks.local_size)
    torch.set_num_threads(threads)
    device = _device(config.name, ranks)
    if config.sync_batch_norm and device.type != "cuda":
        raise ConfigError(f"device.sync_batch_norm=true needs CUDA devices, and this is {device.type}; leave it out")
    if config.deterministic and device.type == "mps":
        raise ConfigError("device.deterministic=true is for CUDA devices and CPUs; use device=cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        # batches have one shape, so the fastest algorithm is worth a search
        torch.backends.cudnn.benchmark = not config.deterministic
        make_deterministic(config.deterministic)
    kernels_apply = config.channels_last and not custom
    precision = _fastest(device, kernels_apply) if config.precision == "auto" else config.precision
    deterministic = config.deterministic or device.type == "cpu"
    return Runtime(device, threads, _autocast(precision, device), _layout(config, device), ranks, deterministic)


def make_deterministic(wanted: bool) -> None:
    """Lets torch take only algorithms that are bit-identical from run to run, or any.

    The first call must precede the first product.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # never read here
    if torch.are_deterministic_algorithms_enabled() != wanted:
        torch.use_deterministic_algorithms(wanted)  # which imports torch's compiler


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


def return_freed_memory() -> None:
    """Sets glibc's own values again, and hands back what is free now; an allocator adapts itself no more after it."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 2**16)
    libc.mallopt(M_TRIM_THRESHOLD, 2**17)
    libc.mallopt(M_TOP_PAD, 2**17)
    libc.malloc_trim(0)


def _device(name: str, ranks: Ranks) -> torch.device:
    """Each rank has a GPU of its own; Apple's GPU is taken where there is one rank."""
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError("device=cuda was asked for, but torch sees no CUDA device; use device=cpu or device=auto")
    if name == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        return torch.device("mps" if ranks.size == 1 else "cpu")
    gpus = torch.cuda.device_count()
    if ranks.local_rank >= gpus:
        raise RunError(
            f"there is no GPU for each of {ranks.local_size} ranks: torch sees {gpus} on this machine; "
            f"use torchrun --nproc-per-node={gpus}"
        )
    return torch.device("cuda", ranks.local_rank)


def _layout(config: DeviceConfig, device: torch.device) -> torch.memory_format:
    """channels_last if asked for, but not on Apple's GPUs: batch-norm's gradients are wrong there (pytorch #175189)."""
    if config.channels_last and device.type != "mps":
        return torch.channels_last
    return torch.contiguous_format


def _autocast(precision: str, device: torch.device) -> torch.dtype | None:
    if device.type != "cuda" and precision == "fp16":
        raise ConfigError("device.precision=fp16 needs a CUDA device; use device.precision=fp32")
    if device.type != "cuda" and precision == "bf16" and not has_bf16(device):
        raise ConfigError(
            "device.precision=bf16 needs a CUDA device, or a CPU with bf16 instructions (AVX512_BF16) and the kernels "
            "that a C compiler makes at installation; use device.precision=fp32"
        )
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _fastest(device: torch.device, kernels_apply: bool) -> str:
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)  # a T4 or V100 emulates it, slowly
        return "bf16" if native else "fp16"
    return "bf16" if kernels_apply and has_bf16(device) else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether it is a CPU that multiplies in bf16 itself, and the compiled kernels are there for all else."""
    return device.type == "cpu" and "avx512_bf16" in cpu_flags() and kernels.library(torch.bfloat16) is not None


def environment(runtime: Runtime) -> dict[str, str | int]:
    """What the last bits of a result depend on; two makes of CPU with the same instructions add up in other orders."""
    on_cpu = {"processor": processor_model()} if runtime.device.type == "cpu" else {}
    return {
        "torch": str(torch.__version__),
        "device": device_name(runtime.device),
        **on_cpu,
        "threads": runtime.threads,
        "ranks": runtime.ranks.size,
        "precision": runtime.precision,
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How the environment `now` differs from the one that a checkpoint was saved in."""
    before = {**OLDER, **before}
    return [f"{key} {before.get(key)} -> {now[key]}" for key in now if before.get(key) != now[key]]


def machine_of(device: torch.device) -> str:
    """What computes there, for figures."""
    chip = processor() if device.type == "cpu" else device_name(device)
    return f"{chip}, torch {torch.__version__}"


def device_name(device: torch.device) -> str:
    """A GPU's model, or what a CPU's arithmetic depends on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"Apple GPU, {platform.platform()}"
    compiled = ", compiled kernels" if kernels.library() else ""
    return f"cpu {torch.backends.cpu.get_cpu_capability()}{compiled}"
