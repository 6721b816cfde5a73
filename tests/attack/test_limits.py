"""Finding 22: what is too large, too few or not a number is named in one line: files, classes, ranks, sizes."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mobilenet_train.cli import bench, info, plan
from mobilenet_train.console import LONGEST
from mobilenet_train.data.listing import LARGEST_FILE, BadImageError
from mobilenet_train.errors import ConfigError, RunError
from mobilenet_train.ranks import ranks_from_environment
from mobilenet_train.runs.build import build_run
from mobilenet_train.weights.pretrained import read_weights, start_from
from tests.attack.fuzz import in_process
from tests.conftest import configure
from tests.data.image_files_for_tests import draw, encoded

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_a_file_too_large_for_an_image_is_one_bad_image(tmp_path: Path) -> None:
    from mobilenet_train.data.listing import list_tree

    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(encoded(draw(0)))
    with (tmp_path / "ant/huge.jpg").open("wb") as file:
        file.truncate(1000 * LARGEST_FILE)  # sparse: no space, a terabyte to read
    listing = list_tree(tmp_path, None, {}).listing
    number = next(row for row in range(len(listing)) if listing.path(row).name == "huge.jpg")
    with pytest.raises(BadImageError, match="more than any image"):
        listing.read(number)


@pytest.mark.parametrize("label", ["4000000000", "9" * 30, "9" * 10_000])
def test_an_impossible_class_in_a_shard_names_the_file_and_obeys_on_bad_image(label: str, tmp_path: Path) -> None:
    import io
    import tarfile

    for shard in ("train.tar", "test.tar"):
        with tarfile.open(tmp_path / shard, "w") as tar:
            for number in range(6):
                wrong = shard == "train.tar" and number == 3
                text = label if wrong else str(number % 2)
                for suffix, data in (("jpg", encoded(draw(number + len(shard)))), ("cls", text.encode())):
                    member = tarfile.TarInfo(f"{number}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    words = ("dataset=webdataset", "dataset.train=train.tar", "dataset.test=test.tar", "dataset.cache_dir=cache")
    small = ("dataset.resolution=16", "dataset.workers=0", "batch_size=2", "model=v1", "device.threads=1")
    with pytest.raises(RunError, match=r"train\.tar/3\.jpg says class .* dataset\.on_bad_image=skip"):
        build_run(configure(*words, *small))
    parts = build_run(configure(*words, *small, "dataset.on_bad_image=skip"))
    assert (len(parts.dataset.train), len(parts.dataset.test), len(parts.dataset.class_names)) == (5, 6, 2)


def test_classes_with_a_single_image_say_why_none_is_left_for_training(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"photos/{number:03}").mkdir(parents=True)
        (tmp_path / f"photos/{number:03}/a.jpg").write_bytes(b"")
    config = configure("dataset=folder", f"dataset.root={tmp_path}/photos", "dataset.resolution=16", "model=v1")
    with pytest.raises(RunError) as refused:
        build_run(config)
    for word in ("no training images for 30 of 30 classes", "'000' with 1 in all", "dataset.test_fraction=0.2"):
        assert word in str(refused.value)


def test_weights_that_are_not_finite_are_refused_when_they_are_loaded(tmp_path: Path) -> None:
    from mobilenet_train.models import NETWORKS as OURS

    model = OURS["v1"](num_classes=10, resolution=32, width_mult=0.03)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["classifier.1.weight" if "classifier.1.weight" in state else next(iter(state))].view(-1)[0] = float("nan")
    path = tmp_path / "nan.pt"
    torch.save(state, path)
    with pytest.raises(RunError, match=r"model\.weights=.*nan\.pt cannot be trained on: .* not finite"):
        start_from(model, "v1", str(path), read_weights("v1", str(path), 1.0), tuple("0123456789"))


@pytest.mark.parametrize(
    "setting", ["RANK=x", "RANK=-1", "RANK=1", "RANK=²", "WORLD_SIZE=0", "WORLD_SIZE=", "LOCAL_RANK=a", "LOCAL_RANK=7"]
)
def test_a_wrong_rank_in_the_environment_is_one_line(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, value = setting.partition("=")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}={value} in the environment is not"):
        ranks_from_environment()
    outcome = in_process(("dataset=digits",), tmp_path)
    assert outcome.code == 2
    assert f"{name}={value}" in outcome.errors
    assert outcome.errors.count("\n") == 1


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        (bench, "--width 1e9"),
        (bench, "--width 33"),
        (bench, "--resolution 5000"),
        (bench, f"--batch {10**9}"),
        (bench, f"--classes {10**9}"),
        (bench, f"--batch {'9' * 5000}"),
        (info, "v2 --width 1e9"),
        (info, f"v2 --classes {10**20}"),
        (plan, "--budget-ms 5 --resolution 100000"),
        (plan, f"--budget-ms 5 --classes {10**9}"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else value.__name__.rpartition(".")[2],
)
def test_a_size_without_end_is_refused_by_every_tool(
    tool: Any, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tool", *words.split()])
    with pytest.raises(SystemExit) as end:
        tool.main()
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert words.split()[-2] in message
    assert message.count("\n") == 1
    assert len(message) <= LONGEST + 1


def test_a_measurement_without_memory_says_what_to_lower(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("mobilenet_train.deploy.bench.Bench.run", run)
    monkeypatch.setattr(sys, "argv", ["mnet-bench", "--model", "v1"])
    with pytest.raises(SystemExit) as end:
        bench.main()
    assert end.value.code == 1
    assert "lower --batch" in capsys.readouterr().err
