"""What the server of tests/children.py holds before it forks: everything is imported, and Hydra has composed once.

No thread may start here: children inherit none.
"""

import gc
from importlib import import_module

import torch

from mobilenet_train.config.compose import compose_config
from mobilenet_train.kernels.bindings import library

for name in (
    "hydra._internal.hydra",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "sklearn.datasets",
    "tensorboard.plugins.hparams.api_pb2",
    "torch._dynamo",  # which DistributedDataParallel asks for a setting, in every rank
    "torch.utils.tensorboard",
    "mobilenet_train.cli.train",
    "mobilenet_train.runs.session",
    "mobilenet_train.runs.start",
    "tests.undrawn",
):
    import_module(name)

compose_config("dataset=digits", "model=v3_small", "optim=sgd")  # the parser's tables and the list of plugins stay
for dtype in (torch.float32, torch.bfloat16):
    library(dtype)  # all children compute with the same kernels, even while a wheel is built beside them
gc.freeze()  # no child looks through all that for garbage
