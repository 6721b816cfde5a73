"""Hydra's plugin points: `hydra/sweeper=grid` and `optuna`, and `hydra/launcher=local`."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from mobilenet_train.config.compose import conf_dir
from mobilenet_train.errors import ConfigError
from mobilenet_train.sweeps.local_launcher import LocalLauncher
from mobilenet_train.sweeps.sweep import Sweep, refuse_failures

NAMESPACE = "hydra_plugins._mobilenet_train"  # Hydra takes no plugin with another name


def register_plugins(tracebacks: bool) -> None:
    """Makes the plugins known to Hydra; `tracebacks` are for the jobs' logs."""
    LocalLauncher.tracebacks = tracebacks
    for plugin in (GridSweeper, OptunaSweeper, LocalLauncher):
        home, plugin.__module__ = plugin.__module__, NAMESPACE  # the name in conf/, which need not be a module
        Plugins.instance().register(plugin)
        plugin.__module__ = home
    for file in (conf_dir() / "hydra").glob("*/*.yaml"):  # ours, not the one of that name an engine brings along
        ConfigStore.instance().repo["hydra"][file.parent.name].pop(file.name, None)


class GridSweeper(BasicSweeper):
    """Every combination of the swept values, as one batch."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.plan = open_sweep(hydra_context, config, self._parse_config())
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        assert self.hydra_context is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        for override in overrides:
            if override.is_sweep_override() and not override.is_discrete_sweep():
                raise ConfigError(
                    f"{override.input_line} is not allowed: a grid takes single values; intervals are for "
                    "hydra/sweeper=optuna"
                )
        (batch,) = self.split_arguments(overrides, None)
        outcomes = self.plan.run(self.launcher, batch)
        refuse_failures(outcomes)
        return outcomes


class OptunaSweeper(Sweeper):
    """Hydra's own Optuna sweeper, each of its batches checked, named, skipped and reported like a grid."""

    def __init__(self, **settings: Any) -> None:
        from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl

        self.search: Any = OptunaSweeperImpl(**settings)  # typed only where the extra is installed

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        grid = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
        plan = open_sweep(hydra_context, config, grid)
        self.search.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.search.launcher = PlannedLauncher(plan, self.search.launcher)

    def sweep(self, arguments: list[str]) -> Any:
        return self.search.sweep(arguments)


class PlannedLauncher:
    """What Optuna's sweeper takes for its launcher."""

    def __init__(self, plan: Sweep, launcher: Launcher) -> None:
        self._plan = plan
        self._launcher = launcher

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        del initial_job_idx  # jobs are known by name
        return self._plan.run(self._launcher, job_overrides)


def open_sweep(context: HydraContext, config: DictConfig, grid: list[str]) -> Sweep:
    """The sweep of this command; engines that write files of their own are pointed to its folder."""
    plan = Sweep.of(context.config_loader, config, grid)
    with read_write(config), open_dict(config):
        config.hydra.sweep.dir = str(plan.folder)
    return plan
