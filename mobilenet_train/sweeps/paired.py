"""Two sweeps over the same seeds, pair by pair: what a change is worth, and whether that is more than chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilenet_train.config.saved import read_saved
from mobilenet_train.data.same_images import same_images
from mobilenet_train.errors import RunError
from mobilenet_train.sweeps.rows import Row, Run, Spread, read_rows, spread


@dataclass(frozen=True)
class Comparison:
    """One configuration of two sweeps, over the seeds that both have finished. Top-1 in percent."""

    label: str
    measured_on: str  # "hold-out" where both sweeps have such a split, since choices are made there; else "test"
    seeds: list[int]
    a: float  # means
    b: float
    difference: Spread  # b - a of each seed
    p: float  # of Student's paired t-test, two-sided: the chance of such a difference between equal configurations

    @property
    def cells(self) -> tuple[str, ...]:
        """For people."""
        assert self.difference.interval is not None
        difference = f"{self.difference.mean:+.2f} ± {self.difference.interval:.2f}"
        seeds = " ".join(map(str, self.seeds))
        return self.label, self.measured_on, seeds, f"{self.a:.2f}", f"{self.b:.2f}", difference, f"{self.p:.2g}"


def compare(a: Path, b: Path) -> list[Comparison]:
    """Every configuration that both sweeps have; where each has a single one, those two.

    Raises RunError if they have none in common, or fewer than two seeds of it, or were measured on other images.
    """
    rows_a, rows_b = (read_rows([folder]) for folder in (a, b))
    if len(rows_a) == len(rows_b) == 1:
        pairs = [(rows_a[0], rows_b[0])]
    else:
        by_label = {row.label: row for row in rows_b}
        pairs = [(row, by_label[row.label]) for row in rows_a if row.label in by_label]
    if not pairs:
        raise RunError(f"{a} and {b} have no configuration in common: sweep the same keys in both")
    return [_compared(*pair, (a, b)) for pair in pairs]


def _compared(a: Row, b: Row, folders: tuple[Path, Path]) -> Comparison:
    from scipy.stats import ttest_rel

    of_a, of_b = ({run.job.seed: run for run in row.finished} for row in (a, b))
    seeds = sorted(of_a.keys() & of_b.keys())
    if len(seeds) < 2:
        raise RunError(
            f"{folders[0]} and {folders[1]} have {len(seeds)} finished seeds of {a.label} in common; a comparison "
            "needs two or more"
        )
    runs = ([of_a[seed] for seed in seeds], [of_b[seed] for seed in seeds])
    held = all(run.hold_out_top1 is not None for part in runs for run in part)
    for pair in zip(*runs, strict=True):
        _refuse_other_images(pair, held, folders)
    before, after = (_top1(part, held) for part in runs)
    difference = spread([y - x for x, y in zip(before, after, strict=True)])
    p = 1.0 if before == after else float(ttest_rel(after, before).pvalue)
    means = (spread(before).mean, spread(after).mean)
    return Comparison(a.label, "hold-out" if held else "test", seeds, *means, difference, p)


def _refuse_other_images(pair: tuple[Run, Run], held: bool, folders: tuple[Path, Path]) -> None:
    """A difference of two sets of images would pass for one of the configurations."""
    a, b = pair
    if not held and same_images(a.fingerprint, b.fingerprint):  # then the test images too, whatever the split's seed
        return
    configs = [read_saved(run.folder).config.dataset for run in pair]
    for key in ("split_seed", "val_fraction") if held else ("split_seed",):
        of_a, of_b = (getattr(config, key) for config in configs)
        if of_a != of_b:
            raise RunError(
                f"{folders[0]} and {folders[1]} were measured on different {'hold-out' if held else 'test'} images: "
                f"dataset.{key} is {of_a:g} and {of_b:g}; a comparison needs the same in both"
            )


def _top1(runs: Sequence[Run], held: bool) -> list[float]:
    values = [run.hold_out_top1 if held else run.top1 for run in runs]
    return [value for value in values if value is not None]
