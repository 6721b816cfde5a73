"""`mnet-predict`: the classes of images, by a trained run."""

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mobilenet_train.cli.tool import (
    Parser,
    add_run_arguments,
    main_of,
    new_parser,
    new_table,
    not_empty,
    report_warning,
    runtime_of,
    whole_number,
)
from mobilenet_train.console import add_rows, printable
from mobilenet_train.errors import ConfigError
from mobilenet_train.machine import usable_cores

if TYPE_CHECKING:
    from mobilenet_train.inference.onnx_file import FileClassifier
    from mobilenet_train.inference.predict import Classifier
    from mobilenet_train.inference.prediction import Prediction

LONGEST_STEM = 50  # characters, of at most four bytes; a file name may have 255 of these

EXAMPLES = """\
  mnet-predict outputs/RUN elephant.jpg           Predicted: elephant (97.31 %), ...
  mnet-predict outputs/RUN photos/ --csv > photos.csv
  mnet-predict outputs/RUN 'photos/**/*.png' --json | jq .ranked[0]
  mnet-predict outputs/RUN elephant.jpg --heatmap             RUN/heatmaps/1_elephant.png
  mnet-predict outputs/RUN/export/model.onnx elephant.jpg     the exported file, without torch
  curl -s https://example.org/cat.jpg | mnet-predict outputs/RUN -
"""


def main() -> NoReturn:
    """The console script."""
    main_of(parser(), run)


def parser() -> Parser:
    about = "Classifies images: the likeliest classes and their probabilities."
    made = new_parser("mnet-predict", about, EXAMPLES)
    add_run_arguments(made)
    made.add_argument(
        "images", type=not_empty, metavar="IMAGE|FOLDER|GLOB|-", nargs="+", help="- reads one image from stdin"
    )
    made.add_argument("--csv", action="store_true", help="print CSV, one line an image (--json: JSON lines)")
    made.add_argument("--top", type=whole_number, default=5, metavar="K", help="how many classes; default: 5")
    made.add_argument("--weights", choices=("raw", "ema"), default="raw", help="default: raw")
    heat = "draw where the network saw the class, one PNG an image (LayerCAM), into RUN/heatmaps"
    made.add_argument("--heatmap", action="store_true", help=heat)
    made.add_argument("--batch-size", type=whole_number, default=64, metavar="N", help="images at once; default: 64")
    return made


def run(arguments: argparse.Namespace) -> int:
    """Exit code 1 if an image could not be read; the others are done all the same."""
    from mobilenet_train.inference.prediction import MISSING, STDIN, Prediction, find_image_files, is_there
    from mobilenet_train.inference.run_path import trained_path

    if arguments.csv and arguments.json:
        raise ConfigError("--csv and --json exclude each other; give one")
    files = find_image_files(arguments.images)
    if arguments.heatmap and STDIN in files:
        raise ConfigError("--heatmap reads an image twice, which the standard input does not allow: give a file")
    trained_path(arguments.run)
    top = arguments.top
    if any(map(is_there, files)):
        classifier = classifier_of(arguments)
        top = min(top, len(classifier.class_names))
        found = reporting_errors(classifier.stream(files, top, arguments.batch_size))
        if arguments.heatmap:
            found = with_heat_maps(found, classifier)
    else:  # known at once
        found = reporting_errors(Prediction(file, (), MISSING) for file in files)
    if arguments.json:
        bad = print_json_lines(found)
    elif arguments.csv:
        bad = print_csv(found, top)
    else:
        bad = print_for_people(list(found))
    if bad and len(files) > 1:
        print(f"mnet-predict: {bad} of {len(files)} images could not be read", file=sys.stderr)
    return 1 if bad else 0


