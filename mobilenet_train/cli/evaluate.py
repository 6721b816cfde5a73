"""`mnet-eval`: how good a trained run is, and whether it is as good as it logged."""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mobilenet_train.cli.tool import (
    Parser,
    add_run_arguments,
    file_path,
    main_of,
    new_parser,
    new_table,
    print_json,
    report_warning,
    runtime_of,
    whole_number,
)
from mobilenet_train.console import plain
from mobilenet_train.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mobilenet_train.data.images import Dataset
    from mobilenet_train.inference.evaluate import ClassScore, Evaluated, ResolutionPoint, Verdict
    from mobilenet_train.inference.loading import TrainedRun

EXAMPLES = """\
  mnet-eval outputs/RUN
  mnet-eval outputs/RUN --flip --resolutions 24,32,40
  mnet-eval outputs/RUN/checkpoints/best.pt --data /data --json
  mnet-eval outputs/RUN/export/model.int8.onnx --data outputs/RUN
"""
LARGEST_RESOLUTION = 4096
MOST_SHOWN = 20  # classes or changed images in the terminal; the files have all


@dataclass(frozen=True)
class Found:
    """Everything that one evaluation found; `evaluated` starts with the raw weights."""

    run: "TrainedRun"
    dataset: "Dataset"
    evaluated: "list[Evaluated]"
    verdict: "Verdict"
    points: "list[ResolutionPoint]"
    classes: "list[ClassScore]"  # of the raw weights
    machine: str

    def values(self) -> dict[str, Any]:
        """What report.json holds and --json prints."""
        return {
            "checkpoint": str(self.run.checkpoint.path),
            "images": len(self.dataset.test),
            "verification": asdict(self.verdict),
            "scores": [score_values(evaluated) for evaluated in self.evaluated],
            "classes": [asdict(row) for row in self.classes],
            "resolutions": [asdict(point) for point in self.points],
        }


def main() -> NoReturn:
    """The console script."""
    main_of(parser(), run)


def parser() -> Parser:
    about = "Evaluates a trained run on its test images and verifies the accuracy that it logged."
    made = new_parser("mnet-eval", about, EXAMPLES)
    add_run_arguments(made)
    data = "where the run's data set lies now (dataset.root); of an exported file (.onnx, .pte) the run that it is of"
    made.add_argument("--data", type=file_path, metavar="DIR", help=data)
    made.add_argument("--flip", action="store_true", help="also average each image with its mirror image")
    made.add_argument(
        "--resolutions", type=resolution_list, metavar="P,P,...", help="also at these resolutions, in pixels"
    )
    made.add_argument(
        "--out", type=file_path, metavar="DIR", help="where figures and reports go; default: RUN/evaluation"
    )
    return made


def resolution_list(text: str) -> list[int]:
    """Numbers of pixels, for argparse."""
    found = [whole_number(part) for part in text.split(",")]
    if max(found) > LARGEST_RESOLUTION:
        raise argparse.ArgumentTypeError(f"{text!r} has more than {LARGEST_RESOLUTION} pixels")
    return found


def run(arguments: argparse.Namespace) -> int:
    """Exit code 1 if the logged accuracy cannot be reproduced where it should be."""
    from rich.console import Console

    from mobilenet_train.inference.run_path import EXPORTED, trained_path

    if trained_path(arguments.run).suffix in EXPORTED:
        return evaluate_file(arguments)
    from mobilenet_train.disk import writing
    from mobilenet_train.inference.evaluate import (
        classification_report,
        evaluate_run,
        load_test_data,
        resolution_curve,
        verify,
    )
    from mobilenet_train.inference.loading import load_run
    from mobilenet_train.runtime import machine_of

    trained = load_run(arguments.run, trust_factory=arguments.trust_factory)
    report_warning("mnet-eval", trained)
    runtime = runtime_of(arguments, trained.config, trained.checkpoint.threads)
    dataset = load_test_data(trained, arguments.data, arguments.trust_factory)
    folder = arguments.out or trained.folder / "evaluation"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    evaluated = list(evaluate_run(trained, dataset, runtime, arguments.flip))
    verdict = verify(trained, dataset, evaluated, runtime)
    points = list(resolution_curve(trained, dataset, runtime, arguments.resolutions)) if arguments.resolutions else []
    report = classification_report(evaluated[0], trained.class_names)
    found = Found(trained, dataset, evaluated, verdict, points, report, machine_of(runtime.device))
    files = write_files(found, folder)
    if arguments.json:
        print_json(found.values())
    else:
        print_for_people(found, [folder / name for name in files], Console())
    return 1 if verdict.status == "failed" else 0


def evaluate_file(arguments: argparse.Namespace) -> int:
    """Prints how good an exported file is on the test images of the run in --data, beside the run's own network."""
    if arguments.data is None or arguments.flip or arguments.resolutions or arguments.out:
        raise ConfigError(
            f"{arguments.run} is an exported file: give --data RUN, the run that it is of, and nothing else"
        )
    from rich.console import Console

    from mobilenet_train.deploy.export import check_file
    from mobilenet_train.inference.evaluate import load_test_data
    from mobilenet_train.inference.loading import load_run

    trained = load_run(arguments.data, trust_factory=arguments.trust_factory)
    rows = check_file(arguments.run, trained, load_test_data(trained, None, arguments.trust_factory))
    if arguments.json:
        print_json([asdict(row) for row in rows])
        return 0
    table = new_table(str(arguments.run), ("format",), ("top-1 %", "drop", "logits differ by"))
    for row in rows:
        table.add_row(row.format, f"{row.top1:.2f}", f"{row.drop:.2f}", f"{row.difference:.2g}")
    Console().print(table)
    return 0


