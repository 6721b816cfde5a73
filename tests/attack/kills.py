"""The kill campaign: random configurations, SIGKILL at random moments and file operations, not a byte of difference.

    python -m tests.attack.kills --kills 500 --seed 0 --jobs 2

Each configuration is trained once undisturbed, then again and again killed and started with the same command until it
ends; then every record of both runs is compared. Half of the kills come after a random time, half at a random file
operation of the run (opening, renaming, linking, removing), before it takes place.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.children import Child, mnet_train
from tests.old_runs.make import make_images
from tests.records import everything, log_lines, rows, weights

OPERATIONS = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.truncate", "fcntl.flock"}
COMMON = ["model.width_mult=0.03", "device.threads=1", "device=cpu", "log_every=2", "checkpoint.every_minutes=0.0001"]
DIGITS = ["dataset=digits", "dataset.max_per_class=16", "model.stride_plan=2", "dataset.resolution=16", "batch_size=32"]
IMAGES = ["dataset=folder", "dataset.root=images", "dataset.resolution=32", "batch_size=8", "dataset.cache_dir=cache"]
CHOICES = {  # a configuration takes one word of each line
    "model": ["model=v1", "model=v2"],
    "optim": ["optim=sgd", "optim=adam", "optim=rmsprop", "optim=muon", "optim=adamw"],
    "ema": ["ema.decay=0", "ema.decay=0.9"],
    "val": ["dataset.val_fraction=0", "dataset.val_fraction=0.25"],
    "augment": ["augment=none", "augment=basic", "augment=standard", "augment=strong"],
    "tensorboard": ["tensorboard=true", "tensorboard=false"],
    "accumulate": ["optim.accumulate=1", "optim.accumulate=3"],
    "epochs": ["epochs=3", "epochs=4"],
    "balance": ["balance=none", "balance=loss", "balance=sampling"],
    "seed": ["seed=0", "seed=1", "seed=2"],
    "progressive": ["progressive.start=null", "progressive.start=8"],
}
HELD = [
    "dataset.cache=disk dataset.workers=2",
    "dataset.cache=memory dataset.workers=1",
    "dataset.cache=off dataset.workers=0",
]


@dataclass
class Outcome:
    """What became of one configuration."""

    words: list[str]
    kills: int = 0
    at_operations: int = 0
    differing: list[str] = field(default_factory=list)


def configuration(draw: random.Random) -> list[str]:
    words = [draw.choice(options) for options in CHOICES.values()]
    return [*(DIGITS if draw.random() < 0.6 else [*IMAGES, *draw.choice(HELD).split()]), *words, *COMMON]


def die_at_operation(number: int, below: str) -> None:
    """From now on this process kills itself before its operation `number` on a file whose path has `below` in it."""
    left = number

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in OPERATIONS and (event == "fcntl.flock" or any(below in str(part) for part in arguments[:2])):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def attack(words: Sequence[str], kills: int, folder: Path, seed: int) -> Outcome:
    """Trains one configuration undisturbed and killed `kills` times, if the run lasts so long, and compares."""
    draw, outcome = random.Random(seed), Outcome(list(words))
    make_images(folder / "images")

    def start(run: str, operation: int = 0) -> Child:
        prepare = partial(die_at_operation, operation, run) if operation else None
        return Child(folder / f"{run}.txt", mnet_train(f"run_dir={run}", *words, prepare=prepare), folder=folder)

    whole = start("whole")
    began = time.monotonic()
    if whole.wait() != 0:
        raise RuntimeError(whole.text())
    length = time.monotonic() - began
    while outcome.kills < kills:
        by_operation = draw.random() < 0.5
        child = start("killed", draw.randint(1, 60) if by_operation else 0)
        if not by_operation:
            time.sleep(draw.uniform(0, length))
            child.kill()
        code = child.wait()
        if code == 0:
            break
        if code != -signal.SIGKILL:
            raise RuntimeError(f"{' '.join(words)} ended with {code}: {child.text()}")
        outcome.kills += 1
        outcome.at_operations += by_operation
    last = start("killed")
    if last.wait() != 0:
        raise RuntimeError(f"{' '.join(words)} cannot be resumed: {last.text()}")
    one, other = (records(folder / run) for run in ("whole", "killed"))
    outcome.differing = [name for name in one if one[name] != other[name]]
    return outcome


def records(run: Path) -> dict[str, Any]:
    """All that a run leaves but its times."""
    if list(run.glob("events.*")):
        return everything(run)
    files = {"metrics.csv": rows(run), "train.log": log_lines(run)}
    return {"last": weights(run), "best": weights(run, "best.pt"), **files}


def left_behind() -> list[str]:
    """Processes of a campaign that are still there, and its shared memory."""
    found = [f"/dev/shm/{name}" for name in os.listdir("/dev/shm") if name.startswith("torch_")]  # noqa: PTH208
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"run_dir=killed" in words:
            found.append(f"process {path.parent.name}")
    return found


def campaign(kills: int, seed: int, jobs: int, each: int = 12) -> list[Outcome]:
    """Configurations, `jobs` at once, until there were `kills` kills in all; `each` at most of one configuration."""
    draw, outcomes = random.Random(seed), list[Outcome]()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(jobs) as pool:
        while sum(outcome.kills for outcome in outcomes) < kills:
            missing = kills - sum(outcome.kills for outcome in outcomes)
            batch = []
            for number in range(jobs):
                folder = Path(name, f"{len(outcomes)}_{number}")
                folder.mkdir()
                batch.append((configuration(draw), min(each, missing), folder, draw.randrange(2**32)))
            for outcome in pool.map(lambda arguments: attack(*arguments), batch):
                outcomes.append(outcome)
                print(f"{outcome.kills:3} kills, {outcome.at_operations:3} at file operations, ", end="")
                print(f"differing: {outcome.differing or 'nothing'}: {' '.join(outcome.words)}", flush=True)
    return outcomes


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    began = time.monotonic()
    outcomes = campaign(options.kills, options.seed, options.jobs)
    killed, differing = sum(o.kills for o in outcomes), [o for o in outcomes if o.differing]
    print(f"{killed} kills ({sum(o.at_operations for o in outcomes)} at file operations) of {len(outcomes)} ", end="")
    print(f"configurations, {len(differing)} with a difference, in {time.monotonic() - began:.0f} s; ", end="")
    print(f"left behind: {left_behind() or 'nothing'}")
    sys.exit(1 if differing or left_behind() else 0)


if __name__ == "__main__":
    main()
