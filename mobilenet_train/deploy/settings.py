"""What can be timed: one network in one runtime, at every width, resolution, batch and thread count. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product

from mobilenet_train.errors import ConfigError, missing

MODELS = ("v1", "v2", "v3_large", "v3_small")
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "executorch": ("executorch",)}  # of the files for a runtime
EXTRAS = {"onnx": "export", "executorch": "executorch"}
RUNTIMES = ("eager", "onnx", "onnx-int8", "executorch", "executorch-int8", "train")


@dataclass(frozen=True, order=True)
class Setting:
    """What is timed: one network in one runtime."""

    model: str
    width: float
    resolution: int
    batch: int
    threads: int
    runtime: str


def usual_runtime(device: str) -> str:
    """What ships: onnxruntime on the CPU where its extra is installed, else PyTorch."""
    return "onnx" if device == "cpu" and all(map(find_spec, PACKAGES["onnx"])) else "eager"


def all_settings(
    models: Sequence[str],
    widths: Sequence[float],
    resolutions: Sequence[int],
    batches: Sequence[int],
    threads: Sequence[int],
    runtimes: Sequence[str],
) -> list[Setting]:
    """Every combination."""
    return [Setting(*values) for values in product(models, widths, resolutions, batches, threads, runtimes)]


def check_runtimes(runtimes: list[str], device: str) -> None:
    """Raises ConfigError for a runtime but PyTorch on another device than the CPU, RunError for one not installed."""
    for name in runtimes:
        if name not in ("eager", "train") and device != "cpu":
            raise ConfigError(
                f"--runtime {name} is measured on the CPU only; --device {device} goes with eager or train"
            )
    check_installed(runtimes)


def check_installed(formats: Sequence[str]) -> None:
    """Before anything is loaded: raises RunError naming the first package that a format or runtime lacks."""
    for kind in (name.removesuffix("-int8") for name in formats):
        for package in PACKAGES.get(kind, ()):
            if find_spec(package) is None:
                raise missing(package, EXTRAS[kind])
