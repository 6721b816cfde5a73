"""`experiment=ablation`: each variant is the network that its name says, with that network's own recipe."""

import yaml

from mobilenet_train.config.compose import compose_config
from mobilenet_train.config.place import conf_dir
from mobilenet_train.models import NETWORKS
from mobilenet_train.models.build import build_model

SWEPT = yaml.safe_load((conf_dir() / "experiment/ablation.yaml").read_text())["hydra"]["sweeper"]["params"]["variant"]
MILLIONS = {  # of parameters, for ten classes
    "v1": 3.22,
    "v1_excited": 3.70,
    "v2": 2.24,
    "v2_excited": 2.85,
    "v3_small": 1.53,
    "v3_small_unexcited": 1.07,
    "v3_small_relu": 1.53,
    "v3_small_3x3": 1.49,
}


def test_the_sweep_has_every_variant() -> None:
    assert sorted(SWEPT.split(",")) == sorted(path.stem for path in (conf_dir() / "variant").glob("*.yaml"))


def test_every_variant_is_the_network_that_it_says() -> None:
    found = {}
    for name in SWEPT.split(","):
        config = compose_config("experiment=ablation", f"variant={name}", "dataset=cifar10")
        assert config.model.name in NETWORKS
        assert name.startswith(config.model.name)
        model = build_model(config, 10)
        found[name] = round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2)
    assert found == MILLIONS


def test_a_variant_trains_by_the_recipe_of_its_network() -> None:
    assert compose_config("variant=v1_excited").optim == compose_config("model=v1").optim
    assert compose_config("variant=v3_small_relu").optim == compose_config("model=v3_small").optim
    assert compose_config("variant=v3_small_relu").model.activation == "relu"  # type: ignore[attr-defined]
