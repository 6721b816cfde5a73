"""`mnet-train`: composes the configuration, checks it, and only then loads torch and runs."""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mobilenet_train import __version__
from mobilenet_train.cli.conf import conf_dir, help_text
from mobilenet_train.errors import UserError
from mobilenet_train.ranks import check_batch, ranks_from_environment, reports


def main() -> None:
    """The console script. Exits with 0, 2 for a wrong configuration, 1 for a failed run, 130/143 if stopped."""
    arguments = sys.argv[1:]
    if "--version" in arguments:
        print(f"mnet-train {__version__}")
    elif "--help" in arguments or "-h" in arguments:
        print(help_text(_config_dir(arguments)))
    else:
        tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
        sys.exit(guarded(lambda: compose_and_run(tracebacks), tracebacks))


def guarded(command: Callable[[], int], tracebacks: bool, program: str = "mnet-train") -> int:
    """Runs a command; an error for people becomes one message and an exit code, unless tracebacks are wanted.

    Of several ranks only one reports, with its number.
    """
    if tracebacks:
        return command()
    try:
        return command()
    except UserError as error:
        return failed(program, str(error), error.exit_code)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        return failed(program, f"{error.strerror or error}: {error.filename or 'no file named'}", 1)
    except Exception:
        if reports(ranks_from_environment()):
            raise
        return 1


def failed(program: str, message: str, exit_code: int) -> int:
    """Prints the message, in the rank that reports."""
    ranks = ranks_from_environment()
    if reports(ranks):
        print(f"{program}: {ranks.label}{message}", file=sys.stderr)
    return exit_code


def compose_and_run(tracebacks: bool) -> int:
    """Lets Hydra compose (once, or for each job of `-m`) and runs what came out. Returns the exit code."""
    import hydra
    from hydra.core.plugins import Plugins
    from omegaconf import DictConfig

    from mobilenet_train.cli.explain import explain
    from mobilenet_train.config import register_schemas
    from mobilenet_train.errors import ConfigError

    codes: list[int] = []

    def run(composed: DictConfig) -> None:
        codes.append(1)
        codes[-1] = guarded(lambda: run_composed(composed), tracebacks)
        if in_sweep():  # run by an engine that is not ours, perhaps on another machine
            report_job(composed, codes[-1])

    register_schemas()
    if "-m" in sys.argv or "--multirun" in sys.argv:
        if ranks_from_environment().size > 1:
            raise ConfigError("a sweep starts processes of its own, so it can't run under torchrun: start it without")
        Plugins.instance()  # reads Hydra's own plugins anew: ours build on what it finds, so they come after
        from mobilenet_train.sweeps.plugins import register_plugins

        register_plugins(tracebacks)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, instead of exiting with 1 whatever happened
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(run)()
    except UserError:
        raise
    except Exception as error:
        if tracebacks or codes:  # a job had started, so it is no error of the configuration
            raise
        raise ConfigError(explain(error)) from error
    finally:
        if not tracebacks:
            del os.environ["HYDRA_FULL_ERROR"]
    return max(codes, default=0)


def run_composed(composed: "DictConfig") -> int:  # type: ignore[name-defined]  # noqa: F821
    """Checks the whole configuration, then imports torch and trains."""
    from mobilenet_train.cli.resume import resolve_resume

    overrides = job_overrides()
    config, folder = resolve_resume(checked_config(composed, overrides), overrides)
    check_use(config, overrides)
    run = import_session(config)
    return run(config, overrides, folder)


def import_session(config: "TrainConfig") -> Callable[["TrainConfig", list[str], Path | None], int]:  # type: ignore[name-defined]  # noqa: F821
    """`session.run`, which brings torch with it; CIFAR-10, if it is the data set, is read while that is imported."""
    from mobilenet_train.config import Cifar10Config

    if isinstance(config.dataset, Cifar10Config):
        from mobilenet_train.data.cifar10 import begin_reading

        begin_reading(Path(config.dataset.root).expanduser())

    with nothing_collected():
        from mobilenet_train.cli.session import run

    return run


@contextmanager
def nothing_collected() -> Iterator[None]:
    """Without Python's garbage collector, which would look through torch's modules while there is nothing to find yet.

    What is there at the end is never looked through again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def checked_config(composed: "DictConfig", overrides: list[str]) -> "TrainConfig":  # type: ignore[name-defined]  # noqa: F821
    """The configuration that was composed, after every check of its values. Raises ConfigError."""
    from mobilenet_train.cli.resume import typed_keys
    from mobilenet_train.config import check, let_budget_decide, to_config

    check_choices(overrides)
    config = let_budget_decide(to_config(composed), typed_keys(overrides))
    check(config)
    return config


def check_use(config: "TrainConfig", overrides: list[str]) -> None:  # type: ignore[name-defined]  # noqa: F821
    """The checks of what was typed, and of the ranks, against the configuration that runs: with `resume` the run's own.

    Raises ConfigError.
    """
    from mobilenet_train.cli.resume import typed_keys
    from mobilenet_train.config import check_effect

    check_effect(config, typed_keys(overrides))
    check_batch(config.batch_size, ranks_from_environment())


def in_sweep() -> bool:
    """True in a job that one of Hydra's own engines runs."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode is RunMode.MULTIRUN


def report_job(composed: "DictConfig", code: int) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Rewrites the sweep's table after one of its jobs. Raises RunError if the job failed, as engines expect."""
    from mobilenet_train.errors import RunError
    from mobilenet_train.sweeps import report

    report.write(Path(composed.run_dir).parent)
    if code != 0:
        raise RunError(f"job {Path(composed.run_dir).name} ended with {code}")


def job_overrides() -> list[str]:
    """What the command line says of this job, word for word."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    words = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(words, list)
    return words


def check_choices(overrides: list[str]) -> None:
    """Refuses two ways of choosing that Hydra lets through. Raises ConfigError.

    A recipe is optional for Hydra, so a wrong name would be passed over; and GROUP.NAME=... would change the
    name but not the keys that come with it.
    """
    from hydra.core.global_hydra import GlobalHydra

    from mobilenet_train.config import SCHEMAS
    from mobilenet_train.errors import ConfigError

    recipes = GlobalHydra.instance().config_loader().get_group_options("recipe")
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key == "recipe" and value not in (*recipes, "null"):
            raise ConfigError(f"recipe={value} is unknown; choose one of: {', '.join(recipes)}")
        group, _, leaf = key.partition(".")
        if group in SCHEMAS and leaf == "name":
            raise ConfigError(f"{key}={value} would change only the name; say {group}={value}")


def _config_dir(arguments: list[str]) -> Path | None:
    for number, argument in enumerate(arguments):
        if argument in ("--config-dir", "-cd") and number + 1 < len(arguments):
            return Path(arguments[number + 1])
        if argument.startswith("--config-dir="):
            return Path(argument.partition("=")[2])
    return None
