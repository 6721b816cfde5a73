"""`mnet-export --to executorch`: the program runs in ExecuTorch, computes what the network does, holds its labels."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mobilenet_train.data.batches import Preprocessor
from mobilenet_train.data.images import Dataset
from mobilenet_train.deploy.executorch_program import MOST_IMAGES, classifier_of_program, load_program, to_executorch
from mobilenet_train.deploy.export import FORMATS, DeployRow, Source, all_logits, check, check_file, export, properties
from mobilenet_train.deploy.runtimes import eager_logits
from mobilenet_train.errors import RunError
from mobilenet_train.inference.evaluate import load_test_data
from mobilenet_train.inference.loading import TrainedRun, load_run

pytestmark = pytest.mark.usefixtures("short_timings")


def shorter(run: TrainedRun) -> TrainedRun:
    """The run with three blocks left of its network: lowering a whole one takes a minute."""
    model = run.model
    model.features = model.features[:4]  # type: ignore[union-attr, index]
    model.classifier = torch.nn.Sequential(torch.nn.Linear(8, 10)).requires_grad_(False)
    return run


@pytest.fixture(scope="module")
def run(finished: Path) -> TrainedRun:
    return shorter(load_run(finished / "run"))


@pytest.fixture(scope="module")
def dataset(run: TrainedRun) -> Dataset:
    return load_test_data(run, None, trust_factory=False)


@pytest.fixture(scope="module")
def row(run: TrainedRun, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DeployRow]:
    pytest.importorskip("executorch")
    folder = tmp_path_factory.mktemp("executorch")
    itself, made = export(Source(run, dataset), ["executorch"], folder, max_drop=1)
    assert itself.checked.format == "pytorch"
    return folder / "model.pte", made


def reference(run: TrainedRun, dataset: Dataset) -> torch.Tensor:
    return all_logits(eager_logits(run.model, torch.device("cpu")), dataset.test, run.preprocessing)


def test_the_program_computes_the_networks_logits_and_is_timed(row: tuple[Path, DeployRow]) -> None:
    path, made = row
    assert path.stat().st_size == made.checked.bytes
    assert made.checked.difference <= 1e-4
    assert made.checked.drop == 0
    assert made.timing.median_ms > 0


@pytest.mark.parametrize("count", [1, MOST_IMAGES, 2 * MOST_IMAGES + 1])
def test_any_number_of_images_can_be_run(count: int, run: TrainedRun, row: tuple[Path, DeployRow]) -> None:
    logits, _ = load_program(row[0].read_bytes(), threads=1)
    images = torch.rand(count, 3, 32, 32)
    torch.testing.assert_close(logits(images), run.model(images), rtol=1e-4, atol=1e-4)


def test_a_program_is_evaluated_and_predicts_as_its_run(
    run: TrainedRun, dataset: Dataset, row: tuple[Path, DeployRow]
) -> None:
    itself, program = check_file(row[0], run, dataset)
    assert (program.format, program.top1) == ("executorch", itself.top1)
    images = dataset.test.images[:3].numpy()
    found = list(classifier_of_program(row[0], threads=1).stream(list(images), top=10))
    shares = run.model(
        Preprocessor(run.preprocessing, torch.device("cpu"), torch.contiguous_format)(torch.from_numpy(images))
    ).softmax(1)
    for prediction, expected in zip(found, shares, strict=True):
        by_name = dict(prediction.ranked)
        assert [by_name[name] for name in run.class_names] == pytest.approx(expected.tolist(), abs=1e-5)


def test_labels_and_preprocessing_are_in_the_program(run: TrainedRun, row: tuple[Path, DeployRow]) -> None:
    _, read = load_program(row[0].read_bytes(), threads=1)
    assert dict(read) == dict(properties(run))
    assert json.loads(read["labels"]) == list("0123456789")


def test_labels_need_not_be_ascii(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    small = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    path = tmp_path / "small.pte"
    path.write_bytes(to_executorch(small, 2, {"labels": '["Kätzchen", "猫"]'}))
    assert load_program(path.read_bytes(), threads=1)[1]["labels"] == '["Kätzchen", "猫"]'


def test_nothing_reaches_the_terminal(row: tuple[Path, DeployRow], capfd: pytest.CaptureFixture[str]) -> None:
    logits, _ = load_program(row[0].read_bytes(), threads=1)
    logits(torch.zeros(3, 3, 32, 32))
    assert capfd.readouterr() == ("", "")


def test_a_torn_program_is_caught(
    run: TrainedRun, dataset: Dataset, row: tuple[Path, DeployRow], tmp_path: Path
) -> None:
    torn = tmp_path / "torn"
    torn.write_bytes(row[0].read_bytes()[:5000])
    with pytest.raises(RunError, match="torn cannot be loaded as executorch"):
        check("executorch", torn, run, dataset.test, reference(run, dataset))


def test_an_altered_weight_is_caught(
    run: TrainedRun, dataset: Dataset, row: tuple[Path, DeployRow], tmp_path: Path
) -> None:
    last = run.model.state_dict()["classifier.0.bias"].numpy().tobytes()
    contents = row[0].read_bytes()
    assert contents.count(last) == 1
    altered = tmp_path / "altered"
    altered.write_bytes(contents.replace(last, torch.arange(10.0).numpy().tobytes()))
    with pytest.raises(RunError, match="altered computes other logits than the network"):
        check("executorch", altered, run, dataset.test, reference(run, dataset))


def test_another_preprocessing_is_caught(run: TrainedRun, dataset: Dataset, row: tuple[Path, DeployRow]) -> None:
    other = replace(run, preprocessing=replace(run.preprocessing, mean=(0.5, 0.5, 0.5)))
    with pytest.raises(RunError, match="names other preprocessing than the run"):
        check("executorch", row[0], other, dataset.test, reference(run, dataset))


def test_a_missing_package_is_named_with_the_command_that_brings_it(
    run: TrainedRun, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    with pytest.raises(RunError, match=r"not installed: pip install 'executorch<[\d.]+,>=[\d.]+' 'torch=="):
        FORMATS["executorch"].write(Source(run, dataset))
