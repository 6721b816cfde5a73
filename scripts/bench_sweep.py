"""Seconds of a sweep against the same jobs one after another with all cores, start-up included, taking turns.

python scripts/bench_sweep.py --rounds 3 --sweep seed=0,1,2,3 dataset=digits model=v3_small epochs=20
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

from measure import show

from mobilenet_train.machine import describe_machine, usable_cores

COMMAND = (sys.executable, "-m", "mobilenet_train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sweep", required=True, metavar="KEY=A,B,...", help="what the jobs differ in")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for mnet-train")
    arguments = parser.parse_args()
    key, _, values = arguments.sweep.partition("=")
    threads = f"device.threads={usable_cores()}"
    sweep = [["-m", *arguments.overrides, arguments.sweep]]
    single = [[*arguments.overrides, threads, f"{key}={value}"] for value in values.split(",")]
    seconds: list[tuple[float, float]] = []
    for number in range(arguments.rounds):
        seconds.append((run_all(sweep), run_all(single)))
        print(f"round {number + 1}: {seconds[-1][0]:.1f} s as a sweep, {seconds[-1][1]:.1f} s one by one", flush=True)
    row = {
        "as a sweep, s": statistics.median(ours for ours, _ in seconds),
        "one after another, s": statistics.median(theirs for _, theirs in seconds),
        "ratio": statistics.median(ours / theirs for ours, theirs in seconds),
    }
    title = f"{arguments.sweep} {' '.join(arguments.overrides)}: medians of {arguments.rounds}, {describe_machine()}"
    show(title, [row], None)


def run_all(commands: list[list[str]]) -> float:
    """Seconds of `mnet-train` with each list of arguments in turn, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        for arguments in commands:
            subprocess.run([*COMMAND, *arguments], cwd=folder, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
