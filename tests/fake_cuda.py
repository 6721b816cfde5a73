"""CUDA without CUDA: what lies there has a shape and no values, so that looking at a value is an error."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mobilenet_train import runtime
from mobilenet_train.training import optimizer

aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default, aten.to.dtype_layout)
INDEXED = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)
FUSED = (aten._fused_sgd_, aten._fused_adam_, aten._fused_adamw_)


class WaitsError(Exception):
    """Something for which a GPU would be waited, or operands on two devices."""


class FakeCuda(TorchDispatchMode):
    """Within it what is on `cuda` is fake and all else is real; `copies` counts those from the CPU.

    Raises WaitsError for copies back, for masks as indices and for operands on the CPU, indices too; torch's own
    FakeTensorMode raises for `item`, `nonzero` and mixed arithmetic.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies = 0
        self.fake: Any = FakeTensorMode()
        self.fake.__deepcopy__ = lambda _: self.fake  # a copied tensor belongs to the same mode

    def __enter__(self) -> "FakeCuda":
        self.fake.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.fake.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here = [tensor for tensor in tensors if not isinstance(tensor, FakeTensor)]
        if len(here) == len(tensors) and torch.device(kwargs.get("device") or "cpu").type != "cuda":
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func in COPIES:
            self.copies += len(here)
        else:
            check(func, args, here)
        if func.overloadpacket in FUSED:  # torch has none without a driver
            return None
        args, kwargs = tree_map_only(
            Tensor, lambda t: t if isinstance(t, FakeTensor) else self.fake.from_tensor(t), (args, kwargs)
        )
        result = func(*args, **kwargs)
        if any(isinstance(leaf, Tensor) and leaf.device.type != "cuda" for leaf in tree_leaves(result)):
            raise WaitsError(f"{func} copies back")
        return result


def indexes_without_a_driver() -> bool:
    """Whether this torch indexes a fake tensor without asking CUDA's driver, as 2.6 and 2.9 do not."""
    with FakeTensorMode():
        numbers = torch.zeros(2, dtype=torch.int64, device="cuda")
        try:
            return bool(numbers[numbers].shape)
        except RuntimeError:
            return False


def check(func: Any, args: Any, here: list[Tensor]) -> None:
    """Refuses operands that are `here` on the CPU, but single numbers where torch takes them, and masks as indices."""
    if func is aten.index_put_.default and here and here[-1] is args[2] and args[2].numel() == 1:
        return  # torch fills in the number where the mask is set
    takes_numbers = func is aten.fill_.Tensor or (torch.Tag.pointwise in func.tags and func is not aten.where.self)
    if any(tensor.dim() > 0 or not takes_numbers for tensor in here):
        raise WaitsError(f"{func} has an operand on the CPU")
    if func in INDEXED and any(index is not None and index.dtype == torch.bool for index in args[1]):
        raise WaitsError(f"{func} has a mask as an index")


@contextmanager
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """`build_run` within it takes the fake device, which computes in bf16."""
    monkeypatch.setattr(runtime, "_device", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(
        optimizer, "has_length", lambda _: True
    )  # asked once, at the start; a fake tensor has no values
    with FakeCuda() as fake:
        yield fake
