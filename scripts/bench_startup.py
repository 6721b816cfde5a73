"""From the command to the first training step: how long, and where the time goes.

    python scripts/bench_startup.py --rounds 5

Needs the CIFAR-10 files (MNET_DATA). The whole is timed on the command itself: its first TensorBoard point is
written right after the first update. The parts are timed in a process that takes the same way.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import measure

from mobilenet_train.config.compose import compose_config
from mobilenet_train.machine import describe_machine
from mobilenet_train.runs.start import import_session

COMMAND = ("model=v3_large", "device=cpu", "max_updates=1", "log_every=1")


def seconds_to_first_step() -> float:
    """Runs the command for one update; the seconds until that update was done."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        began = time.time()
        command = [sys.executable, "-m", "mobilenet_train", *COMMAND, f"run_dir={run}", "eval.batch_size=1000"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        events = EventAccumulator(str(run)).Reload()
        return events.Scalars("train/loss_batch")[0].wall_time - began


def parts(began: float) -> dict[str, float]:
    """Seconds of each stage on the way to the first update, in this process, started at `began`."""
    stamps = [began, time.time()]
    config = compose_config(*COMMAND)
    stamps.append(time.time())
    import_session(config)
    stamps.append(time.time())
    from mobilenet_train.runs.build import build_run
    from mobilenet_train.training.step import train_update

    parts = build_run(config)
    stamps.append(time.time())
    group = list(islice(parts.batches.train.epoch(0), 1))
    train_update(parts.state, group, parts.plan)
    stamps.append(time.time())
    names = ("Python", "Hydra, configuration", "imports: torch, trackers", "data, network, cost", "first update")
    return {name: after - before for name, before, after in zip(names, stamps, stamps[1:], strict=False)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        print(json.dumps(parts(options.worker)))
        return
    if "MNET_DATA" not in os.environ:
        sys.exit("set MNET_DATA to the folder that holds cifar-10-batches-py")
    whole, stages = [], []
    for _ in range(options.rounds):
        whole.append({"command to first step": seconds_to_first_step()})
        worker = [sys.executable, __file__, "--worker", str(time.time())]
        stages.append(json.loads(subprocess.run(worker, stdout=subprocess.PIPE, check=True).stdout))
    row = measure.medians(whole) | measure.medians(stages)
    measure.show(f"seconds, median of {options.rounds}, {describe_machine()}", [row], options.csv)


if __name__ == "__main__":
    main()
