"""The commands beside mnet-train: help at once and without torch."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SCRIPTS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
TOOLS = sorted(set(SCRIPTS) - {"mnet-train"})


@pytest.mark.parametrize("tool", TOOLS)
def test_help_comes_without_the_heavy_libraries(tool: str) -> None:
    told = "import sys, atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
    module, function = SCRIPTS[tool].split(":")
    code = f"{told}sys.argv[0] = {tool!r}; from {module} import {function}; {function}()"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {tool} ")
    assert f"  {tool} " in done.stdout, "there are examples"
    heavy = {"torch", "torchvision", "numpy", "hydra", "omegaconf", "sklearn", "matplotlib", "PIL", "onnx"}
    assert heavy & set(done.stderr.split()) == set()
