"""Keys for everything random: the same (seed, epoch, ...) gives the same draws, on any machine, in any order.

Nothing random in a run depends on what was drawn before, so a resumed run needs no generator state.
"""

import numpy as np
import torch

SPLIT, SHUFFLE, CROP, FLIP, WEIGHTS, STEP, CUTOUT = range(7)  # one stream for each thing that is drawn
BOX, COLOUR, OPERATION, ERASE, MIX = range(16, 21)  # and those of photographs


def key(seed: int, stream: int, *position: int) -> int:
    """A 63-bit seed for (seed, stream, position); numpy guarantees SeedSequence's values across versions."""
    return int(np.random.SeedSequence((seed, stream, *position)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, stream: int, *position: int) -> torch.Generator:
    """A new CPU generator for (seed, stream, position)."""
    return torch.Generator().manual_seed(key(seed, stream, *position))
