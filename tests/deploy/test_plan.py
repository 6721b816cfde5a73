"""`mnet-plan`: exact costs, honest predictions, and a choice that was measured."""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from mobilenet_train.config.compose import compose_config
from mobilenet_train.deploy.latency import Timing
from mobilenet_train.deploy.plan import (
    RESOLUTIONS,
    Candidate,
    candidates,
    choose,
    fastest_for_accuracy,
    fit,
    layers_at,
    leave_one_out,
    with_latency,
)
from mobilenet_train.deploy.published import (
    PUBLISHED,
    V2_CHECKPOINTS,
    V2_PAPER,
    V3_CHECKPOINTS,
    V3_PAPER,
    Published,
    published,
)
from mobilenet_train.inference.info import info

Tool = Callable[..., int]
NEVER = 1e9


def candidate(name: str, ms: float, top1: float | None, measured: bool = True) -> Candidate:
    printed = Published("someone", name, 1.0, 224, top1) if top1 else None
    return Candidate(name, 1.0, 224, 1, 1, (1.0,), printed, printed, ms, Timing(ms, ms, 1) if measured else None)


def timings(chosen: Sequence[Candidate]) -> list[Timing]:
    """A machine on which a multiply-add costs 100 ps and a layer 20 us."""
    return [Timing(c.work[0] * 0.02 + c.multiply_adds * 1e-7, NEVER, 10) for c in chosen]


@cache
def all_of(network: str, *resolutions: int, classes: int = 1000) -> list[Candidate]:
    """The candidates of one network, counted once for all tests."""
    return candidates([network], resolutions, classes)


@pytest.fixture(scope="module")
def found() -> list[Candidate]:
    return all_of("v1", *RESOLUTIONS) + all_of("v3_small", *RESOLUTIONS)


def quoted(network: str, width: float, resolution: int) -> Published:
    """The preferred source's line."""
    return published(network, width, resolution)[0]


def test_published_numbers_are_those_of_the_papers_and_checkpoint_tables() -> None:
    assert (quoted("v1", 1.0, 224).top1, quoted("v1", 1.0, 224).pixel1_ms) == (70.6, 113.0)
    assert [quoted("v1", w, 224).top1 for w in (1.0, 0.75, 0.5, 0.25)] == [70.6, 68.4, 63.7, 50.6]
    assert [quoted("v1", 1.0, r).top1 for r in (224, 192, 160, 128)] == [70.6, 69.1, 67.2, 64.4]
    assert (quoted("v2", 1.0, 224).top1, quoted("v2", 1.0, 224).pixel1_ms) == (71.8, 73.8)
    assert [quoted("v2", w, 224).pixel1_ms for w in (0.75, 0.5, 0.35)] == [55.8, 28.7, 19.7]
    assert (quoted("v3_large", 1.0, 224).top1, quoted("v3_large", 1.0, 224).pixel1_ms) == (75.2, 51.2)
    assert (quoted("v3_small", 0.75, 224).top1, quoted("v3_small", 0.75, 224).pixel1_ms) == (65.4, 12.8)


def test_where_paper_and_checkpoints_differ_each_figure_has_its_source() -> None:
    v2 = {line.source: line.top1 for line in published("v2", 1.0, 224)}
    assert v2 == {V2_CHECKPOINTS: 71.8, V2_PAPER: 72.0}
    v3 = {line.source: line.top1 for line in published("v3_small", 1.0, 224)}
    assert v3 == {V3_CHECKPOINTS: 67.5, V3_PAPER: 67.4}


def test_a_source_prints_a_network_once() -> None:
    lines = [(line.source, line.network, line.width, line.resolution) for line in PUBLISHED]
    assert len(lines) == len(set(lines))


def test_costs_are_exact_at_every_resolution(found: list[Candidate]) -> None:
    costs = {(c.model, c.width, c.resolution): (c.parameters, round(c.multiply_adds / 1e6, 2)) for c in found}
    assert costs["v1", 1.0, 224] == (4_231_976, 568.74)
    assert costs["v1", 0.75, 192] == (2_585_560, 239.27)
    assert costs["v1", 0.25, 128] == (470_072, 13.57)
    assert costs["v3_small", 1.0, 160] == (2_542_856, 29.85)
    assert costs["v3_small", 0.75, 224] == (2_041_872, 43.40)


def test_layers_at_an_odd_size_are_those_of_a_network_built_for_it() -> None:
    layers = layers_at("v3_small", 0.75, [32, 150, 224], 10)
    assert tuple(layers[150]) == info("v3_small", width=0.75, resolution=150, classes=10).layers
    assert tuple(layers[32]) == info("v3_small", width=0.75, resolution=32, classes=10).layers


