"""`mnet-export`: a trained network for other runtimes, each file checked on the whole test set."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mobilenet_train.cli.tool import (
    Parser,
    add_trust_argument,
    file_path,
    list_of,
    main_of,
    new_parser,
    new_table,
    print_json,
    report_warning,
    whole_number,
)
from mobilenet_train.console import plain
from mobilenet_train.deploy.settings import check_installed
from mobilenet_train.errors import ConfigError, RunError

if TYPE_CHECKING:
    from mobilenet_train.deploy.export import Checked, DeployRow
    from mobilenet_train.inference.loading import TrainedRun

FORMATS = ("onnx", "onnx-int8", "executorch", "executorch-int8", "safetensors")
USUAL_QAT_EPOCHS = 3

EXAMPLES = """\
  mnet-export outputs/RUN                                     RUN/export/model.onnx
  mnet-export outputs/RUN --to onnx,onnx-int8 --max-drop 0.5
  mnet-export outputs/RUN --to onnx-int8 --qat-epochs 3        fine-tuned for int8 first
  mnet-export outputs/RUN --to onnx-int8 --input uint8        takes a camera's pixels
  mnet-export outputs/RUN --to safetensors --weights ema --out DIR
"""


def main() -> NoReturn:
    """The console script."""
    main_of(parser(), run)


def parser() -> Parser:
    about = "Writes a trained network for other runtimes and checks each file there on the whole test set."
    made = new_parser("mnet-export", about, EXAMPLES)
    made.add_argument("run", type=file_path, metavar="RUN", help="a run folder, or one checkpoint file")
    choices = f"one or several of: {', '.join(FORMATS)}; default: onnx"
    made.add_argument("--to", type=formats, default=["onnx"], metavar="FORMATS", help=choices)
    pixels = "of ONNX files: float (normalised, NCHW) or uint8 (RGB pixels, NHWC; they normalise); default: float"
    made.add_argument("--input", choices=("float", "uint8"), default="float", help=pixels)
    made.add_argument("--weights", choices=("raw", "ema"), default="raw", help="default: raw")
    drop = "points of top-1 that an export may lose to fp32; default: 1"
    made.add_argument("--max-drop", type=points, default=1.0, metavar="POINTS", help=drop)
    tuning = (
        "fine-tune for int8 on the run's training images first, for so many epochs (quantisation-aware); default: 0"
    )
    made.add_argument("--qat-epochs", type=epochs, default=0, metavar="N", help=tuning)
    made.add_argument("--data", type=file_path, metavar="DIR", help="where the run's data set lies now (dataset.root)")
    made.add_argument("--out", type=file_path, metavar="DIR", help="default: RUN/export")
    add_trust_argument(made)
    return made


def formats(text: str) -> list[str]:
    """A list of formats, for argparse."""
    if "torchscript" in text.split(","):
        raise argparse.ArgumentTypeError(
            "torchscript is deprecated by PyTorch and no longer written; use onnx or executorch"
        )
    return list_of(FORMATS)(text)


def points(text: str) -> float:
    """A number from 0 to 100, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 100")
    return number


def epochs(text: str) -> int:
    """A number from 0, for argparse."""
    return 0 if text == "0" else whole_number(text)


def run(arguments: argparse.Namespace) -> int:
    """Exports, checks and prints the deploy table. Raises RunError if an export lost more than --max-drop."""
    if arguments.qat_epochs > 0 and not any(name.endswith("int8") for name in arguments.to):
        raise ConfigError(f"--qat-epochs {arguments.qat_epochs} has no effect: it is for onnx-int8 and executorch-int8")
    if arguments.input == "uint8" and (others := [name for name in arguments.to if not name.startswith("onnx")]):
        raise ConfigError(f"--input uint8 is for --to onnx and onnx-int8; {', '.join(others)} takes float")
    from mobilenet_train.inference.run_path import trained_path

    trained_path(arguments.run)
    check_installed(arguments.to)
    from mobilenet_train.deploy.export import Source, export
    from mobilenet_train.inference.evaluate import load_test_data
    from mobilenet_train.inference.loading import load_run

    trained = load_run(arguments.run, arguments.weights, trust_factory=arguments.trust_factory)
    report_warning("mnet-export", trained)
    dataset = load_test_data(trained, arguments.data, arguments.trust_factory)
    folder = arguments.out or trained.folder / "export"
    source = Source(trained, dataset, arguments.qat_epochs, log, pixels=arguments.input == "uint8")
    rows = export(source, arguments.to, folder, arguments.max_drop)
    if arguments.json:
        print_json([{**as_dict(row, folder, arguments.max_drop), **logged(trained)} for row in rows])
    else:
        print_rows(rows, folder, arguments.max_drop, logged(trained))
    lost = [row.checked for row in rows if row.checked.drop > arguments.max_drop]
    if lost:
        drops = ", ".join(f"{checked.format} loses {checked.drop:.2f} points" for checked in lost)
        raise RunError(f"{drops} of top-1, --max-drop allows {arguments.max_drop:g}: not kept{advice(lost)}")
    return 0


