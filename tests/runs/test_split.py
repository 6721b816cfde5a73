"""Test images do not depend on the seed, and weights that have learnt them are refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mobilenet_train.config.saved import Saved, from_record
from mobilenet_train.config.schema import TrainConfig
from mobilenet_train.data.cache import SILENT, Listener
from mobilenet_train.data.sources import Known, load
from mobilenet_train.errors import RunError
from mobilenet_train.runs import leak
from mobilenet_train.runs.leak import refuse_known_test_images
from tests.conftest import configure
from tests.data.image_files_for_tests import folder_config, tree


def images_of(*words: str) -> str:
    return load(configure("dataset=digits", *words).dataset).fingerprint


def test_runs_of_several_seeds_share_their_test_images() -> None:
    assert images_of("seed=0") == images_of("seed=1") != images_of("dataset.split_seed=1")


@pytest.mark.parametrize(
    ("words", "split_seed"),
    [
        (("dataset=digits",), 5),
        (("dataset=folder", "dataset.root=x"), 5),
        (("dataset=cifar10",), 0),
        (("dataset=cifar10", "dataset.fraction=0.5"), 5),
        (("dataset=cifar10", "dataset.max_per_class=9"), 5),
        (("dataset=cifar10", "dataset.val_fraction=0.1"), 5),
    ],
)
def test_a_run_from_before_the_key_keeps_the_images_that_its_seed_drew(words: tuple[str, ...], split_seed: int) -> None:
    record = Saved(configure("model=v1", "seed=5", *words)).record
    del record.dataset["split_seed"]
    assert from_record(record).config.dataset.split_seed == split_seed


def checkpoint(config: TrainConfig) -> dict[str, object]:
    record = OmegaConf.to_container(Saved(config).record)
    return {"fingerprint": load(config.dataset).fingerprint, "config": record}


def check(now: TrainConfig, weights_of: TrainConfig, listener: Listener = SILENT) -> None:
    refuse_known_test_images(
        now.dataset, load(now.dataset).fingerprint, "model.weights=outputs/RUN", checkpoint(weights_of), listener
    )


def of_folder(root: Path) -> Callable[..., TrainConfig]:
    def config(**changes: object) -> TrainConfig:
        return replace(configure("dataset=digits"), dataset=folder_config(root, **changes))

    return config


def test_weights_that_were_trained_on_test_images_are_refused_with_their_number_and_their_split(tmp_path: Path) -> None:
    of_seed = [configure("dataset=digits", f"dataset.split_seed={seed}") for seed in (0, 7)]
    with pytest.raises(RunError, match=r"trained on 2\d\d of the 35\d test images .* dataset.split_seed=7 with"):
        check(of_seed[0], weights_of=of_seed[1])
    check(of_seed[0], weights_of=configure("dataset=digits", "seed=3"))
    check(of_seed[0], weights_of=of_folder(tree(tmp_path / "tree"))())


def test_image_files_are_known_by_their_place_whatever_classes_and_size_were_chosen(tmp_path: Path) -> None:
    config = of_folder(tree(tmp_path / "tree") / "train")
    now = config(test_fraction=0.5)
    with pytest.raises(RunError, match="test images of this run"):
        check(now, weights_of=config(test_fraction=0.5, split_seed=1, classes=["cat", "ant"], store_size=40))
    check(now, weights_of=config(test_fraction=0.5, store_size=40))
    split = of_folder(tmp_path / "tree")
    check(split(), weights_of=split(split_seed=1, max_per_class=2))


def warnings_of(now: TrainConfig, weights_of: TrainConfig) -> list[str]:
    reported: list[str] = []
    check(now, weights_of, Listener(lambda message, _: reported.append(message), lambda *_: None, lambda: False))
    return reported


def test_weights_that_were_trained_on_hold_out_images_are_taken_with_a_warning(tmp_path: Path) -> None:
    def of_digits(*words: str) -> TrainConfig:
        return configure("dataset=digits", *words)

    held = of_digits("dataset.val_fraction=0.2")
    (warning,) = warnings_of(held, weights_of=of_digits())
    assert "model.weights=outputs/RUN was trained on 287 of the 287 hold-out images of this run" in warning
    assert "dataset.val_fraction=0.2 and dataset.split_seed=0" in warning
    assert warnings_of(of_digits(), weights_of=held) == []
    assert warnings_of(held, weights_of=held) == []
    files = of_folder(tree(tmp_path / "tree"))
    assert len(warnings_of(files(val_fraction=0.5), weights_of=files())) == 1
    assert warnings_of(files(val_fraction=0.5), weights_of=files(val_fraction=0.5, store_size=40)) == []


def test_an_image_that_is_there_twice_does_not_count_where_the_test_images_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leak, "known_apart", lambda _: Known(train={b"a", b"b"}, val=set(), test={b"b", b"c"}))
    assert warnings_of(configure("dataset=digits", "dataset.val_fraction=0.2"), configure("dataset=digits")) == []


def test_weights_of_the_same_split_are_taken_without_reading_the_images_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(leak, "known_apart")
    for words in (("dataset=digits",), ("dataset=digits", "dataset.val_fraction=0.2")):
        check(configure(*words), weights_of=configure(*words, "seed=3"))


def test_weights_whose_images_are_gone_are_taken_with_a_warning(tmp_path: Path) -> None:
    there, gone = (of_folder(tree(tmp_path / name) / "train") for name in ("there", "gone"))
    saved = checkpoint(gone(split_seed=1))
    (tmp_path / "gone").rename(tmp_path / "elsewhere")
    reported: list[str] = []
    listener = Listener(lambda message, kind: reported.append(f"{kind}: {message}"), lambda *_: None, lambda: False)
    refuse_known_test_images(
        there().dataset, load(there().dataset).fingerprint, "model.weights=outputs/RUN", saved, listener
    )
    assert len(reported) == 1
    assert reported[0].startswith("warning: whether model.weights=outputs/RUN was trained on test images")