def classifier_of(arguments: argparse.Namespace) -> "Classifier | FileClassifier":
    """The network of a run, of a checkpoint file or of an exported file; for ONNX torch is not imported."""
    from mobilenet_train.inference.run_path import EXPORTED

    exported = arguments.run.suffix in EXPORTED
    if exported and (arguments.device == "cuda" or arguments.weights == "ema" or arguments.heatmap):
        raise ConfigError(
            "--device cuda, --weights ema and --heatmap are for runs: an exported file is one network for the CPU"
        )
    if arguments.run.suffix == ".onnx":
        from mobilenet_train.inference.onnx_file import load_onnx

        return load_onnx(arguments.run, arguments.threads or 0)
    if exported:
        from mobilenet_train.deploy.executorch_program import classifier_of_program

        return classifier_of_program(arguments.run, arguments.threads or usable_cores())
    from mobilenet_train.inference.loading import load_run
    from mobilenet_train.inference.predict import Classifier

    trained = load_run(arguments.run, arguments.weights, trust_factory=arguments.trust_factory)
    report_warning("mnet-predict", trained)
    runtime = runtime_of(arguments, trained.config, threads=None)
    return Classifier(trained, runtime.device, runtime.memory_format)


def reporting_errors(predictions: "Iterator[Prediction]") -> "Iterator[Prediction]":
    """The same; those without a result are named on stderr as they come."""
    for prediction in predictions:
        if prediction.error is not None:
            print(printable(f"mnet-predict: {prediction.file} {prediction.error}"), file=sys.stderr)
        yield prediction


def with_heat_maps(predictions: "Iterator[Prediction]", classifier: Any) -> "Iterator[Prediction]":
    """The same; where the network saw the likeliest class is drawn of each, and each file named on stderr."""
    from mobilenet_train.disk import writing
    from mobilenet_train.inference.figures import draw_heat_map

    folder = classifier.run.folder / "heatmaps"
    with writing(folder):
        folder.mkdir(exist_ok=True)
    for number, prediction in enumerate(predictions, start=1):
        if prediction.error is None:
            path = folder / f"{number}_{Path(prediction.file).stem[:LONGEST_STEM]}.png"
            image, heat = classifier.heat_map(prediction.file, prediction.label)
            name, value = prediction.ranked[0]
            draw_heat_map(image, heat, f"{name} ({value:.2%})", path)
            print(printable(f"mnet-predict: {path} shows where it saw {name}"), file=sys.stderr)
        yield prediction


def print_json_lines(predictions: "Iterator[Prediction]") -> int:
    """One object an image; returns how many have no prediction, as the other two do."""
    bad = 0
    for prediction in predictions:
        ranked = [{"class": name, "probability": value} for name, value in prediction.ranked]
        print(json.dumps({"file": prediction.file, "ranked": ranked, "error": prediction.error}, ensure_ascii=False))
        bad += prediction.error is not None
    return bad


def print_csv(predictions: "Iterator[Prediction]", top: int) -> int:
    """One line an image: file, error, then class and probability of each rank."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    columns = [f"{what}_{rank}" for rank in range(1, top + 1) for what in ("class", "probability")]
    writer.writerow(["file", "error", *columns])
    bad = 0
    for prediction in predictions:
        cells = [cell for name, value in prediction.ranked for cell in (name, f"{value:.6f}")]
        writer.writerow([prediction.file, prediction.error or "", *(cells or [""] * len(columns))])
        bad += prediction.error is not None
    return bad


def print_for_people(predictions: "list[Prediction]") -> int:
    """One image gets a line, several get a table, which names the folder that all are in once."""
    from rich.console import Console

    good = [prediction for prediction in predictions if prediction.error is None]
    if len(predictions) == 1 and good:
        print("Predicted:", printable(", ".join(f"{name} ({value:.2%})" for name, value in good[0].ranked)))
    elif good:
        files = [Path(prediction.file) for prediction in good]
        shared = next(
            (folder for folder in files[0].parents if all(file.is_relative_to(folder) for file in files)), None
        )
        title = "" if shared is None or shared == Path() else printable(str(shared))
        table = new_table(title, ("image", "predicted", "then"), ("probability",))
        for file, prediction in zip(files, good, strict=True):
            (name, value), *others = prediction.ranked
            then = ", ".join(f"{other} {probability:.0%}" for other, probability in others)
            add_rows(table, [(str(file.relative_to(shared) if shared else file), name, then, f"{value:.2%}")])
        Console().print(table)
    return len(predictions) - len(good)