def log(line: str) -> None:
    print(f"mnet-export: {line}", file=sys.stderr)


def advice(lost: "list[Checked]") -> str:
    """What may make up for a loss by int8."""
    for checked in lost:
        if checked.format.endswith("int8"):
            more = max(USUAL_QAT_EPOCHS, 2 * checked.qat_epochs)
            return f"; --qat-epochs {more} fine-tunes the network for int8 first"
    return ""


def label(checked: "Checked") -> str:
    """The format, and how it was fine-tuned, for the table."""
    tuned = f" after {checked.qat_epochs} epochs quantisation-aware" if checked.qat_epochs else ""
    return f"{checked.format}{tuned}"


def file_of(row: "DeployRow", folder: Path, max_drop: float) -> Path | None:
    """Where an export lies; None for the network itself and for what was not kept."""
    from mobilenet_train.deploy.export import FORMATS

    kept = row.checked.format in FORMATS and row.checked.drop <= max_drop
    return folder / FORMATS[row.checked.format].file if kept else None


def as_dict(row: "DeployRow", folder: Path, max_drop: float) -> dict[str, Any]:
    """One entry of --json."""
    file = file_of(row, folder, max_drop)
    return {**asdict(row.checked), "latency": asdict(row.timing), "file": str(file) if file else None}


def logged(trained: "TrainedRun") -> dict[str, Any]:
    """What the run itself computed in, and the accuracy (in percent) that it logged in that precision."""
    result = trained.checkpoint.logged if trained.weights == "raw" else None
    precision = trained.checkpoint.environment["precision"]
    return {"run_precision": precision, "run_top1": result and result.test and round(result.test.top1, 2)}


def print_rows(rows: "list[DeployRow]", folder: Path, max_drop: float, logged: dict[str, Any]) -> None:
    """The deploy table for people, in which precision the run computed, what stays in fp32, and the files."""
    from rich.console import Console

    from mobilenet_train.machine import describe_machine

    console = Console()
    table = new_table("deploy table", ("format",), ("MB", "median ms", "p95 ms", "top-1 %", "drop", "logits differ by"))
    for row in rows:
        checked, timing = row.checked, row.timing
        table.add_row(
            label(checked),
            f"{checked.bytes / 1e6:.2f}",
            f"{timing.median_ms:.2f}",
            f"{timing.p95_ms:.2f}",
            f"{checked.top1:.2f}",
            f"{checked.drop:.2f}",
            f"{checked.difference:.2g}",
        )
    console.print(table)
    reached = f" and logged {logged['run_top1']:.2f} % in it" if logged["run_top1"] is not None else ""
    console.print(
        plain(f"the run computed in {logged['run_precision']}{reached}; pytorch here in fp32"), soft_wrap=True
    )
    console.print(plain(f"latency: one image, one thread; {describe_machine()}"), soft_wrap=True)
    for row in rows:
        if row.checked.fp32_operators:
            left = ", ".join(f"{count} {kind}" for kind, count in sorted(row.checked.fp32_operators.items()))
            console.print(plain(f"{row.checked.format}: in fp32: {left}"), soft_wrap=True)
        if file := file_of(row, folder, max_drop):
            console.print(plain(file), soft_wrap=True)
