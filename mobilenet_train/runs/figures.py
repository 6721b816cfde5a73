"""What TensorBoard shows of the network besides numbers: its graph, and at the end what it confuses."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mobilenet_train.data.batches import EvalBatches
from mobilenet_train.inference.evaluate import Evaluated, confusion_matrix
from mobilenet_train.inference.figures import Subject, confusion_figure, mistakes_figure
from mobilenet_train.models import folded
from mobilenet_train.models.graph import operations
from mobilenet_train.ranks import ALONE
from mobilenet_train.results import Operation
from mobilenet_train.runs.build import RunParts
from mobilenet_train.runtime import machine_of
from mobilenet_train.training.evaluation import evaluate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_MISTAKES = 200  # the first of them; of these the worst are shown, so that a run is not kept from its end


def network(parts: RunParts) -> list[Operation]:
    """The network's operations on an image."""
    return operations(parts.state.model, parts.config.dataset.resolution, parts.dataset.preprocessing.channels)


def last_figures(parts: RunParts) -> "dict[str, Figure]":
    """Confusion matrix and worst mistakes of the last evaluation, by tag."""
    data, predicted = parts.dataset, parts.state.test_predictions
    assert predicted is not None
    labels = data.test.labels.cpu()
    wrong = (predicted != labels).nonzero()[:, 0][:MOST_MISTAKES]
    test = data.test.take(wrong.to(data.test.labels.device))
    title, machine = parts.config.title, machine_of(parts.runtime.device)
    subject = Subject(folded(parts.state.model), test, data.preprocessing, data.class_names, title, machine)
    counts = confusion_matrix(labels, predicted.long(), len(data.class_names))
    figures = {"wrong/confusion_matrix": confusion_figure(counts, subject)}
    sheet = mistakes_figure(_evaluated(parts, subject), subject, wrong) if len(wrong) else None
    return figures if sheet is None else {**figures, "wrong/worst_mistakes": sheet}


def _evaluated(parts: RunParts, subject: Subject) -> Evaluated:
    """The run's network on the subject's test images, by this rank alone."""
    runtime, logits = replace(parts.runtime, ranks=ALONE), list[Tensor]()
    batches = EvalBatches(subject.test, subject.preprocessing, parts.config.eval.batch_size, runtime.memory_format)
    score = evaluate(parts.state.model, batches, runtime, lambda: 0, lambda batch: logits.append(batch.cpu()))
    return Evaluated("raw", False, score, torch.cat(logits), subject.test.labels.cpu())
