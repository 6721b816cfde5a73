"""A run beside other busy processes, by how its threads wait for each other: OMP_WAIT_POLICY and GOMP_SPINCOUNT.

    python scripts/bench_busy.py --csv busy.csv

Images per second of the trainer on digits with two threads, alone and beside as many processes as --beside says, each
of which keeps a core busy. A thread that waits spins so many times, in the hope that the others are ready soon, before
it leaves its core to somebody else; `passive` leaves at once, and `unset` is GNU OpenMP's own choice. `command` is what
mnet-train sets, which looks whether cores are busy at its start.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import measure

from mobilenet_train.machine import describe_machine, share_cores

SECONDS = 4.0
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def worker(waiting: str, beside: int, overrides: list[str]) -> dict[str, float]:
    """Measures one case. torch is loaded here, and OpenMP with it, which reads its variables then."""
    for name in VARIABLES:
        os.environ.pop(name, None)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(beside)]
    if waiting == "command":
        time.sleep(0.5)  # until they run
        share_cores()
    elif waiting == "passive":
        os.environ["OMP_WAIT_POLICY"] = "passive"
    elif waiting != "unset":
        os.environ["GOMP_SPINCOUNT"] = waiting
    from mobilenet_train.config.compose import compose_config
    from mobilenet_train.runs.build import build_run

    parts = build_run(compose_config("model=v3_small", "dataset=digits", "device=cpu", "device.threads=2", *overrides))
    measure.trainer_stamps(parts, time.perf_counter)
    try:
        began, updates = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS:
            parts.state.batch = 0
            updates += len(measure.trainer_stamps(parts, time.perf_counter))
        return {"images_per_second": updates * parts.config.batch_size / (time.perf_counter() - began)}
    finally:
        for other in others:
            other.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", nargs="+", default=["unset", "passive", "command"], metavar="SPINS")
    parser.add_argument("--beside", nargs="+", default=["0", "2"], metavar="PROCESSES")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", default=["model.width_mult=0.25"], metavar="KEY=VALUE")
    options = parser.parse_args()
    if options.worker:
        waiting, beside = options.worker
        print(json.dumps(worker(waiting, int(beside), options.overrides)))
        return
    results = measure.in_turns(__file__, product(options.waiting, options.beside), options.rounds)
    rates = {case: measure.medians(measurements)["images_per_second"] for case, measurements in results.items()}
    rows = [
        {"waiting": waiting, "beside": beside, "images/s": rate, "of quiet": rate / rates[waiting, options.beside[0]]}
        for (waiting, beside), rate in rates.items()
    ]
    measure.show(f"beside busy processes, {describe_machine()}", rows, options.csv)


if __name__ == "__main__":
    main()
