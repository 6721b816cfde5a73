"""`mnet-plan`: which network to train for a latency budget on this machine."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from mobilenet_train.cli import tool
from mobilenet_train.console import counted, plain
from mobilenet_train.deploy.settings import MODELS, RUNTIMES, check_runtimes, usual_runtime
from mobilenet_train.errors import ConfigError, RunError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from mobilenet_train.deploy.latency import Timing
    from mobilenet_train.deploy.plan import Candidate, Measure, PredictionError

    Known = tuple[list[Candidate], PredictionError | None, Measure, str]  # the last: machine and runtime

EXAMPLES = """\
  mnet-plan --budget-ms 8
  mnet-plan --budget-ms 20 --runtime onnx-int8 --min-accuracy 65
  mnet-plan --budget-ms 8 --measured phone.csv
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
    pixels = "pixels; default: 96,128,160,192,224, or all of --measured"
    made.add_argument("--resolution", type=tool.list_of_numbers(tool.pixel_count), metavar="LIST", help=pixels)
    made.add_argument("--classes", type=tool.class_count, default=1000, metavar="N", help="default: 1000")
    accuracy = "the least published top-1; default: any"
    made.add_argument("--min-accuracy", type=tool.positive, default=0.0, metavar="PERCENT", help=accuracy)
    table = "a CSV file as mnet-bench --csv writes it: plans with its latencies, a phone's say, and times nothing here"
    made.add_argument("--measured", type=tool.file_path, metavar="CSV", help=table)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    made.add_argument("--threads", type=tool.thread_count, default=1, metavar="N", help="on the CPU; default: 1")
    runtimes = RUNTIMES[:-1]
    made.add_argument("--runtime", choices=runtimes, help="default: onnx where it is installed, else eager (PyTorch)")
    made.add_argument(
        "--seconds", type=tool.positive, default=0.5, metavar="S", help="of each measurement; default: 0.5"
    )
    made.add_argument("--picture", type=tool.new_file, metavar="FILE", help="draw accuracy over latency there (PNG)")
    made.add_argument("--all", action="store_true", help="list every candidate, not the Pareto front alone")
    return made


def run(arguments: argparse.Namespace) -> int:
    """Measures, predicts, chooses and prints. Raises RunError if nothing fits the budget."""
    if arguments.measured and arguments.runtime:
        raise ConfigError("--runtime has no effect with --measured: the table says what was measured")
    from mobilenet_train.deploy.plan import choose, draw

    known, error, measure, machine = (from_table if arguments.measured else from_this_machine)(arguments)
    known, choice = choose(known, arguments.budget_ms, arguments.min_accuracy, measure)
    if arguments.json:
        tool.print_json(as_json(known, error, choice, machine))
    else:
        print_plan(known, error, machine, arguments.all)
    if arguments.picture:
        draw(known, arguments.budget_ms, machine, arguments.picture)
    if choice is None:
        raise RunError(nothing_fits(known, arguments))
    if not arguments.json:
        print(f"within {arguments.budget_ms:g} ms, by a measurement of {choice.ms:.2f} ms:\n  {choice.command}")
    return 0


def from_this_machine(arguments: argparse.Namespace) -> "Known":
    """Some candidates measured here, the others predicted."""
    from mobilenet_train.deploy.bench import new_bench
    from mobilenet_train.deploy.plan import RESOLUTIONS, candidates, with_latency
    from mobilenet_train.deploy.settings import Setting
    from mobilenet_train.machine import describe_machine
    from mobilenet_train.runs.timed_step import training_step

    runtime = arguments.runtime or usual_runtime(arguments.device)
    check_runtimes([runtime], arguments.device)
    bench = new_bench(arguments.classes, arguments.device, training_step)

    def measure(chosen: "Sequence[Candidate]") -> "list[Timing]":
        tool.say_measuring("mnet-plan", len(chosen), arguments.seconds)
        settings = [Setting(c.model, c.width, c.resolution, 1, arguments.threads, runtime) for c in chosen]
        return [row.timing for row in bench.run(settings, arguments.seconds)]

    found = candidates(arguments.model, arguments.resolution or RESOLUTIONS, arguments.classes)
    known, error = with_latency(found, measure)
    return known, error, measure, f"{describe_machine()}\n{runtime}, batch 1, {counted(arguments.threads, 'thread')}"


