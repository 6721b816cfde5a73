"""`mnet-train`: composes the configuration, checks it, and only then loads torch and runs."""

import os
import sys
from collections.abc import Callable
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
    from omegaconf import DictConfig

    from mobilenet_train.cli.explain import explain
    from mobilenet_train.config import register_schemas
    from mobilenet_train.errors import ConfigError

    codes: list[int] = []

    def run(composed: DictConfig) -> None:
        codes.append(1)
        codes[-1] = guarded(lambda: run_composed(composed), tracebacks)
        stopped, parted = codes[-1] > 128, codes[-1] > 0 and ranks_from_environment().size > 1
        if stopped or parted:  # by a signal, or ranks that failed no longer go together: no other job can follow
            sys.exit(codes[-1])

    register_schemas()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, instead of exiting with 1 whatever happened
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(run)()
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
    from mobilenet_train.cli.resume import resolve_resume, typed_keys
    from mobilenet_train.config import check, check_effect, let_budget_decide, to_config

    overrides = job_overrides()
    check_choices(overrides)
    typed = typed_keys(overrides)
    config = let_budget_decide(to_config(composed), typed)
    check(config)
    check_effect(config, typed)
    config, folder = resolve_resume(config, overrides)
    check_batch(config.batch_size, ranks_from_environment())

    from mobilenet_train.cli.session import run

    return run(config, overrides, folder)


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
