"""Neither a batch nor an update nor an evaluated batch waits for a GPU, shown without one: see tests/fake_cuda.py."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from mobilenet_train.runs.build import RunParts, build_run
from mobilenet_train.training.evaluation import evaluate
from mobilenet_train.training.step import train_update
from tests.conftest import TINY, configure
from tests.fake_cuda import FakeCuda, WaitsError, fake_cuda, indexes_without_a_driver

POLICIES = {
    "none": (),
    "basic": (),
    "shift": (),
    "standard": (),
    "strong": (),
    "basic with cutout": ("augment.cutout=8",),
    "strong with RandAugment": ("augment.operations=randaugment",),
}
EVERYTHING = ("ema.decay=0.9", "optim.clip_norm=1", "optim.l1=0.001", "model.dropout=0.1")

HERE = torch.zeros(4)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor:UserWarning"),
    pytest.mark.skipif(not indexes_without_a_driver(), reason="this torch asks CUDA's driver to index a fake tensor"),
]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    with fake_cuda(monkeypatch) as fake:
        yield fake


@pytest.mark.parametrize("name", POLICIES)
def test_a_batch_is_made_without_waiting_and_without_a_copy_from_the_host(name: str, cuda: FakeCuda) -> None:
    parts = build_run(configure(*TINY, f"augment={name.split()[0]}", *POLICIES[name]))
    batches = parts.batches.train.epoch(1)
    next(batches)
    before = cuda.copies
    images, labels = next(batches)
    assert (images.device.type, labels.device.type) == ("cuda", "cuda")
    assert cuda.copies == before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["sgd", "muon", "rmsprop", "adam", "adamw"])
def test_an_update_waits_for_nothing(
    name: str, precision: str, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the backward pass, which needs a driver; gradients appear without one."""
    parts = build_run(configure(*TINY, f"optim={name}", f"device.precision={precision}", *EVERYTHING))
    monkeypatch.setattr(Tensor, "backward", lambda _: make_gradients(parts))
    batches = parts.batches.train.epoch(0)
    train_update(parts.state, [next(batches)], parts.plan)  # which makes the optimiser's state
    before = cuda.copies
    train_update(parts.state, [next(batches)], parts.plan)
    assert cuda.copies == before
    assert parts.state.sums.totals.device.type == "cuda"


def make_gradients(parts: RunParts) -> None:
    for parameter in parts.state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)


@pytest.mark.usefixtures("cuda")
def test_an_evaluation_waits_once_for_its_sums() -> None:
    parts = build_run(configure(*TINY, "eval.batch_size=50"))
    shown: list[Tensor] = []
    with pytest.raises(DataDependentOutputException, match="_local_scalar_dense"):
        evaluate(parts.state.model, parts.batches.test, parts.runtime, lambda: 0, shown.append)
    assert len(shown) == len(parts.batches.test) > 1


@pytest.mark.parametrize(
    ("look", "error"),
    [
        (lambda x: x.sum().item(), DataDependentOutputException),
        (lambda x: x[x > 0], WaitsError),
        (lambda x: x[HERE.long()], WaitsError),
        (lambda x: x + HERE, WaitsError),
        (lambda x: x.cpu(), WaitsError),
        (lambda x: torch.where(x > 0, torch.tensor(0.0), x), WaitsError),
    ],
    ids=["item", "a mask", "indices from the CPU", "mixed", "a copy", "a number from the CPU"],
)
@pytest.mark.usefixtures("cuda")
def test_what_would_wait_is_found(look: Callable[[Tensor], Tensor], error: type[Exception]) -> None:
    with pytest.raises(error):
        look(torch.zeros(4, device="cuda"))
