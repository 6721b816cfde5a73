"""A network as an ExecuTorch program: lowered to XNNPACK, labelled, and run by ExecuTorch's own runtime."""

import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mobilenet_train.deploy.runtimes import Logits
from mobilenet_train.deploy.xnnpack_graph import quantise, suited_to_xnnpack
from mobilenet_train.errors import RunError, require
from mobilenet_train.inference.onnx_file import FileClassifier, classifier_of_file

# In one call: a program's memory is laid out for so many. Below 16, where torch changes the kernel of a convolution;
# across that border a trace with few images would be laid out for 15.
MOST_IMAGES = 8


def to_executorch(
    model: nn.Module,
    resolution: int,
    properties: Mapping[str, str],
    channels: int = 3,
    calibration: Iterable[Tensor] | None = None,
) -> bytes:
    """The network as a serialised program whose method `forward` takes 1 to MOST_IMAGES images.

    (N, channels, resolution, resolution) fp32 -> (N, classes). Each of `properties` becomes a method that returns it.
    With `calibration`, batches of such inputs, weights and activations are int8, in the ranges seen there.
    """
    with torch.no_grad(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own internals
        exir = require("executorch.exir", "executorch")
        partitioner = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
        # a checkpoint's weights are channels-last, which its passes refuse
        network = deepcopy(model).eval().to(memory_format=torch.contiguous_format)
        images = torch.zeros(2, channels, resolution, resolution)
        suited: nn.Module = suited_to_xnnpack(traced(network, images))
        if calibration is not None:
            suited = quantise(traced(suited, images).module(check_guards=False), calibration)
        lowered = exir.to_edge_transform_and_lower(
            traced(suited, images), partitioner=[partitioner.XnnpackPartitioner()], constant_methods=dict(properties)
        )
        return lowered.to_executorch().buffer


def traced(model: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    """The network for 1 to MOST_IMAGES images; with these bounds torch leaves no slices of whole batches in it."""
    count = torch.export.Dim("N", min=1, max=MOST_IMAGES)
    return torch.export.export(model, (images,), dynamic_shapes=({0: count},))


def load_program(program: bytes, threads: int) -> tuple[Logits, Mapping[str, str]]:
    """The network of a program, for any number of images, and its properties."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runtime = require("executorch.runtime", "executorch").Runtime.get()
        pool = require("executorch.extension.pybindings.portable_lib", "executorch")
        loaded = runtime.load_program(program)
        names = loaded.method_names - {"forward"}
        properties = {name: loaded.load_method(name).execute([])[0] for name in names}

    def logits(images: Tensor) -> Tensor:
        if pool._threadpool_get_thread_count() != threads:  # the whole process's, which another program may have set
            pool._unsafe_reset_threadpool(threads)
        forward = loaded.load_method("forward")  # lives as long as the program, whose bytes it points into
        parts = images.contiguous().split(MOST_IMAGES)
        return torch.cat([forward.execute([part])[0] for part in parts])

    return logits, properties


def classifier_of_program(path: Path, threads: int) -> FileClassifier:
    """A classifier from a file that `mnet-export --to executorch` wrote. Raises RunError if it is another."""
    try:
        logits, properties = load_program(path.read_bytes(), threads)
    except RuntimeError as error:
        raise RunError(f"{path} cannot be loaded by ExecuTorch: {str(error).splitlines()[0]}") from error
    return classifier_of_file(path, properties, lambda images: logits(torch.from_numpy(images)).numpy(), pixels=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing reaches the terminal: ExecuTorch writes there from C++, past Python's sys.stderr and through it."""
    sys.stdout.flush()
    sys.stderr.flush()
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        kept: list[Any] = [(stream, os.dup(stream)) for stream in (1, 2)]
        try:
            for stream, _ in kept:
                os.dup2(nowhere.fileno(), stream)
            yield
        finally:
            for stream, copy in kept:
                os.dup2(copy, stream)
                os.close(copy)
