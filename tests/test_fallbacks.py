"""What torch's insides or the system may lack is asked for, and done without: more slowly, with the same result."""

import ctypes
import platform
from collections.abc import Callable
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from inspect import unwrap
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from mobilenet_train import foreach
from mobilenet_train.kernels import bindings
from mobilenet_train.models import mobilenet_v3_small
from mobilenet_train.runtime import keep_freed_memory
from mobilenet_train.training import optimizer
from mobilenet_train.training.ema import Ema
from tests.conftest import configure

OPTIMISERS = ("sgd", "rmsprop", "adam", "adamw", "muon")


def weights_after_updates(name: str, module: ModuleType = optimizer) -> list[Tensor]:
    """Of a small network and its moving average, after two updates by the optimiser `name` of `module`."""
    torch.manual_seed(0)
    model = mobilenet_v3_small(num_classes=10, width_mult=0.25)
    average = Ema(model, decay=0.9)
    optimiser = module.build_optimizer(model, configure("dataset=digits", "model=v3_small", f"optim={name}").optim)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimiser.step()
        average.update(1)
    return [*model.parameters(), *average.model.parameters()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_and_averages_do_without_torchs_operators_on_lists(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = weights_after_updates(name)
    called: list[str] = []

    def one_by_one(operator: str) -> Callable[..., list[Tensor]]:
        called.append(operator)
        return partial(foreach._one_by_one, operator)

    monkeypatch.setattr(foreach, "__getattr__", one_by_one)
    assert equal(weights_after_updates(name), expected)
    assert "lerp_" in called


def test_an_operator_that_torch_lacks_is_computed_tensor_by_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    ones, twos = [torch.ones(2), torch.ones(3)], [torch.full((2,), 2.0), torch.full((3,), 2.0)]
    together = foreach.add(ones, twos, alpha=3)
    monkeypatch.delattr(torch, "_foreach_add")
    assert equal(foreach.add(ones, twos, alpha=3), together)
    assert equal(foreach.add(ones, 6.0), together)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_that_torch_does_not_wrap_are_taken_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = weights_after_updates(name)
    for kind in (torch.optim.Optimizer, torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        for method in ("add_param_group", "state_dict", "load_state_dict", "zero_grad", "step"):
            monkeypatch.setattr(kind, method, unwrap(getattr(kind, method)))
    spec = spec_from_file_location("plain_optimizer", optimizer.__file__)
    assert spec is not None
    assert spec.loader is not None
    plain = module_from_spec(spec)
    spec.loader.exec_module(plain)
    assert equal(weights_after_updates(name, plain), expected)


def test_another_c_library_than_glibc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("it was asked for a function of glibc's"))
    keep_freed_memory()


@pytest.mark.skipif(bindings.library() is None, reason="installed without a C compiler")
def test_kernels_whose_openmp_torch_does_not_bring_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for built in Path(bindings.__file__).parent.glob("kernels_*.so"):
        other = built.read_bytes().replace(b"GOMP_parallel\0", b"OTHER_threads\0")
        assert other != built.read_bytes()
        (tmp_path / built.name).write_bytes(other)
    monkeypatch.setattr(bindings, "__file__", str(tmp_path / "bindings.py"))
    assert bindings.library.__wrapped__() is None
