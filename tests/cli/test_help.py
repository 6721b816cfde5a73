"""`--help` and `--cfg job` answer at once and tell all; every file in conf/ composes, and says what it is for."""

import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

import mobilenet_train
from mobilenet_train import __version__
from mobilenet_train.cli.help import GROUPS, help_text
from mobilenet_train.config.explain import known_keys
from mobilenet_train.config.fields import options
from mobilenet_train.config.place import conf_dir
from mobilenet_train.config.schema import ALIASES, OPTIONS, PRESETS, SCHEMAS
from tests.conftest import Command, configure

FAST = 0.8  # seconds of processor time
FILES = sorted(conf_dir().rglob("*.yaml"))
RECIPES = sorted(path.stem for path in (conf_dir() / "recipe").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find the package wherever this process found it, installed or not."""
    monkeypatch.setenv("PYTHONPATH", str(Path(mobilenet_train.__file__).parents[1]))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


def processor_seconds() -> float:
    """Of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def least_seconds(command: Command, *arguments: str, enough: float, tries: int = 5) -> float:
    """Processor time of the fastest of a few runs; time on the wall would measure the other programs too."""
    least = float("inf")
    for _ in range(tries):
        before = processor_seconds()
        assert command(*arguments).returncode == 0
        least = min(least, processor_seconds() - before)
        if least < enough:
            break
    return least


def seconds_of_hydra() -> float:
    """Processor time of a process that imports what every command with a configuration needs."""
    before = processor_seconds()
    subprocess.run([sys.executable, "-c", "import hydra, hydra._internal.hydra, omegaconf"], check=True)
    return processor_seconds() - before


def imported(arguments: list[str], folder: Path) -> set[str]:
    """The modules that the command has imported when it ends."""
    code = (
        "import sys; from mobilenet_train.cli.train import main\n"
        f"sys.argv = ['mnet-train', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--cfg", "job"]], ids=" ".join)
def test_it_answers_well_under_a_second(arguments: list[str], mnet_train: Command) -> None:
    took = least_seconds(mnet_train, *arguments, enough=FAST)
    assert took < FAST or took < 4 * seconds_of_hydra(), "on a slow or busy machine Hydra is the yardstick"


def test_help_imports_neither_torch_nor_hydra(tmp_path: Path) -> None:
    assert imported(["--help"], tmp_path) & {"torch", "numpy", "hydra", "omegaconf", "matplotlib"} == set()


@pytest.mark.parametrize("arguments", [["--cfg", "job"], ["epochs=0"]], ids=" ".join)
def test_composing_and_refusing_import_no_torch(arguments: list[str], tmp_path: Path) -> None:
    modules = imported(arguments, tmp_path)
    assert "hydra" in modules
    assert modules & {"torch", "numpy", "torchvision", "sklearn", "matplotlib"} == set()


@pytest.mark.real_data
def test_training_imports_neither_torchs_compiler_nor_torchvision(tmp_path: Path, cifar10_root: Path) -> None:
    small = ["model=v3_small", "dataset.max_per_class=10", "batch_size=50", "max_updates=2", "device.threads=1"]
    modules = imported(["device=cpu", f"dataset.root={cifar10_root}", *small], tmp_path)
    assert (tmp_path / "outputs").exists()
    assert "torch" in modules
    assert modules & {"torch._dynamo", "torchvision"} == set()  # 2 s of the start


def test_help_names_every_choice_of_every_group_and_every_setting() -> None:
    text = help_text()
    for group in GROUPS:
        section = re.search(rf"^  {group}\n(.*?)\n\n", text, re.M | re.S)
        assert section
        named = {line.split()[0] for line in section[1].splitlines()}
        assert named == {path.stem for path in (conf_dir() / group).glob("*.yaml")}
        assert all(len(line.split()) >= 2 for line in section[1].splitlines()), "a choice without a word about it"
    assert set(SCHEMAS) <= set(GROUPS)
    for key in sorted({key for key in known_keys() if key.partition(".")[0] not in GROUPS} - set(ALIASES)):
        assert re.search(rf"^  {re.escape(key)}=\S+ +\S", text, re.M), f"--help does not tell of {key}"
    for option in ("--cfg job", "--version", "resume=", "-m", "dry_run=true", "--config-dir"):
        assert option in text


def test_the_schema_knows_just_the_choices_that_are_shipped() -> None:
    for group, schemas in SCHEMAS.items():
        assert set(schemas) == {path.stem for path in (conf_dir() / group).glob("*.yaml")}


