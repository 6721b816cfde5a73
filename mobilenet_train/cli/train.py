"""`mnet-train`: lets Hydra compose the configuration, and runs what came out."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mobilenet_train.cli.guard import guarded
from mobilenet_train.cli.help import help_text
from mobilenet_train.config.place import conf_dir
from mobilenet_train.errors import ConfigError, RunError, UserError
from mobilenet_train.machine import share_cores
from mobilenet_train.ranks import ranks_from_environment
from mobilenet_train.version import __version__

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """The console script. Exits with 0, 2 for a wrong configuration, 1 for a failed run, 130/143 if stopped."""
    tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
    sys.exit(guarded(lambda: run_line(sys.argv[1:], tracebacks), tracebacks))


def run_line(arguments: list[str], tracebacks: bool) -> int:
    """Prints what --version and --help ask for, else composes and runs. Returns the exit code."""
    if "--version" in arguments:
        print(f"mnet-train {__version__}", flush=True)
    elif "--help" in arguments or "-h" in arguments:
        print(help_text(_config_dir(arguments)), flush=True)
    else:
        return compose_and_run(tracebacks)
    return 0


def compose_and_run(tracebacks: bool) -> int:
    """Lets Hydra compose (once, or for each job of `-m`) and runs what came out. Returns the exit code."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig

    from mobilenet_train.cli.line import read_line
    from mobilenet_train.config.compose import register
    from mobilenet_train.config.explain import explain
    from mobilenet_train.config.overrides import as_typed, check_line
    from mobilenet_train.config.resume import choices_of_run

    line = read_line(sys.argv[1:])
    if "--shell-completion" not in line.options:  # whose words are not keys
        check_line(line.words)
    register()
    if line.sweep:
        register_sweeps(tracebacks)
    choices = [] if line.sweep else choices_of_run(line.words)
    codes: list[int] = []

    def run(composed: DictConfig) -> None:
        from mobilenet_train.runs.start import run_composed

        codes.append(1)
        share_cores()
        words = [word for word in as_typed(HydraConfig.get()) if word not in choices]
        codes[-1] = guarded(lambda: run_composed(composed, words), tracebacks)
        if in_sweep():  # run by an engine that is not ours, perhaps on another machine
            report_job(composed, codes[-1])

    typed, sys.argv = sys.argv, [sys.argv[0], *line.arguments(choices)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, instead of exiting with 1 whatever happened
    try:
        call_hydra(run)
    except UserError:
        raise
    except Exception as error:
        if tracebacks or codes or _printed(error):  # or a job had started: it is not an error of the configuration
            raise
        raise ConfigError(explain(error)) from error
    finally:
        sys.argv = typed
        if not tracebacks:
            del os.environ["HYDRA_FULL_ERROR"]
    return max(codes, default=0)


def _printed(error: Exception) -> bool:
    """Whether what Hydra prints had no room, or no reader; its own OSError, of a missing choice, has no number."""
    return isinstance(error, OSError) and error.errno is not None and not error.filename


def call_hydra(run: Callable[["DictConfig"], None]) -> None:
    """Lets Hydra read sys.argv, compose from conf/ and call `run`.

    Python 3.14 checks each option's help when it is declared and takes only text. Hydra's help of --shell-completion
    is an object that becomes text when it is shown, so the check is left out. Hydra also composes all for the value of
    hydra.mode alone, which cannot be set here.
    """
    from argparse import ArgumentParser

    import hydra
    from hydra._internal.hydra import Hydra

    ArgumentParser._check_help = lambda *_: None  # type: ignore[attr-defined]
    Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(run)()


def register_sweeps(tracebacks: bool) -> None:
    """Makes our sweeper and launcher known to Hydra. Raises ConfigError under torchrun."""
    from hydra.core.plugins import Plugins

    if ranks_from_environment().size > 1:
        raise ConfigError("a sweep starts processes of its own, so it cannot run under torchrun: start it without")
    Plugins.instance()  # reads Hydra's own plugins again: ours build on what it finds, so they come after
    from mobilenet_train.sweeps.plugins import register_plugins

    register_plugins(tracebacks)


def in_sweep() -> bool:
    """True in a job that one of Hydra's own engines runs."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode is RunMode.MULTIRUN


def report_job(composed: "DictConfig", code: int) -> None:
    """Rewrites the sweep's table after one of its jobs. Raises RunError if the job failed, as engines expect."""
    from mobilenet_train.sweeps import report

    report.write(Path(composed.run_dir).parent)
    if code != 0:
        raise RunError(f"job {Path(composed.run_dir).name} ended with {code}")


def _config_dir(arguments: list[str]) -> Path | None:
    for number, argument in enumerate(arguments):
        if argument in ("--config-dir", "-cd") and number + 1 < len(arguments):
            return Path(arguments[number + 1])
        if argument.startswith("--config-dir="):
            return Path(argument.partition("=")[2])
    return None
