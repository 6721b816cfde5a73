"""A network as the operations that an image passes through."""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mobilenet_train.results import Operation


def operations(model: nn.Module, resolution: int, channels: int = 3) -> list[Operation]:
    """What a copy of the network does to images of zeros in evaluation mode, in order; the model stays as it is."""
    shadow = copy.deepcopy(model).to("cpu", torch.float32).eval()
    images = torch.zeros(2, channels, resolution, resolution)
    recorder = Recorder(images)
    for name, module in shadow.named_modules():
        module.register_forward_pre_hook(recorder.enters(name.replace(".", "/")))
        module.register_forward_hook(recorder.leaves)
    with torch.no_grad(), recorder:
        shadow(images)
    return recorder.found


class Recorder(TorchDispatchMode):
    """Notes every operation with the module that it is in, and whose results it reads."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.found = [Operation("images", "input", (), tuple(images.shape))]
        self._kept = [images]  # or another tensor might get the id of one that is gone
        self._names = {id(images): "images"}
        self._modules: list[str] = []
        self._counts: Counter[str] = Counter()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled meanwhile, and torch's compiler takes seconds to import

    def enters(self, module: str) -> Callable[..., None]:
        """A hook for what comes before the call of a module of that name."""
        return lambda *_: self._modules.append(module)

    def leaves(self, *_: object) -> None:
        """A hook for what comes after it."""
        self._modules.pop()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        first = result[0] if isinstance(result, tuple | list) else result
        read = dict.fromkeys(self._names[id(arg)] for arg in args if id(arg) in self._names)
        if isinstance(first, Tensor) and read:
            kind = operator._overloadpacket.__name__
            stem = "/".join(part for part in (self._modules[-1], kind) if part)
            self._counts[stem] += 1
            name = stem if self._counts[stem] == 1 else f"{stem}_{self._counts[stem]}"
            self.found.append(Operation(name, kind, tuple(read), tuple(first.shape)))
            self._kept.append(first)
            self._names[id(first)] = name
        return result
