"""ONNX files of equal networks are made once, for all tests and all workers of a session: each takes seconds."""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobilenet_train import checkpoint
from mobilenet_train.deploy.onnx_graph import to_onnx
from mobilenet_train.deploy.onnx_int8 import quantise


@pytest.fixture(scope="session")
def exported_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For tests about the files: what makes them has tests of its own."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported"
    folder.mkdir(exist_ok=True)

    def graph_of(model: nn.Module, resolution: int, properties: dict[str, str], channels: int = 3) -> bytes:
        key = f"{model} {checkpoint.digest(model.state_dict())} {resolution} {channels}"
        graph = once(folder, key.encode(), lambda: to_onnx(model, resolution, {}, channels))
        return labelled(graph, properties)

    def int8_of(graph: bytes, calibration: Iterable[Tensor]) -> bytes:
        images = list(calibration)
        key = labelled(graph, {}) + checkpoint.digest({"images": torch.cat(images)}).encode()
        return labelled(once(folder, key, lambda: quantise(graph, images)), read_labels(graph))

    with pytest.MonkeyPatch.context() as patch:
        for module in ("export", "bench"):
            patch.setattr(f"mobilenet_train.deploy.{module}.to_onnx", graph_of)
            patch.setattr(f"mobilenet_train.deploy.{module}.quantise", int8_of)
        yield


def once(folder: Path, key: bytes, make: Callable[[], bytes]) -> bytes:
    """What `make` returns, from a file if another test had it made; a worker waits for one that makes it just now."""
    path = folder / sha256(key).hexdigest()
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.stat().st_size == 0:
            path.write_bytes(make())
        return path.read_bytes()


def labelled(graph: bytes, properties: dict[str, str]) -> bytes:
    onnx = pytest.importorskip("onnx")
    model: Any = onnx.load_from_string(graph)
    onnx.helper.set_model_props(model, dict(properties))
    return model.SerializeToString()


def read_labels(graph: bytes) -> dict[str, str]:
    model: Any = pytest.importorskip("onnx").load_from_string(graph)
    return {entry.key: entry.value for entry in model.metadata_props}
