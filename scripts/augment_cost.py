"""What `augment=standard` costs, as a share of a training step of v3_small at 128 pixels, in processor time.

    python scripts/augment_cost.py [POLICY]

Processor time, because it stays the same when other programs want the cores too.
"""

import sys
import time
from dataclasses import replace
from itertools import islice

import torch

from mobilenet_train.cli.conf import compose_config
from mobilenet_train.cli.prepare import make_batches, prepare_run
from mobilenet_train.data.images import Split
from mobilenet_train.training.step import train_update

STORED, STEPS = 146, 8  # pixels of a stored photograph (128 / 0.875), measured steps


def main() -> None:
    policy = sys.argv[1] if len(sys.argv) > 1 else "standard"
    overrides = [
        "dataset=digits",
        "model=v3_small",
        f"augment={policy}",
        "dataset.resolution=128",
        "batch_size=64",
        "device=cpu",
    ]
    prepared = prepare_run(compose_config(*overrides))
    photographs = Split(torch.randint(0, 256, (512, STORED, STORED, 3), dtype=torch.uint8), torch.arange(512) % 10)
    dataset = replace(prepared.dataset, train=photographs)
    batches = list(make_batches(prepared.config, dataset, prepared.runtime).train.epoch(0))
    train_update(prepared.state, batches[:1], prepared.plan)  # warms up

    began = time.process_time()
    for batch in batches[:STEPS]:
        train_update(prepared.state, [batch], prepared.plan)
    steps = time.process_time() - began
    began = time.process_time()
    list(islice(make_batches(prepared.config, dataset, prepared.runtime).train.epoch(1), STEPS))
    augmentation = time.process_time() - began
    images = STEPS * prepared.config.batch_size / 1000
    print(
        f"augment={policy}: {augmentation / images:.2f} ms an image, step {steps / images:.2f} ms an image: "
        f"{100 * augmentation / steps:.1f} % of the step"
    )


if __name__ == "__main__":
    main()
