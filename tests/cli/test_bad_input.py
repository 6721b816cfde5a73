"""A wrong configuration gets one clear line and exit code 2, and leaves nothing behind."""

import os
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from mobilenet_train.cli.train import main
from mobilenet_train.config.fields import Rule
from mobilenet_train.config.rules import check
from mobilenet_train.config.saved import Saved
from mobilenet_train.config.schema import OPTIONS, TrainConfig
from mobilenet_train.errors import ConfigError
from mobilenet_train.runs import folder as run_folder
from tests.cli.helpers import exit_code, one_line
from tests.conftest import configure


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty current folder, no data and no Hydra left over from another test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNET_DATA", str(tmp_path / "no-data"))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.delenv("NOT_SET", raising=False)
    # Hydra composes everything twice, the first time only to see whether it is a sweep
    monkeypatch.setattr(Hydra, "get_mode", lambda *_, **__: RunMode.RUN)
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()


SHARDS = "dataset.train=a.tar dataset.test=b.tar"

# Command line, exit code, and what the one line on stderr must say: the key, the bad value, what to do instead.
CASES: list[tuple[str, int, list[str]]] = [
    # unknown choices
    ("model=v9", 2, ["model=v9", "v1, v2, v3_large, v3_small"]),
    (
        "dataset=cifar",
        2,
        [
            "dataset=cifar",
            "cifar10, custom, digits, folder, imagenet_subset, indian_pines, torchvision, webdataset",
            "did you mean 'cifar10'?",
        ],
    ),
    ("optim=sdg", 2, ["optim=sdg", "adam, adamw, muon, rmsprop, sgd", "did you mean 'sgd'?"]),
    ("augment=stronger", 2, ["augment=strong", "light, none, shift"]),
    ("device=gpu", 2, ["device=gpu", "auto, cpu, cuda", "did you mean 'cuda'?"]),
    ("experiment=nope", 2, ["experiment=nope", "tutorial"]),
    ("recipe=nope", 2, ["recipe=nope", "cifar10_v3_large_sgd"]),
    ("model.name=v2", 2, ["model.name=v2", "model=v2"]),
    ("optim={name:adam}", 2, ["optim.name=adam"]),
    # unknown, added, removed and missing keys
    ("epohcs=3", 2, ["'epohcs'", "did you mean 'epochs'?"]),
    ("width_mult=0.5", 2, ["'width_mult'", "did you mean 'model.width_mult'?"]),
    ("optim.schedule.warmpu=0", 2, ["'optim.schedule.warmpu'", "did you mean 'optim.schedule.warmup'?"]),
    ("+foo=1", 2, ["unknown key 'foo'"]),
    ("++foo=1", 2, ["unknown key 'foo'"]),
    ("+optim.lrr=1", 2, ["'optim.lrr'", "did you mean 'optim.lr'?"]),
    ("~epochs", 2, ["'epochs'", "~epochs"]),
    ("model.separable=true", 2, ["'model.separable'", "model=v1"]),
    ("optim=adam optim.momentum=0.5", 2, ["'optim.momentum'", "optim=sgd", "optim=rmsprop"]),
    ("model=custom", 2, ["model.factory", "model.factory=..."]),
    ("dataset=custom", 2, ["dataset.factory", "dataset.factory=..."]),
    ("model=custom model.factory=abc", 2, ["model.factory=abc", "package.module:function"]),
    ("dataset=custom dataset.factory=:load", 2, ["dataset.factory=:load", "package.module:function"]),
    # wrong types
    ("epochs=many", 2, ["epochs=many", "a whole number"]),
    ("epochs=1.5", 2, ["epochs=1.5", "a whole number"]),
    ("epochs=null", 2, ["epochs=null", "without a budget", "budget=10m"]),
    ("budget=tomorrow", 2, ["budget=tomorrow", "1h30m"]),
    ("optim.lr=[1,2]", 2, ["optim.lr=[1, 2]", "a number"]),
    ("optim=sgd optim.nesterov=maybe", 2, ["optim.nesterov=maybe", "true or false"]),
    ("optim=adam optim.betas=[0.9,x]", 2, ["optim.betas", "x", "a number"]),
    ("dataset.mean=3", 2, ["dataset.mean", "list"]),
    ("ema=0.9", 2, ["ema"]),
    # numbers that are not finite
    ("epochs=1e400", 2, ["epochs=", "a whole number"]),
    ("optim.lr=nan", 2, ["optim.lr=nan", "not a finite number"]),
    ("optim.lr=1e400", 2, ["optim.lr=inf", "not a finite number"]),
    ("dataset.mean=[nan,0,0]", 2, ["dataset.mean", "nan", "not a finite number"]),
    ("model=custom model.factory=a:b +model.args.x=inf", 2, ["model.args.x=inf", "not a finite number"]),
    # out of range, through the whole command (every rule is tried below)
    ("epochs=0", 2, ["epochs=0", "a whole number from 1"]),
    ("model.width_mult=0", 2, ["model.width_mult=0", "above 0"]),
    ("run_dir=new outputs=other epochs=0", 2, ["epochs=0"]),
    # what Hydra can't read
    ("epochs", 2, ["epochs has no value", "epochs=VALUE"]),
    ("epochs=[1", 2, ["[1"]),
    ("epochs:3", 2, ["epochs:3"]),
    ("epochs=1,2", 2, ["epochs=1,2", "--multirun"]),
    ("epochs=${nope}", 2, ["epochs", "nope"]),
    ("dataset.root=${oc.env:NOT_SET}", 2, ["dataset.root", "NOT_SET"]),
    ("dataset=webdataset", 2, ["dataset.train", "dataset.train=..."]),
    # data that are not there
    ("dataset=imagenet_subset", 1, ["no-data/imagenet_subset is not a folder", "dataset.root=FOLDER", "CLASS/*.jpg"]),
    (f"dataset=webdataset {SHARDS}", 1, ["dataset.train=a.tar", "matches no file"]),
    # runs to resume
    ("resume=nowhere", 1, ["nowhere", "is not a run"]),
    ("resume=nowhere run_dir=here", 2, ["resume=nowhere", "run_dir=here", "give one"]),
]


