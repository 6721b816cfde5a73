"""The notebook of docs/ runs, and a run in a notebook's kernel loses nothing when that is interrupted or killed."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mobilenet_train import Run, train
from tests.conftest import TINY
from tests.records import weights

pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install 'mnet-train[test]'")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install 'mnet-train[test]'")
nbformat = pytest.importorskip("nbformat")
NOTEBOOK = Path(__file__).parents[2] / "docs/first_run.ipynb"
LONG = (
    f"train(*{(*TINY, 'tensorboard=false', 'checkpoint.every_minutes=0.0001', 'log_every=1')!r}, epochs=6, run_dir=%r)"
)


# the jobs of a sweep are measured in the kernel: it has imported all that a process of their own would import first
MEASURED_HERE = """
from mobilenet_train.sweeps import sweep as sweeps
from mobilenet_train.sweeps.forecast import forecast
sweeps.forecast_all = lambda configs, slots: [forecast(config, timed=False) for config in configs]
"""


def test_the_notebook_runs_from_digits_to_a_sweep_s_picture(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(MEASURED_HERE))
    nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in data for data in shown) >= 3  # curves, heat map, the sweep's figure
    texts = "\n".join(data.get("text/plain", "") for data in shown)
    assert "finished, 4 epochs, test top-1 " in texts
    assert "('7', " in texts
    assert len(list(tmp_path.glob("outputs/*/config.yaml"))) == 2
    assert all(not cell.get("outputs") for cell in nbformat.read(NOTEBOOK, as_version=4).cells)  # stored without


@contextmanager
def kernel(folder: Path) -> Iterator[tuple[Any, Any]]:
    """A notebook's kernel and its client."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(cwd=str(folder))
    try:
        client.execute_interactive("from mobilenet_train import train", timeout=120, output_hook=lambda _: None)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def wait_for_epoch(folder: Path, epoch: int) -> None:
    deadline = time.monotonic() + 120
    while not (folder / "train.log").exists() or f"train epoch: {epoch}/6" not in (folder / "train.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_interrupt_and_sigkill_of_a_kernel_lose_nothing(tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "run"
    train(*TINY, "tensorboard=false", "checkpoint.every_minutes=0.0001", "log_every=1", epochs=6, run_dir=whole)
    with kernel(tmp_path) as (manager, client):
        client.execute(f"run = {LONG % str(folder)}; print(run.summary['status'])")
        wait_for_epoch(folder, 1)
        manager.interrupt_kernel()  # the square button
        reply = client.get_shell_msg(timeout=120)
        assert reply["content"]["status"] == "ok", reply["content"]
        assert Run(folder).summary["status"] == "interrupted"
        client.execute("run.resume()")
        wait_for_epoch(folder, 3)
        manager.signal_kernel(signal.SIGKILL)
    assert Run(folder).summary["status"] == "running"
    assert Run(folder).resume().summary["status"] == "finished"
    assert weights(folder) == weights(whole)
    assert len(Run(folder).history) == 6
