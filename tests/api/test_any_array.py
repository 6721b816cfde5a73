"""Arrays of any number of channels, in any units: trained, resumed, exported and used."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from mobilenet_train import ImageData, Run, UserError, train
from mobilenet_train.config.compose import compose_config
from mobilenet_train.data.images import channel_statistics
from mobilenet_train.models.blocks import ConvNormActivation
from mobilenet_train.results import Event, Progress
from mobilenet_train.runs.build import RunParts, build_run
from mobilenet_train.runs.preview import write_sheet
from tests.records import weights

HERE = "tests.api.test_any_array"
SMALL = (
    *("model=v3_small", "model.width_mult=0.1", "dataset.resolution=24", "batch_size=16", "device.threads=1"),
    *("epochs=2", "log_every=1", "device=cpu"),
)
pytestmark = pytest.mark.usefixtures("short_timings")


def spectra(channels: int = 6, scale: float = 5000.0, count: int = 64) -> ImageData:
    """Two classes that differ in one channel, in the units of a sensor."""
    draw = np.random.default_rng(0)
    images = draw.normal(2.0, 0.1, (count, 24, 24, channels)).astype(np.float32)
    labels = np.arange(count) % 2
    images[labels == 1, ..., channels - 1] += 1.0
    images *= scale
    return ImageData(images, labels, images[:16], labels[:16], ["low", "high"])


def parts_of(*words: str) -> RunParts:
    return build_run(compose_config("dataset=custom", f"dataset.factory={HERE}:spectra", *SMALL, *words))


def small(num_classes: int, resolution: int, in_channels: int) -> nn.Module:
    """A network that is exported in a moment; the papers' take any number of channels too, as another test says."""
    return nn.Sequential(
        ConvNormActivation(in_channels, 8, 3, stride=2, activation="hard_swish"),
        nn.AvgPool2d(resolution // 2),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


def ctrl_c(event: Event) -> None:
    if isinstance(event, Progress) and (event.epoch, event.batch) == (1, 1):
        signal.raise_signal(signal.SIGINT)


def test_six_channels_of_floats_train_resume_export_and_predict(
    tmp_path: Path,
    tool: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in ("onnx", "onnxruntime", "executorch"):
        pytest.importorskip(package)
    words = [word for word in SMALL if not word.startswith("model")]
    whole = train(*words, data=spectra, model=small, run_dir=tmp_path / "whole")
    run = train(*words, data=spectra, model=small, run_dir=tmp_path / "run", callbacks=[ctrl_c]).resume()
    assert weights(run.path) == weights(whole.path)
    assert run.evaluate().verdict.status == "verified"
    data = spectra()
    image = data.test_images[1]
    ours = run.classifier().predict(image)[0]
    np.save(tmp_path / "image.npy", image)
    formats = "onnx,onnx-int8,executorch,safetensors"
    assert tool("mnet-export", run.path, "--to", formats, "--max-drop", 100, "--trust-factory") == 0
    for file in (run.path, run.path / "export/model.onnx", run.path / "export/model.pte"):
        capsys.readouterr()
        trust = ["--trust-factory"] if file == run.path else []
        assert tool("mnet-predict", file, tmp_path / "image.npy", "--json", *trust) == 0
        (found,) = json.loads(capsys.readouterr().out.strip().join("[]"))
        assert dict(best(found)) == pytest.approx(dict(ours.ranked), abs=1e-4)


def best(found: dict[str, Any]) -> list[tuple[str, float]]:
    return [(entry["class"], entry["probability"]) for entry in found["ranked"]]


def test_mean_and_deviation_are_measured_in_the_units_of_the_array() -> None:
    images = spectra().train_images.astype(np.float64)
    parts = parts_of()
    assert parts.dataset.preprocessing.mean == pytest.approx(images.mean((0, 1, 2)))
    assert parts.dataset.preprocessing.std == pytest.approx(images.std((0, 1, 2)), rel=1e-6)
    inputs, _ = next(parts.batches.train.epoch(0))
    assert inputs.shape == (16, 6, 24, 24)
    assert abs(float(inputs.mean())) < 0.2
    flat = torch.full((4, 2, 2, 5), 7.0)
    assert channel_statistics([flat], scale=1.0) == ((7.0,) * 5, (1.0,) * 5)


def test_the_same_values_as_uint8_and_as_floats_are_the_same_input() -> None:
    values = np.random.default_rng(1).integers(0, 256, (32, 24, 24, 3), dtype=np.uint8)
    inputs = []
    for images in (values, values.astype(np.float32)):
        data = ImageData(images, np.arange(32) % 2, images[:8], np.arange(8) % 2, ["a", "b"])
        parts = made_of(data, "augment.cutout=4")
        inputs.append(next(parts.batches.train.epoch(0))[0])
    assert torch.allclose(*inputs, atol=2e-2)  # the mean colour of cutout is a whole number for uint8


def made_of(data: ImageData, *words: str) -> RunParts:
    from mobilenet_train.factory import handed_over

    with handed_over({"python:dataset": lambda: data}):
        return build_run(compose_config("dataset=custom", "dataset.factory=python:dataset", *SMALL, *words))


@pytest.mark.parametrize("network", ["v1", "v2", "v3_large", "v3_small"])
def test_every_network_takes_any_number_of_channels(network: str) -> None:
    model = parts_of(f"model={network}", "model.width_mult=0.1").state.model
    assert model(torch.zeros(2, 6, 24, 24)).shape == (2, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["augment.saturation=0.2"], "augment.saturation=0.2 is for uint8 images with three channels, and these are"),
        (["augment.operations=randaugment"], "augment.operations=randaugment is for uint8 images"),
        (["model.in_channels=4"], "model.in_channels=4, but training images have 6 channels"),
        (["dataset.mean=[0,1]"], "dataset.mean=[0.0, 1.0] has 2 numbers, but the images have 6 channels"),
    ],
)
def test_what_does_not_go_with_the_channels_is_refused_by_name(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        parts_of(*words)
    assert message in str(refused.value)


def test_augmentation_of_positions_goes_with_any_channels() -> None:
    words = ["augment.resized_crop=[0.5,1.0]", "augment.crop_padding=0", "augment.erasing=0.5", "augment.mixup=0.2"]
    inputs, _ = next(parts_of(*words).batches.train.epoch(0))
    assert inputs.shape == (16, 6, 24, 24)
    assert inputs.isfinite().all()


def test_grey_images_stay_of_three_channels_unless_one_is_asked_for() -> None:
    digits = ("dataset=digits", "dataset.max_per_class=4", "model.width_mult=0.1", "batch_size=16", "device=cpu")
    three = build_run(compose_config(*digits))
    one = build_run(compose_config(*digits, "model.in_channels=1"))
    assert three.dataset.preprocessing.channels == 3
    assert one.dataset.preprocessing.channels == 1
    assert one.dataset.preprocessing.mean == three.dataset.preprocessing.mean[:1]
    assert torch.equal(one.dataset.test.images, three.dataset.test.images[..., :1])
    with pytest.raises(UserError, match="is for arrays: image files are read in colour"):
        build_run(compose_config("dataset=folder", "dataset.root=.", "model.in_channels=1"))


def test_channels_are_drawn_as_the_first_three(tmp_path: Path) -> None:
    parts = parts_of(f"outputs={tmp_path}")
    inputs = torch.randn(2, 6, 4, 4)
    shown = parts.batches.train.prepare.shown(inputs)
    assert torch.equal(shown, (inputs[:, :3] / 4 + 0.5).clamp(0, 1))
    assert write_sheet(parts).exists()


def test_weights_of_three_channels_are_averaged_over_them_and_the_plan_says_so(tmp_path: Path) -> None:
    three = train(
        *SMALL[:-3], data=lambda: spectra(3), run_dir=tmp_path / "three", max_updates=1, epochs=1, device="cpu"
    )
    parts = parts_of(f"model.weights={three.path}")
    assert parts.origin is not None
    assert parts.origin.endswith("first convolution averaged over its 3 channels, for 6")
    before = torch.load(three.path / "checkpoints/last.pt")["model"]["features.0.0.weight"]
    after = parts.state.model.state_dict()["features.0.0.weight"]
    grey = torch.randn(1, 1, 9, 9)
    ours, theirs = (
        torch.nn.functional.conv2d(grey.expand(-1, kernel.shape[1], -1, -1), kernel) for kernel in (after, before)
    )
    assert torch.allclose(ours, theirs, atol=1e-5)


class Spots(Dataset[tuple[Any, int]]):
    """As torchvision's: items and names of classes."""

    classes = ("cat", "dog")

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[Any, int]:
        return np.full((24, 24), number, np.uint8), number % 2


def test_two_datasets_of_torch_are_a_data_set(tmp_path: Path) -> None:
    run = train(*SMALL, data=(Spots(32), Spots(8)), run_dir=tmp_path / "a", max_updates=1)
    assert run.classifier().class_names == ("cat", "dog")
    images, labels = torch.rand(32, 5, 24, 24), torch.arange(32) % 3
    tensors = TensorDataset(images, labels)
    run = train(*SMALL, data=(tensors, tensors), run_dir=tmp_path / "b", max_updates=1)
    assert run.classifier().class_names == ("0", "1", "2")
    assert run.classifier().run.preprocessing.channels == 5
    with pytest.raises(UserError, match="the training dataset does not give images of one size"):
        train(*SMALL, data=([(1, 2, 3)], tensors))


def test_an_image_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    run = train(*SMALL, data=spectra, run_dir=tmp_path / "run", max_updates=1)
    for image, message in [
        (np.zeros((24, 24, 3), np.float32), r"float32 array of \(24, 24, 3\); give floating \(H, W, 6\)"),
        (np.zeros((24, 24, 6), np.uint8), "uint8 array"),
        ("photo.jpg", r"the network takes floating-point arrays \(H, W, 6\), also as .npy"),
    ]:
        with pytest.raises(UserError, match=message):
            Run(run.path).classifier().predict(image)