def from_table(arguments: argparse.Namespace) -> "Known":
    """The candidates of --measured: nothing is timed or predicted. Raises RunError if none is left of them."""
    from mobilenet_train.deploy.bench import read_csv
    from mobilenet_train.deploy.plan import measured_candidates

    rows = read_csv(arguments.measured)
    wanted = [
        row
        for row in rows
        if row.setting.model in arguments.model
        and row.setting.resolution in (arguments.resolution or [row.setting.resolution])
    ]
    known = measured_candidates(wanted, arguments.classes)
    runtimes = ", ".join(dict.fromkeys(row.setting.runtime for row in rows))
    return known, None, lambda _: [], f"{rows[0].machine}, {runtimes}, measured before: {arguments.measured}"


def nothing_fits(known: "list[Candidate]", arguments: argparse.Namespace) -> str:
    """Names what comes nearest."""
    ranked = [c for c in known if c.ranked_by]
    if not ranked:
        return "of none of these networks an accuracy is published: give others by --model or --resolution"
    good = [c for c in ranked if c.ranked_by and c.ranked_by.top1 >= arguments.min_accuracy]
    if not good:
        best = max(c.ranked_by.top1 for c in ranked if c.ranked_by)
        return f"no network reaches --min-accuracy {arguments.min_accuracy:g}: the best published one has {best:g} %"
    near = min(good, key=lambda candidate: candidate.ms)
    name = f"{near.model} {near.width:g} at {near.resolution}"
    return f"nothing fits --budget-ms {arguments.budget_ms:g}: {name}, the fastest good enough, takes {near.ms:.2f} ms"


def as_json(
    known: "list[Candidate]", error: "PredictionError | None", choice: "Candidate | None", machine: str
) -> dict[str, Any]:
    """All candidates, the Pareto front and the choice."""
    from mobilenet_train.deploy.plan import fastest_for_accuracy

    def values(candidate: "Candidate") -> dict[str, Any]:
        return {key: value for key, value in asdict(candidate).items() if key != "work"}

    return {
        "machine": machine,
        "prediction_error": asdict(error) if error else None,
        "candidates": [values(candidate) for candidate in known],
        "pareto_front": [values(candidate) for candidate in fastest_for_accuracy(known)],
        "choice": values(choice) if choice else None,
        "command": choice.command if choice else None,
    }


def print_plan(known: "list[Candidate]", error: "PredictionError | None", machine: str, everything: bool) -> None:
    """The Pareto front for people, and how far predictions are off."""
    from rich.console import Console

    from mobilenet_train.deploy.plan import PUBLISHED_RESOLUTION, fastest_for_accuracy

    console = Console()
    for line in machine.splitlines():
        console.print(plain(line), soft_wrap=True)
    if everything:
        console.print(candidate_table("all candidates", sorted(known, key=lambda candidate: candidate.ms)))
    console.print(candidate_table("Pareto front", fastest_for_accuracy(known)))
    if not any(candidate.published for candidate in known):
        at = f"ranked by what the networks reach at {PUBLISHED_RESOLUTION}"
        console.print(f"nothing is published of these resolutions: {at} pixels", soft_wrap=True)
    if error:
        console.print(
            f"predictions (~) are off by {error.median:.0%} in the median and {error.worst:.0%} at worst, "
            f"for each of {error.measured} measured networks from the others",
            soft_wrap=True,
        )


def candidate_table(title: str, rows: "list[Candidate]") -> "Table":
    """One line for each candidate; a predicted latency has a ~ before it."""
    published = "top-1 (ImageNet) and Pixel 1 (ms on that phone) are published numbers"
    numbers = ("width", "pixels", "parameters", "MAdds (M)", "ms", "top-1", "Pixel 1")
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
            f"{c.published.top1:.1f}" if c.published else "not published",
            f"{phone:.1f}" if phone else "",
        )
    return table
