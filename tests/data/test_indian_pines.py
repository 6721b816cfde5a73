"""Indian Pines, on a small image in the format of its files; the published one where it is there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from mobilenet_train import train
from mobilenet_train.config.compose import compose_config
from mobilenet_train.config.schema import IndianPinesConfig
from mobilenet_train.data.images import Dataset
from mobilenet_train.data.indian_pines import FILES, Windows
from mobilenet_train.data.sources import known_apart, load
from mobilenet_train.errors import RunError
from mobilenet_train.inference.evaluate import evaluate_run, load_test_data
from mobilenet_train.inference.loading import load_run, runtime_like

SIDE, BANDS = 60, 20
SMALL = ("dataset.components=13", "dataset.resolution=9", "dataset.train_fraction=0.2")


def write(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Sixteen classes in stripes, each with a spectrum of its own."""
    draw = np.random.default_rng(0)
    classes = np.repeat(np.arange(SIDE) % 17, SIDE).reshape(SIDE, SIDE).T  # 0 has no label
    spectra = draw.integers(900, 5000, (17, BANDS))[classes] + draw.integers(0, 200, (SIDE, SIDE, BANDS))
    cube = spectra.astype(np.uint16)
    for (name, key), values in zip(FILES.items(), (cube, classes.astype(np.uint8)), strict=True):
        savemat(root / f"{name}.mat", {key: values})
    return cube, classes


def config_of(root: Path, *words: str) -> IndianPinesConfig:
    config = compose_config("experiment=hybridsn", f"dataset.root={root}", *SMALL, *words).dataset
    assert isinstance(config, IndianPinesConfig)
    return config


def pixels(data: Dataset, part: str) -> torch.Tensor:
    windows = getattr(data, part).images
    assert isinstance(windows, Windows)
    return windows.pixels


def test_every_labelled_pixel_is_for_training_or_testing_and_every_class_in_both(tmp_path: Path) -> None:
    _, classes = write(tmp_path)
    data = load(config_of(tmp_path))
    both = torch.cat([pixels(data, "train"), pixels(data, "test")])
    assert len(both) == len(both.unique(dim=0)) == (classes > 0).sum()
    for label, count in enumerate(np.bincount(classes[classes > 0])[1:]):
        assert int((data.train.labels == label).sum()) == round(0.2 * count)
    assert torch.equal(torch.from_numpy(classes)[tuple(pixels(data, "test").T)] - 1, data.test.labels)
    known = known_apart(config_of(tmp_path))
    assert (len(known.train), len(known.val), len(known.test)) == (len(data.train), 0, len(data.test))
    assert not known.train & known.test


def test_a_window_is_centred_on_its_pixel_and_black_outside_of_the_image(tmp_path: Path) -> None:
    write(tmp_path)
    data = load(config_of(tmp_path))
    (windows,) = data.test.batches([torch.arange(40)])
    assert windows.shape == (40, 9, 9, 13)
    images = data.test.images
    assert isinstance(images, Windows)
    for window, (row, column) in zip(windows, images.pixels[:40], strict=True):
        assert torch.equal(window[4, 4], images.padded[row + 4, column + 4])
        assert torch.equal(window[:, :4] == 0, torch.zeros(9, 4, 13).bool()) == bool(
            column >= 4 and row in range(4, 56)
        )


def test_components_are_white_over_the_pixels_that_they_are_fitted_on(tmp_path: Path) -> None:
    cube, _ = write(tmp_path)
    images = load(config_of(tmp_path)).train.images
    assert isinstance(images, Windows)
    values = images.padded[4:-4, 4:-4].reshape(-1, 13).double()
    assert torch.allclose(values.T.cov(), torch.eye(13).double(), atol=1e-4)
    centred = cube.reshape(-1, BANDS) - cube.reshape(-1, BANDS).mean(0)
    variance = np.linalg.eigvalsh(np.cov(centred.T))[::-1][0]
    assert np.var(centred @ np.linalg.eigh(np.cov(centred.T))[1][:, -1]) == pytest.approx(variance, rel=1e-3)


def test_disjoint_blocks_have_no_training_pixel_where_something_is_tested(tmp_path: Path) -> None:
    write(tmp_path)
    words = ("dataset.split=disjoint", "dataset.train_fraction=0.02")
    data = load(config_of(tmp_path, *words))
    train, test = (set(map(tuple, (pixels(data, part) // 9).tolist())) for part in ("train", "test"))
    assert train
    assert test
    assert not train & test
    other = load(config_of(tmp_path, *words, "dataset.split_seed=1"))
    assert other.fingerprint != data.fingerprint


def test_hybridsn_trains_on_it_and_is_evaluated_with_a_map(tmp_path: Path, tool: Callable[..., int]) -> None:
    write(tmp_path)
    words = ("experiment=hybridsn", f"dataset.root={tmp_path}", *SMALL, "device.threads=1", "tensorboard=false")
    run = train(*words, max_updates=3, run_dir=tmp_path / "run", **{"dataset.max_per_class": 8})
    trained = load_run(run.path)
    runtime = runtime_like(trained.config, "cpu", 1)
    (evaluated,) = evaluate_run(trained, load_test_data(trained, None, trust_factory=False), runtime, flip=False)
    assert evaluated.score == run.history[-1].test
    assert run.classifier().run.preprocessing.channels == 13
    assert tool("mnet-eval", run.path, "--out", tmp_path / "out") == 0
    width, height = Image.open(tmp_path / "out/classification_map.png").size
    assert width > 2 * height


def test_without_the_files_the_message_says_where_they_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilenet_train.data.indian_pines.find_spec", lambda _: None)
    with pytest.raises(
        RunError, match=r"put Indian_pines_corrected\.mat and Indian_pines_gt\.mat there, or pip install"
    ):
        load(config_of(tmp_path))


def test_the_published_image_has_10249_labelled_pixels(tmp_path: Path) -> None:
    pytest.importorskip("tensorly", reason="tensorly is not installed: pip install 'mnet-train[hyperspectral]'")
    data = load(compose_config("experiment=hybridsn", f"dataset.root={tmp_path}").dataset)
    assert len(data.train) + len(data.test) == 10_249
    assert len(data.class_names) == 16
    assert tuple(data.train.images.shape[1:]) == (25, 25, 30)
