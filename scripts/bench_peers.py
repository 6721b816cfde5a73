"""Images per second end to end: mnet-train, torchvision's reference pipeline and timm's, on the same CIFAR-10 images.

    python scripts/bench_peers.py --networks v3_large --csv peers.csv

Needs the CIFAR-10 files (MNET_DATA) and timm (the `test` extra). Every case trains the same network from scratch at
32x32 with the same strides dropped, batch, threads and augmentation (crop and flip), data and metrics included; each
in a process of its own and in turns. `ours` is the trainer in its default precision; `fp32` the same in fp32, where
that is not the default. `torchvision` is its references' classification script in short: PIL transforms
in a DataLoader, NCHW, SGD, accuracy and loss read at every step. `timm` is its create_loader and create_model with
--channels-last; --variants adds its --amp in bf16, its --torchcompile, and both. The peers get the better of the worker
counts in --workers. Compilation is outside the clock.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import measure
import torch
from torch import Tensor, nn

from mobilenet_train.config.compose import compose_config
from mobilenet_train.machine import describe_machine
from mobilenet_train.runs.build import build_run
from mobilenet_train.runtime import has_bf16

WARMUP_STEPS = 3
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
TORCHVISION = {"v2": "mobilenet_v2", "v3_large": "mobilenet_v3_large", "v3_small": "mobilenet_v3_small"}
TIMM = {
    "v1": "mobilenetv1_100",
    "v2": "mobilenetv2_100",
    "v3_large": "mobilenetv3_large_100",
    "v3_small": "mobilenetv3_small_100",
}
VARIANTS = {  # of timm: autocast to bf16, torch.compile
    "timm": (False, False),
    "timm bf16": (True, False),
    "timm compiled": (False, True),
    "timm compiled bf16": (True, True),
}
DROPPED_STRIDES = 2  # what stride_plan=auto does to all four networks at 32x32: a final map of 4x4

Batches = Iterator[tuple[Tensor, Tensor]]
Loop = Callable[[str, int, int, int], list[float]]  # network, batch size, steps, workers -> stamp after each step


def worker(tool: str, network: str, batch_size: int, steps: int, workers: int) -> dict[str, float]:
    """Images per second of one tool, data and metrics included."""
    tools: dict[str, Loop] = {
        "ours": ours,
        "fp32": partial(ours, precision="fp32"),
        "torchvision": torchvision,
        **{name: partial(timm, bf16=bf16, compiled=compiled) for name, (bf16, compiled) in VARIANTS.items()},
    }
    stamps = tools[tool](network, batch_size, steps, workers)
    return {"images_per_second": batch_size * steps / (stamps[-1] - stamps[WARMUP_STEPS - 1])}


def ours(network: str, batch_size: int, steps: int, _workers: int, precision: str = "auto") -> list[float]:
    """The trainer's own epoch."""
    parts = build_run(
        compose_config(
            f"model={network}",
            "optim=sgd",  # the peers' own
            f"batch_size={batch_size}",
            f"max_updates={WARMUP_STEPS + steps}",
            "device=cpu",
            f"device.precision={precision}",
        )
    )
    return measure.trainer_stamps(parts, time.perf_counter)


def torchvision(network: str, batch_size: int, steps: int, workers: int) -> list[float]:
    """The classification script of torchvision's references, in short."""
    from torchvision import models, transforms
    from torchvision.datasets import CIFAR10

    augment = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float),
            transforms.Normalize(MEAN, STD),
        ]
    )
    data = CIFAR10(os.environ["MNET_DATA"], transform=augment)
    loader = torch.utils.data.DataLoader(data, batch_size, shuffle=True, num_workers=workers, drop_last=True)
    model = drop_strides(models.get_model(TORCHVISION[network], num_classes=10))
    return plain_loop(model, iter(loader), steps, torch.contiguous_format)


def timm(network: str, batch_size: int, steps: int, workers: int, bf16: bool, compiled: bool) -> list[float]:
    """timm's create_loader and create_model."""
    from timm.data import create_loader
    from timm.models import create_model
    from torchvision.datasets import CIFAR10

    loader = create_loader(
        CIFAR10(os.environ["MNET_DATA"]),
        input_size=(3, 32, 32),
        batch_size=batch_size,
        is_training=True,
        use_prefetcher=False,
        train_crop_mode="rkrc",
        mean=MEAN,
        std=STD,
        num_workers=workers,
        device=torch.device("cpu"),
        persistent_workers=False,
        color_jitter=0.0,
    )
    model = drop_strides(create_model(TIMM[network], num_classes=10))
    return plain_loop(model, iter(loader), steps, torch.channels_last, bf16, compiled)


def drop_strides(model: nn.Module) -> nn.Module:
    """Turns the earliest stride-2 convolutions to stride 1, as stride_plan=auto does."""
    strided = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    for convolution in strided[:DROPPED_STRIDES]:
        convolution.stride = (1, 1)
    return model


def plain_loop(
    model: nn.Module,
    batches: Batches,
    steps: int,
    layout: torch.memory_format,
    bf16: bool = False,
    compiled: bool = False,
) -> list[float]:
    """The step of both reference scripts; a time stamp after each."""
    model = model.to(memory_format=layout).train()
    if compiled:
        model.compile()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    stamps = []
    for images, labels in islice(batches, WARMUP_STEPS + steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(images.contiguous(memory_format=layout))
            loss = criterion(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        (logits.argmax(1) == labels).float().mean().item()
        stamps.append(time.perf_counter())
    return stamps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["v3_large", "v3_small", "v2", "v1"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=15, help=f"measured, after {WARMUP_STEPS} others")
    parser.add_argument("--workers", nargs="+", default=["0", "1"], help="DataLoader processes of the peers")
    parser.add_argument("--variants", nargs="*", default=[], choices=list(VARIANTS)[1:], help="also of timm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        tool, network, *numbers = options.worker
        print(json.dumps(worker(tool, network, *map(int, numbers))))
        return
    rows = [compare(network, options) for network in options.networks]
    measure.show(f"images/s, batch {options.batch_size}, {describe_machine()}", rows, options.csv)


def compare(network: str, options: argparse.Namespace) -> dict[str, str | float]:
    """One row of the table: medians, and our throughput as a multiple of each peer's."""
    sizes = (str(options.batch_size), str(options.steps))
    cases = [("ours", network, *sizes, "0")]
    if has_bf16(torch.device("cpu")):
        cases.append(("fp32", network, *sizes, "0"))
    timms = ["timm", *options.variants]
    cases += [(tool, network, *sizes, workers) for tool in timms for workers in options.workers]
    if network in TORCHVISION:
        cases += [("torchvision", network, *sizes, workers) for workers in options.workers]
    results = measure.in_turns(__file__, cases, options.rounds)
    best: dict[str, float] = {}
    for case, measurements in results.items():
        best[case[0]] = max(best.get(case[0], 0.0), measure.medians(measurements)["images_per_second"])
    fp32 = best.get("fp32", best["ours"])
    row: dict[str, str | float] = {"network": network, "mnet-train": best["ours"], "in fp32": fp32}
    for peer in ("torchvision", "timm"):
        row[peer] = best.get(peer, "none")
        row[f"/ {peer}"] = best["ours"] / best[peer] if peer in best else "-"
        row[f"fp32 / {peer}"] = fp32 / best[peer] if peer in best else "-"
    return {**row, **{variant: best[variant] for variant in options.variants}}


if __name__ == "__main__":
    main()
