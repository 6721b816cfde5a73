"""Where Hydra looks for plugins. Hydra scans this folder, but not files that begin with an underscore.

So other programs of the environment don't load ours, and `mnet-train` itself does so only for a sweep.
"""

from mobilenet_train.sweeps.plugins import GridSweeper, LocalLauncher, OptunaSweeper

__all__ = ["GridSweeper", "LocalLauncher", "OptunaSweeper"]
