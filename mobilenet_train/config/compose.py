"""Lets Hydra compose `conf/`: groups, recipes, experiments and what is typed."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from mobilenet_train.config.checked import checked_config
from mobilenet_train.config.lengths import of_length
from mobilenet_train.config.place import conf_dir
from mobilenet_train.config.schema import PRESETS, SCHEMAS, TrainConfig


@cache
def register() -> None:
    """Makes known to Hydra what the YAML files lean on.

    The types, as `schema/train` and `schema/GROUP/NAME`; `of_length`, what `augment=auto` takes for a number of epochs;
    and `recipe_of`, the recipe of a combination.
    """
    store = ConfigStore.instance()
    store.store(group="schema", name="train", node=TrainConfig)
    for group, schemas in SCHEMAS.items():
        for name, schema in schemas.items():
            store.store(group=f"schema/{group}", name=name, node=schema)
    OmegaConf.register_new_resolver("of_length", of_length, replace=True)
    OmegaConf.register_new_resolver("recipe_of", recipe_of, replace=True)


def recipe_of(dataset: str, model: str, optim: str) -> str:
    """The combination's own, DATASET_MODEL_OPTIM, if there is such a file, else that of all networks, DATASET_OPTIM.

    A preset takes those of its data set.
    """
    dataset = PRESETS.get(dataset, dataset)
    own = f"{dataset}_{model}_{optim}"
    there = GlobalHydra.instance().config_loader().get_group_options("recipe")
    return own if own in there else f"{dataset}_{optim}"


@contextmanager
def hydra_of_its_own() -> Iterator[None]:
    """Within, Hydra composes from `conf/`; whatever it was set up for before stays as it was."""
    register()
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = running  # Hydra has put another instance in its place


def compose_values(*overrides: str) -> DictConfig:
    """What `mnet-train OVERRIDES` composes, unchecked; also while the command itself is inside Hydra."""
    with hydra_of_its_own():
        return compose("train", overrides=list(overrides))


def compose_config(*overrides: str) -> TrainConfig:
    """The checked configuration that `mnet-train OVERRIDES` would run. Raises ConfigError."""
    return checked_config(compose_values(*overrides), overrides)