@pytest.mark.parametrize(("line", "code", "words"), CASES, ids=[case[0] for case in CASES])
def test_a_wrong_command_line_is_refused_with_one_line_and_nothing_written(
    line: str,
    code: int,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code(monkeypatch, *line.split()) == code
    message = one_line(capsys.readouterr().err)
    assert [word for word in words if word not in message] == [], message
    assert list(tmp_path.iterdir()) == []


# Choices, key, value, and what the message must say is allowed: at least one line for each rule of config.check.
RULES: list[tuple[str, str, Any, str]] = [
    ("", "epochs", 0, "from 1"),
    ("", "epochs", -1, "from 1"),
    ("", "budget", "", "null or a time"),
    ("", "budget", "0m", "null or a time"),
    ("", "max_updates", 0, "null or a whole number from 1"),
    ("", "batch_size", 1, "batch-norm needs two images"),
    ("", "batch_size", 2**20 + 1, "from 2 to 1048576"),
    ("", "batch_size", 0, "from 2"),
    ("", "batch_size", -8, "from 2"),
    ("", "seed", -1, "from 0 to 4294967295"),
    ("", "seed", 2**32, "from 0 to 4294967295"),
    ("", "label_smoothing", 1.0, "a number from 0, below 1"),
    ("", "label_smoothing", -0.1, "a number from 0, below 1"),
    ("", "ema.decay", 1.0, "from 0, below 1 (0 is off)"),
    ("", "early_stop.patience", 0, "null or a number of epochs from 1"),
    ("", "early_stop.patience", 3, "dataset.val_fraction=0.1"),
    ("", "eval.batch_size", 0, "from 1"),
    ("", "eval.every_epochs", 0, "from 1"),
    ("", "checkpoint.every_minutes", 0.0, "above 0"),
    ("", "log_every", 0, "from 1"),
    ("", "recover.attempts", -1, "from 0 to 100"),
    ("", "recover.factor", 1, "above 0, below 1"),
    ("", "resume_schedule", "again", "continue or restart"),
    ("", "resume_from", "first", "last or best"),
    ("", "device.name", "gpu", "auto, cpu, cuda"),
    ("", "device.threads", 0, "from 1 to 1024"),
    ("", "device.threads", 1025, "from 1 to 1024"),
    ("", "device.precision", "int8", "auto, fp32, bf16, fp16"),
    ("device=cpu", "device.precision", "fp16", "device.precision=fp32"),
    ("", "device.compile", "fast", "null or one of default, reduce-overhead, max-autotune"),
    ("", "dataset.resolution", 7, "from 8 to 4096"),
    ("", "dataset.resolution", 4097, "from 8 to 4096"),
    ("", "dataset.fraction", 0.0, "above 0, at most 1"),
    ("", "dataset.fraction", 1.1, "above 0, at most 1"),
    ("", "dataset.max_per_class", 0, "null or a whole number from 1"),
    ("", "dataset.val_fraction", 1.0, "from 0, below 1"),
    ("", "dataset.split_seed", -1, "from 0 to 4294967295"),
    ("", "dataset.mean", [0.5], "three numbers"),
    ("", "dataset.std", [0.5], "three numbers above 0"),
    ("", "dataset.std", [0.0, 1.0, 1.0], "three numbers above 0"),
    ("dataset=imagenet_subset", "dataset.store_size", 128, "null or pixels, from dataset.resolution=160 to 4096"),
    ("dataset=imagenet_subset", "dataset.store_size", 4097, "to 4096"),
    ("dataset=imagenet_subset", "dataset.cache", "ram", "auto, memory, disk, off"),
    ("dataset=imagenet_subset", "dataset.workers", -1, "from 0 to 1024"),
    ("dataset=imagenet_subset", "dataset.on_bad_image", "ignore", "error or skip"),
    ("dataset=imagenet_subset", "dataset.test_fraction", 0.0, "above 0, below 1"),
    ("dataset=imagenet_subset", "dataset.classes", ["cat"], "two or more classes"),
    ("dataset=imagenet_subset", "dataset.classes", ["cat", "cat"], "no folder twice"),
    ("dataset=imagenet_subset", "dataset.classes", "cat", "a list of class folders"),
    ("dataset=imagenet_subset", "dataset.classes", {"pet": "cat", "other": ["dog"]}, "{class: [folders]}"),
    ("dataset=imagenet_subset", "dataset.classes", {"pet": [], "other": ["dog"]}, "two or more classes"),
    ("", "balance", "weights", "none, loss, sampling"),
    ("", "augment.crop_padding", -1, "from 0 to 64"),
    ("", "augment.crop_padding", 65, "from 0 to 64"),
    ("", "augment.cutout", -1, "pixels, from 0 to 4096"),
    ("", "augment.cutout", 4097, "pixels, from 0 to 4096"),
    ("", "augment.resized_crop", [0.5], "two shares of the area"),
    ("", "augment.resized_crop", [0.5, 0.2], "two shares of the area"),
    ("augment=standard", "augment.crop_padding", 4, "give one of the two"),
    ("", "augment.brightness", 1.5, "a number from 0 to 1"),
    ("", "augment.contrast", -0.1, "a number from 0 to 1"),
    ("", "augment.saturation", 1.5, "a number from 0 to 1"),
    ("", "augment.operations", "autoaugment", "none, trivialaugment, randaugment"),
    ("", "augment.magnitude", 31, "from 0 to 30"),
    ("", "augment.erasing", 1.1, "a number from 0 to 1"),
    ("", "augment.mixup", -1.0, "the alpha of a beta distribution"),
    ("", "augment.cutmix", 101.0, "the alpha of a beta distribution"),
    ("", "dataset.crop_ratio", 0.0, "above 0, at most 1"),
    ("", "eval.resolution", 7, "from 8 to 4096"),
    ("", "progressive.start", 64, "from 8 to dataset.resolution=32"),
    ("", "progressive.full_from", 0.0, "above 0, at most 1"),
    ("", "optim.lr", 0.0, "above 0, at most 1000"),
    ("", "optim.lr", 1001.0, "above 0, at most 1000"),
    ("", "optim.weight_decay", -1.0, "from 0 to 10"),
    ("", "optim.l1", -1.0, "from 0 to 10"),
    ("", "optim.clip_norm", 0.0, "null or a number above 0"),
    ("", "optim.accumulate", 0, "from 1 to 65536"),
    ("", "optim.frozen_epochs", -1, "from 0"),
    ("", "optim.frozen_epochs", 1, "0 without model.weights"),
    ("", "optim.backbone_lr", 0.0, "above 0, at most 10"),
    ("model=custom model.factory=a:b", "optim.backbone_lr", 0.1, "model=custom"),
    ("", "optim.schedule.decay", "cosin", "cosine, linear, step, exponential, constant"),
    ("", "optim.schedule.warmup", 1.0, "from 0, below 1"),
    ("", "optim.schedule.final", 1.1, "from 0 to 1"),
    ("", "optim.schedule.every_epochs", 0.0, "above 0"),
    ("", "optim.schedule.factor", 0.0, "above 0, at most 1"),
    ("", "optim.momentum", 1.0, "from 0, below 1"),
    ("optim=rmsprop", "optim.momentum", -0.1, "from 0, below 1"),
    ("optim=muon", "optim.sgd_lr", 0.0, "above 0, at most 1000"),
    ("optim=muon", "optim.sgd_momentum", 0.0, "above 0, below 1"),
    ("optim=sgd optim.nesterov=false optim.momentum=0", "optim.nesterov", True, "optim.momentum above 0"),
    ("optim=rmsprop", "optim.alpha", 1.0, "from 0, below 1"),
    ("optim=rmsprop", "optim.eps", 0.0, "above 0"),
    ("optim=adam", "optim.betas", [0.9], "two numbers"),
    ("optim=adamw", "optim.betas", [0.9, 1.0], "two numbers from 0, below 1"),
    ("optim=adamw", "optim.eps", 0.0, "above 0"),
    ("", "model.width_mult", 0.0, "above 0, at most 32"),
    ("", "model.width_mult", -1.0, "above 0, at most 32"),
    ("", "model.width_mult", 33.0, "above 0, at most 32"),
    ("", "model.dropout", 1.0, "from 0, below 1"),
    ("", "model.stride_plan", 6, "auto, imagenet or how many strides to drop, 0 to 5"),
    ("", "model.stride_plan", "paper", "auto, imagenet"),
    ("", "model.stride_plan", True, "auto, imagenet"),
    ("", "model.activation", "gelu", "paper, relu, relu6, hard_swish"),
    ("", "model.norm_eps", 0.0, "above 0, below 1"),
    ("", "model.norm_momentum", 0.0, "above 0, at most 1"),
    ("model=v1", "model.depth_multiplier", 0, "from 1 to 16"),
    ("model=v1 model.separable=false", "model.depth_multiplier", 2, "model.separable=true"),
    ("model=v1", "model.padding", "valid", "symmetric or tensorflow"),
    ("model=v1", "model.weights", "torchvision", "timm:mobilenetv1_100 (width 1), timm:mobilenetv1_125 (width 1.25)"),
    ("model=v2 model.width_mult=0.5", "model.weights", "torchvision", "timm:mobilenetv2_050 (width 0.5)"),
    ("model=v2 model.width_mult=0.75", "model.weights", "timm:mobilenetv2_075", "timm:mobilenetv2_140 (width 1.4)"),
    ("model=v3_small", "model.weights", "timm:mobilenetv3_smal", "timm:mobilenetv3_small_100 (width 1)"),
    ("", "model.freeze", 0, "none, backbone or how many"),
    ("", "model.freeze", "backbone", "give model.weights too"),
    ("model=v1", "model.separable", 2, "true or false"),
    ("dataset=torchvision dataset.kind=MNIST", "dataset.kind", "Cifar100", "one of CIFAR100, EMNIST"),
    ("dataset=indian_pines", "dataset.components", 201, "a whole number from 1 to 200"),
    ("dataset=indian_pines", "dataset.train_fraction", 1.0, "a number above 0, below 1"),
    ("dataset=indian_pines", "dataset.split", "blocks", "random or disjoint"),
    ("dataset=indian_pines", "dataset.resolution", 24, "an odd number of pixels"),
    ("model=hybridsn", "model.batch_norm", 2, "true or false"),
    ("", "model.in_channels", 0, "null or a whole number from 1 to 1024"),
    ("model=v3_small", "model.kernel", 4, "paper, 3 or 5"),
    ("model=v1 model.separable=false", "model.squeeze_excite", True, "true only with model.separable=true"),
    ("", "model.squeeze_excite", -1, "true or false"),
    ("distill.teacher=x", "distill.weight", 0, "a number above 0, at most 1"),
    ("distill.teacher=x", "distill.temperature", 0, "a number above 0, at most 100"),
    ("", "optim.weight_decay_final", 1.5, "a number from 0 to 1"),
    ("optim=muon", "optim.newton_schulz_steps", 0, "a whole number from 1 to 20"),
    ("", "model.depthwise_init", "paper", "torchvision or timm"),
    ("", "model.wide_head", 2, "true or false"),
    ("", "dataset.download", 3, "true or false"),
    ("", "augment.flip", -1, "true or false"),
    ("", "optim.decay_norm_and_bias", 7, "true or false"),
    ("", "optim.decay_depthwise", 7, "true or false"),
    ("", "device.channels_last", 2, "true or false"),
    ("", "device.cuda_graph", 2, "true or false"),
    ("", "device.sync_batch_norm", -2, "true or false"),
    ("", "device.deterministic", 2, "true or false"),
    ("device.deterministic=true", "device.compile", "default", "null with device.deterministic=true"),
    ("", "tensorboard", 2, "true or false"),
    ("", "tracker", "notes", "null or package.module:function"),
    ("", "dry_run", 2, "true or false"),
    ("", "trust_factory", 2, "true or false"),
    ("", "preview", 2, "true or false"),
    ("", "sweep", "a/b", "letters, digits"),
    ("", "slots", 0, "auto or a whole number from 1 to 1024"),
    ("", "on_failure", "retry", "continue or stop"),
    ("model=custom model.factory=a:b", "model.factory", "a:b:c", "package.module:function"),
    ("dataset=custom dataset.factory=a:b", "dataset.factory", "a", "package.module:function"),
]

# Any value of these is fine: names of choices, paths (which only trying can judge), arguments of the user's own code.
ANYTHING_GOES = {
    *("model.name", "model.args", "dataset.name", "dataset.args", "dataset.cache_dir", "dataset.train"),
    *("dataset.test", "dataset.class_names", "dataset.root", "augment.name", "optim.name", "outputs", "run_dir"),
    *("resume", "max_steps", "distill.teacher"),
}


composed = cache(configure)


def refusal(choices: str, key: str, value: Any) -> str:
    """The message for a good configuration in which one value was changed."""
    config = deepcopy(composed(*choices.split()))
    *parents, leaf = key.split(".")
    part: Any = config
    for parent in parents:
        part = getattr(part, parent)
    assert hasattr(part, leaf)
    setattr(part, leaf, value)
    with pytest.raises(ConfigError) as refused:
        check(config)
    return str(refused.value)


@pytest.mark.parametrize(
    ("choices", "key", "value", "allowed"), RULES, ids=[f"{c} {k}={v}".strip() for c, k, v, _ in RULES]
)
def test_every_rule_names_the_key_the_value_and_what_is_allowed(
    choices: str, key: str, value: Any, allowed: str
) -> None:
    message = refusal(choices, key, value)
    assert key in message
    assert str(value) in message
    assert allowed in message
    assert "\n" not in message


def leaf_keys(part: Any, prefix: str = "") -> Iterator[str]:
    for item in fields(part):
        value = getattr(part, item.name)
        key = f"{prefix}{item.name}"
        yield from leaf_keys(value, f"{key}.") if is_dataclass(value) else [key]


def test_every_key_has_a_rule_or_is_known_to_need_none() -> None:
    lines = ("", "optim=rmsprop", "optim=adam", "model=v1", "model=custom model.factory=a:b")
    sources = ("dataset=custom dataset.factory=a:b", "dataset=imagenet_subset", "dataset=webdataset " + SHARDS)
    keys = {key for line in (*lines, *sources) for key in leaf_keys(composed(*line.split()))}
    tried = {key for _, key, _, _ in RULES}
    assert keys - tried == ANYTHING_GOES
    assert tried & ANYTHING_GOES == set()
    # the two strings of the network that torchvision's weights and the number of features judge
    assert {key for key, found in OPTIONS.items() if all(o.rule is None for o in found)} <= {
        *ANYTHING_GOES,
        "model.weights",
    }


@pytest.mark.parametrize("key", sorted(OPTIONS))
def test_every_range_that_can_be_typed_has_an_upper_limit(key: str) -> None:
    def takes(rule: Rule, value: float) -> bool:
        try:
            return rule.fits_typed(value)
        except TypeError:  # lists and words
            return False

    for option in OPTIONS[key]:
        if option.rule and (takes(option.rule, 4) or takes(option.rule, 0.4)):
            assert not takes(option.rule, 10**25)
            assert not takes(option.rule, 1e300)


@pytest.mark.parametrize(
    "word", ["eval.batch_size=9223372036854775807", "log_every=" + "9" * 25, "checkpoint.every_minutes=1e308"]
)
def test_a_typed_value_beyond_reason_is_refused(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, word) == 2
    assert word.partition("=")[0] in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("dataset.mean=[-1e9,5,1e9]", "three numbers from 0 to 1"),
        ("optim=adam optim.eps=1e20", "at most 1"),
        ("augment.flip=-1", "augment.flip=-1 is not allowed: true or false"),
        ("tensorboard=2", "tensorboard=2 is not allowed: true or false"),
        ("device.channels_last=10", "device.channels_last=10 is not allowed: true or false"),
    ],
)
def test_what_hydra_lets_through_is_refused_with_what_is_allowed(
    word: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, *word.split()) == 2
    assert said in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("word", ["true", "false", "yes", "no", "on", "off", "1", "0", "True", "OFF"])