def write_files(found: Found, folder: Path) -> list[str]:
    """Writes report and figures; returns their names. Raises RunError if they cannot be written."""
    from mobilenet_train.data.indian_pines import Windows
    from mobilenet_train.disk import write_text
    from mobilenet_train.figures import save
    from mobilenet_train.inference.figures import (
        Subject,
        confusion_figure,
        draw_map,
        draw_resolutions,
        mistakes_figure,
    )

    run, raw, test = found.run, found.evaluated[0], found.dataset.test
    title, machine = f"{run.config.title}, {run.folder.name}", found.machine
    subject = Subject(run.model, test, run.preprocessing, run.class_names, title, machine)
    write_text(folder / "report.json", json.dumps(found.values(), indent=2, ensure_ascii=False) + "\n")
    save(confusion_figure(raw.confusions, subject), folder / "confusion_matrix.png")
    files = ["report.json", "confusion_matrix.png"]
    if (sheet := mistakes_figure(raw, subject)) is not None:
        save(sheet, folder / "mistakes.png")
        files.append("mistakes.png")
    if isinstance(test.images, Windows):
        draw_map(raw, found.dataset, subject, folder / "classification_map.png")
        files.append("classification_map.png")
    if found.points:
        draw_resolutions(found.points, subject, folder / "resolutions.png")
        files.append("resolutions.png")
    return files


def score_values(evaluated: "Evaluated") -> dict[str, Any]:
    """One entry of `scores` in report.json: percentages as the table has them."""
    return {
        "weights": evaluated.weights,
        "flip": evaluated.flip,
        **asdict(evaluated.score),
        "right": evaluated.right,
        "kappa": evaluated.kappa,
        "average_accuracy": evaluated.average_accuracy,
        "calibration_error": evaluated.calibration_error,
    }


def print_for_people(found: Found, files: list[Path], console: "Console") -> None:
    """The tables, the verdict, images whose class changed, and where the files are."""
    console.print(score_table(found))
    console.print(class_table(found.classes))
    if found.points:
        console.print(resolution_table(found))
    verdict = found.verdict
    colour = {"verified": "green", "failed": "red"}.get(verdict.status, "yellow")
    console.print(plain(verdict.status, colour) + plain(f": {verdict.message}"), soft_wrap=True)
    for image in verdict.changed[:MOST_SHOWN]:
        console.print(
            plain(f"  image {image.index} ({image.true}): was {image.logged}, now {image.now}"), soft_wrap=True
        )
    if len(verdict.changed) > MOST_SHOWN:
        console.print(f"  and {len(verdict.changed) - MOST_SHOWN} more, all in report.json")
    for path in files:
        console.print(plain(path), soft_wrap=True)


def score_table(found: Found) -> "Table":
    """One line for each set of weights, with and without flip."""
    run = found.run
    title = f"{run.config.title}, {len(found.dataset.test):,} test images"
    top5 = found.evaluated[0].score.top5 is not None  # measured above ten classes
    numbers = ("top-1 %", *(["top-5 %"] if top5 else []), "kappa %", "class mean %", "loss", "calibration error")
    table = new_table(title, ("weights",), numbers)
    for evaluated in found.evaluated:
        score = evaluated.score
        table.add_row(
            f"{evaluated.weights}, flip TTA" if evaluated.flip else evaluated.weights,
            f"{score.top1:.2f}",
            *([f"{score.top5:.2f}"] if top5 else []),
            f"{evaluated.kappa:.2f}",
            f"{evaluated.average_accuracy:.2f}",
            f"{score.loss:.4f}",
            f"{evaluated.calibration_error:.2f} points",
        )
    return table


def class_table(rows: "list[ClassScore]") -> "Table":
    """scikit-learn's report; of many classes only those with the lowest F1."""
    *classes, mean, weighted = rows
    few = len(classes) <= MOST_SHOWN
    shown = classes if few else sorted(classes, key=lambda row: row.f1)[:MOST_SHOWN]
    title = "each class, in %" if few else f"the {MOST_SHOWN} classes with the lowest F1, in %"
    table = new_table(title, ("class",), ("precision", "recall", "F1", "images"))
    for row in (*shown, mean, weighted):
        numbers = (f"{100 * value:.2f}" for value in (row.precision, row.recall, row.f1))
        table.add_row(plain(row.name), *numbers, f"{row.images:,}")
    return table


def resolution_table(found: Found) -> "Table":
    """One line for each resolution of --resolutions, and the own one."""
    table = new_table("other resolutions, same weights", ("resolution",), ("M MAdds", "top-1 %", "loss"))
    for point in found.points:
        own = " (trained at)" if point.resolution == found.run.preprocessing.resolution else ""
        madds, score = f"{point.multiply_adds / 1e6:.2f}", point.score
        table.add_row(f"{point.resolution}{own}", madds, f"{score.top1:.2f}", f"{score.loss:.4f}")
    return table
