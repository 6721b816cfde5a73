"""Heat maps lie on what decides: a network whose classes differ by a painted square alone, trained here."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import mobilenet_train
from mobilenet_train.inference.heat_maps import heat_maps
from mobilenet_train.models import MobileNet, mobilenet_v3_small

SIDE, SQUARE = 32, 8
STRIPES = torch.tensor([-1.5, -1.5, 1.5, 1.5]).repeat(2)
# none of which changes an image's mean: a network has to look at the square
PAINT = torch.stack([STRIPES.expand(8, 8), STRIPES[:, None].expand(8, 8), STRIPES * STRIPES[:, None] / 1.5])
Tool = Callable[..., int]


def painted(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise (N, 3, SIDE, SIDE), somewhere in it a square with the pattern of its class, the class, and where it is."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    labels = torch.randint(len(PAINT), (count,), generator=generator)
    corners = torch.randint(SIDE - SQUARE + 1, (count, 2), generator=generator)
    inside = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for image, mask, label, (top, left) in zip(images, inside, labels, corners.tolist(), strict=True):
        image[:, top : top + SQUARE, left : left + SQUARE] += PAINT[label]
        mask[top : top + SQUARE, left : left + SQUARE] = True
    return images, labels, inside


@pytest.fixture(scope="module")
def network() -> MobileNet:
    """The first half of V3-Small, which learns this in half the updates."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = mobilenet_v3_small(num_classes=len(PAINT), resolution=SIDE, width_mult=0.2, norm_momentum=0.1)
    model.features = model.features[:7]
    channels = model.features(torch.zeros(2, 3, SIDE, SIDE)).shape[1]
    model.classifier = nn.Sequential(nn.Linear(channels, len(PAINT)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(60):
        images, labels, _ = painted(32, seed=step)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval().requires_grad_(False)


def test_the_square_that_decides_is_where_the_heat_is(network: MobileNet) -> None:
    images, labels, inside = painted(64, seed=1000)
    assert (network(images).argmax(1) == labels).double().mean() > 0.8
    heat = heat_maps(network, images, labels)
    assert heat.shape == (64, SIDE, SIDE)
    assert (float(heat.min()), float(heat.max())) == (0, 1)
    share = SQUARE**2 / SIDE**2  # of the image: what a map that knows nothing would have there
    on_it = (heat * inside).sum((1, 2)) / heat.sum((1, 2))
    assert float(on_it.median()) > 4 * share
    hottest = inside.flatten(1).gather(1, heat.flatten(1).argmax(1, keepdim=True))
    assert float(hottest.double().mean()) > 0.7


def test_a_map_that_says_nothing_excludes_nothing() -> None:
    model = mobilenet_v3_small(num_classes=3, resolution=SIDE, width_mult=0.1, stride_plan="imagenet").eval()
    heat = heat_maps(model, painted(2, seed=0)[0], torch.tensor([0, 1]))  # its last map has one pixel
    assert heat.isfinite().all()
    assert heat.amax((1, 2)).tolist() == [1, 1]


def test_the_network_keeps_no_gradients_and_images_do_not_change_each_other(network: MobileNet) -> None:
    images, labels, _ = painted(3, seed=1)
    together = heat_maps(network, images, labels)
    alone = torch.cat([heat_maps(network, images[i : i + 1], labels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    assert not together.requires_grad
    assert all(value.grad is None for value in network.parameters())


def test_the_command_draws_one_file_an_image(
    run: Path, tmp_path: Path, tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (40, 30), "red").save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_text("no image")
    assert tool("mnet-predict", run, *(tmp_path / f"{name}.png" for name in "acb"), "--heatmap") == 1
    drawn = run / "heatmaps"
    assert {path.name for path in drawn.iterdir()} == {"1_a.png", "3_b.png"}
    assert Image.open(drawn / "1_a.png").size == (800, 440)
    assert f"{drawn / '1_a.png'} shows where it saw " in capsys.readouterr().err
    assert tool("mnet-predict", run, "-", "--heatmap") == 2
    assert "--heatmap reads an image twice" in capsys.readouterr().err


def test_python_has_the_image_as_the_network_sees_it_and_its_heat(run: Path, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), (255, 0, 0)).save(tmp_path / "red.png")
    model = mobilenet_train.load(run)
    image, heat = model.heat_map(tmp_path / "red.png", model.predict(tmp_path / "red.png")[0].label)
    assert image.shape == (3, 32, 32)
    torch.testing.assert_close(image[:, 5, 5], torch.tensor([1.0, 0, 0]), atol=1e-5, rtol=0)
    assert heat.shape == (32, 32)
