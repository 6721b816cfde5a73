"""Images per second of one process with all cores, of one rank a core, and of a plain step loop, taking turns.

    python scripts/bench_ranks.py [--rounds 7] [--updates 8] [KEY=VALUE ...]

The three wait while it is not their turn. The first two run the real training loop on the configuration given; the
plain loop is forward, backward and optimiser on one batch that never changes, with all cores.
"""

import argparse
import os
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection

from measure import show

from mobilenet_train.config.compose import compose_config
from mobilenet_train.config.schema import TrainConfig
from mobilenet_train.machine import describe_machine, usable_cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=8, help="in each turn")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for mnet-train")
    arguments = parser.parse_args()
    config = compose_config(*arguments.overrides)
    cores = usable_cores()
    competitors = {
        f"1 process x {cores} threads": [Worker(config, "trainer", 0, 1, cores)],
        f"{cores} ranks x 1 thread": [Worker(config, "trainer", rank, cores, 1) for rank in range(cores)],
        f"plain step loop, {cores} threads": [Worker(config, "plain", 0, 1, cores)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    for number in range(arguments.rounds + 1):
        for name, workers in competitors.items():
            took = turn(workers, arguments.updates if number else 2)
            if number:  # the first round only warms up
                seconds[name].append(took)
    for workers in competitors.values():
        turn(workers, 0)
    images = arguments.updates * config.batch_size
    report(config, {name: [images / t for t in took] for name, took in seconds.items()})


class Worker:
    """A process that makes updates when asked through its pipe."""

    def __init__(self, config: TrainConfig, kind: str, rank: int, size: int, threads: int) -> None:
        self.pipe, other = PROCESSES.Pipe()
        device = replace(config.device, threads=threads)
        PROCESSES.Process(target=work, args=(replace(config, device=device), kind, rank, size, other)).start()


def turn(workers: list[Worker], updates: int) -> float:
    """Seconds until the last of the workers has made its updates; 0 updates end it."""
    for worker in workers:
        worker.pipe.send(updates)
    return max(worker.pipe.recv() for worker in workers)


def work(config: TrainConfig, kind: str, rank: int, size: int, pipe: Connection) -> None:
    """The life of a worker."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": PORT}
    make = {"trainer": trainer, "plain": plain_loop}[kind](config)
    while updates := pipe.recv():
        began = time.perf_counter()
        make(updates)
        pipe.send(time.perf_counter() - began)
    pipe.send(0.0)


def trainer(config: TrainConfig) -> Callable[[int], None]:
    """The training loop of a run, without its records and checkpoints."""
    from mobilenet_train.runs.build import build_run
    from mobilenet_train.signals import StopSignals
    from mobilenet_train.training.fit import train_epoch

    parts = build_run(config)
    state, train, stop = parts.state, parts.batches.train, StopSignals()

    def make(updates: int) -> None:
        state.updates = state.step + updates
        while state.step < state.updates:
            state.batch %= len(train)
            for _ in train_epoch(state, train, parts.plan, lambda: None, stop, None):
                pass

    return make


def plain_loop(config: TrainConfig) -> Callable[[int], None]:
    """The step as a script of ten lines makes it, on the same network and optimiser."""
    from torch.nn import functional as F

    from mobilenet_train.runs.build import build_run

    parts = build_run(config)
    state = parts.state
    images, labels = next(parts.batches.train.epoch(0))

    def make(updates: int) -> None:
        for _ in range(updates):
            state.optimizer.zero_grad()
            F.cross_entropy(state.model(images), labels).backward()
            state.optimizer.step()

    return make


def report(config: TrainConfig, throughputs: dict[str, list[float]]) -> None:
    """Medians, extremes, and the median of the ratios within a round."""
    first = next(iter(throughputs.values()))
    rows = [
        {
            "setting": name,
            "images/s": statistics.median(values),
            "lowest": min(values),
            "highest": max(values),
            "against the first": statistics.median(a / b for a, b in zip(values, first, strict=True)),
        }
        for name, values in throughputs.items()
    ]
    show(f"{config.model.name}, batch {config.batch_size}, {describe_machine()}", rows, None)


def free_port() -> str:
    """A TCP port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


PROCESSES = get_context("spawn")
PORT = os.environ.setdefault("BENCH_RANKS_PORT", free_port())  # the spawned processes inherit it

if __name__ == "__main__":
    main()
