"""What changes of a recipe are worth: each against the base recipe, seed by seed, on images held out from training.

A tenth of the training images is held out (`dataset.val_fraction`, or what is given), and no test image counts: a run
evaluates after its last epoch alone. The runs of each variant are a sweep of its own, FOLDER/NAME: issued again, the
same command resumes what was stopped, and more seeds are added to what is there. The page is written again after each
variant.

python scripts/screen_recipe.py runs/screen model=v3_small epochs=4 --seeds 4 --page runs/screen/page.md \\
  --try smoother label_smoothing=0.2 --try warm optim.schedule.warmup=0.3 optim.lr=0.06
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from mobilenet_train.machine import describe_machine
from mobilenet_train.sweeps.paired import Comparison, compare

USUAL = ("dataset.val_fraction=0.1", "eval.every_epochs=1000000")  # unless typed; only the last epoch is evaluated
BASE = "base"  # the name of the recipe that all are held against
ENOUGH_SEEDS = 4
SIGNIFICANT = 0.05
HEADER = ("alternative", "changes", "seeds", "base", "with it", "difference", "p", "verdict")
NOTE = f"""\
Top-1 in percent of the last epoch, on images held out from training. Difference: mean over seeds and its
95 % interval; p: Student's paired t-test, two-sided. Of alternatives that change nothing one in
{1 / SIGNIFICANT:.0f} shows p < {SIGNIFICANT:g}."""


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=ENOUGH_SEEDS, help="seeds 0, 1, ... of each variant")
    arguments = parser.parse_args()
    alternatives = {name: words for name, *words in vars(arguments)["try"]}
    run_seeds(arguments.folder, BASE, arguments.overrides, arguments.seeds)
    found: list[tuple[str, ...]] = []
    for name, words in alternatives.items():
        run_seeds(arguments.folder, name, [*arguments.overrides, *words], arguments.seeds)
        (comparison,) = compare(arguments.folder / BASE, arguments.folder / name)
        found.append(cells(name, words, comparison))
        text = write_page(arguments, NOTE, HEADER, found)
    print(text)


def new_parser(about: str | None) -> argparse.ArgumentParser:
    """What both screenings are told."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the runs are kept; the same command resumes them")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="the base recipe, as for mnet-train")
    tried = "an alternative: its name, and what it changes"
    parser.add_argument("--try", nargs="+", action="append", required=True, metavar="NAME KEY=VALUE", help=tried)
    parser.add_argument("--page", type=Path, help="write the table to this Markdown file")
    return parser


def usual(overrides: Sequence[str]) -> list[str]:
    """USUAL without what is typed."""
    typed = {word.partition("=")[0] for word in overrides}
    return [word for word in USUAL if word.partition("=")[0] not in typed]


def run_seeds(folder: Path, name: str, overrides: Sequence[str], seeds: int) -> None:
    """Runs one variant with every seed, as far as it has not been run."""
    fixed = [f"outputs={folder}", f"sweep={name}", f"seed=range({seeds})", "tensorboard=false", *usual(overrides)]
    done = subprocess.run([sys.executable, "-m", "mobilenet_train", "-m", *fixed, *overrides], stdout=sys.stderr)
    if done.returncode:
        sys.exit(f"{name} did not finish; the same command resumes it")


def cells(name: str, words: Sequence[str], comparison: Comparison) -> tuple[str, ...]:
    """A row of the page."""
    _, measured_on, *numbers = comparison.cells
    assert measured_on == "hold-out"
    return name, f"`{' '.join(words)}`", *numbers, verdict(comparison)


def verdict(comparison: Comparison) -> str:
    """What is to be made of a comparison: a change has to earn its place."""
    if len(comparison.seeds) < ENOUGH_SEEDS:
        return f"too few seeds (under {ENOUGH_SEEDS})"
    return judged(comparison.difference.mean, comparison.p)


def judged(difference: float, p: float) -> str:
    """The same of as many seeds as it takes."""
    if p >= SIGNIFICANT:
        return "no difference shown: the simpler one stays"
    return "better" if difference > 0 else "worse"


def write_page(arguments: argparse.Namespace, note: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A screening so far as Markdown, with the command that repeats it; written to the file that was asked for."""
    lines = [" | ".join(line) for line in (header, ["---"] * len(header), *rows)]
    script, *words = sys.argv
    text = "\n".join(
        [
            f"# Alternatives to `{' '.join(arguments.overrides)}`",
            "",
            f"{datetime.now(UTC):%Y-%m-%d}, {describe_machine()}.",
            note,
            "",
            f"    {shlex.join(['python', f'scripts/{Path(script).name}', *words])}",
            "",
            *(f"| {line} |" for line in lines),
            "",
        ]
    )
    if arguments.page is not None:
        arguments.page.write_text(text)
    return text


if __name__ == "__main__":
    main()
