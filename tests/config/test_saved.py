"""What a run saved outlives an upgrade: one reader, any version, and a missing key keeps the run's meaning."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from mobilenet_train.config.checked import leaves, values_of
from mobilenet_train.config.explain import known_keys
from mobilenet_train.config.resume import merge
from mobilenet_train.config.saved import FORMAT, INTRODUCED, Saved, from_record, read_saved
from mobilenet_train.config.schema import ALIASES, OPTIONS, SCHEMAS, TrainConfig, is_free
from mobilenet_train.errors import ConfigError, RunError
from mobilenet_train.runs.folder import write_config
from tests.conftest import configure

OLD = Path(__file__).parents[1] / "old_runs/52a255a"
RUNS = ("sgd", "muon_ema", "image_files")

# Every key of version 0.1.0 (commit 52a255a), whichever choice it belonged to.
KEYS_OF_VERSION_1 = set(
    """
augment balance batch_size budget checkpoint.every_minutes dataset device dry_run early_stop.patience ema.decay
epochs eval.batch_size eval.resolution experiment label_smoothing log_every max_steps model on_failure optim outputs
preview progressive.full_from progressive.start recover.attempts recover.factor resume resume_schedule run_dir
schedule_from seed slots sweep tensorboard
augment.brightness augment.contrast augment.crop_padding augment.cutmix augment.cutout augment.erasing augment.flip
augment.magnitude augment.mixup augment.name augment.operations augment.resized_crop augment.saturation
dataset.args dataset.cache dataset.cache_dir dataset.class_names dataset.classes dataset.crop_ratio dataset.download
dataset.factory dataset.fraction dataset.max_per_class dataset.mean dataset.name dataset.on_bad_image
dataset.resolution dataset.root dataset.std dataset.store_size dataset.test dataset.test_fraction dataset.train
dataset.val_fraction dataset.workers
device.channels_last device.compile device.name device.precision device.sync_batch_norm device.threads
model.activation model.args model.depth_multiplier model.dropout model.factory model.freeze model.name model.norm_eps
model.norm_momentum model.padding model.separable model.squeeze_excite model.stride_plan model.weights
model.width_mult
optim.accumulate optim.alpha optim.backbone_lr optim.betas optim.clip_norm optim.decay_depthwise
optim.decay_norm_and_bias optim.eps optim.l1 optim.lr optim.momentum optim.name optim.nesterov optim.schedule.decay
optim.schedule.every_epochs optim.schedule.factor optim.schedule.final optim.schedule.warmup optim.sgd_lr
optim.sgd_momentum optim.weight_decay
""".split()  # noqa: SIM905 (a list would take a hundred lines)
)


def record_of(run: str) -> DictConfig:
    values = OmegaConf.load(OLD / run / "config.yaml")
    assert isinstance(values, DictConfig)
    return values


def values_by_key(config: TrainConfig) -> dict[str, Any]:
    values = OmegaConf.create(values_of(config))
    return {key: OmegaConf.select(values, key) for key in leaf_keys(values)}


def leaf_keys(values: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key in map(str, values):
        inner = values[key]
        keys += leaf_keys(inner, f"{prefix}{key}.") if isinstance(inner, DictConfig) else [f"{prefix}{key}"]
    return keys


EVERY_SAVED_KEY = {key: run for run in RUNS for key in leaf_keys(record_of(run))}  # and a run that has it
whole = cache(lambda run: values_by_key(read_saved(OLD / run).config))


def test_no_key_of_version_1_is_lost_and_what_left_the_configuration_is_run_state() -> None:
    assert KEYS_OF_VERSION_1 - set(known_keys()) == {"schedule_from"}
    assert ALIASES == {"max_steps": "max_updates"}


@pytest.mark.parametrize("run", RUNS)
def test_an_old_configuration_reads_as_it_was_saved(run: str) -> None:
    saved = read_saved(OLD / run)
    before, after = (dict(leaves(record)) for record in (record_of(run), saved.record))
    assert saved.schedule_from == before.pop("schedule_from")
    before["max_updates"] = before.pop("max_steps")
    assert after.pop("format") == FORMAT
    assert after.pop("schedule_from") == 0
    assert len(after.pop("checksum")) == 32  # of the run's state
    new = {key: after.pop(key) for key in after.keys() - before.keys()}
    assert new == {key: INTRODUCED[key].of(record_of(run)) for key in new}
    assert after == before


@pytest.mark.parametrize(("key", "run"), EVERY_SAVED_KEY.items(), ids=EVERY_SAVED_KEY)
def test_a_saved_configuration_without_a_key_still_reads(key: str, run: str, tmp_path: Path) -> None:
    values = record_of(run)
    *parents, leaf = key.split(".")
    part = values
    for parent in parents:
        part = part[parent]
    del part[leaf]
    OmegaConf.save(values, tmp_path / "config.yaml")
    (tmp_path / "overrides.yaml").write_bytes((OLD / run / "overrides.yaml").read_bytes())
    before, after = whole(run), values_by_key(read_saved(tmp_path).config)
    follows = {"seed": {"dataset.split_seed"}}.get(key, set())
    assert {k for k in before if before[k] != after[k]} <= {ALIASES.get(key, key), *follows}, "nothing else changes"
    if leaf == "name":
        assert before == after, "the choice is the one that was typed"
    if key in INTRODUCED:
        assert after[key] == INTRODUCED[key].of(record_of(run))


def test_a_missing_key_gets_the_value_that_keeps_the_meaning_and_not_todays_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    today = Saved(configure("dataset=digits", "model=v1", "augment=strong", "optim=sgd")).record
    del today.augment["mixup"], today["label_smoothing"]
    read = from_record(today).config
    assert read.augment.mixup == 0.0, "runs from before there was mixup were trained without, whatever strong is now"
    assert read.label_smoothing == 0.0

    monkeypatch.setitem(INTRODUCED, "label_smoothing", replace(INTRODUCED["balance"], value=lambda v: 0.1 * v.seed))
    today.seed = 2
    assert from_record(today).config.label_smoothing == 0.2


def test_the_table_names_keys_that_there_are() -> None:
    assert set(INTRODUCED) <= set(OPTIONS)


def test_what_is_written_carries_its_format_and_reads_back(tmp_path: Path) -> None:
    saved = Saved(configure("dataset=digits", "max_updates=7"), schedule_from=40)
    write_config(tmp_path, saved)
    assert (tmp_path / "config.yaml").read_text().startswith(f"format: {FORMAT}\nschedule_from: 40\nextended: {{}}\n")
    assert "max_steps" not in (tmp_path / "config.yaml").read_text()
    assert read_saved(tmp_path) == saved
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_newer_format_is_refused_by_its_number() -> None:
    record = Saved(configure("dataset=digits")).record
    record.format = FORMAT + 1
    with pytest.raises(ConfigError, match=f"format={FORMAT + 1} .* newer"):
        from_record(record)


def test_limits_of_today_are_for_what_is_typed_and_not_for_what_an_old_run_saved() -> None:
    record = Saved(configure("dataset=digits")).record
    record.eval.batch_size = 2**40
    record.log_every = 10**12
    saved = from_record(record)
    merged = merge(saved, record, ["dataset.val_fraction"]).config
    assert (merged.eval.batch_size, merged.log_every) == (2**40, 10**12)
    typed = OmegaConf.merge(record, {"log_every": 10**11})
    with pytest.raises(ConfigError, match="log_every=100000000000 is not allowed"):
        merge(saved, typed, ["log_every"])


@pytest.mark.parametrize("text", ["", "epochs: 3\n"], ids=["empty", "a part"])
def test_a_file_without_its_groups_is_not_completed_to_some_other_run(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises((ConfigError, RunError), match=r"model\.name is missing|is not a configuration"):
        read_saved(tmp_path)


def test_a_key_is_free_as_its_line_in_the_schema_says() -> None:
    free = {key for key in OPTIONS if is_free(key)}
    assert free == {
        *("checkpoint.every_minutes", "dataset.cache", "dataset.cache_dir", "dataset.workers", "device.channels_last"),
        *(
            "device.compile",
            "device.cuda_graph",
            "device.deterministic",
            "device.name",
            "device.precision",
            "device.sync_batch_norm",
        ),
        *("device.threads", "dry_run"),
        *("log_every", "on_failure", "outputs", "preview", "recover.attempts", "recover.factor", "resume"),
        *("resume_from", "resume_schedule", "run_dir", "slots", "sweep", "tensorboard", "tracker", "trust_factory"),
    }
    assert [group for group in SCHEMAS if is_free(group)] == ["device"]
