"""Training steps on a GPU: the trainer, timm's loop and torchvision's, eager and compiled, on the same card.

    python scripts/bench_gpu.py --csv gpu.csv

Needs timm (the `test` extra). Every case trains the same network from scratch on noise of 32x32 that lies on the
device, with the same strides dropped, and takes turns with the others of its network and batch size. `trainer` is the
loop of `mnet-train`, with augmentation and metrics (`muon`: with optim=muon); `step` is its update alone, on one batch
that never changes. `graph` replays updates (device.cuda_graph), the others launch them. `timm` is the training of its
benchmark.py with --channels-last --amp, `torchvision` that of its references' script, which reads loss and accuracy at
every step, in channels-last with AMP. Compilation is outside the clock. The GPU is busy for the time of its kernels in
a profile of further steps; memory is what torch's allocator took from the GPU.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import measure
import torch
from bench_peers import TIMM, TORCHVISION, drop_strides
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from mobilenet_train.config.compose import compose_config
from mobilenet_train.machine import describe_machine
from mobilenet_train.runs.build import build_run
from mobilenet_train.runtime import Runtime, set_up
from mobilenet_train.training.compilation import warm_up
from mobilenet_train.training.fit import train_epoch
from mobilenet_train.training.step import train_update

WARM_UP_STEPS = 5
PROFILED_STEPS = 10
SIDE = 32
PEERS = ("timm", "torchvision")
MODES = ("eager", "default", "reduce-overhead")  # the last two are torch.compile's
CASES = (
    *(f"{tool}:{mode}" for tool in ("trainer", "muon", "step") for mode in (*MODES, "graph")),
    *(f"{tool}:{mode}" for tool in PEERS for mode in MODES),
)

Steps = Callable[[int], None]  # makes so many


class Case:
    """A tool and a mode of compilation, ready to train."""

    def __init__(self, name: str, network: str, batch_size: int, device: str, images: int) -> None:
        tool, _, mode = name.partition(":")
        self.name, self.batch_size = name, batch_size
        self.rates: list[float] = []
        torch.cuda.empty_cache()
        began, before = time.perf_counter(), torch.cuda.memory_reserved()
        if tool in PEERS:
            self.runtime, self.make = peer(tool, network, batch_size, mode, device)
        else:
            self.runtime, self.make = ours(tool, network, batch_size, mode, device, images)
        self.seconds(WARM_UP_STEPS)
        self.ready_seconds = time.perf_counter() - began
        self.memory_mb = (torch.cuda.memory_reserved() - before) / 2**20

    def seconds(self, steps: int) -> float:
        """Makes `steps`; how long they took."""
        began = time.perf_counter()
        self.make(steps)
        self.runtime.drain()
        return time.perf_counter() - began

    def measure(self, steps: int) -> None:
        """Adds a rate, in images per second, of `steps` after others that warm up."""
        self.seconds(WARM_UP_STEPS)
        self.rates.append(self.batch_size * steps / self.seconds(steps))

    def busy_percent(self) -> float:
        """The share of the time in which a kernel runs."""
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            seconds = self.seconds(PROFILED_STEPS)
        kernels = (event for event in profiled.events() or () if event.device_type == DeviceType.CUDA)
        return 100 * sum(event.self_device_time_total for event in kernels) / 1e6 / seconds


def ours(tool: str, network: str, batch_size: int, mode: str, device: str, images: int) -> tuple[Runtime, Steps]:
    """The trainer's own epochs of `images`, or its update on one batch."""
    parts = build_run(
        compose_config(
            f"model={network}",
            "dataset=custom",
            "dataset.factory=mobilenet_train.deploy.bench:noise_images",
            f"+dataset.args.count={images}",
            f"+dataset.args.size={SIDE}",
            "+dataset.args.classes=10",
            f"dataset.resolution={SIDE}",
            f"batch_size={batch_size}",
            f"optim={'muon' if tool == 'muon' else 'sgd'}",
            f"device={device}",
            f"device.compile={'null' if mode in ('eager', 'graph') else mode}",
            f"device.cuda_graph={mode == 'graph'}",
        )
    )
    state, train, plan = parts.state, parts.batches.train, parts.plan
    if parts.config.device.compile is not None:
        warm_up(state, parts.batches, plan)
    batch = next(train.epoch(0))

    def trainer(steps: int) -> None:
        state.updates = state.step + steps
        while state.step < state.updates:
            state.batch %= len(train)
            for _ in train_epoch(state, train, plan, lambda: None, lambda: 0, None):
                pass

    def step(steps: int) -> None:
        for _ in range(steps):
            train_update(state, [batch], plan)

    return parts.runtime, step if tool == "step" else trainer


def peer(tool: str, network: str, batch_size: int, mode: str, device: str) -> tuple[Runtime, Steps]:
    """The step of timm's benchmark.py or of torchvision's script, on one batch of noise."""
    runtime = set_up(compose_config(f"device={device}").device)
    images = torch.randn(batch_size, 3, SIDE, SIDE, device=runtime.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch_size,), device=runtime.device)
    model = drop_strides(peer_model(tool, network)).to(runtime.device)
    model = model.to(memory_format=torch.channels_last).train()
    compiled = model if mode == "eager" else torch.compile(model, mode=mode)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.autocast is torch.float16)

    def make(steps: int) -> None:
        for _ in range(steps):
            with runtime.casting():
                logits = compiled(images)
                loss = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            if tool == "torchvision":
                read(loss, logits, labels)

    return runtime, make


def peer_model(tool: str, network: str) -> nn.Module:
    if tool == "timm":
        from timm.models import create_model

        return create_model(TIMM[network], num_classes=10)
    from torchvision.models import get_model

    return get_model(TORCHVISION[network], num_classes=10)


def read(loss: Tensor, logits: Tensor, labels: Tensor) -> None:
    """Waits for the numbers that torchvision's script logs."""
    loss.item()
    (logits.argmax(1) == labels).float().mean().item()


def rows(cases: list[Case], network: str) -> list[dict[str, Any]]:
    """What was measured, for a table."""
    return [
        {
            "network": network,
            "batch": case.batch_size,
            "case": case.name,
            "images/s": statistics.median(case.rates),
            "lowest": min(case.rates),
            "highest": max(case.rates),
            "ms a step": 1000 * case.batch_size / statistics.median(case.rates),
            "GPU busy %": case.busy_percent() if case.runtime.device.type == "cuda" else float("nan"),
            "memory MB": case.memory_mb,
            "s until ready": case.ready_seconds,
        }
        for case in cases
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["v3_large", "v3_small"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1024, 512])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES, metavar="TOOL:MODE")
    parser.add_argument("--steps", type=int, default=50, help=f"measured, after {WARM_UP_STEPS} others")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=50_000, help="of an epoch of the trainer")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    found = []
    for network, batch_size in product(options.networks, options.batch_sizes):
        torch._dynamo.reset()
        cases = [Case(name, network, batch_size, options.device, options.images) for name in options.cases]
        for _ in range(options.rounds):
            for case in cases:
                case.measure(options.steps)
        found += rows(cases, network)
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    measure.show(f"training at {SIDE}x{SIDE}, {card}, {describe_machine()}", found, options.csv)


if __name__ == "__main__":
    main()
