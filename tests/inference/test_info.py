"""mnet-info: the papers' numbers, layer by layer, beside those of standard convolutions."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import mobilenet_train
from mobilenet_train.errors import ConfigError
from mobilenet_train.models import NETWORKS, Cost, count_costs
from mobilenet_train.models.layer_costs import describe_network


def test_v1_has_the_shares_of_table_2() -> None:
    """MobileNets, Table 2: without biases and batch-norm. Its 1.19 % for the 3x3 layer's multiply-adds should be 1.91.

    (The four shares that are printed add up to 99.29 %.)
    """
    found = mobilenet_train.info("v1")
    kinds = found.by_kind
    weights = found.cost.parameters - kinds["batch-norm"].parameters - 1000  # the last layer's biases
    shares = {
        kind: (round(100 * cost.multiply_adds / found.cost.multiply_adds, 2), round(100 * cost.parameters / weights, 2))
        for kind, cost in kinds.items()
    }
    assert shares["pointwise"] == (94.86, 74.59)
    assert shares["depthwise"] == (3.06, 1.06)
    assert shares["convolution"] == (1.91, 0.02)
    assert shares["head"][0] == 0.18
    assert round(100 * (kinds["head"].parameters - 1000) / weights, 2) == 24.33


def test_v1_beside_standard_convolutions_is_table_4() -> None:
    found = mobilenet_train.info("v1")
    assert found.cost == Cost(4_231_976, 568_740_352)
    assert found.standard == Cost(29_294_088, 4_867_293_184)
    assert found.standard.multiply_adds / found.cost.multiply_adds == pytest.approx(8.56, abs=0.005)


@pytest.mark.parametrize(
    ("name", "width", "resolution"), [("v1", 0.5, 160), ("v2", 1.4, 224), ("v3_large", 0.75, 33), ("v3_small", 1.0, 96)]
)
def test_layers_and_kinds_add_up_to_the_whole(name: str, width: float, resolution: int) -> None:
    found = mobilenet_train.info(name, width=width, resolution=resolution)
    for parts in (found.layers, found.by_kind.values()):
        assert sum(part.parameters for part in parts) == found.cost.parameters
        assert sum(part.multiply_adds for part in parts) == found.cost.multiply_adds
    assert "other" not in found.by_kind
    last = [layer for layer in found.layers if layer.kind == "pointwise"][-1]
    assert last.stride == (32 if resolution >= 96 else 8)
    assert last.output[1:] == (-(-resolution // last.stride),) * 2


def test_v2_block_by_block_is_table_2_of_its_paper() -> None:
    found = mobilenet_train.info("v2")
    projections = [layer for layer in found.layers if layer.name.endswith(("conv.1", "conv.2")) and layer.kernel == 1]
    assert [(layer.output[0], layer.output[1], layer.stride) for layer in projections] == [
        (16, 112, 2),
        *[(24, 56, 4)] * 2,
        *[(32, 28, 8)] * 3,
        *[(64, 14, 16)] * 4,
        *[(96, 14, 16)] * 3,
        *[(160, 7, 32)] * 3,
        (320, 7, 32),
    ]


def test_squeeze_and_excite_and_size() -> None:
    found = mobilenet_train.info("v3_large")
    assert sum(layer.kind == "SE" for layer in found.layers) == 8
    assert sum(layer.kind == "depthwise" for layer in found.layers) == 15
    assert found.megabytes == {"fp32": 21.932128, "int8": 5.483032}


def test_the_standard_equivalent_is_the_standard_network_for_any_width_and_plan() -> None:
    for options in ({"width": 0.25}, {"resolution": 32, "stride_plan": 1, "classes": 10}):
        found = mobilenet_train.info("v1", **options)  # type: ignore[arg-type]
        names = {"width": "width_mult", "classes": "num_classes"}
        build = {names.get(key, key): value for key, value in options.items()}
        with torch.device("meta"):
            network = NETWORKS["v1"](separable=False, **build)
        assert found.standard == count_costs(network, found.resolution)


def test_a_network_without_separable_convolutions_has_no_equivalent_and_unknown_layers_are_the_rest() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 2), nn.Flatten(), nn.LazyLinear(2))
    found = describe_network(network[:2], 8, "mine")
    assert found.standard is None
    assert found.by_kind["other"].parameters == 4 * 2 * 2 * 2 + 2
    assert sum(cost.multiply_adds for cost in found.by_kind.values()) == found.cost.multiply_adds


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("v9", {}, "neither a network .*v3_small"),
        ("v1", {"width": 0.0}, "width_mult=0.0"),
        ("v1", {"resolution": 5000}, "resolution=5000 .*1 to 4096"),
        ("v2", {"stride_plan": "most"}, "stride_plan='most'"),
        ("RUN", {"width": 0.5}, "width=0.5 goes with a network's name"),
    ],
)
def test_what_can_t_be_is_refused(run: Path, source: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mobilenet_train.info(run if source == "RUN" else source, **options)  # type: ignore[arg-type]


def test_the_command_tells_of_a_run_in_json(
    run: Path, tool: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool("mnet-info", run, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    summary = json.loads((run / "summary.json").read_text())
    assert values["cost"] == {key: summary[key] for key in ("parameters", "multiply_adds")}
    assert values["layers"][0]["output"] == [16, 16, 16]
    assert values["standard"]["multiply_adds"] > values["cost"]["multiply_adds"]


def test_the_tables_fit_80_columns_and_name_every_layer_with_weights(
    tool: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert tool("mnet-info", "v3_large", "--width", "0.5", "--stride-plan", "0") == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    found = mobilenet_train.info("v3_large", width=0.5)
    assert all(f" {layer.name} " in output for layer in found.layers if layer.kind != "batch-norm")
    assert f"{found.cost.parameters:,}" in output
    assert "times as much" in output


def test_wrong_use_is_one_line_and_exit_code_2(tool: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["v1", "--widht", "1"], ["v1", "--classes", "0"], ["nothing_there"]):
        assert tool("mnet-info", *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("mnet-info: ")
        assert error.count("\n") == 1


def test_trained_weights_are_listed_with_what_they_need(
    tool: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool("mnet-info", "--weights", "--json") == 0
    everything = json.loads(capsys.readouterr().out)
    assert {line["network"] for line in everything} == set(NETWORKS)
    assert tool("mnet-info", "v3_large", "--width", 1, "--weights") == 0
    out = capsys.readouterr().out
    assert "timm:mobilenetv3_large_100.ra4_e3600_r224_in1k goes with dataset.mean=[0.5,0.5,0.5]" in out
    assert "76.31" in out
    assert "timm:mobilenetv3_small" not in out
    for words, message in (
        (("--weights", "--classes", 3), "--classes has no effect with --weights"),
        (("outputs/RUN", "--weights"), "--weights is of networks by name"),
        ((), "give a network"),
    ):
        assert tool("mnet-info", *words) == 2
        assert message in capsys.readouterr().err
