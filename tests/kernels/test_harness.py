"""The C by itself, over many shapes: under sanitizers, with every warning an error, and for another processor."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from scripts.build_kernels import FLAGS, targets

SOURCES = Path(__file__).parents[2] / "mobilenet_train" / "kernels"
HARNESS = Path(__file__).with_name("harness.c")
FUNCTIONS = re.findall(r"^int (\w+)\(", (SOURCES / "common.h").read_text(), re.MULTILINE)
STRICT = ("-g", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}")
FAILING_ALLOCATIONS = "-Wl,--wrap=malloc,--wrap=calloc,--wrap=aligned_alloc"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
WIDEST = {"AVX512": ("any", "avx2", "avx512"), "AVX2": ("any", "avx2")}.get(
    torch.backends.cpu.get_cpu_capability(), ("any",)
)
BUILDS = [name for name in targets(platform.machine()) if name.removesuffix("_bf16") in WIDEST]

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def compiled(folder: Path, compiler: str, *flags: str) -> Path:
    """The harness with the kernels in it; a warning is an error."""
    program = folder / "harness"
    files = [str(HARNESS), *map(str, sorted(SOURCES.glob("*.c")))]
    command = [compiler, *FLAGS, *STRICT, *flags, *files, FAILING_ALLOCATIONS, "-lm", "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Threads that wait for one another do not take the cores of those that work."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build with vectors, where the CPU has them, under sanitizers."""
    return compiled(tmp_path_factory.mktemp("sanitized"), "cc", *targets(platform.machine())[BUILDS[-1]], *SANITIZERS)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the plainest build computes."""
    return run(compiled(tmp_path_factory.mktemp("plain"), "cc")).stdout.splitlines()


def assert_near(lines: list[str], expected: list[str]) -> None:
    """The same calls with the same results, but for rounding."""
    for ours, wanted in zip(lines, expected, strict=True):
        (call, found), (wanted_call, numbers) = (line.split(":") for line in (ours, wanted))
        assert call == wanted_call
        wanted_numbers = [float(number) for number in numbers.split()]
        assert [float(number) for number in found.split()] == pytest.approx(wanted_numbers, rel=1e-3, abs=1e-3), call


@pytest.mark.parametrize("build", BUILDS)
def test_no_build_leaves_its_memory_or_hides_that_there_is_none(
    build: str, expected: list[str], tmp_path: Path
) -> None:
    program = compiled(tmp_path, "cc", *targets(platform.machine())[build], *SANITIZERS)
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > 500
    if not build.endswith("_bf16"):
        assert_near(done.stdout.splitlines(), expected)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_sanitizers_see_an_overrun(function: str, sanitized: Path) -> None:
    done = run(sanitized, function)
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr


def test_another_processor_computes_the_same_numbers(expected: list[str], tmp_path: Path) -> None:
    cross, emulator = "aarch64-linux-gnu-gcc", "qemu-aarch64"
    if not (shutil.which(cross) and shutil.which(emulator)):
        pytest.skip(f"needs {cross} and {emulator} (Debian: gcc-aarch64-linux-gnu and qemu-user)")
    assert_near(run(emulator, compiled(tmp_path, cross, "-static")).stdout.splitlines(), expected)
