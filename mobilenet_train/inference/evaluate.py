"""How good a trained run is on its test images, and whether that is what the run itself logged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mobilenet_train.config.schema import (
    Cifar10Config,
    CustomDatasetConfig,
    FolderConfig,
    IndianPinesConfig,
    TorchvisionConfig,
)
from mobilenet_train.data.batches import EvalBatches
from mobilenet_train.data.images import Dataset, Preprocessing
from mobilenet_train.data.same_images import same_images
from mobilenet_train.data.sources import load
from mobilenet_train.errors import ConfigError, RunError
from mobilenet_train.inference.loading import TrainedRun, Weights, load_run
from mobilenet_train.models import count_costs
from mobilenet_train.results import Score
from mobilenet_train.runtime import Runtime, changes, environment
from mobilenet_train.training.evaluation import evaluate

CALIBRATION_BINS = 15  # as Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599)
ROUNDING_SHARE = 0.002  # of the images may change sides where another device or thread count rounds differently


class FlipAveraged(nn.Module):
    """Test-time augmentation: the mean of the logits of an image and of its mirror image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return (self.model(images) + self.model(images.flip(3))) / 2


@dataclass(frozen=True)
class Evaluated:
    """One set of weights on all test images."""

    weights: Weights
    flip: bool  # with flip test-time augmentation
    score: Score
    logits: Tensor  # fp32 (N, classes) on the CPU
    labels: Tensor  # int64 (N,)

    @property
    def predicted(self) -> Tensor:
        """The class of each image, int64 (N,)."""
        return self.logits.argmax(1)

    @property
    def right(self) -> int:
        """How many images are classified correctly."""
        return round(self.score.top1 * len(self.labels) / 100)

    @property
    def confusions(self) -> Tensor:
        """int64 (true class, predicted class)."""
        return confusion_matrix(self.labels, self.predicted, self.logits.shape[1])

    @property
    def kappa(self) -> float:
        """Cohen's kappa in percent: agreement with the labels beyond that of chance."""
        counts = self.confusions.double() / len(self.labels)
        agreed, chance = counts.trace(), counts.sum(0) @ counts.sum(1)
        return 100 * float((agreed - chance) / (1 - chance)) if chance < 1 else 100.0

    @property
    def average_accuracy(self) -> float:
        """The mean over the classes of the share of their images that is classified correctly, in percent."""
        counts = self.confusions.double()
        there = counts.sum(1) > 0
        return 100 * float((counts.diag()[there] / counts.sum(1)[there]).mean())

    @property
    def calibration_error(self) -> float:
        """In points, see `calibration_error` below."""
        return calibration_error(self.logits, self.labels)


@dataclass(frozen=True)
class ChangedImage:
    """A test image that the run classified differently; `index` counts from 0 in the order of the test set."""

    index: int
    true: str
    logged: str
    now: str


@dataclass(frozen=True)
class Verdict:
    """Whether the evaluation gives what the run logged.

    status: "verified", "rounding" (a few images changed sides on another device, thread count or version),
    "failed", "other images" (nothing to compare with) or "not logged" (a checkpoint from inside an epoch).
    """

    status: str
    message: str
    changed: tuple[ChangedImage, ...] = ()


@dataclass(frozen=True)
class ClassScore:
    """Precision, recall and F1 of a class, or their mean over the classes, from 0 to 1; and its number of images."""

    name: str
    precision: float
    recall: float
    f1: float
    images: int


@dataclass(frozen=True)
class ResolutionPoint:
    """What the network does and costs on images of another size."""

    resolution: int
    multiply_adds: int
    score: Score


def load_test_data(run: TrainedRun, root: str | Path | None, trust_factory: bool) -> Dataset:
    """The run's data set, read from `root` if that is given. Raises UserError if it cannot be read or does not fit."""
    config = run.config.dataset
    if isinstance(config, CustomDatasetConfig) and not trust_factory:
        raise RunError(
            f"{run.checkpoint.path} needs its data from your Python function {config.factory}, which would be imported "
            "and called; if you know it, add --trust-factory"
        )
    if root is not None:
        if not isinstance(config, Cifar10Config | FolderConfig | TorchvisionConfig | IndianPinesConfig):
            raise ConfigError(f"--data {root} has no effect: dataset={config.name} is not read from a folder")
        config = replace(config, root=str(root))
    dataset = load(config, channels=run.config.model.in_channels)
    if dataset.class_names != run.class_names:
        raise RunError(
            f"the run has {len(run.class_names)} classes ({_some(run.class_names)}), the data set has "
            f"{len(dataset.class_names)} ({_some(dataset.class_names)})"
        )
    return dataset


def evaluate_run(run: TrainedRun, dataset: Dataset, runtime: Runtime, flip: bool) -> Iterator[Evaluated]:
    """Evaluates the raw weights of `run` and, if it has them, the averaged ones, each also with `flip` if asked for."""
    models: dict[Weights, nn.Module] = {"raw": run.model}
    if run.checkpoint.has_ema:
        models["ema"] = load_run(run.checkpoint.path, "ema", trust_factory=True).model  # trusted when `run` was loaded
    for weights, model in models.items():
        for flipped in [False, True] if flip else [False]:
            network = FlipAveraged(model) if flipped else model
            score, logits = _score(network, dataset, run.preprocessing, run.config.eval.batch_size, runtime)
            yield Evaluated(weights, flipped, score, logits, dataset.test.labels.cpu())


