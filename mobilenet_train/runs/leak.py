"""Whether trained weights have seen the test images of the run that starts from them."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from mobilenet_train.config.saved import from_record
from mobilenet_train.config.schema import CustomDatasetConfig, DatasetConfig, reads_files
from mobilenet_train.data.cache import Listener
from mobilenet_train.data.same_images import same_images
from mobilenet_train.data.sources import known_apart
from mobilenet_train.errors import RunError


def refuse_known_test_images(
    config: DatasetConfig, fingerprint: str, said: str, checkpoint: Mapping[str, Any] | None, listener: Listener
) -> None:
    """Raises RunError if the run of `checkpoint`, named by `said`, was trained on test images of this one (`config`).

    That it was trained on hold-out images of this one is a warning. Equal fingerprints mean equal test images;
    otherwise both are split again: a listing, or a reading of arrays.
    """
    if checkpoint is None:
        return
    same_test = same_images(checkpoint["fingerprint"], fingerprint)
    if same_test and config.val_fraction == 0:
        return
    trained = from_record(OmegaConf.create(dict(checkpoint["config"]))).config.dataset
    if same_test and trained == config:  # the same hold-out images too
        return
    if CustomDatasetConfig in (type(config), type(trained)):  # a saved file's function is not called for this
        return
    if reads_files(config) is not reads_files(trained):
        return
    own = known_apart(config)
    try:
        theirs = known_apart(trained)
    except RunError as error:
        listener.report(f"whether {said} was trained on test images of this run is not known: {error}", "warning")
        return
    if not same_test and (known := own.test & (theirs.train | theirs.val)):
        raise RunError(
            f"{said} was trained on {len(known):,} of the {len(own.test):,} test images of this run, whose "
            "test accuracy would be too high: give another one, or the split that they were trained on, "
            f"dataset.split_seed={trained.split_seed} with the same classes and test_fraction"
        )
    if known := (own.val - own.train) & theirs.train:  # there may be two files of the same pixels
        listener.report(
            f"{said} was trained on {len(known):,} of the {len(own.val):,} hold-out images of this run, whose hold-out "
            f"top-1 will be too high: do not choose by it, or train that one with dataset.val_fraction="
            f"{config.val_fraction:g} and dataset.split_seed={config.split_seed} too",
            "warning",
        )
