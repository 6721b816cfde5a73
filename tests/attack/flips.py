"""Flips random single bits of what a run saved: each flip is detected, by one clear line, or changes no result.

`python -m tests.attack.flips --flips 10000 --seed 0` runs the whole campaign. Cached pixels are not among its files.
"""

import argparse
import io
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import OmegaConf

from mobilenet_train import checkpoint
from mobilenet_train.config.saved import from_record, read_saved
from mobilenet_train.data import cache
from mobilenet_train.data.listing import list_tree
from mobilenet_train.errors import RunError, UserError
from mobilenet_train.runs.folder import read_summary
from mobilenet_train.tracking.epoch_log import EpochLog
from mobilenet_train.tracking.metrics_csv import MetricsCsv, read_metrics
from mobilenet_train.training.state import result_from_dict
from tests.children import Child, mnet_train
from tests.data.image_files_for_tests import draw, encoded

TINY = (
    *("model=v1", "model.width_mult=0.03", "model.stride_plan=2", "dataset=digits", "dataset.resolution=16"),
    *("dataset.max_per_class=16", "batch_size=16", "tensorboard=false", "device.threads=1", "epochs=2", "optim=sgd"),
)
IMAGES, SIDE = 70, 8


@dataclass(frozen=True)
class Target:
    """A file, and a reader that says whether what it makes of the file is what it made of the whole one."""

    name: str
    path: Path
    same: Callable[[], bool]  # raises UserError where the flip is detected


def campaign(run: Path, cached: Path, flips: int, seed: int) -> Counter[tuple[str, str]]:
    """Flips one bit at a time; counts (file, outcome). Raises AssertionError for one that goes unnoticed."""
    draw_bits = random.Random(seed)
    targets = [*run_targets(run), *cache_targets(cached)]
    outcomes: Counter[tuple[str, str]] = Counter()
    for _ in range(flips):
        target = draw_bits.choice(targets)
        whole = target.path.read_bytes()
        place, bit = draw_bits.randrange(len(whole)), draw_bits.randrange(8)
        target.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        outcomes[target.name, outcome_of(target, place, bit)] += 1
        target.path.write_bytes(whole)
    return outcomes


def outcome_of(target: Target, place: int, bit: int) -> str:
    where, message = f"bit {bit} of byte {place} of {target.path}", ""
    try:
        same = target.same()
    except UserError as error:
        same, message = True, str(error)
    except Exception as error:
        raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
    assert same, f"{where} changes the result and nobody says so"
    assert "\n" not in message, f"{where}: {message}"
    return "detected" if message else "harmless"


def run_targets(run: Path) -> list[Target]:
    """Everything but the curves, which nobody reads but people."""
    checkpoints = [run / "checkpoints" / name for name in ("last.pt", "previous.pt", "best.pt")]
    saved = checkpoint.load(checkpoints[0])
    trained = from_record(OmegaConf.create(dict(saved["config"]))).config
    history = [result_from_dict(values) for values in saved["history"]]
    record, summary = read_saved(run), read_summary(run)
    table = (run / "metrics.csv").read_bytes()

    def config_is_same() -> bool:
        """As at a resume: a key that differs from the checkpoint's is refused, unless it changes no result."""
        now = read_saved(run)
        if now.differences(trained):
            raise RunError("config.yaml differs from the checkpoint")
        return replace(now, config=record.config) == record

    def table_is_same() -> bool:
        """As at a resume, which writes it again from the checkpoint."""
        with suppress(UserError):
            read_metrics(run)
        MetricsCsv(run / "metrics.csv", history)
        return (run / "metrics.csv").read_bytes() == table

    def log_is_same() -> bool:
        EpochLog(run / "train.log", len(history), history)
        return (run / "train.log").read_bytes() == log

    EpochLog(run / "train.log", len(history), history)
    log = (run / "train.log").read_bytes()
    return [
        *(Target("checkpoint", path, same_checkpoint(path)) for path in checkpoints),
        Target("config.yaml", run / "config.yaml", config_is_same),
        Target("summary.json", run / "summary.json", lambda: known(read_summary(run), summary)),
        Target("metrics.csv", run / "metrics.csv", table_is_same),
        Target("train.log", run / "train.log", log_is_same),
    ]


def known(now: dict[str, object], whole: dict[str, object]) -> bool:
    """The values that there were; the name of a checksum may have become another key."""
    return all(key in now and now[key] == value for key, value in whole.items())


def same_checkpoint(path: Path) -> Callable[[], bool]:
    before = checkpoint.digest(checkpoint.load(path))
    return lambda: checkpoint.digest(checkpoint.load(path)) == before


def cache_targets(folder: Path) -> list[Target]:
    """The index and digests of the prepared images in `folder`, and a journal as a stopped preparation leaves it."""
    home = next(path.parent for path in folder.glob("*/index.json"))
    whole = cache._opened(home, IMAGES, SIDE, True)
    journal = folder / "journal"
    lines = [{"chunk": number, "crc": 7 * number, "bad": {str(number): "truncated"}} for number in range(20)]
    journal.write_bytes(b"".join(json.dumps(cache.with_checksum(line)).encode() + b"\n" for line in lines))
    done = cache._read_journal(io.BytesIO(journal.read_bytes()))
    assert len(done) == len(lines)

    def cache_is_same() -> bool:
        now = cache._opened(home, IMAGES, SIDE, True)
        return now.digests.tobytes() == whole.digests.tobytes() and now.bad == whole.bad

    def journal_is_same() -> bool:
        """Chunks that it does not vouch for are prepared again."""
        found = cache._read_journal(io.BytesIO(journal.read_bytes()))
        return all(done.get(chunk) == line for chunk, line in found.items())

    return [
        Target("index.json", home / "index.json", cache_is_same),
        Target("digests.u8", home / "digests.u8", cache_is_same),
        Target("journal", journal, journal_is_same),
    ]


def make_cache(folder: Path) -> Path:
    """Prepares a few images, one of which is bad."""
    (folder / "images/a").mkdir(parents=True)
    for number in range(IMAGES):
        (folder / f"images/a/{number}.jpg").write_bytes(encoded(draw(number)) if number else b"not an image")
    cache.on_disk(list_tree(folder / "images", None, {}).listing, SIDE, True, folder / "cache", 1, cache.SILENT)
    return folder / "cache"


def make_run(folder: Path) -> Path:
    child = Child(folder / "output", mnet_train(*TINY, f"run_dir={folder}/run"), folder)
    assert child.wait() == 0, child.text()
    return folder / "run"


def main() -> None:
    """Prints how often each file's flips were detected or harmless; fails at the first that went unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        outcomes = campaign(make_run(folder), make_cache(folder), arguments.flips, arguments.seed)
    for (name, outcome), count in sorted(outcomes.items()):
        print(f"{name:12} {outcome:8} {count:6,}")
    print(f"{outcomes.total():,} flips, seed {arguments.seed}: each detected or harmless")


if __name__ == "__main__":
    main()
