"""A network as an ExecuTorch program: lowered to XNNPACK in fp32, labelled, and run by ExecuTorch's own runtime."""

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from mobilenet_train.deploy.runtimes import Logits
from mobilenet_train.errors import RunError, require
from mobilenet_train.inference.onnx_file import FileClassifier, classifier_of_file

# In one call: a program's memory is laid out for so many. Below 16, where torch changes the kernel of a convolution;
# across that border a trace with few images would be laid out for 15.
MOST_IMAGES = 8

aten = torch.ops.aten


def to_executorch(model: nn.Module, resolution: int, properties: Mapping[str, str], channels: int = 3) -> bytes:
    """The network as a serialised program whose method `forward` takes 1 to MOST_IMAGES images.

    (N, channels, resolution, resolution) fp32 -> (N, classes). Each of `properties` becomes a method that returns it.
    """
    with torch.no_grad(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own internals
        exir = require("executorch.exir", "executorch")
        partitioner = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
        # a checkpoint's weights are channels-last, which its passes refuse
        network = deepcopy(model).eval().to(memory_format=torch.contiguous_format)
        images = torch.zeros(2, channels, resolution, resolution)
        lowered = exir.to_edge_transform_and_lower(
            _traced(suited_to_xnnpack(_traced(network, images)), images),
            partitioner=[partitioner.XnnpackPartitioner()],
            constant_methods=dict(properties),
        )
        return lowered.to_executorch().buffer


def _traced(model: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    count = torch.export.Dim("N", min=1, max=MOST_IMAGES)
    return torch.export.export(model, (images,), dynamic_shapes=({0: count},))


def suited_to_xnnpack(program: torch.export.ExportedProgram) -> nn.Module:
    """The same network in operators that XNNPACK takes; what it leaves, ExecuTorch computes several times slower.

    It takes means over the positions only if these stay as axes of length 1, and weights of linear layers only as
    they are stored: squeeze-and-excite's are convolutions, reshaped.
    """
    network = program.module(check_guards=False)
    assert isinstance(network, fx.GraphModule)
    graph = network.graph
    for number, node in enumerate(list(graph.nodes)):
        if node.target is aten.mean.dim and node.args[1:] == ([2, 3],):
            with graph.inserting_after(node):
                flat = graph.call_function(aten.flatten.using_ints, (node, 1))
            node.replace_all_uses_with(flat, delete_user_cb=lambda user, flat=flat: user is not flat)
            node.args = (*node.args, True)
        elif node.target is aten.flatten.using_ints and node.args[0].op == "get_attr":
            weight = network.get_parameter(node.args[0].target).flatten(*node.args[1:])
            network.register_parameter(f"flat_{number}", nn.Parameter(weight, requires_grad=False))
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.get_attr(f"flat_{number}"))
            graph.erase_node(node)
    network.recompile()
    return network


def load_program(path: Path, threads: int) -> tuple[Logits, Mapping[str, str]]:
    """The network of a program, for any number of images, and its properties. `threads` are the whole process's."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runtime = require("executorch.runtime", "executorch").Runtime.get()
        require("executorch.extension.pybindings.portable_lib", "executorch")._unsafe_reset_threadpool(threads)
        program = runtime.load_program(path.read_bytes())
        names = program.method_names - {"forward"}
        properties = {name: program.load_method(name).execute([])[0] for name in names}

    def logits(images: Tensor) -> Tensor:
        forward = program.load_method("forward")  # lives as long as the program, whose bytes it points into
        parts = images.contiguous().split(MOST_IMAGES)
        return torch.cat([forward.execute([part])[0] for part in parts])

    return logits, properties


def classifier_of_program(path: Path, threads: int) -> FileClassifier:
    """A classifier from a file that `mnet-export --to executorch` wrote. Raises RunError if it is another."""
    try:
        logits, properties = load_program(path, threads)
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
