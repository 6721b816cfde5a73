"""From a composed configuration to a running session: every check comes before torch is imported."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from omegaconf import DictConfig

from mobilenet_train.config.checked import check_use
from mobilenet_train.config.overrides import check_words
from mobilenet_train.config.resume import Start, resolve
from mobilenet_train.config.schema import Cifar10Config, TrainConfig
from mobilenet_train.disk import expanded


def run_composed(composed: DictConfig, words: Sequence[str]) -> int:
    """Checks the whole configuration, then imports torch and trains. Returns the exit code. Raises UserError."""
    check_words(words)
    start = resolve(composed, words)
    check_use(start.config, words)
    return import_session(start.config)(start, words)


def import_session(config: TrainConfig) -> Callable[[Start, Sequence[str]], int]:
    """`session.run`, which brings torch with it; CIFAR-10, if it is the data set, is read while that is imported."""
    if isinstance(config.dataset, Cifar10Config):
        from mobilenet_train.data.cifar10 import begin_reading

        begin_reading(expanded(config.dataset.root))

    with nothing_collected():
        from mobilenet_train.runs.session import run

    return run


@contextmanager
def nothing_collected() -> Iterator[None]:
    """Without Python's garbage collector, which would look through torch's modules while there is nothing to find yet.

    What is there at the end is never looked through again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
