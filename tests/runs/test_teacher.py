"""Distillation: what is learned and what is refused; a run with a teacher resumes and is planned like any other."""

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mobilenet_train.config.checked import values_of
from mobilenet_train.config.fields import Section
from mobilenet_train.config.resume import merge
from mobilenet_train.config.saved import Saved
from mobilenet_train.config.schema import DistillConfig, TrainConfig
from mobilenet_train.errors import ConfigError, RunError
from mobilenet_train.runs import announce
from mobilenet_train.runs import folder as run_folder
from mobilenet_train.runs.build import RunParts, build_run
from mobilenet_train.runs.session import train
from mobilenet_train.sweeps import forecast
from mobilenet_train.training.budget import measure_pace
from mobilenet_train.training.step import train_update
from mobilenet_train.training.teacher import distilled
from tests.conftest import TINY, configure
from tests.records import weights
from tests.runs.test_resume import composed, run


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch on the images of the others."""
    folder = tmp_path_factory.mktemp("teachers") / "teacher"
    assert run(folder, float("inf"), "epochs=1") == 0
    return folder


@pytest.fixture
def taught(teacher: Path) -> Callable[..., RunParts]:
    """A run with the teacher, before its first update."""
    return lambda *words: build_run(replace(composed(*words), distill=learning(teacher)))


def learning(teacher: Path | str) -> DistillConfig:
    return DistillConfig(teacher=str(teacher), weight=0.25, temperature=2.0)


def test_the_loss_is_hintons() -> None:
    """KL of softmax([2, 0] / 2) = (0.7310586, 0.2689414) from softmax([0, 0]) = (0.5, 0.5): 0.1109441 by hand."""
    config = DistillConfig(teacher="x", weight=0.25, temperature=2.0)
    student, its_teacher = torch.zeros(3, 2), torch.tensor([[2.0, 0.0]] * 3)
    assert distilled(torch.tensor(1.0), student, its_teacher, config).item() == pytest.approx(
        0.75 + 0.25 * 4 * 0.1109441
    )


def test_the_student_learns_from_the_very_images_that_it_sees(taught: Callable[..., RunParts]) -> None:
    parts = taught("augment.mixup=0.5", "progressive.start=32")
    assert parts.plan.teacher is not None
    seen: dict[str, torch.Tensor] = {}
    for name, network in (("student", parts.state.model), ("teacher", parts.plan.teacher.network)):
        network.register_forward_hook(lambda _, images, __, name=name: seen.update({name: images[0]}))
    train_update(parts.state, [next(parts.batches.train.epoch(0))], parts.plan)
    assert torch.equal(seen["student"], seen["teacher"])


def test_a_student_that_learns_from_its_teacher_alone_comes_near_it(taught: Callable[..., RunParts]) -> None:
    parts = taught("model.dropout=0", "optim.lr=0.1", "optim.schedule.warmup=0")
    assert parts.plan.teacher is not None
    parts.plan.teacher.network.classifier[-1].weight.mul_(100)  # an opinion, after one short epoch
    config = replace(parts.config, distill=DistillConfig(teacher="", weight=1.0, temperature=2.0))
    parts = replace(parts, plan=replace(parts.plan, config=config))
    batch, losses = next(parts.batches.train.epoch(0)), []
    for _ in range(12):
        train_update(parts.state, [batch], parts.plan)
        losses.append(float(parts.state.sums.last_batch[0]))
    assert 0 < losses[-1] < losses[0] / 2


def test_a_stopped_run_ends_bit_identical_and_may_find_its_teacher_elsewhere(teacher: Path, tmp_path: Path) -> None:
    words = (f"distill.teacher={teacher}",)
    run(tmp_path / "whole", float("inf"), *words)
    assert run(tmp_path / "stopped", 3, *words) != 0
    other = tmp_path / "moved"
    other.symlink_to(teacher)
    assert run(tmp_path / "stopped", float("inf"), *words) == 0
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    saved = Saved(composed(*words))
    moved = merge(saved, values(f"distill.teacher={other}"), ["distill.teacher"])
    assert moved.config.distill.teacher == str(other)
    assert moved.differences(saved.config) == []
    with pytest.raises(ConfigError, match=r"distill.teacher=None cannot be given when a run is resumed"):
        merge(saved, values(), ["distill.teacher"])


def values(*words: str) -> DictConfig:
    return OmegaConf.create(values_of(composed(*words)))


def test_another_teacher_under_the_same_name_is_refused_at_resume(teacher: Path, tmp_path: Path) -> None:
    link = tmp_path / "teacher"
    link.symlink_to(teacher)
    assert run(tmp_path / "run", 3, f"distill.teacher={link}") != 0
    run(tmp_path / "other", float("inf"), "epochs=1", "seed=5")
    link.unlink()
    link.symlink_to(tmp_path / "other")
    with pytest.raises(RunError, match=r"distill.teacher=\S+ has other weights than the teacher that this run"):
        run(tmp_path / "run", 3, f"distill.teacher={link}")


def refused(teacher: Path | str, config: TrainConfig) -> str:
    with pytest.raises(RunError) as error:
        build_run(replace(config, distill=learning(teacher)))
    (line,) = error.value.args
    assert line.startswith(f"distill.teacher={teacher}")
    return str(line)


def test_a_teacher_that_does_not_go_with_the_run_is_refused_in_one_line(teacher: Path, tmp_path: Path) -> None:
    config = configure(*TINY, "dataset.max_per_class=20")
    assert "does not exist" in refused(tmp_path / "none", config)
    assert "dataset.mean=[0.305,0.305,0.305]" in refused(teacher, changed(config, "dataset", mean=[0.5, 0.5, 0.5]))
    assert "test images of this run" in refused(teacher, changed(config, "dataset", split_seed=3))
    assert "images of 3 channels, and this run's have 1" in refused(teacher, changed(config, "model", in_channels=1))
    unknown = refused("torchvision:mobilenet_v9", config)
    assert "did you mean 'mobilenet_v2'?" in unknown
    assert len(unknown) < 300
    assert "other classes, 1,000 (tench, goldfish, " in refused("torchvision:mobilenet_v3_small", config)


def changed(config: TrainConfig, part: str, **values: object) -> TrainConfig:
    section: Section = getattr(config, part)
    return replace(config, **{part: replace(section, **values)})


def test_a_teacher_built_by_a_function_is_loaded_only_if_that_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("model=custom", "model.factory=mobilenet_train.models:mobilenet_v3_small", "+model.args.width_mult=0.25")
    small = tuple(word for word in TINY if not word.startswith("model"))
    session = configure(
        *small, *words, "dataset.max_per_class=20", "dataset.val_fraction=0.2", f"run_dir={tmp_path / 't'}"
    )
    parts = build_run(replace(session, epochs=1))
    run_folder.create(parts.config, [])[1].close()
    train(parts, tmp_path / "t", Console(quiet=True), lambda: 0)  # type: ignore[arg-type]
    assert "trust_factory=true" in refused(tmp_path / "t", composed())
    trusted = replace(composed(), distill=learning(tmp_path / "t"), trust_factory=True)
    monkeypatch.setattr("sys.stdin", StringIO(json.dumps(forecast.question([trusted], None))))
    forecast.main()  # what a sweep asks before its first job
    assert '"parameters"' in capsys.readouterr().out


def test_the_plan_names_the_teacher_and_a_measured_pace_includes_it(
    taught: Callable[..., RunParts], teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = taught()
    assert parts.plan.teacher is not None
    announce.describe(parts, Console(width=400))
    said = capsys.readouterr().out
    assert f"{teacher}: v3_small, test top-1 " in said
    assert f"{parts.cost.parameters:,} parameters; 25% of the loss, temperature 2" in said
    calls: list[int] = []
    parts.plan.teacher.network.register_forward_hook(lambda *_: calls.append(1))
    measure_pace(parts.state, parts.batches.train, parts.batches.test, parts.plan)
    assert len(calls) > 2