def test_help_tells_of_the_users_own_files_too(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# A network of my own\n")
    assert re.search(r"^    mine +A network of my own$", help_text(tmp_path), re.M)


def test_cfg_prints_a_configuration_that_is_whole_and_readable(mnet_train: Command, tmp_path: Path) -> None:
    done = mnet_train("--cfg", "job", "model=v2", "optim.lr=0.07")
    assert done.returncode == 0
    assert done.stderr == ""
    values = yaml.safe_load(done.stdout)
    assert values["model"]["name"] == "v2"
    assert values["optim"]["lr"] == 0.07
    assert "???" not in done.stdout
    assert list(tmp_path.iterdir()) == []  # where it ran: conf/ is found from anywhere, nothing is written


def test_version_is_printed(mnet_train: Command) -> None:
    done = mnet_train("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"mnet-train {__version__}\n", "")


# --- what conf/ holds


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_by_itself_and_is_valid(name: str) -> None:
    configure(f"experiment={name}")


SHARDS = ["dataset.train=a.tar", "dataset.test=b.tar"]


@pytest.mark.parametrize("group", SCHEMAS)
def test_every_choice_composes_by_itself_with_a_value_for_every_key(group: str) -> None:
    for name in SCHEMAS[group]:
        own = {
            **{"custom": [f"{group}.factory=a:b"], "webdataset": SHARDS, "folder": ["dataset.root=images"]},
            "torchvision": ["dataset.kind=MNIST"],
        }.get(name, [])
        configure(f"{group}={name}", *own)


def choices_of(recipe: str) -> dict[str, str]:
    """cifar10_v3_large_sgd -> dataset, model and optimiser; folder_muon, of all networks -> one of them."""
    dataset = next(name for name in SCHEMAS["dataset"] if recipe.startswith(f"{name}_"))
    *model, optim = recipe.removeprefix(f"{dataset}_").rsplit("_", 1)
    return {"dataset": dataset, "model": model[0] if model else "v2", "optim": optim}


def assigned(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from assigned(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_comes_with_its_combination_by_itself(recipe: str) -> None:
    choices = choices_of(recipe)
    for group, name in choices.items():
        assert name in SCHEMAS[group], f"{recipe} names no {group}"
    own = ["dataset.root=images"] if choices["dataset"] == "folder" else []
    config = OmegaConf.structured(configure(*(f"{group}={name}" for group, name in choices.items()), *own))
    values = dict(assigned(yaml.safe_load((conf_dir() / "recipe" / f"{recipe}.yaml").read_text())))
    assert values
    assert {key: OmegaConf.select(config, key) for key in values} == values


@pytest.mark.parametrize(("preset", "dataset"), PRESETS.items())
def test_a_preset_takes_the_recipes_of_its_data_set(preset: str, dataset: str) -> None:
    named = configure(f"dataset={dataset}", "dataset.root=images", "model=v3_small", "optim=sgd")
    assert (named.batch_size, named.optim.lr) == (64, 0.1)  # as conf/recipe/folder_v3_small_sgd.yaml has them
    taken = configure(f"dataset={preset}", "dataset.root=images", "model=v3_small", "optim=sgd")
    assert replace(taken, dataset=named.dataset) == named
    assert replace(taken.dataset, name=dataset) == named.dataset


@pytest.mark.parametrize("optim", sorted(SCHEMAS["optim"]))
def test_a_recipes_learning_rate_does_not_reach_another_optimiser(optim: str) -> None:
    shipped = yaml.safe_load((conf_dir() / "optim" / f"{optim}.yaml").read_text())["lr"]
    if f"digits_v3_small_{optim}" in RECIPES:
        pytest.skip("has a recipe of its own")
    assert configure("dataset=digits", "model=v3_small", f"optim={optim}").optim.lr == shipped


def test_what_is_typed_wins_over_a_recipe() -> None:
    assert configure("dataset=digits", "model=v3_small", "optim=sgd", "optim.lr=0.03").optim.lr == 0.03


@pytest.mark.parametrize("words", ["dataset=cifar10", "dataset=folder dataset.root=images", "dataset=imagenet_subset"])
def test_some_data_begin_with_muon_unless_another_optimiser_is_named(words: str) -> None:
    assert configure(*words.split()).optim.name == "muon"
    assert configure(*words.split(), "optim=adam").optim.name == "adam"


def test_other_data_and_the_tutorials_setting_begin_with_their_own_optimiser() -> None:
    assert configure("dataset=cifar10", "experiment=tutorial").optim.name == "adam"
    assert configure("dataset=digits").optim.name == "sgd"


@pytest.mark.parametrize(
    ("words", "chosen"),
    [("epochs=10", "light"), ("epochs=11", "standard"), ("epochs=80", "standard"), ("epochs=5 budget=9m", "standard")],
)
def test_photographs_are_augmented_by_the_length_of_the_run_unless_a_choice_is_named(words: str, chosen: str) -> None:
    of_length = configure("experiment=imagenette", *words.split())
    assert of_length.augment == configure("experiment=imagenette", *words.split(), f"augment={chosen}").augment
    assert configure("experiment=imagenette", *words.split(), "augment=basic", "augment.mixup=0.3").augment.mixup == 0.3


def test_digits_are_not_mirrored_unless_asked_for() -> None:
    assert configure("dataset=digits").augment.flip is False
    assert configure("dataset=digits", "augment=basic").augment.flip is True


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(conf_dir())))
def test_every_file_of_conf_says_what_it_is_for(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if not line.startswith("# @package")]
    assert re.match(r"# \w", lines[0]), "the first line is a comment for people"


def lines_of(file: Path) -> Iterator[tuple[str, str, str | None]]:
    """(dotted key, value, comment) of every key that a YAML file gives a value."""
    parent = ""
    for line in file.read_text().partition("\nhydra:")[0].splitlines():
        if match := re.match(r"(\w+):$", line):
            parent = match[1]
        elif match := re.match(r"( *)(\w+): (.+?)(?: # (.+))?$", line):
            yield (f"{parent}." if match[1] else "") + match[2], match[3], match[4]


def inherited(file: Path) -> list[Path]:
    """The files that a file of conf/ inherits, furthest first, and itself."""
    names = re.findall(r"^  - (?:/(base/\w+)@_here_|(\w+))$", file.read_text(), re.M)
    files = [
        conf_dir() / f"{base}.yaml" if base else file.with_name(f"{own}.yaml") for base, own in names if own != "_self_"
    ]
    return [*(ancestor for parent in files for ancestor in inherited(parent)), file]


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in SCHEMAS for name in SCHEMAS[group]])
def test_where_a_key_first_stands_its_comment_is_the_schemas_help(group: str, name: str) -> None:
    helps = {key: option.help for key, option in options(SCHEMAS[group][name])}
    first: dict[str, str | None] = {}
    for file in inherited(conf_dir() / group / f"{name}.yaml"):
        for key, _, comment in lines_of(file):
            first.setdefault(key, comment)
            if comment == helps[key]:
                first[key] = comment
    assert set(first) == set(helps)
    assert {key: said for key, said in first.items() if key != "name"} == {
        k: h for k, h in helps.items() if k != "name"
    }


