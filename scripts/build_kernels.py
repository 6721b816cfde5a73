"""Compiles the C of mobilenet_train/kernels while the package is built; pip runs it through hatchling.

Without a C compiler the package is built all the same and trains with PyTorch's own kernels, more slowly on a CPU.
"""

import os
import platform
import shlex
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ("-O3", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
COMPLETE = ("-Wl,--no-undefined", "-lgomp", "-lm")
AVX512 = ("-march=x86-64-v4", "-mprefer-vector-width=512")
X86 = {  # a library for each kind of CPU that torch distinguishes, and one for maps in bfloat16
    "avx512": AVX512,
    "avx512_bf16": (*AVX512, "-DBF16"),
    "avx2": ("-march=x86-64-v3",),
}


class KernelsBuildHook(BuildHookInterface):
    """hatchling calls `initialize` before it collects the files of the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compiles a library for each kind of CPU and marks the wheel as one for this platform."""
        folder = Path(self.root, "mobilenet_train", "kernels")
        for old in folder.glob("kernels_*.so"):
            old.unlink()
        try:
            for name, flags in targets(platform.machine()).items():
                compile_library(folder, folder / f"kernels_{name}.so", flags)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or error
            self.app.display_warning(f"the CPU kernels were not compiled, training will be slower: {reason}")
            return
        build_data["artifacts"].append("mobilenet_train/kernels/kernels_*.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def targets(machine: str) -> dict[str, tuple[str, ...]]:
    """The libraries for a kind of processor, as platform.machine() names it: name -> the compiler's flags."""
    return {"any": ()} | (X86 if machine in ("x86_64", "AMD64") else {})


def compile_library(sources: Path, target: Path, flags: Sequence[str]) -> None:
    """Linked without an OpenMP library: torch brings one, and two would keep two sets of threads."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory() as folder:
        objects = {Path(folder, f"{source.stem}.o"): source for source in sorted(sources.glob("*.c"))}
        for object_file, source in objects.items():
            run([*compiler, *FLAGS, *flags, "-c", str(source), "-o", str(object_file)])
        if platform.system() == "Linux":  # torch brings GNU's OpenMP alone, which clang's code, for one, does not call
            run([*compiler, "-shared", *map(str, objects), *COMPLETE, "-o", str(Path(folder, "complete.so"))])
        run([*compiler, "-shared", *map(str, objects), "-o", str(target)])


def run(command: list[str]) -> None:
    """Raises CalledProcessError, with the compiler's output in `stderr`."""
    subprocess.run(command, check=True, capture_output=True, text=True)
