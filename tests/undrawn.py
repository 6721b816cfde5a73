"""Runs of the tests draw nothing, which takes longer than their training, but with MNET_DRAW=1."""

import os
from typing import Any

from mobilenet_train.runs import figures
from mobilenet_train.runs.figures import last_figures
from mobilenet_train.tracking import trackers
from mobilenet_train.tracking.curves import draw_curves


def draw_if_asked(*arguments: Any) -> None:
    if os.environ.get("MNET_DRAW") == "1":
        draw_curves(*arguments)


def figures_if_asked(*arguments: Any) -> dict[str, Any]:
    return last_figures(*arguments) if os.environ.get("MNET_DRAW") == "1" else {}


trackers.draw_curves = draw_if_asked
figures.last_figures = figures_if_asked
