"""`mnet-info`: where a network's parameters and multiply-adds are."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from mobilenet_train.cli.tool import (
    Parser,
    add_trust_argument,
    class_count,
    main_of,
    new_parser,
    new_table,
    not_empty,
    print_json,
    whole_number,
    width_multiplier,
)
from mobilenet_train.console import plain
from mobilenet_train.deploy.settings import MODELS
from mobilenet_train.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from mobilenet_train.models import Cost
    from mobilenet_train.models.layer_costs import NetworkInfo

EXAMPLES = """\
  mnet-info v3_small                              ImageNet's size: 224 pixels, 1000 classes
  mnet-info v2 --width 0.5 --resolution 160
  mnet-info v3_large --resolution 32 --classes 10 --stride-plan imagenet
  mnet-info outputs/RUN --json
  mnet-info v3_small --weights                    which trained weights there are
"""


def main() -> NoReturn:
    """The console script."""
    main_of(parser(), run)


def parser() -> Parser:
    made = new_parser("mnet-info", "Shows where a network's parameters and multiply-adds are.", EXAMPLES)
    made.add_argument(
        "network",
        nargs="?",
        type=not_empty,
        metavar="MODEL|RUN",
        help="v1, v2, v3_large, v3_small, a run folder or a checkpoint",
    )
    weights = "list the trained ImageNet weights there are for model.weights, of MODEL and --width or of all"
    made.add_argument("--weights", action="store_true", help=weights)
    made.add_argument("--width", type=width_multiplier, help="width multiplier; default: 1")
    made.add_argument("--resolution", type=whole_number, metavar="PIXELS", help="default: 224, or the run's own")
    made.add_argument("--classes", type=class_count, metavar="N", help="default: 1000")
    made.add_argument("--stride-plan", type=stride_plan, metavar="PLAN", help="auto (default), imagenet or a number")
    add_trust_argument(made)
    return made


def stride_plan(text: str) -> str | int:
    """ "auto", "imagenet" or a number, for argparse; the network refuses others."""
    return int(text) if text.isdecimal() else text


def run(arguments: argparse.Namespace) -> int:
    if arguments.weights:
        return list_weights(arguments)
    if arguments.network is None:
        raise ConfigError(f"give a network ({', '.join(MODELS)}), a run folder or a checkpoint")
    from mobilenet_train.inference.run_path import check_source

    check_source(arguments.network, MODELS)
    from mobilenet_train.inference.info import info

    found = info(
        arguments.network,
        width=arguments.width,
        resolution=arguments.resolution,
        classes=arguments.classes,
        stride_plan=arguments.stride_plan,
        trust_factory=arguments.trust_factory,
    )
    if arguments.json:
        print_json(as_json(found))
    else:
        print_tables(found)
    return 0


def list_weights(arguments: argparse.Namespace) -> int:
    """The trained weights of one network or all, at one width or all."""
    from rich.console import Console

    from mobilenet_train.config.trained import TRAINED

    for name in ("resolution", "classes", "stride_plan"):
        if getattr(arguments, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} has no effect with --weights")
    if arguments.network not in (None, *MODELS):
        raise ConfigError(f"--weights is of networks by name ({', '.join(MODELS)}), not of {arguments.network}")
    lines = [
        line for line in TRAINED if arguments.network in (None, line.network) and arguments.width in (None, line.width)
    ]
    if arguments.json:
        print_json([{**asdict(line), "overrides": line.overrides} for line in lines])
        return 0
    title = "trained ImageNet weights; top-1 at 224 pixels as their source prints it (torchvision, timm)"
    table = new_table(title, ("network", "model.weights"), ("width", "top-1 %"))
    for line in lines:
        source = line.overrides[0].removeprefix("model.weights=")
        table.add_row(line.network, source, f"{line.width:g}", f"{line.top1:.2f}" if line.top1 else "")
    console = Console()
    console.print(table)
    for line in lines:
        if line.overrides[1:]:
            console.print(plain(f"{line.source}.{line.tag} goes with {' '.join(line.overrides[1:])}"), soft_wrap=True)
    return 0


def as_json(found: "NetworkInfo") -> dict[str, Any]:
    """Every layer, the totals of each kind, and sizes in MB."""
    by_kind = {kind: asdict(cost) for kind, cost in found.by_kind.items()}
    return {**asdict(found), "by_kind": by_kind, "megabytes": found.megabytes}


def print_tables(found: "NetworkInfo") -> None:
    from rich.console import Console

    console = Console()
    for table in (layer_table(found), kind_table(found), standard_table(found)):
        console.print(table)
    size = found.megabytes
    console.print(f"size of the parameters: {size['fp32']:.2f} MB in fp32, {size['int8']:.2f} MB in int8")


def layer_table(found: "NetworkInfo") -> "Table":
    """One line for each layer; batch-norm, which costs little, is only in the totals."""
    title = f"{found.name} at {found.resolution}x{found.resolution}; the stride is in pixels of the image"
    table = new_table(title, ("layer", "kind", "output"), ("stride", "parameters", "M MAdds"))
    for layer in found.layers:
        if layer.kind == "batch-norm":
            continue
        kernel = f" {layer.kernel}x{layer.kernel}" if layer.kind == "depthwise" else ""
        table.add_row(
            plain(layer.name),
            plain(layer.kind + kernel),
            "x".join(map(str, layer.output)),
            str(layer.stride or ""),
            f"{layer.parameters:,}",
            f"{layer.multiply_adds / 1e6:.3f}",
        )
    return table


def kind_table(found: "NetworkInfo") -> "Table":
    """Parameters and MAdds of each kind of layer, and their shares."""
    table = new_table("by kind of layer", ("kind",), ("parameters", "share", "M MAdds", "share"))
    whole = found.cost
    for kind, cost in {**found.by_kind, "all": whole}.items():
        table.add_row(
            kind,
            f"{cost.parameters:,}",
            f"{cost.parameters / whole.parameters:.2%}",
            f"{cost.multiply_adds / 1e6:.2f}",
            f"{cost.multiply_adds / whole.multiply_adds:.2%}",
        )
    return table


def standard_table(found: "NetworkInfo") -> "Table | str":
    """The network beside itself with standard convolutions."""
    if found.standard is None:
        return "no depthwise separable convolutions in it"
    title = "with a standard convolution for each depthwise + pointwise pair"
    table = new_table(title, ("network",), ("parameters", "M MAdds"))
    rows: dict[str, Cost] = {"separable": found.cost, "standard": found.standard}
    for name, cost in rows.items():
        table.add_row(name, f"{cost.parameters:,}", f"{cost.multiply_adds / 1e6:.2f}")
    times = (
        found.standard.parameters / found.cost.parameters,
        found.standard.multiply_adds / found.cost.multiply_adds,
    )
    table.add_row("times as much", *(f"{ratio:.2f}" for ratio in times))
    return table
