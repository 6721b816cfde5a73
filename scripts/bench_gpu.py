"""Training steps on a GPU: the trainer, timm's loop and torchvision's, eager and compiled, on the same card.

    python scripts/bench_gpu.py --csv gpu.csv

Needs timm (the `test` extra). Every case trains the same network from scratch on noise of 32x32 that lies on the
device, with the same strides dropped; each in a process of its own and in turns. `trainer` is the loop of `mnet-train`,
with augmentation and metrics; `step` is its update alone, on one batch that never changes. `timm` is the training of
its benchmark.py with --channels-last --amp, `torchvision` that of its references' script, which reads loss and accuracy
at every step, in channels-last with AMP. Compilation is outside the clock. The GPU is busy for the time of its kernels
in a profile of further steps.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

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

WARMUP_STEPS = 5
PROFILED_STEPS = 10
SIDE = 32
MODES = ("eager", "default", "reduce-overhead")
CASES = tuple(f"{tool}:{mode}" for tool in ("trainer", "step", "timm", "torchvision") for mode in MODES)

Steps = Callable[[int], None]  # makes so many


def worker(case: str, network: str, device: str, batch_size: int, steps: int, images: int) -> dict[str, float]:
    """Measures one case."""
    tool, _, mode = case.partition(":")
    began = time.perf_counter()
    if tool in ("timm", "torchvision"):
        runtime, make = peer(tool, network, batch_size, mode, device)
    else:
        runtime, make = ours(tool, network, batch_size, mode, device, images)
    make(WARMUP_STEPS)
    runtime.drain()
    ready = time.perf_counter()
    make(steps)
    runtime.drain()
    seconds = time.perf_counter() - ready
    cuda = runtime.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "images_per_second": batch_size * steps / seconds,
        "milliseconds": 1000 * seconds / steps,
        "busy_percent": busy_percent(runtime, make) if cuda else float("nan"),
        "peak_mb": peak / 2**20,
        "ready_seconds": ready - began,
    }


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
            "optim=sgd",
            f"device={device}",
            f"device.compile={'null' if mode == 'eager' else mode}",
        )
    )
    state, train, plan = parts.state, parts.batches.train, parts.plan
    if mode != "eager":
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

    return parts.runtime, trainer if tool == "trainer" else step


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


def busy_percent(runtime: Runtime, make: Steps) -> float:
    """The share of the time in which a kernel runs."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        began = time.perf_counter()
        make(PROFILED_STEPS)
        runtime.drain()
        seconds = time.perf_counter() - began
    kernels = (event for event in profiled.events() or () if event.device_type == DeviceType.CUDA)
    return 100 * sum(event.self_device_time_total for event in kernels) / 1e6 / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["v3_large", "v3_small"])
    parser.add_argument("--batch-sizes", nargs="+", default=["1024", "512"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES, metavar="TOOL:MODE")
    parser.add_argument("--steps", default="50", help=f"measured, after {WARMUP_STEPS} others")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", default="50000", help="of an epoch of the trainer")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--worker", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        case, network, device, *numbers = options.worker
        print(json.dumps(worker(case, network, device, *map(int, numbers))))
        return
    sizes = [(network, size) for network in options.networks for size in options.batch_sizes]
    rest = (options.steps, options.images)
    cases = [(case, network, options.device, size, *rest) for network, size in sizes for case in options.cases]
    results = measure.in_turns(__file__, cases, options.rounds)
    rows = []
    for (case, network, _, batch_size, *_), measurements in results.items():
        row = {"network": network, "batch": batch_size, "case": case}
        names = ("images/s", "ms a step", "GPU busy %", "peak MB", "s until ready")
        rows.append({**row, **dict(zip(names, measure.medians(measurements).values(), strict=True))})
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    measure.show(f"training at {SIDE}x{SIDE}, {card}, {describe_machine()}", rows, options.csv)


if __name__ == "__main__":
    main()
