"""What changes of a recipe are worth, all at once: every run has half of them, each effect is drawn from all runs.

A fractional factorial design of 16 or 32 runs over four seeds (Box, Hunter and Hunter 2005, chapters 5 and 6): half of
a seed's runs have an alternative, and any two alternatives are independent. An effect of 16 runs is as certain as one
from eight pairs of runs; what two alternatives do only together is not mistaken for what one does. Top-1 is that of the
last epoch on images held out from training, as in screen_recipe.py, which confirms what is found.

python scripts/screen_crossed.py runs/crossed model=v3_small epochs=8 device.threads=1 --page runs/crossed/page.md \\
  --try smoother label_smoothing=0.2 --try warm optim.schedule.warmup=0.3 optim.lr=0.06
"""

import math
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from screen_recipe import judged, new_parser, usual, write_page

from mobilenet_train.runs.folder import read_summary
from mobilenet_train.sweeps.folder import state_of

SEEDS = (0b0011, 0b1100)  # the parities of a run's number under these two masks count its seed
HEADER = ("alternative", "changes", "without", "with it", "difference", "p", "verdict")
NOTE = """\
Top-1 in percent of the last epoch, on images held out from training: the means of the half of the runs
without each alternative and of the half with it; 95 % interval and p of the difference, two-sided."""


@dataclass(frozen=True)
class Effect:
    """Of one alternative: mean top-1 in percent without and with it; 95 % interval and p-value of the difference."""

    without: float
    with_it: float
    interval: float
    p: float

    @property
    def verdict(self) -> str:
        return judged(self.with_it - self.without, self.p)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--runs", type=int, choices=(16, 32), default=16, help="for 8 and 16 alternatives at most")
    parser.add_argument("--slots", type=int, default=2, help="runs at once")
    arguments = parser.parse_args()
    alternatives = {name: words for name, *words in vars(arguments)["try"]}
    if len(alternatives) > arguments.runs // 2:
        parser.error(f"{len(alternatives)} alternatives; {arguments.runs} runs are for {arguments.runs // 2} at most")
    folders = [arguments.folder / f"run_{number:02d}" for number in range(arguments.runs)]
    with ThreadPoolExecutor(arguments.slots) as slots:
        ends = slots.map(
            lambda number: run_one(folders[number], number, arguments.overrides, list(alternatives.values())),
            range(arguments.runs),
        )
    failed = [folder for folder, end in zip(folders, ends, strict=True) if end]
    if failed:
        sys.exit(f"not finished: {', '.join(map(str, failed))}; the same command resumes them")
    top1 = [read_summary(folder)["final"]["val"]["top1"] for folder in folders]
    found = zip(alternatives.items(), effects(top1, len(alternatives)), strict=True)
    rows = [cells(name, words, effect) for (name, words), effect in found]
    print(write_page(arguments, NOTE, HEADER, rows))


def masks(runs: int) -> list[int]:
    """One for each alternative: a run has it where the parity under its mask is 1.

    With an odd number of bits, so that no product of two of them is a third: resolution IV.
    """
    return [mask for mask in range(1, runs) if mask.bit_count() % 2]


def parity(run: int, mask: int) -> int:
    return (run & mask).bit_count() % 2


def seed_of(run: int) -> int:
    return 2 * parity(run, SEEDS[0]) + parity(run, SEEDS[1])


def run_one(folder: Path, run: int, overrides: Sequence[str], alternatives: Sequence[Sequence[str]]) -> int:
    """Starts or resumes one run, unless it has ended; returns the exit code."""
    if state_of(folder.parent, folder.name) == "finished":
        return 0
    chosen = [word for mask, words in zip(masks(64), alternatives, strict=False) if parity(run, mask) for word in words]
    words = [f"run_dir={folder}", f"seed={seed_of(run)}", "tensorboard=false", *usual(overrides), *overrides, *chosen]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("a") as log:
        return subprocess.run([sys.executable, "-m", "mobilenet_train", *words], stdout=log, stderr=log).returncode


def effects(top1: Sequence[float], alternatives: int) -> list[Effect]:
    """Least squares of a mean for each seed and an effect for each alternative; p is Student's, two-sided."""
    from scipy.stats import t

    runs = len(top1)
    chosen = masks(runs)[:alternatives]
    seeds = np.array([[seed_of(run) == seed for seed in range(4)] for run in range(runs)], dtype=float)
    signs = np.array([[parity(run, mask) - 0.5 for mask in chosen] for run in range(runs)])
    design = np.hstack([seeds, signs])
    fitted, *_ = np.linalg.lstsq(design, np.array(top1), rcond=None)
    left = runs - design.shape[1]  # degrees of freedom
    error = math.sqrt(float(((design @ fitted - top1) ** 2).sum()) / left) * 2 / math.sqrt(runs)
    half = float(t.ppf(0.975, left)) * error
    mean = float(np.mean(top1))
    return [
        Effect(mean - effect / 2, mean + effect / 2, half, 2 * float(t.sf(abs(effect) / error, left)) if error else 1.0)
        for effect in map(float, fitted[4:])
    ]


def cells(name: str, words: Sequence[str], effect: Effect) -> tuple[str, ...]:
    """A row of the page."""
    return (
        name,
        f"`{' '.join(words)}`",
        f"{effect.without:.2f}",
        f"{effect.with_it:.2f}",
        f"{effect.with_it - effect.without:+.2f} ± {effect.interval:.2f}",
        f"{effect.p:.2g}",
        effect.verdict,
    )


if __name__ == "__main__":
    main()
