"""`mnet-plan`: which network to train for a latency budget on this machine."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from mobilenet_train.cli import tool
from mobilenet_train.deploy.settings import MODELS, RUNTIMES, check_runtimes
from mobilenet_train.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from mobilenet_train.deploy.plan import Candidate, PredictionError

EXAMPLES = """\
  mnet-plan --budget-ms 8
  mnet-plan --budget-ms 20 --runtime onnx-int8 --min-accuracy 65
  mnet-plan --budget-ms 5 --resolution 32 --classes 10 --picture plan.png
"""


def main() -> NoReturn:
    """The console script."""
    tool.main_of(parser(), run)


def parser() -> tool.Parser:
    about = (
        "Chooses a network, width and resolution for a latency budget (batch 1): some are measured on this machine, "
        "the others predicted from those; accuracy is what was published for ImageNet."
    )
    made = tool.new_parser("mnet-plan", about, EXAMPLES)
    made.add_argument(
        "--budget-ms", type=tool.positive, required=True, metavar="MS", help="the most one image may take"
    )
    made.add_argument(
        "--model", type=tool.list_of(MODELS), default=list(MODELS), metavar="NAMES", help="default: all four"
    )
    pixels = "pixels; default: 96,128,160,192,224. With a single one, networks are ranked by what they reach at 224"
    made.add_argument("--resolution", type=tool.list_of_numbers(tool.pixel_count), metavar="LIST", help=pixels)
    made.add_argument("--classes", type=tool.class_count, default=1000, metavar="N", help="default: 1000")
    accuracy = "the least published top-1; default: any"
    made.add_argument("--min-accuracy", type=tool.positive, default=0.0, metavar="PERCENT", help=accuracy)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    made.add_argument("--threads", type=tool.thread_count, default=1, metavar="N", help="on the CPU; default: 1")
    runtimes = RUNTIMES[:-1]
    made.add_argument("--runtime", choices=runtimes, default="eager", help="default: eager (PyTorch)")
    made.add_argument(
        "--seconds", type=tool.positive, default=0.5, metavar="S", help="of each measurement; default: 0.5"
    )
    made.add_argument("--picture", type=tool.new_file, metavar="FILE", help="draw accuracy over latency there (PNG)")
    made.add_argument("--all", action="store_true", help="list every candidate, not the Pareto front alone")
    return made


def run(arguments: argparse.Namespace) -> int:
    """Measures, predicts, chooses and prints. Raises RunError if nothing fits the budget."""
    from mobilenet_train.deploy.bench import new_bench
    from mobilenet_train.deploy.latency import Timing
    from mobilenet_train.deploy.plan import RESOLUTIONS, candidates, choose, draw, with_latency
    from mobilenet_train.deploy.settings import Setting
    from mobilenet_train.runs.timed_step import training_step

    check_runtimes([arguments.runtime], arguments.device)
    bench = new_bench(arguments.classes, arguments.device, training_step)

    def measure(chosen: "Sequence[Candidate]") -> list[Timing]:
        settings = [Setting(c.model, c.width, c.resolution, 1, arguments.threads, arguments.runtime) for c in chosen]
        return [row.timing for row in bench.run(settings, arguments.seconds)]

    found = candidates(arguments.model, arguments.resolution or RESOLUTIONS, arguments.classes)
    known, error = with_latency(found, measure)
    known, choice = choose(known, arguments.budget_ms, arguments.min_accuracy, measure)
    if arguments.json:
        tool.print_json(as_json(known, error, choice))
    else:
        print_plan(known, error, arguments)
    if arguments.picture:
        draw(known, arguments.budget_ms, arguments.picture)
    if choice is None:
        raise RunError(nothing_fits(known, arguments))
    if not arguments.json:
        print(f"within {arguments.budget_ms:g} ms, by a measurement of {choice.ms:.2f} ms:\n  {choice.command}")
    return 0


def nothing_fits(known: "list[Candidate]", arguments: argparse.Namespace) -> str:
    """Names what comes nearest."""
    good = [c for c in known if c.published and c.published.top1 >= arguments.min_accuracy]
    if not good:
        best = max(c.published.top1 for c in known if c.published)
        return f"no network reaches --min-accuracy {arguments.min_accuracy:g}: the best published one has {best:g} %"
    near = min(good, key=lambda candidate: candidate.ms)
    name = f"{near.model} {near.width:g} at {near.resolution}"
    return f"nothing fits --budget-ms {arguments.budget_ms:g}: {name}, the fastest good enough, takes {near.ms:.2f} ms"


def as_json(known: "list[Candidate]", error: "PredictionError", choice: "Candidate | None") -> dict[str, Any]:
    """All candidates, the Pareto front and the choice."""
    from mobilenet_train.deploy.plan import fastest_for_accuracy
    from mobilenet_train.machine import describe_machine

    def values(candidate: "Candidate") -> dict[str, Any]:
        return {key: value for key, value in asdict(candidate).items() if key != "work"}

    return {
        "machine": describe_machine(),
        "prediction_error": asdict(error),
        "candidates": [values(candidate) for candidate in known],
        "pareto_front": [values(candidate) for candidate in fastest_for_accuracy(known)],
        "choice": values(choice) if choice else None,
        "command": choice.command if choice else None,
    }


def print_plan(known: "list[Candidate]", error: "PredictionError", arguments: argparse.Namespace) -> None:
    """The Pareto front for people, and how far predictions are off."""
    from rich.console import Console

    from mobilenet_train.deploy.plan import fastest_for_accuracy
    from mobilenet_train.machine import describe_machine

    console = Console()
    console.print(describe_machine(), f"{arguments.runtime}, batch 1, {arguments.threads} threads", sep="\n")
    if arguments.all:
        console.print(candidate_table("all candidates", sorted(known, key=lambda candidate: candidate.ms)))
    console.print(candidate_table("Pareto front", fastest_for_accuracy(known)))
    console.print(
        f"predictions (~) are off by {error.median:.0%} in the median and {error.worst:.0%} at worst, "
        f"for each of {error.measured} measured networks from the others",
        soft_wrap=True,
    )


def candidate_table(title: str, rows: "list[Candidate]") -> "Table":
    """One line for each candidate; a predicted latency has a ~ before it."""
    published = "top-1 (ImageNet) and Pixel 1 (ms on that phone) are published numbers"
    numbers = ("width", "pixels", "parameters", "MAdds (M)", "ms here", "top-1", "Pixel 1")
    table = tool.new_table(f"{title}; {published}", ("network",), numbers)
    for c in rows:
        phone = c.published.pixel1_ms if c.published else None
        table.add_row(
            c.model,
            f"{c.width:g}",
            str(c.resolution),
            f"{c.parameters:,}",
            f"{c.multiply_adds / 1e6:.1f}",
            f"{c.ms:.2f}" if c.measured else f"~{c.ms:.2f}",
            f"{c.published.top1:.1f}" if c.published else "",
            f"{phone:.1f}" if phone else "",
        )
    return table
