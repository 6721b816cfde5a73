"""What `augment=standard` costs, as a share of a training step of v3_small at 128 pixels, in processor time.

    python scripts/augment_cost.py [POLICY]

Processor time, because it stays the same when other programs want the cores too; medians.
"""

import statistics
import sys
import time
from dataclasses import replace
from itertools import islice

import torch

from mobilenet_train.config.compose import compose_config
from mobilenet_train.data.batches import make_batches
from mobilenet_train.data.images import Split
from mobilenet_train.runs.build import build_run
from mobilenet_train.training.step import train_update

STORED, STEPS, ROUNDS = 146, 8, 5  # pixels of a stored photograph (128 / 0.875), measured steps in turns


def main() -> None:
    policy = sys.argv[1] if len(sys.argv) > 1 else "standard"
    overrides = [
        "dataset=digits",
        "model=v3_small",
        "model.stride_plan=auto",  # of photographs; the recipe for digits has another
        f"augment={policy}",
        "dataset.resolution=128",
        "batch_size=64",
        "device=cpu",
    ]
    parts = build_run(compose_config(*overrides))
    photographs = Split(torch.randint(0, 256, (512, STORED, STORED, 3), dtype=torch.uint8), torch.arange(512) % 10)
    dataset = replace(parts.dataset, train=photographs)
    batches = list(make_batches(parts.config, dataset, parts.runtime.memory_format).train.epoch(0))
    train_update(parts.state, batches[:1], parts.plan)  # warms up

    images = STEPS * parts.config.batch_size / 1000
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for batch in batches[:STEPS]:
            train_update(parts.state, [batch], parts.plan)
        between = time.process_time()
        list(islice(make_batches(parts.config, dataset, parts.runtime.memory_format).train.epoch(1), STEPS))
        rounds.append(((time.process_time() - between) / images, (between - began) / images))
    augmentation, step = (statistics.median(column) for column in zip(*rounds, strict=True))
    share = statistics.median(augmentation / step for augmentation, step in rounds)
    print(f"augment={policy}: {augmentation:.2f} ms an image, step {step:.2f} ms an image: {share:.1%} of the step")


if __name__ == "__main__":
    main()
