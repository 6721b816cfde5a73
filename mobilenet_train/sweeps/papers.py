"""The papers' width and resolution tables, beside which the shipped experiments' results are printed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from mobilenet_train.sweeps.rows import Row


@dataclass(frozen=True)
class Published:
    """One line of a published table, as printed there; ImageNet, input of `resolution` pixels."""

    swept: Mapping[str, str | float]  # how a job of our sweep is told to be this line's
    network: str
    width: float
    resolution: int
    multiply_adds: str  # millions
    parameters: str  # millions
    top1: str  # percent


@dataclass(frozen=True)
class PaperTable:
    source: str
    lines: Sequence[Published]

    def cells(self, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
        """Header and lines: ours, the exact counts of our networks at the paper's size, what the paper printed."""
        header = [
            "network",
            "our top-1",
            "exact MAdds",
            "MAdds, published",
            "difference",
            "exact parameters",
            "parameters, published",
            "ImageNet top-1, published",
        ]
        cells = []
        for line in self.lines:
            ours = next((row.top1_text for row in rows if _matches(line, row)), "")
            madds, parameters = exact_counts(line.network, line.width, line.resolution)
            cells.append(
                [
                    f"{line.network} {line.width:g} at {line.resolution}",
                    ours,
                    f"{madds / 1e6:.2f} M",
                    f"{line.multiply_adds} M",
                    f"{madds / 1e6 - float(line.multiply_adds):+.2f} M",
                    f"{parameters:,}",
                    f"{line.parameters} M",
                    line.top1,
                ]
            )
        return header, cells


@lru_cache
def exact_counts(network: str, width: float, resolution: int) -> tuple[int, int]:
    """Multiply-adds and parameters of our network with 1000 classes; nothing is computed."""
    import torch

    from mobilenet_train.models import NETWORKS, count_costs

    with torch.device("meta"):
        model = NETWORKS[network](num_classes=1000, resolution=resolution, width_mult=width)
    cost = count_costs(model, resolution)
    return cost.multiply_adds, cost.parameters


def paper_table(experiment: str) -> PaperTable | None:
    """The table that a shipped experiment repeats, if it is one of those."""
    return TABLES.get(experiment)


def _matches(line: Published, row: Row) -> bool:
    return all(_equal(row.swept.get(key), value) for key, value in line.swept.items())


def _equal(text: str | None, value: str | float) -> bool:
    return text is not None and (text == value if isinstance(value, str) else float(text) == value)


def _by_width(network: str, width: float, madds: str, parameters: str, top1: str) -> Published:
    return Published({"model.width_mult": width}, network, width, 224, madds, parameters, top1)


def _v1_by_resolution(ours: int, resolution: int, madds: str, top1: str) -> Published:
    return Published({"dataset.resolution": ours}, "v1", 1.0, resolution, madds, "4.2", top1)


def _v3_by_width(network: str, width: float, madds: str, parameters: str, top1: str) -> Published:
    return Published({"model": network, "model.width_mult": width}, network, width, 224, madds, parameters, top1)


TABLES = {
    "v1_width": PaperTable(
        "Howard et al. 2017, Table 6",
        [
            _by_width("v1", 1.0, "569", "4.2", "70.6"),
            _by_width("v1", 0.75, "325", "2.6", "68.4"),
            _by_width("v1", 0.5, "149", "1.3", "63.7"),
            _by_width("v1", 0.25, "41", "0.5", "50.6"),
        ],
    ),
    "v1_resolution": PaperTable(  # our pixels are a quarter of the paper's
        "Howard et al. 2017, Table 7",
        [
            _v1_by_resolution(56, 224, "569", "70.6"),
            _v1_by_resolution(48, 192, "418", "69.1"),
            _v1_by_resolution(40, 160, "290", "67.2"),
            _v1_by_resolution(32, 128, "186", "64.4"),
        ],
    ),
    "v2_width": PaperTable(
        "Google's MobileNetV2 checkpoints (the paper prints 72.0 for width 1 and 74.7 for 1.4)",
        [
            _by_width("v2", 1.4, "582", "6.06", "75.0"),
            _by_width("v2", 1.0, "300", "3.47", "71.8"),
            _by_width("v2", 0.75, "209", "2.61", "69.8"),
            _by_width("v2", 0.5, "97", "1.95", "65.4"),
            _by_width("v2", 0.35, "59", "1.66", "60.3"),
        ],
    ),
    "v3_width": PaperTable(
        "Howard et al. 2019, Table 3",
        [
            _v3_by_width("v3_large", 1.0, "219", "5.4", "75.2"),
            _v3_by_width("v3_large", 0.75, "155", "4.0", "73.3"),
            _v3_by_width("v3_small", 1.0, "56", "2.5", "67.4"),
            _v3_by_width("v3_small", 0.75, "44", "2.0", "65.4"),
        ],
    ),
}
