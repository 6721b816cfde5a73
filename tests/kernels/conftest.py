"""What the kernels' tests share."""

from functools import partial

import pytest

from mobilenet_train.kernels import bindings


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels' functions, as they are called."""
    calls: list[str] = []
    for function in (bindings.NormActivation, bindings.DepthwiseNorm, bindings.SqueezeExcite):
        counted = partial(lambda name, apply, *a: calls.append(name) or apply(*a), function.__name__, function.apply)
        monkeypatch.setattr(function, "apply", counted)
    return calls
