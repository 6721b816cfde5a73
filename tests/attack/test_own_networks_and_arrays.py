"""Finding 19: a network or data set of one's own that cannot be trained is refused in one line."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobilenet_train.data import ImageData
from mobilenet_train.errors import RunError
from mobilenet_train.runs.build import build_run
from tests.attack.helpers import DIGITS
from tests.conftest import configure
from tests.pages import TEXTS, blocks

HERE = "tests.attack.test_own_networks_and_arrays"

pytestmark = pytest.mark.usefixtures("empty_folder")


def network(head: Callable[[Tensor], Any] = lambda logits: logits, outputs: int = 10, width: int = 4) -> nn.Module:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, width, 3, stride=4)
            self.head = nn.Linear(width, outputs)

        def forward(self, images: Tensor) -> Any:
            return head(self.head(self.stem(images).mean((2, 3))))

    return Own()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "too_few": (lambda: network(outputs=3), "(2, 3)"),
    "too_many": (lambda: network(outputs=30), "(2, 30)"),
    "a_tuple": (lambda: network(lambda logits: (logits, logits)), "a tuple"),
    "flat": (lambda: network(lambda logits: logits.flatten()), "(20,)"),
    "wrong_batch": (lambda: network(lambda logits: logits.mean(0, keepdim=True)), "(1, 10)"),
    "whole_numbers": (lambda: network(lambda logits: logits.long()), "torch.int64"),
    "half": (lambda: network().half(), "float16"),
    "double": (lambda: network().double(), "float64"),
    "detached": (lambda: network(lambda logits: logits.detach()), "without a gradient"),
    "frozen": (lambda: network().requires_grad_(False), "without a parameter to train"),
    "empty": (lambda: nn.Sequential(nn.Flatten()), "without a parameter to train"),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "lazy modules"),
    "failing": (lambda: nn.Linear(5, 10), "RuntimeError"),
}


def made(kind: str, **_: Any) -> nn.Module:
    return NETWORKS[kind][0]()


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_of_ones_own_that_cannot_be_trained_is_refused(kind: str) -> None:
    config = configure(*DIGITS, "model=custom", f"model.factory={HERE}:made", f"+model.args.kind={kind}")
    with pytest.raises(RunError) as refused:
        build_run(config)
    message = str(refused.value)
    assert message.startswith(f"model.factory={HERE}:made returned a network")
    assert NETWORKS[kind][1] in message


def of_keys(key: str, path: int, **_: Any) -> nn.Module:
    assert key == "a"
    return network(width=path)


def test_arguments_of_a_factory_may_be_called_key_and_path() -> None:
    words = ("model=custom", f"model.factory={HERE}:of_keys", "+model.args.key=a", "+model.args.path=6")
    assert build_run(configure(*DIGITS, *words)).cost.parameters == 6 * 27 + 6 + 60 + 10


def arrays(**changes: Any) -> ImageData:
    images, labels = np.zeros((24, 16, 16, 3), np.uint8), np.arange(24) % 3
    return ImageData(
        **{
            **{"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels},
            **{"class_names": ["a", "b", "c"], **changes},
        }
    )


ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "no_names": ({"class_names": None}, "class_names=None"),
    "a_string": ({"class_names": "abc"}, "class_names='abc'"),
    "numbers": ({"class_names": [1, 2, 3]}, "class_names=[1, 2, 3]"),
    "twice": ({"class_names": ["a", "b", "a"]}, "'a' twice"),
    "too_few": ({"class_names": ["a", "b"]}, "2 classes have 0 to 1"),
    "float_labels": ({"train_labels": np.zeros(24)}, "training labels are torch.float64"),
    "bool_labels": ({"test_labels": np.zeros(24, bool)}, "test labels are torch.bool"),
    "complex_labels": ({"test_labels": np.zeros(24, complex)}, "test labels are torch.complex128"),
    "large_labels": ({"test_labels": np.full(24, 2**64 - 1, np.uint64)}, "test labels go from -1"),
    "whole_images": ({"train_images": np.zeros((24, 16, 16, 3), np.int16)}, "training images are torch.int16"),
    "nan_images": (
        {"train_images": np.full((24, 16, 16, 3), np.nan)},
        "training images have values that are not finite",
    ),
    "mixed_images": ({"test_images": np.zeros((24, 16, 16, 3))}, "training and test images differ in their channels"),
    "no_pixels": ({"train_images": np.zeros((24, 0, 16, 3), np.uint8)}, "without a pixel"),
    "sparse": ({"train_images": torch.zeros(24, 16, dtype=torch.uint8).to_sparse()}, "training images have the shape"),
    "words": ({"train_images": np.array(["a"] * 24)}, "training images are not an array of numbers"),
}


def arrays_of(kind: str) -> ImageData:
    return arrays(**ARRAYS[kind][0])


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_ones_own_that_cannot_be_trained_on_are_refused(kind: str) -> None:
    config = configure(*DIGITS, "dataset=custom", f"dataset.factory={HERE}:arrays_of", f"+dataset.args.kind={kind}")
    with pytest.raises(RunError) as refused:
        build_run(config)
    message = str(refused.value)
    assert message.startswith(f"dataset.factory={HERE}:arrays_of")
    assert ARRAYS[kind][1] in message


def test_the_page_s_own_network_and_arrays_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = [code for code in blocks("docs/your_own.md", "python") if code.startswith("# mine.py")]
    commands = re.findall(r"mnet-train ((?:model|dataset)=custom .*)", TEXTS["docs/your_own.md"])
    assert len(codes) == len(commands) == 2
    (tmp_path / "mine.py").write_text("\n".join(codes))
    (tmp_path / "words").mkdir()
    labels = np.arange(24) % 2
    images = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3)).astype(np.uint8)
    np.savez(tmp_path / "photos.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    monkeypatch.syspath_prepend(tmp_path)
    words = [word for command in commands for word in command.split()]
    assert build_run(configure(*DIGITS, *words, "batch_size=8")).cost.parameters == 27 * 16 + 16 + 32 + 34
