"""torch's operators on lists of tensors, in one call for all: `foreach.add_(kernels, gradients, alpha=0.1)`.

torch has them for its own optimisers under private names (_foreach_add_). One that it lacks is computed a tensor at a
time, more slowly.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor


def __getattr__(operator: str) -> Callable[..., Any]:
    """The operator by the name that it has as a method of a tensor."""
    return getattr(torch, f"_foreach_{operator}", partial(_one_by_one, operator))


def _one_by_one(operator: str, tensors: Sequence[Tensor], *others: Any, **settings: Any) -> list[Tensor]:
    """others: operands, each a list as long as `tensors` or one for all of them."""
    operands = (other if isinstance(other, list | tuple) else repeat(other) for other in others)
    return [getattr(tensor, operator)(*row, **settings) for tensor, *row in zip(tensors, *operands, strict=False)]