def test_the_comments_of_train_yaml_are_the_schemas_help() -> None:
    said = {key: comment for key, _, comment in lines_of(conf_dir() / "train.yaml")}
    own = {key: found[0] for key, found in OPTIONS.items() if key.partition(".")[0] not in SCHEMAS}
    assert said == {key: option.help for key, option in own.items() if not option.alias}


def test_no_file_repeats_what_it_inherits() -> None:
    for group in SCHEMAS:
        for file in (conf_dir() / group).glob("*.yaml"):
            *parents, own = inherited(file)
            values = {key: value for parent in parents for key, value, _ in lines_of(parent)}
            assert [key for key, value, _ in lines_of(own) if values.get(key) == value] == [], file


def test_every_leaf_of_the_configuration_has_a_value_by_default() -> None:
    def missing(part: Any, prefix: str = "") -> Iterator[str]:
        for item in fields(part):
            value = getattr(part, item.name)
            if is_dataclass(value):
                yield from missing(value, f"{prefix}{item.name}.")
            elif value == "???":
                yield f"{prefix}{item.name}"

    assert list(missing(configure())) == []


# Every key there is, whichever choice it belongs to. Adding one is a decision: document it, then add it here.
KEYS = """
augment balance batch_size budget checkpoint.every_minutes dataset device dry_run early_stop.patience ema.decay epochs
distill.teacher distill.temperature distill.weight eval.batch_size eval.every_epochs eval.resolution experiment
label_smoothing log_every max_steps max_updates model on_failure optim outputs preview progressive.full_from
progressive.start recover.attempts recover.factor resume resume_from resume_schedule run_dir seed slots sweep
tensorboard tracker trust_factory variant
augment.brightness augment.contrast augment.crop_padding augment.cutmix augment.cutout augment.erasing augment.flip
augment.magnitude augment.mixup augment.name augment.operations augment.resized_crop augment.saturation
dataset.args dataset.cache dataset.cache_dir dataset.class_names dataset.classes dataset.components dataset.crop_ratio
dataset.download dataset.factory dataset.fraction dataset.kind dataset.max_per_class dataset.mean dataset.name
dataset.on_bad_image dataset.resolution dataset.root dataset.std dataset.store_size dataset.test dataset.test_fraction
dataset.train dataset.split dataset.split_seed dataset.train_fraction dataset.val_fraction dataset.workers
device.channels_last device.compile device.cuda_graph device.deterministic device.name device.precision
device.sync_batch_norm device.threads
model.activation model.args model.batch_norm model.depth_multiplier model.depthwise_init model.dropout
model.factory model.freeze model.in_channels model.kernel model.name model.norm_eps model.norm_momentum
model.padding model.separable model.squeeze_excite model.stride_plan model.weights model.wide_head model.width_mult
optim.accumulate optim.alpha optim.backbone_lr optim.betas optim.clip_norm optim.decay_depthwise
optim.decay_norm_and_bias optim.eps optim.frozen_epochs optim.l1 optim.lr optim.momentum optim.name optim.nesterov
optim.newton_schulz_steps optim.schedule.decay optim.schedule.every_epochs optim.schedule.factor optim.schedule.final
optim.schedule.warmup optim.sgd_lr optim.sgd_momentum optim.weight_decay optim.weight_decay_final
"""


def test_the_list_of_keys_grows_by_decision_only() -> None:
    assert set(known_keys()) == set(KEYS.split())
