"""The papers' tables: exact counts at the paper's size, the printed columns, and a shipped sweep for every line."""

import itertools

import pytest
import yaml

from mobilenet_train.config.compose import conf_dir
from mobilenet_train.sweeps.papers import TABLES, exact_counts
from mobilenet_train.sweeps.rows import Row


@pytest.mark.parametrize(
    ("network", "width", "resolution", "millions", "parameters"),
    [
        ("v1", 1.0, 224, 568.74, 4_231_976),
        ("v1", 0.25, 224, 41.03, 470_072),
        ("v1", 1.0, 128, 186.40, 4_231_976),
        ("v2", 0.35, 224, 59.29, 1_677_128),
        ("v2", 1.4, 224, 582.20, 6_108_776),
        ("v3_large", 0.75, 224, 154.56, 3_993_528),
        ("v3_small", 0.75, 224, 43.40, 2_041_872),
    ],
)
def test_counts_are_exact_at_the_papers_size(
    network: str, width: float, resolution: int, millions: float, parameters: int
) -> None:
    madds, counted = exact_counts(network, width, resolution)
    assert madds / 1e6 == pytest.approx(millions, abs=0.005)
    assert counted == parameters


@pytest.mark.parametrize("name", TABLES)
def test_the_shipped_sweep_runs_every_line_of_its_table_and_no_more(name: str) -> None:
    experiment = yaml.safe_load((conf_dir() / "experiment" / f"{name}.yaml").read_text())
    params = experiment["hydra"]["sweeper"]["params"]
    grid = [
        dict(zip(params, values, strict=True)) for values in itertools.product(*(v.split(",") for v in params.values()))
    ]
    rows = [Row(swept, runs=[]) for swept in grid]
    header, lines = TABLES[name].cells(rows)
    assert len(lines) == len(grid)
    assert header[-1] == "ImageNet top-1, published"
    swept = [{key: str(value) for key, value in line.swept.items()} for line in TABLES[name].lines]
    assert sorted(map(repr, swept)) == sorted(map(repr, grid))


def test_a_line_shows_exact_and_printed_counts_and_their_difference() -> None:
    _, lines = TABLES["v1_width"].cells([])
    assert lines[0] == [
        "v1 1 at 224",
        "",
        "568.74 M",
        "569 M",
        "-0.26 M",
        "4,231,976",
        "4.2 M",
        "70.6",
    ]
