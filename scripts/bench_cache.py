"""Throughput of preparing a folder of image files, beside a plain PIL loop and the machine's limit for decoding JPEGs.

    python scripts/bench_cache.py FOLDER [RESOLUTION]

FOLDER has train/ and val/. One line a measurement, three rounds; last the share of an epoch that waits for data.
"""

import io
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mobilenet_train.config.compose import compose_config
from mobilenet_train.data.cache import SILENT, on_disk
from mobilenet_train.data.listing import list_tree
from mobilenet_train.machine import usable_cores
from mobilenet_train.runs.build import build_run
from mobilenet_train.runtime import keep_freed_memory
from mobilenet_train.training.step import train_update

BATCHES, ROUNDS = 12, 3
PAPERS_CROP_RATIO = 0.875


def plain_loop(paths: list[Path], size: int) -> None:
    """What everyone writes first: open, RGB, resize, array."""
    for path in paths:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def only_decode(files: list[bytes]) -> None:
    """libjpeg alone, the bytes in memory already: no resize, no array, nothing stored."""
    for data in files:
        Image.open(io.BytesIO(data)).load()


def in_processes(work: Callable[[list], None], items: list, processes: int) -> None:
    """`work` on a share of the items in each of so many processes; returns once all are done."""
    children = [multiprocessing.Process(target=work, args=(items[number::processes],)) for number in range(processes)]
    for child in children:
        child.start()
    for child in children:
        child.join()


def processor_seconds() -> float:
    """Of this process and its finished children: unlike time on the wall, hardly touched by other programs."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def report(name: str, images: int, work: Callable[[], object]) -> float:
    """Prints and returns the throughput (images/s) of `work`, which handles that many images."""
    began, processor = time.perf_counter(), processor_seconds()
    work()
    seconds, used = time.perf_counter() - began, processor_seconds() - processor
    each = 1000 * used / images
    print(f"{name:44} {images / seconds:8,.0f} images/s, {each:5.2f} ms of a core each", flush=True)
    return images / seconds


def waiting(root: Path, resolution: int, cache_dir: str) -> None:
    """The share of a training epoch that goes into fetching stored images, from a few batches of each."""
    own = [f"dataset.root={root}", f"dataset.resolution={resolution}", f"dataset.cache_dir={cache_dir}"]
    config = compose_config("dataset=folder", "model=v3_small", *own)
    parts = build_run(config)
    order = torch.randperm(len(parts.dataset.train)).split(config.batch_size)[:BATCHES]
    began = time.perf_counter()
    for _ in parts.dataset.train.batches(order):
        pass
    fetching = time.perf_counter() - began
    began = time.perf_counter()
    for batch in islice(parts.batches.train.epoch(0), BATCHES):
        train_update(parts.state, [batch], parts.plan)
    training = time.perf_counter() - began
    print(
        f"v3_small at {resolution}, batches of {config.batch_size}: fetching {1000 * fetching / BATCHES:.1f} ms of "
        f"{1000 * training / BATCHES:.0f} ms a step, {100 * fetching / training:.2f} % of an epoch"
    )


def main() -> None:
    root, resolution = Path(sys.argv[1]), int(sys.argv[2] if len(sys.argv) > 2 else 160)
    size, cores = round(resolution / PAPERS_CROP_RATIO), usable_cores()
    listing = list_tree(root, None, {}).listing
    paths = [root / listing.path(number) for number in range(len(listing))]
    files = [path.read_bytes() for path in paths]  # also warms the page cache, for all alike
    count = len(paths)
    print(f"{count:,} images, {sum(map(len, files)) / 1e6:.0f} MB, stored at {size}x{size}; {cores} cores")
    keep_freed_memory()  # as a run does
    torch.set_num_threads(1)
    ratios = []
    for _ in range(ROUNDS):
        loop = report("PIL loop, one process", count, lambda: plain_loop(paths, size))
        report("decoding alone, one process", count, lambda: only_decode(files))
        limit = report(f"decoding alone, {cores} processes", count, lambda: in_processes(only_decode, files, cores))
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            target = Path(folder)
            built = report(
                f"cache on disk, {cores} processes",
                count,
                lambda: on_disk(listing, size, True, target, cores, SILENT),  # noqa: B023 (called at once)
            )
        ratios.append((built / loop, built / limit))
    to_loop, to_limit = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"medians: the cache is built at {to_loop:.2f} x the PIL loop, {to_limit:.2f} x the limit of decoding alone")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        waiting(root, resolution, folder)


if __name__ == "__main__":
    main()
