"""`mnet-cache`: the prepared images on disk, and their removal."""

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mobilenet_train.cli.tool import Parser, file_path, main_of, new_parser, new_table, not_empty, print_json
from mobilenet_train.console import add_rows, counted, printable

if TYPE_CHECKING:
    from mobilenet_train.data.inventory import Kept

EXAMPLES = """\
  mnet-cache                                    what is kept, the largest first
  mnet-cache remove 3f2a9144 77c0b1d2.partial   by name
  mnet-cache --cache-dir /shared/cache --json
"""
REMOVE_EXAMPLES = """\
  mnet-cache remove 3f2a9144 77c0b1d2.partial
  mnet-cache remove --cache-dir /shared/cache 3f2a9144
"""
UNITS = (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))


def main() -> NoReturn:
    """The console script."""
    if sys.argv[1:2] == ["remove"]:
        main_of(remove_parser(), remove, sys.argv[2:])
    main_of(parser(), show)


def parser() -> Parser:
    made = new_parser("mnet-cache", "Lists prepared images; `mnet-cache remove NAME...` removes some.", EXAMPLES)
    add_folder_argument(made)
    return made


def remove_parser() -> Parser:
    about = "Removes prepared images that no running process uses; a run that needs them prepares them again."
    made = new_parser("mnet-cache remove", about, REMOVE_EXAMPLES)
    names = "as mnet-cache lists them"
    made.add_argument("names", type=not_empty, nargs="+", metavar="NAME", help=names)
    add_folder_argument(made)
    return made


def add_folder_argument(parser: Parser) -> None:
    parser.add_argument("--cache-dir", type=file_path, metavar="DIR", help="default: that of runs (dataset.cache_dir)")


def folder_of(arguments: argparse.Namespace) -> Path:
    """--cache-dir, or where runs keep their prepared images."""
    from omegaconf import OmegaConf

    from mobilenet_train.config.place import conf_dir
    from mobilenet_train.disk import expanded

    return arguments.cache_dir or expanded(OmegaConf.load(conf_dir() / "base/image_files.yaml").cache_dir)


def show(arguments: argparse.Namespace) -> int:
    """Prints what there is. Raises RunError if the folder cannot be read."""
    from mobilenet_train.data.inventory import kept_in

    folder = folder_of(arguments)
    found = kept_in(folder)
    if arguments.json:
        print_json([asdict(kept) for kept in found])
    elif found:
        print_for_people(folder, found)
    else:
        print(printable(f"nothing is kept in {folder}"))
    return 0


def print_for_people(folder: Path, found: "list[Kept]") -> None:
    from rich.console import Console

    title = f"{folder}\n{sum(kept.bytes for kept in found) / 1e6:,.1f} MB"
    table = new_table(title, ("name", "what", "of"), ("images", "MB", "age", "last used"))
    now = time.time()
    for kept in found:
        what = f"{kept.kind}, in use" if kept.in_use else kept.kind
        count = "?" if kept.images is None else f"{kept.images:,}"
        ages = (ago(now - kept.made), ago(now - kept.last_used))
        add_rows(table, [(kept.short_name, what, kept.root or "?", count, f"{kept.bytes / 1e6:,.1f}", *ages)])
    Console().print(table)


def ago(seconds: float) -> str:
    """A span of time in its largest unit."""
    unit, length = next((entry for entry in UNITS if seconds >= entry[1]), UNITS[-1])
    return counted(max(0, int(seconds // length)), unit)


def remove(arguments: argparse.Namespace) -> int:
    """Removes what is named, if all of it can be found. Raises RunError."""
    from mobilenet_train.data import inventory

    paths = dict.fromkeys(inventory.find_kept(folder_of(arguments), arguments.names))
    for path in paths:
        inventory.remove(path)
        if not arguments.json:
            print(printable(f"removed {path}"))
    if arguments.json:
        print_json([str(path) for path in paths])
    return 0
