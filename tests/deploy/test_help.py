"""The commands answer `--help` without loading what they need for their work."""

import subprocess
import sys

from tests.deploy.conftest import MAINS, WITHOUT_RUN

HEAVY = {"torch", "numpy", "onnx", "onnxruntime", "sklearn", "matplotlib", "hydra"}


def test_help_loads_nothing_heavy_and_names_every_command() -> None:
    modules = sorted({main.__module__ for main in (MAINS | WITHOUT_RUN).values()})
    code = (
        "import sys, importlib\n"
        f"for name in {modules!r}: print(importlib.import_module(name).parser().format_help())\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stderr.split()) & HEAVY == set()
    assert all(f"usage: {name}" in done.stdout for name in MAINS | WITHOUT_RUN)
