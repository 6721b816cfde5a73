"""Which keys of a recipe matter: twelve runs for up to eleven keys, six at each key's low value and six at its high.

The design of Plackett and Burman (1946, Biometrika 33): within the six runs of one value every other key takes both of
its values equally often, so a key's effect is the difference of two means of six runs, and what two keys do to each
other is spread over the rest. Unused columns, and seed=0,1, show how large an effect is by chance. Finished runs in
FOLDER are kept, unfinished ones are resumed.

python scripts/screen_recipe.py FOLDER model=v3_small epochs=4 --vary optim.lr=0.04,0.09 label_smoothing=0,0.1 seed=0,1
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Self

from measure import show

from mobilenet_train.machine import describe_machine, usable_cores

FIRST_ROW = (1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0)
DESIGN = [FIRST_ROW[-shift:] + FIRST_ROW[:-shift] for shift in range(11)] + [(0,) * 11]  # [run][key] -> low or high


class Key(NamedTuple):
    """A key of the configuration and the two values to compare."""

    name: str
    low: str
    high: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """From KEY=LOW,HIGH. Raises ArgumentTypeError for anything else."""
        match = re.fullmatch("([^=]+)=([^,]+),([^,]+)", text)
        if match is None:
            raise argparse.ArgumentTypeError(f"{text!r} should be KEY=LOW,HIGH, as in optim.lr=0.04,0.09")
        return cls(*match.groups())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the run folders are made")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="the same in all runs, as for mnet-train")
    parser.add_argument("--vary", nargs="+", required=True, type=Key.parse, metavar="KEY=LOW,HIGH")
    parser.add_argument("--slots", type=int, default=usable_cores(), help="runs at once, a thread each")
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    keys = arguments.vary
    if len(keys) > len(FIRST_ROW):
        parser.error(f"--vary takes up to {len(FIRST_ROW)} keys, these are {len(keys)}")

    def run(number: int) -> float:
        chosen = [f"{key.name}={key[1 + level]}" for key, level in zip(keys, DESIGN[number], strict=False)]
        top1 = hold_out_top1(arguments.folder / f"run-{number}", [*arguments.overrides, *chosen])
        print(f"run {number}: {top1:.2f} % of the hold-out images; {' '.join(chosen)}", flush=True)
        return top1

    with ThreadPoolExecutor(arguments.slots) as pool:
        scores = list(pool.map(run, range(len(DESIGN))))
    keys += [Key("(chance)", "", "")] * (len(FIRST_ROW) - len(keys))
    rows = [effect(key, scores, column) for column, key in enumerate(keys)]
    show(f"{' '.join(arguments.overrides)}: hold-out top-1, {describe_machine()}", rows, arguments.csv)


def effect(key: Key, scores: list[float], column: int) -> dict[str, str]:
    """A row of the table: the mean top-1 of either value, and their difference."""
    runs = list(zip(scores, DESIGN, strict=True))
    of_low, of_high = (statistics.mean(score for score, row in runs if row[column] == level) for level in (0, 1))
    means = {"top-1 of low": f"{of_low:.2f}", "top-1 of high": f"{of_high:.2f}"}
    return {"key": key.name, "low": key.low, "high": key.high, **means, "high - low": f"{of_high - of_low:+.2f}"}


def hold_out_top1(folder: Path, overrides: list[str]) -> float:
    """The last epoch's top-1 of a run on a tenth of the training images that is held out from training."""
    fixed = [f"run_dir={folder}", "dataset.val_fraction=0.1", "device.threads=1", "tensorboard=false"]
    command = [sys.executable, "-m", "mobilenet_train", *fixed, *overrides]
    finished = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if finished.returncode:
        sys.exit(f"{' '.join(command)}\n{finished.stderr}")
    return json.loads((folder / "summary.json").read_text())["final"]["val"]["top1"]


if __name__ == "__main__":
    main()