def test_a_boolean_takes_what_yaml_takes(word: str) -> None:
    expected = word.lower() in ("true", "yes", "on", "1")
    assert configure(f"augment.flip={word}").augment.flip is expected


def test_a_key_added_below_an_unknown_key_is_not_its_own_suggestion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, "+model.args.depth=1") == 2
    message = one_line(capsys.readouterr().err)
    assert "'model.args'" in message
    assert "did you mean 'model.args.depth'" not in message


def test_hydra_full_error_shows_where_the_error_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["mnet-train", "epochs=0"])
    with pytest.raises(ConfigError, match="epochs=0") as raised:
        main()
    assert any(entry.name == "check" for entry in raised.traceback)


def test_the_command_leaves_hydra_full_error_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:

    exit_code(monkeypatch, "epochs=0")
    assert "HYDRA_FULL_ERROR" not in os.environ


@pytest.fixture
def started_run(tmp_path: Path) -> Path:
    """The folder of a run that was started with dataset=digits, and got no further."""
    config: TrainConfig = configure("dataset=digits", "epochs=3")
    folder = tmp_path / "run"
    folder.mkdir()
    run_folder.write_config(folder, Saved(config))
    return folder


RESUMES: list[tuple[str, list[str]]] = [
    ("epochs=5", ["epochs=5", "epochs=3"]),
    ("seed=1", ["seed=1", "seed=0"]),
    ("optim.lr=0.3", ["optim.lr=0.3", "optim.lr=0.1"]),
    ("model=v2", ["model.name=v2", "model.name=v3_large"]),
    ("dataset=cifar10", ["dataset.name=cifar10", "dataset.name=digits"]),
    ("experiment=tutorial", ["experiment"]),
]


