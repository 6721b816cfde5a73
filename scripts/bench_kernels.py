"""What each kernel in C is worth: the rate of a training step with it turned off, against that with all of them.

    python scripts/bench_kernels.py --networks v3_large --precisions bf16 --csv kernels.csv

Needs the CIFAR-10 files (MNET_DATA). A kernel stays in the package only as long as a network loses without it. Steps
with one kernel after the other turned off take turns in one process; the rates are medians.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import measure
import torch
from bench_step import bare_updates

from mobilenet_train.config.compose import compose_config
from mobilenet_train.kernels import dispatch
from mobilenet_train.machine import describe_machine
from mobilenet_train.runs.build import build_run
from mobilenet_train.runtime import has_bf16

WARMUP_ROUNDS = 2


def never(*_: object) -> None:
    """A kernel that leaves all work to torch."""


ALL = dict.fromkeys(("norm_activation", "depthwise_norm", "squeeze_excite"), never)
CASES: dict[str, dict[str, Any]] = {  # what is put in dispatch's place
    "none": {"KERNELS": dispatch.KERNELS},
    "norm": {"norm_activation": never},
    "depthwise 3x3": {"KERNELS": (5,)},
    "depthwise 5x5": {"KERNELS": (3,)},
    "squeeze-and-excite": {"squeeze_excite": never},
    "all": ALL,
}


def worker(network: str, precision: str, batch_size: int, rounds: int) -> dict[str, float]:
    """Images per second with each of CASES turned off."""
    overrides = (f"model={network}", f"device.precision={precision}", f"batch_size={batch_size}", "device=cpu")
    updates = bare_updates(build_run(compose_config(*overrides)))
    seconds: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(WARMUP_ROUNDS + rounds):
        for case, replaced in CASES.items():
            with patch.multiple(dispatch, **replaced):
                began = time.perf_counter()
                next(updates)
                seconds[case].append(time.perf_counter() - began)
    return {case: batch_size / statistics.median(times[WARMUP_ROUNDS:]) for case, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["v3_large", "v3_small", "v2", "v1"])
    precisions = ["fp32", "bf16"] if has_bf16(torch.device("cpu")) else ["fp32"]
    parser.add_argument("--precisions", nargs="+", default=precisions, choices=precisions)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15, help=f"measured, after {WARMUP_ROUNDS} others")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        network, precision, *sizes = options.worker
        print(json.dumps(worker(network, precision, *map(int, sizes))))
        return
    sizes = (str(options.batch_size), str(options.rounds))
    cases = [(network, precision, *sizes) for network in options.networks for precision in options.precisions]
    rows = []
    for case, (rates,) in measure.in_turns(__file__, cases, rounds=1).items():
        losses = {f"% lost without {name}": 100 * (1 - rates[name] / rates["none"]) for name in CASES if name != "none"}
        rows.append({"network": case[0], "precision": case[1], "img/s": rates["none"], **losses})
    measure.show(f"kernels, batch {options.batch_size}, {describe_machine()}", rows, options.csv)


if __name__ == "__main__":
    main()
