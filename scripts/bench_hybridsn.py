"""HybridSN on Indian Pines: the trainer against the plain loop of the published exercise.

    python scripts/bench_hybridsn.py --steps 8 --windows 1000 --rounds 3

Needs Indian Pines (MNET_DATA, or the package tensorly). Cases, each in a process of its own and in turns: `plain` cuts
all windows beforehand, trains torch's layers in fp32 with torch's Adam from a DataLoader and evaluates in batches of
`--plain-batch`; `trainer` is what `mnet-train experiment=hybridsn` does, with further KEY=VALUE words if given.
A run is that of the experiment: 100 epochs, of which the plain loop evaluates each and the trainer every tenth.
"""

import argparse
import json
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import measure
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from mobilenet_train.config.compose import compose_config
from mobilenet_train.config.schema.model import HybridSNConfig
from mobilenet_train.data.batches import EvalBatches
from mobilenet_train.data.images import Split
from mobilenet_train.machine import describe_machine, usable_cores
from mobilenet_train.models.hybridsn import HybridSN
from mobilenet_train.runs.build import RunParts, build_run
from mobilenet_train.training.evaluation import evaluate

WARMUP_STEPS = 2
CASES = ("plain", "trainer")


def worker(case: str, steps: int, windows: int, plain_batch: int, overrides: Sequence[str]) -> dict[str, float]:
    """Windows/s of training and of evaluation, and seconds of a whole run."""
    parts = build_run(compose_config("experiment=hybridsn", "device=cpu", *overrides))
    few = parts.dataset.test.take(torch.arange(min(windows, len(parts.dataset.test))))
    stamps, seconds = plain(parts, steps, few, plain_batch) if case == "plain" else trainer(parts, steps, few)
    size = parts.config.batch_size
    training, evaluation = size * steps / (stamps[-1] - stamps[WARMUP_STEPS - 1]), len(few) / seconds
    epochs = parts.plan.epochs(parts.plan.updates)
    evaluations = epochs if case == "plain" else parts.plan.evaluations(parts.plan.updates)
    run = parts.plan.updates * size / training + evaluations * len(parts.dataset.test) / evaluation
    return {"training": training, "evaluation": evaluation, "run": run}


def trainer(parts: RunParts, steps: int, test: Split) -> tuple[list[float], float]:
    """The time after each update, and the seconds that it takes to evaluate `test`."""
    parts.state.updates = WARMUP_STEPS + steps
    stamps = measure.trainer_stamps(parts, time.perf_counter)
    all_batches = parts.batches.test
    batches = EvalBatches(test, parts.dataset.preprocessing, all_batches.batch_size, parts.runtime.memory_format)
    began = time.perf_counter()
    evaluate(parts.state.model, batches, parts.runtime, lambda: 0)
    return stamps, time.perf_counter() - began


def plain(parts: RunParts, steps: int, test: Split, test_batch: int) -> tuple[list[float], float]:
    """The same of the exercise's loop."""
    torch.set_num_threads(usable_cores())
    bands, classes = parts.dataset.preprocessing.channels, len(parts.dataset.class_names)
    config = parts.config.model
    assert isinstance(config, HybridSNConfig)
    model = HybridSN(
        num_classes=classes,
        resolution=parts.config.dataset.resolution,
        in_channels=bands,
        batch_norm=config.batch_norm,
        squeeze_excite=config.squeeze_excite,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=parts.config.optim.lr)
    stamps = []
    batches = DataLoader(cubes(parts.dataset.train), parts.config.batch_size, shuffle=True)
    for inputs, labels in islice(batches, WARMUP_STEPS + steps):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        stamps.append(time.perf_counter())
    tested = DataLoader(cubes(test), test_batch)
    model.eval()
    began = time.perf_counter()
    with torch.no_grad():
        torch.cat([model(inputs).argmax(1) for inputs, _ in tested])
    return stamps, time.perf_counter() - began


def cubes(split: Split) -> TensorDataset:
    """Windows (N, bands, R, R) cut beforehand, and their labels."""
    (windows,) = split.batches([torch.arange(len(split))])
    return TensorDataset(windows.permute(0, 3, 1, 2).contiguous(), split.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for both, e.g. dataset.root=FOLDER")
    parser.add_argument("--steps", type=int, default=8, help=f"measured, after {WARMUP_STEPS} others")
    parser.add_argument("--windows", type=int, default=1000, help="to evaluate")
    parser.add_argument("--plain-batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        case, steps, windows, plain_batch, *overrides = options.overrides
        print(json.dumps(worker(case, int(steps), int(windows), int(plain_batch), overrides)))
        return
    sizes = (str(options.steps), str(options.windows), str(options.plain_batch), *options.overrides)
    results = measure.in_turns(__file__, [(case, *sizes) for case in CASES], options.rounds)
    found = {case: measure.medians(results[case, *sizes]) for case in CASES}
    rows = [
        {
            "case": case,
            "training, windows/s": values["training"],
            "evaluation, windows/s": values["evaluation"],
            "a run, minutes": values["run"] / 60,
            "times as fast": found["plain"]["run"] / values["run"],
        }
        for case, values in found.items()
    ]
    measure.show(f"HybridSN on Indian Pines, {describe_machine()}", rows, options.csv)


if __name__ == "__main__":
    main()