def test_only_some_are_measured_and_the_others_are_predicted_well(found: list[Candidate]) -> None:
    known, error = with_latency(found, timings)
    measured = [c for c in known if c.measured]
    assert 0 < len(measured) < len(known) / 2
    assert error.measured == len(measured)
    truth = [timing.median_ms for timing in timings(known)]
    assert [c.predicted_ms for c in known] == pytest.approx(truth, rel=0.02)
    assert error.worst < 0.1


def test_the_stated_error_is_that_of_predicting_each_from_the_others() -> None:
    work = np.array([[1.0], [2.0], [4.0]])
    error = leave_one_out(work, np.array([1.0, 2.0, 8.0]))
    assert error.worst == pytest.approx(1.0, abs=0.7)
    assert error.worst > error.median > 0
    assert leave_one_out(work, np.array([3.0, 6.0, 12.0])).worst == pytest.approx(0, abs=1e-9)


def test_no_kind_of_work_gets_a_negative_price() -> None:
    work = np.array([[1.0, 5.0], [2.0, 4.0], [3.0, 3.0], [4.0, 1.0]])
    assert (fit(work, np.array([1.0, 2.0, 3.0, 4.0])) >= 0).all()


def test_the_front_has_no_network_that_a_faster_one_equals() -> None:
    known = [candidate("slow", 9, 70), candidate("best", 5, 71), candidate("fast", 1, 50), candidate("?", 2, None)]
    assert [c.model for c in fastest_for_accuracy(known)] == ["fast", "best"]


def test_a_predicted_choice_is_measured_before_it_is_named() -> None:
    promised = candidate("promised", 4, 75, measured=False)
    kept = candidate("kept", 4.5, 74, measured=False)
    really = {"promised": 6.0, "kept": 4.0}

    def measure(chosen: Sequence[Candidate]) -> list[Timing]:
        return [Timing(really[c.model], 9, 10) for c in chosen]

    known, choice = choose([promised, kept, candidate("safe", 1, 60)], 5, 0, measure)
    assert choice is not None
    assert (choice.model, choice.ms) == ("kept", 4.0)
    assert {c.model: c.ms for c in known} == {"promised": 6.0, "kept": 4.0, "safe": 1}


def test_nothing_is_chosen_where_nothing_fits() -> None:
    known = [candidate("a", 3, 60), candidate("b", 9, 75)]
    assert choose(known, 2, 0, timings)[1] is None
    assert choose(known, 5, 70, timings)[1] is None
    assert choose(known, 9, 70, timings)[1] == known[1]


def test_published_accuracy_is_that_of_the_resolution_asked_for() -> None:
    found = {(c.model, c.width): c.published for c in all_of("v2", 96) + all_of("v3_large", 96)}
    v2 = found["v2", 1.0]
    assert v2 is not None
    assert (v2.top1, v2.pixel1_ms, v2.resolution) == (60.3, 17.6, 96)
    assert found["v3_large", 1.0] is None
    large = {c.width: c.published for c in all_of("v1", *RESOLUTIONS) if c.resolution == 160}[1.0]
    assert large is not None
    assert large.top1 == 67.2


def test_where_nothing_is_published_the_networks_are_ranked_by_224_pixels() -> None:
    (small,) = [c for c in all_of("v3_small", 32, classes=10) if c.width == 1]
    assert small.published is None
    assert small.ranked_by is not None
    assert (small.ranked_by.top1, small.ranked_by.resolution) == (67.5, 224)
    assert (small.parameters, round(small.multiply_adds / 1e6, 2)) == (1_528_106, 17.51)
    mixed = all_of("v3_small", 32, 224)
    assert [c.ranked_by for c in mixed if c.resolution == 32] == [None, None]


@pytest.mark.parametrize(
    ("network", "width", "weights"),
    [
        (
            "v1",
            1.0,
            " experiment=finetune model.weights=timm:mobilenetv1_100"
            " 'dataset.mean=[0.5,0.5,0.5]' 'dataset.std=[0.5,0.5,0.5]'",
        ),
        ("v1", 0.5, ""),
        ("v2", 1.0, " experiment=finetune model.weights=torchvision"),
        ("v2", 0.5, " experiment=finetune model.weights=timm:mobilenetv2_050"),
    ],
)
def test_the_printed_command_is_one_that_mnet_train_takes(network: str, width: float, weights: str) -> None:
    (found,) = [c for c in all_of(network, 96) if c.width == width]
    words = f"mnet-train model={network} model.width_mult={width:g}{weights}"
    assert found.command == f"{words} dataset=folder dataset.root=FOLDER dataset.resolution=96"
    assert compose_config(*shlex.split(found.command)[1:]).dataset.name == "folder"