def _score(
    model: nn.Module, dataset: Dataset, preprocessing: Preprocessing, batch_size: int, runtime: Runtime
) -> tuple[Score, Tensor]:
    """Just as training evaluates: the same batches, the same code."""
    model = model.to(runtime.device).to(memory_format=runtime.memory_format)
    batches = EvalBatches(dataset.test.to(runtime.device), preprocessing, batch_size, runtime.memory_format)
    logits: list[Tensor] = []
    score = evaluate(model, batches, runtime, lambda: False, lambda batch: logits.append(batch.cpu()))
    return score, torch.cat(logits)


def resolution_curve(
    run: TrainedRun, dataset: Dataset, runtime: Runtime, resolutions: Sequence[int]
) -> Iterator[ResolutionPoint]:
    """The run's weights at each resolution, and at its own, from small to large."""
    for resolution in sorted({*resolutions, run.preprocessing.resolution}):
        preprocessing = replace(run.preprocessing, resolution=resolution)
        score, _ = _score(run.model, dataset, preprocessing, run.config.eval.batch_size, runtime)
        yield ResolutionPoint(
            resolution, count_costs(run.model, resolution, preprocessing.channels).multiply_adds, score
        )


def verify(run: TrainedRun, dataset: Dataset, evaluated: Sequence[Evaluated], runtime: Runtime) -> Verdict:
    """Compares the numbers of right images with those that the run logged of the same weights.

    A few may differ where the last bits do: in another environment, without device.deterministic on a GPU, and after
    a training whose evaluation was compiled.
    """
    facts, logged = run.checkpoint, run.checkpoint.logged
    if logged is None:
        return Verdict(
            "not logged", f"{facts.path} is from between two evaluations: nothing was logged of these weights"
        )
    if not same_images(dataset.fingerprint, facts.fingerprint):
        return Verdict("other images", "these are not the images that the run was tested on")
    plain = {e.weights: e for e in evaluated if not e.flip}
    scores = {"raw": logged.test, "ema": logged.ema_test}
    count = len(dataset.test)
    worst, compared = 0, []
    for weights, now in plain.items():
        score = scores[weights]
        assert score is not None, "a run with averaged weights logs them"
        before = round(score.top1 * count / 100)
        worst = max(worst, abs(now.right - before))
        compared.append(f"{now.right:,} of {count:,} right with the {weights} weights, logged {before:,}")
    changed = changed_images(run, plain["raw"])
    worst = max(worst, len(changed))
    message = "; ".join(compared)
    if worst == 0:
        return Verdict("verified", message)
    other = changes(facts.environment, environment(runtime))
    if not runtime.deterministic:
        other.append("device.deterministic=false")
    if facts.environment.get("compile") is not None:
        other.append(f"device.compile={facts.environment['compile']}")
    if other and worst <= max(1, ROUNDING_SHARE * count):
        return Verdict("rounding", f"{message}; {', '.join(other)}, so the last bits differ", changed)
    return Verdict("failed", message, changed)


def changed_images(run: TrainedRun, raw: Evaluated) -> tuple[ChangedImage, ...]:
    """The images that the raw weights now put into another class than when the run logged them."""
    before = run.checkpoint.test_predictions
    if before is None:
        return ()
    now, names = raw.predicted, run.class_names
    return tuple(
        ChangedImage(index, names[raw.labels[index]], names[before[index]], names[now[index]])
        for index in (before != now).nonzero()[:, 0].tolist()
    )


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error, in points: the mean distance of accuracy from confidence over equal-width bins.

    Each bin counts by its number of images (Guo et al., 2017, equation 3).
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    right = (predicted == labels).double()
    bins = (confidence * CALIBRATION_BINS).long().clamp_max(CALIBRATION_BINS - 1)
    gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.float64).index_add_(0, bins, right - confidence)
    return 100 * float(gaps.abs().sum() / len(labels))


def classification_report(evaluated: Evaluated, class_names: Sequence[str]) -> list[ClassScore]:
    """scikit-learn's report: one row for each class, in order, then the plain and the weighted mean."""
    from sklearn import metrics

    numbers = [str(number) for number in range(len(class_names))]  # two classes may have one name
    report = metrics.classification_report(
        evaluated.labels.numpy(),
        evaluated.predicted.numpy(),
        labels=range(len(class_names)),
        target_names=numbers,
        output_dict=True,
        zero_division=0,
    )
    assert isinstance(report, dict)
    names = [*zip(numbers, class_names, strict=True), ("macro avg", "mean"), ("weighted avg", "weighted mean")]
    return [
        ClassScore(name, row["precision"], row["recall"], row["f1-score"], int(row["support"]))
        for key, name in names
        for row in [report[key]]
    ]


def confusion_matrix(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """int64 (true class, predicted class) of labels and predictions (N,)."""
    cells = labels * classes + predicted
    return cells.bincount(minlength=classes**2).reshape(classes, classes)


def worst_mistakes(evaluated: Evaluated, count: int) -> Tensor:
    """Indices of the wrongly classified images with the largest losses, the worst first."""
    losses = nn.functional.cross_entropy(evaluated.logits, evaluated.labels, reduction="none")
    wrong = (evaluated.predicted != evaluated.labels).nonzero()[:, 0]
    return wrong[losses[wrong].argsort(descending=True)][:count]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
