"""`train()`, and the run that it returns."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mobilenet_train import checkpoint
from mobilenet_train.api.figures import inline
from mobilenet_train.api.handed_over import HandedOver, hand_over
from mobilenet_train.api.process import set_back, stop_signals
from mobilenet_train.api.words import start_of, words_of
from mobilenet_train.disk import expanded
from mobilenet_train.errors import RunError, require
from mobilenet_train.factory import handed_over
from mobilenet_train.inference.evaluate import Evaluated, Verdict, evaluate_run, load_test_data, verify
from mobilenet_train.inference.loading import Weights, load_run, runtime_like
from mobilenet_train.inference.predict import Classifier
from mobilenet_train.results import EpochResult, Score
from mobilenet_train.runs.folder import read_summary
from mobilenet_train.runs.session import run_until
from mobilenet_train.tracking.callbacks import Callback
from mobilenet_train.tracking.curves import curves_figure
from mobilenet_train.tracking.metrics_csv import cells
from mobilenet_train.training.state import result_from_dict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTHING = HandedOver((), {})


class History(list[EpochResult]):
    """The finished epochs of a run, in order."""

    def frame(self) -> Any:
        """A pandas DataFrame with the columns of metrics.csv. Raises RunError without pandas."""
        pandas = require("pandas", "pandas")
        rows = [{name: float(value or "nan") for name, value in cells(result).items()} for result in self]
        return pandas.DataFrame(rows)


@dataclass(frozen=True)
class Evaluation:
    """What `mnet-eval` measures: raw weights first, then averaged ones, and whether that is what the run logged."""

    results: tuple[Evaluated, ...]
    verdict: Verdict

    @property
    def score(self) -> Score:
        """Of the raw weights."""
        return self.results[0].score


class Run:
    """One run's folder: `mnet-train`'s or `train`'s, finished or not."""

    def __init__(self, path: str | Path, *, trust_factory: bool = False, parts: HandedOver = NOTHING) -> None:
        """trust_factory: a network or data set of one's own is made by the function that the run names.

        parts: those that were handed over as objects. Raises RunError if the folder is not a run.
        """
        self.path = expanded(path).absolute()
        if not (self.path / "config.yaml").exists():
            raise RunError(f"{self.path} is not a run: it has no config.yaml")
        self._trust_factory = trust_factory
        self._parts = parts

    def __repr__(self) -> str:
        status = self._summarised("status", "not started")
        history = self.history
        scores = [result.test for result in history if result.test]
        test = f", test top-1 {scores[-1].top1:.2f} %" if scores else ""
        return f"Run({str(self.path)!r}: {status}, {len(history)} epochs{test})"

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json as it is now. Raises RunError if there is none."""
        return read_summary(self.path)

    @property
    def history(self) -> History:
        """The finished epochs of the newest checkpoint; none before the first. Raises RunError if it is damaged."""
        found = checkpoint.find_latest(self.path / "checkpoints")
        return History(map(result_from_dict, found[0]["history"] if found else []))

    def curves(self) -> "Figure":
        """Loss and accuracy over the epochs; a notebook shows it. Raises RunError before the first epoch's end."""
        history = self.history
        if not history:
            raise RunError(f"{self.path} has no finished epoch yet")
        return inline(curves_figure(history, self.path.name, self._summarised("machine", "")))

    def _summarised(self, key: str, otherwise: str) -> str:
        """What summary.json says, if it is there and says so."""
        return self.summary.get(key, otherwise) if (self.path / "summary.json").exists() else otherwise

    def classifier(self, weights: Weights = "raw", device: str | torch.device = "cpu") -> Classifier:
        """The trained network, ready for `predict`, as `mobilenet_train.load` gives it. Raises RunError likewise."""
        with handed_over(self._parts.functions):
            trained = load_run(self.path, weights, trust_factory=self._trust_factory)
        return Classifier(trained, torch.device(device), torch.channels_last)

    def evaluate(self, flip: bool = False) -> Evaluation:
        """Every test image once, as training did; `flip` adds flip test-time augmentation. Raises UserError."""
        with handed_over(self._parts.functions), set_back():
            trained = load_run(self.path, trust_factory=self._trust_factory)
            data = load_test_data(trained, None, self._trust_factory)
            runtime = runtime_like(trained.config, "auto", trained.checkpoint.threads)
            found = tuple(evaluate_run(trained, data, runtime, flip))
            return Evaluation(found, verify(trained, data, found, runtime))

    def resume(self, *overrides: str, callbacks: Sequence[Callback] = (), **keys: Any) -> "Run":
        """Continues the run, as `mnet-train resume=RUN OVERRIDES` does; a finished one stays as it is."""
        words = [*words_of({"resume": self.path}), *self._parts.words, *overrides, *words_of(keys)]
        trust = ["trust_factory=true"] if self._trust_factory else []
        return _carry_out([*words, *trust], self._parts, callbacks)


def train(
    *overrides: str,
    data: Any = None,
    model: Any = None,
    callbacks: Sequence[Callback] = (),
    **keys: Any,
) -> Run:
    """Trains as `mnet-train OVERRIDES` does, in the same folder with the same numbers, and returns the run.

        train("model=v3_small", "dataset=digits", epochs=2)
        train(data=ImageData(...), model=my_network, epochs=5)

    data: an ImageData, a pair of datasets of torch for training and testing, or a function that returns one of them.
    model: a network's name, a torch module (copies of it are trained, from its weights on), or a function called as
        function(num_classes=, resolution=).
    callbacks: called with every event (mobilenet_train.results) once it is on disk; a method `close(finished)` of
        one, if it has that, is called at the end.
    keys: settings by name; others are written as on the command line, "optim.lr=0.1".

    Ctrl-C finishes the update, saves and returns the run, whose summary says "interrupted"; a second one is a
    KeyboardInterrupt. Raises UserError with the message of the command.
    """
    if isinstance(model, str):
        keys, model = {"model": model, **keys}, None
    parts = hand_over(model=model, dataset=data)
    return _carry_out([*overrides, *parts.words, *words_of(keys)], parts, callbacks)


def _carry_out(words: Sequence[str], parts: HandedOver, callbacks: Sequence[Callback]) -> Run:
    with handed_over(parts.functions), set_back(), stop_signals() as stop:
        outcome = run_until(start_of(words), words, lambda: stop, callbacks)
    if stop() not in (0, signal.SIGINT):
        signal.raise_signal(stop())  # it was meant for the process
    if outcome.folder is None:
        raise KeyboardInterrupt
    return Run(outcome.folder, trust_factory=True, parts=parts)
