"""One whole training step, ready to be timed."""

import torch

from mobilenet_train.config.compose import compose_config
from mobilenet_train.deploy.latency import Call
from mobilenet_train.deploy.settings import Setting
from mobilenet_train.runs.build import build_run
from mobilenet_train.training.step import train_update


def training_step(setting: Setting, classes: int, device: str) -> Call:
    """One update by the trainer itself, batch and augmentation included, on a data set of noise."""
    config = compose_config(
        f"model={setting.model}",
        f"model.width_mult={setting.width}",
        "dataset=custom",
        "dataset.factory=mobilenet_train.deploy.bench:noise_images",
        f"+dataset.args.count={setting.batch}",
        f"+dataset.args.size={setting.resolution}",
        f"+dataset.args.classes={classes}",
        f"dataset.resolution={setting.resolution}",
        f"batch_size={setting.batch}",
        f"device={device}",
        f"device.threads={setting.threads}",
    )
    parts = build_run(config)

    def step() -> None:
        if torch.get_num_threads() != setting.threads:
            torch.set_num_threads(setting.threads)
        train_update(parts.state, [next(parts.batches.train.epoch(0))], parts.plan)
        parts.state.sums.score()  # waits for the device

    return step
