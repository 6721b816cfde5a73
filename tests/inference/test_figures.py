"""The figures of an evaluation."""

import pytest
import torch
from torch import nn

from mobilenet_train.data.images import Preprocessing, Split
from mobilenet_train.inference.evaluate import Evaluated, confusion_matrix
from mobilenet_train.inference.figures import MISTAKES_LISTED, Subject, confusion_figure, mistakes_figure
from mobilenet_train.results import Score


def subject_of(classes: int, images: int = 4) -> Subject:
    test = Split(torch.zeros(images, 8, 8, 3, dtype=torch.uint8), torch.arange(images) % classes)
    plain = Preprocessing(8, (0.5,) * 3, (0.5,) * 3, (8, 8))
    names = [f"class number {number} $\\frac$" for number in range(classes)]
    return Subject(nn.Identity(), test, plain, names, "v1 on digits", "a machine")


def confused(classes: int) -> torch.Tensor:
    """Ten images a class, the last of each taken for the next class."""
    labels = torch.arange(classes).repeat(10)
    predicted = labels.clone()
    predicted[-classes:] += 1
    return confusion_matrix(labels, predicted % classes, classes)


@pytest.mark.parametrize(("classes", "counted"), [(2, 4), (30, 60)])
def test_few_classes_have_their_names_and_counts(classes: int, counted: int) -> None:
    axes = confusion_figure(confused(classes), subject_of(classes)).axes[0]
    assert len(axes.texts) == counted
    assert {text.get_text() for text in axes.texts} == {"9", "1"}
    assert len(axes.get_xticklabels()) == classes


@pytest.mark.parametrize("classes", [31, 1000])
def test_of_many_classes_the_commonest_mistakes_are_listed(classes: int) -> None:
    counts = confused(classes)
    counts[3, 7] = 5
    figure = confusion_figure(counts, subject_of(classes))
    matrix, beside, *_ = figure.axes
    assert beside.texts[0].get_text().startswith("5 of 15  class number 3")
    assert len(beside.texts) == min(MISTAKES_LISTED, classes + 1)
    assert not matrix.texts
    assert max(matrix.images[0].get_array().shape) <= 250
    assert float(matrix.images[0].get_array()[3 // -(-classes // 250), 7 // -(-classes // 250)]) > 0.3


def test_the_title_says_how_many_are_right() -> None:
    figure = confusion_figure(confused(10), subject_of(10))
    assert figure.get_suptitle() == "v1 on digits\n90.00 % of 100 test images correct"
    assert figure.get_supxlabel() == "a machine"


def test_mistakes_carry_their_number_in_the_test_set_and_perfection_has_no_sheet() -> None:
    labels = torch.tensor([0, 1, 0, 1])
    logits = torch.eye(2)[[0, 1, 1, 1]] * 5
    found = Evaluated("raw", False, Score(1.0, 75.0), logits, labels)
    figure = mistakes_figure(found, subject_of(2), numbers=torch.tensor([10, 20, 30, 40]))
    assert figure is not None
    assert [text.get_text().partition(":")[0] for text in figure.axes[0].texts] == ["30"]
    right = Evaluated("raw", False, Score(0.1, 100.0), torch.eye(2)[labels], labels)
    assert mistakes_figure(right, subject_of(2)) is None