@pytest.mark.parametrize(("change", "words"), RESUMES, ids=[change for change, _ in RESUMES])
def test_a_run_does_not_go_on_with_a_change_that_would_alter_its_result(
    change: str,
    words: list[str],
    started_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = (started_run / "config.yaml").read_bytes()
    assert exit_code(monkeypatch, f"resume={started_run}", change) == 2
    message = one_line(capsys.readouterr().err)
    assert [word for word in words if word not in message] == [], message
    assert [path.name for path in started_run.iterdir()] == ["config.yaml"]
    assert (started_run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("seed=4", "seed=4 "),
        ("optim.lr=0.3", "optim.lr=0.3 "),
        ("optim=adam", "optim.name=adam "),
        ("optim.schedule.warmup=0", "'warmup': 0.0"),
    ],
)
def test_a_second_run_in_a_run_dir_must_have_the_same_configuration(
    change: str,
    words: str,
    started_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code(monkeypatch, f"run_dir={started_run}", "dataset=digits", "epochs=3", change) == 2
    assert words in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("a: [1", 1, ["is not a run"]),
        ("- 1\n", 1, ["not a configuration"]),
        ("epochs: 3\n", 2, ["model.name"]),
        ("", 2, ["model.name"]),
    ],
    ids=["no YAML", "a list", "a part", "empty"],
)
def test_a_run_folder_with_a_damaged_configuration_is_refused(
    text: str,
    code: int,
    words: list[str],
    started_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (started_run / "config.yaml").write_text(text)
    assert exit_code(monkeypatch, f"resume={started_run}") == code
    message = one_line(capsys.readouterr().err)
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    ("change", "value"), [("epochs", "many"), ("epohcs", 3), ("model.name", "v9")], ids=["type", "key", "choice"]
)
def test_an_edited_configuration_of_a_run_is_checked_as_a_typed_one(
    change: str,
    value: Any,
    started_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = OmegaConf.load(started_run / "config.yaml")
    OmegaConf.update(values, change, value)
    OmegaConf.save(values, started_run / "config.yaml")
    assert exit_code(monkeypatch, f"resume={started_run}") == 2
    assert change in one_line(capsys.readouterr().err)
