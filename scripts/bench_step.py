"""The trainer against the bare step loop: throughput, share of the data, page faults and memory.

    python scripts/bench_step.py --networks v3_small v3_large --csv steps.csv

Needs the CIFAR-10 files (MNET_DATA). Cases, each in a process of its own and in turns:
`bare` is forward, loss, backward and update on one batch that never changes; `trainer` is the loop of
`mnet-train` itself, with data, augmentation and metrics; `malloc` is the trainer with glibc's allocator as it is.
"""

import argparse
import json
import resource
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import measure
from torch.nn import functional as F

from mobilenet_train import runtime
from mobilenet_train.config.compose import compose_config
from mobilenet_train.machine import describe_machine
from mobilenet_train.runs.build import RunParts, build_run

WARMUP_STEPS = 3
CASES = ("bare", "trainer", "malloc")

Stamp = tuple[float, int]  # seconds, page faults of the process so far


def worker(case: str, network: str, batch_size: int, steps: int) -> dict[str, float]:
    """Measures one case."""
    if case == "malloc":
        runtime.keep_freed_memory = lambda: None
    updates = WARMUP_STEPS + steps
    overrides = (f"model={network}", f"batch_size={batch_size}", f"max_updates={updates}", "device=cpu")
    parts = build_run(compose_config(*overrides))
    stamps = list(islice(bare_updates(parts), updates)) if case == "bare" else measure.trainer_stamps(parts, stamp)
    (began, faults_before), (ended, faults_after) = stamps[WARMUP_STEPS - 1], stamps[-1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "images_per_second": batch_size * steps / (ended - began),
        "milliseconds": 1000 * (ended - began) / steps,
        "data_milliseconds": 1000 * data_seconds(parts, steps) / steps,
        "page_faults": (faults_after - faults_before) / steps,
        "peak_memory_mb": peak / 1024,
    }


def stamp() -> Stamp:
    """Now."""
    return time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def bare_updates(parts: RunParts) -> Iterator[Stamp]:
    """Updates on one and the same batch, as short as they can be written; a stamp after each."""
    model, optimizer = parts.state.model, parts.state.optimizer
    images, labels = next(parts.batches.train.epoch(0))
    while True:
        with parts.runtime.casting():
            logits = model(images)
        F.cross_entropy(logits.float(), labels, label_smoothing=0.1).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield stamp()


def data_seconds(parts: RunParts, batches: int) -> float:
    """Time to draw an epoch's augmentation and make its first batches."""
    began = time.perf_counter()
    for _ in islice(parts.batches.train.epoch(1), batches):
        pass
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["v3_small", "v3_large", "v2", "v1"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help=f"measured, after {WARMUP_STEPS} others")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        case, network, batch_size, steps = options.worker
        print(json.dumps(worker(case, network, int(batch_size), int(steps))))
        return
    sizes = (str(options.batch_size), str(options.steps))
    results = measure.in_turns(__file__, [(c, n, *sizes) for n in options.networks for c in CASES], options.rounds)
    rows = []
    for network in options.networks:
        bare, trainer, malloc = (measure.medians(results[case, network, *sizes]) for case in CASES)
        rows.append(
            {
                "network": network,
                "bare img/s": bare["images_per_second"],
                "trainer img/s": trainer["images_per_second"],
                "trainer / bare": trainer["images_per_second"] / bare["images_per_second"],
                "data %": 100 * trainer["data_milliseconds"] / trainer["milliseconds"],
                "faults a step": trainer["page_faults"],
                "faults a step, default malloc": malloc["page_faults"],
                "img/s, default malloc": malloc["images_per_second"],
                "peak MB": trainer["peak_memory_mb"],
            }
        )
    measure.show(f"training step, batch {options.batch_size}, {describe_machine()}", rows, options.csv)


if __name__ == "__main__":
    main()