TABLE = """\
model,width,resolution,batch,threads,runtime,median_ms,p95_ms,calls,images_per_second,machine
v2,1.0,96,1,1,onnx,4.0,5,10,250,a phone
v3_small,1.0,160,1,1,onnx,5.0,7,10,160,a phone
v2,1.0,224,1,1,onnx,20.0,25,10,50,a phone
v2,1.0,224,8,1,onnx,90.0,95,10,50,a phone
"""


def test_a_phones_table_is_planned_with_and_nothing_is_timed(
    tool: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("timed")

    monkeypatch.setattr("mobilenet_train.deploy.bench.measure", never)
    (tmp_path / "phone.csv").write_text(TABLE)
    plan = ("mnet-plan", "--measured", tmp_path / "phone.csv")
    assert tool(*plan, "--budget-ms", 8, "--all") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("a phone, onnx, measured before: ")
    assert "not published" in shown
    assert "by a measurement of 4.00 ms" in shown
    assert "model=v2 model.width_mult=1 experiment=finetune model.weights=torchvision dataset=folder" in shown
    assert tool(*plan, "--budget-ms", 30, "--json", "--picture", tmp_path / "plan.png") == 0
    values = json.loads(capsys.readouterr().out)
    assert [(c["model"], c["resolution"], c["measured"]["median_ms"]) for c in values["candidates"]] == [
        ("v2", 96, 4.0),
        ("v3_small", 160, 5.0),
        ("v2", 224, 20.0),
    ]
    assert (values["choice"]["published"]["top1"], values["prediction_error"]) == (71.8, None)
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert tool(*plan, "--budget-ms", 30, "--resolution", 96, "--json") == 0
    assert json.loads(capsys.readouterr().out)["choice"]["published"]["top1"] == 60.3


def test_a_table_that_cannot_be_planned_with_is_refused(
    tool: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phone = tmp_path / "phone.csv"
    plan = ("mnet-plan", "--budget-ms", 8, "--measured", phone)
    phone.write_text(TABLE + "v2,1.0,224,1,1,onnx-int8,9.0,25,10,50,a phone\n")
    assert tool(*plan) == 1
    assert "v2 1 at 224 twice (onnx with 1 thread, onnx-int8 with 1 thread)" in capsys.readouterr().err
    phone.write_text(TABLE)
    assert tool(*plan, "--model", "v1") == 1
    assert "no row with batch 1" in capsys.readouterr().err
    assert tool(*plan, "--runtime", "onnx") == 2
    assert "--runtime has no effect with --measured" in capsys.readouterr().err
    assert tool(*plan[:3], "--measured", tmp_path / "gone.csv") == 1
    assert "gone.csv cannot be read" in capsys.readouterr().err


def test_the_command_names_a_network_within_the_budget_and_draws_the_front(
    tool: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "plan.png"
    small = ("--model", "v1,v3_small", "--resolution", 32, "--classes", 10, "--seconds", 0.001, "--runtime", "eager")
    assert tool("mnet-plan", "--budget-ms", NEVER, *small, "--picture", figure) == 0
    shown, err = capsys.readouterr()
    assert "mnet-plan: preparing and taking " in err
    assert "mnet-train model=v1 model.width_mult=1 experiment=finetune model.weights=timm:mobilenetv1_100 " in shown
    assert "nothing is published of these resolutions" in shown
    assert "Pareto front" in shown
    assert "in the median" in shown
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert tool("mnet-plan", "--budget-ms", 1e-6, *small, "--json") == 1
    out, err = capsys.readouterr()
    assert "nothing fits --budget-ms 1e-06" in err
    assert json.loads(out)["choice"] is None
    assert {c["model"] for c in json.loads(out)["candidates"]} == {"v1", "v3_small"}


def test_an_accuracy_that_no_network_has_is_refused_with_the_best_one(
    tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--model", "v3_small", "--resolution", 32, "--classes", 10, "--seconds", 0.001, "--runtime", "eager")
    assert tool("mnet-plan", "--budget-ms", 9, "--min-accuracy", 90, *arguments) == 1
    assert "no network reaches --min-accuracy 90: the best published one has 67.5 %" in capsys.readouterr().err


def test_a_measured_latency_counts_before_a_predicted_one() -> None:
    both = candidate("a", 3, 60)
    assert replace(both, measured=Timing(4.0, 5.0, 9)).ms == 4.0
    assert replace(both, measured=None).ms == 3
