"""Which shipped experiment repeats which lines of the papers' tables, and its results beside theirs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from mobilenet_train.deploy.published import (
    V1_PAPER,
    V2_CHECKPOINTS,
    V3_PAPER,
    Published,
    published,
    published_by,
)
from mobilenet_train.sweeps.rows import Row


@dataclass(frozen=True)
class Line:
    """A published network, and the job of the experiment that repeats it on smaller images."""

    swept: Mapping[str, str | float]  # what the job sweeps
    printed: Published


@dataclass(frozen=True)
class PaperTable:
    """The lines of a published table that an experiment repeats."""

    name: str
    lines: Sequence[Line]

    @property
    def title(self) -> str:
        """The table's name, and where another source prints another top-1 for one of its networks."""
        others = [
            f"{other.source} for {other.name}: {other.top1}"
            for line in self.lines
            for other in published(line.printed.network, line.printed.width, line.printed.resolution)
            if other.top1 != line.printed.top1
        ]
        return f"{self.name} ({'; '.join(others)})" if others else self.name

    def cells(self, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
        """Header and lines: ours, the exact counts of our networks at the paper's size, what the source printed."""
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
        return header, [_cells(line, rows) for line in self.lines]


def _cells(line: Line, rows: Sequence[Row]) -> list[str]:
    printed = line.printed
    assert printed.multiply_adds is not None
    madds, parameters = exact_counts(printed.network, printed.width, printed.resolution)
    return [
        printed.name,
        next((row.top1_text for row in rows if _matches(line, row)), ""),
        f"{madds / 1e6:.2f} M",
        f"{printed.multiply_adds} M",
        f"{madds / 1e6 - printed.multiply_adds:+.2f} M",
        f"{parameters:,}",
        f"{printed.parameters} M",
        str(printed.top1),
    ]


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


def _matches(line: Line, row: Row) -> bool:
    return all(_equal(row.swept.get(key), value) for key, value in line.swept.items())


def _equal(text: str | None, value: str | float) -> bool:
    return text is not None and (text == value if isinstance(value, str) else float(text) == value)


def _by_width(source: str, network: str, widths: Sequence[float]) -> list[Line]:
    return [Line({"model.width_mult": width}, published_by(source, network, width, 224)) for width in widths]


TABLES = {
    "v1_width": PaperTable(f"{V1_PAPER}, Table 6", _by_width(V1_PAPER, "v1", (1.0, 0.75, 0.5, 0.25))),
    "v1_resolution": PaperTable(
        f"{V1_PAPER}, Table 7",
        [  # our pixels are a quarter of the paper's
            Line({"dataset.resolution": ours}, published_by(V1_PAPER, "v1", 1.0, 4 * ours)) for ours in (56, 48, 40, 32)
        ],
    ),
    "v2_width": PaperTable(V2_CHECKPOINTS, _by_width(V2_CHECKPOINTS, "v2", (1.4, 1.0, 0.75, 0.5, 0.35))),
    "v3_width": PaperTable(
        f"{V3_PAPER}, Table 3",
        [
            Line({"model": network, "model.width_mult": width}, published_by(V3_PAPER, network, width, 224))
            for network in ("v3_large", "v3_small")
            for width in (1.0, 0.75)
        ],
    ),
}
