"""Which configuration a run continues with: its own, held against its own choices and not the defaults of today."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mobilenet_train.config.compose import compose_values
from mobilenet_train.config.resume import Start, choices_of_run, resolve
from mobilenet_train.config.saved import Saved, read_saved
from mobilenet_train.errors import ConfigError
from mobilenet_train.runs.folder import write_config
from tests.conftest import configure


def started(folder: Path, *words: str, schedule_from: int = 0) -> Path:
    """A run folder with what `mnet-train WORDS` records at its start."""
    folder.mkdir()
    OmegaConf.save(OmegaConf.create(list(words)), folder / "overrides.yaml")
    write_config(folder, Saved(configure(*words), schedule_from))
    return folder


def issued(*words: str) -> Start:
    """What `mnet-train WORDS` would run."""
    return resolve(compose_values(*choices_of_run(words), *words), words)


@pytest.fixture
def image_run(tmp_path: Path) -> Path:
    return started(tmp_path / "run", "dataset=folder", "dataset.root=images", "model=v1", "optim=adam")


def test_a_typed_key_is_held_against_the_runs_own_data_set(image_run: Path) -> None:
    start = issued(f"resume={image_run}", "dataset.workers=1", "dataset.cache=off", "log_every=3")
    assert (start.folder, start.config.dataset.workers, start.config.log_every) == (image_run, 1, 3)  # type: ignore[attr-defined]
    assert start.config.dataset.root == "images"  # type: ignore[attr-defined]
    assert start.config.optim.name == "adam"


def test_a_device_may_change_as_a_whole_or_in_part(image_run: Path) -> None:
    assert issued(f"resume={image_run}", "device=cpu").config.device.name == "cpu"
    assert issued(f"resume={image_run}", "device.threads=3").config.device.threads == 3


@pytest.mark.parametrize("word", ["dataset.root=others", "model=v2", "optim.betas=[0.5,0.9]", "max_steps=9", "seed=3"])
def test_a_key_that_changes_the_result_is_refused_by_both_values(word: str, image_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be given when a run is resumed: it was started with"):
        issued(f"resume={image_run}", word)


@pytest.mark.parametrize(
    ("word", "said"), [("+nothing=1", "unknown key 'nothing'"), ("device.threads=2000", "to 1024")]
)
def test_what_is_typed_with_resume_is_checked_like_everything_typed(word: str, said: str, image_run: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        issued(f"resume={image_run}", word)


def test_a_run_of_ones_own_function_that_is_trusted_resumes_without_naming_it_again(tmp_path: Path) -> None:
    run = started(tmp_path / "run", "dataset=custom", "dataset.factory=mine:images", "+dataset.args.path=a.npz")
    start = issued(f"resume={run}", "trust_factory=true")
    assert start.config.dataset.factory == "mine:images"  # type: ignore[attr-defined]
    assert start.config.dataset.args == {"path": "a.npz"}  # type: ignore[attr-defined]


def test_where_the_schedule_begins_is_run_state_and_stays_in_the_record(tmp_path: Path) -> None:
    run = started(tmp_path / "run", "dataset=digits", schedule_from=12)
    assert issued(f"resume={run}").saved.schedule_from == 12
    with pytest.raises(Exception, match="schedule_from"):
        compose_values("schedule_from=3")


def test_the_former_name_of_a_key_is_the_same_key(tmp_path: Path) -> None:
    run = started(tmp_path / "run", "dataset=digits", "max_updates=9")
    assert issued(f"resume={run}", "max_steps=9").config.max_updates == 9
    assert issued(f"run_dir={run}", "dataset=digits", "max_steps=9").folder == run
    assert configure("max_steps=5").max_updates == 5
    with pytest.raises(ConfigError, match="two names of one key"):
        configure("max_steps=5", "max_updates=6")


@pytest.mark.parametrize("moved", ["renamed", "deeper/elsewhere"])
def test_a_folder_that_was_moved_is_still_the_run(moved: str, tmp_path: Path) -> None:
    run = started(tmp_path / "run", "dataset=digits", f"run_dir={tmp_path}/run")
    target = tmp_path / moved
    target.parent.mkdir(exist_ok=True)
    run.rename(target)
    assert issued(f"resume={target}").folder == target
    assert issued(f"run_dir={target}", "dataset=digits").folder == target


class TestRunDir:
    """`run_dir=DIR`: the same command continues the run, another one is refused."""

    WORDS = ("dataset=digits", "epochs=3", "optim.lr=0.07")

    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        return started(tmp_path / "run", *self.WORDS)

    def test_the_same_words_in_any_order_continue_it(self, run: Path) -> None:
        assert issued(f"run_dir={run}", *reversed(self.WORDS)).folder == run

    @pytest.mark.parametrize("change", ["epochs=4", "optim.lr=0.08", "seed=1", "model=v2", "optim=adam"])
    def test_another_value_is_refused(self, change: str, run: Path) -> None:
        key = change.partition("=")[0]
        others = [word for word in self.WORDS if word.partition("=")[0] != key]
        with pytest.raises(ConfigError, match=key):
            issued(f"run_dir={run}", *others, change)

    def test_a_word_left_out_is_another_value(self, run: Path) -> None:
        with pytest.raises(ConfigError, match=r"optim\.lr"):
            issued(f"run_dir={run}", "dataset=digits", "epochs=3")

    def test_what_nobody_typed_stays_the_runs_own_when_a_default_changes(self, run: Path) -> None:
        record = read_saved(run).record
        record.label_smoothing = 0.3  # the default of the version that started the run
        OmegaConf.save(record, run / "config.yaml")
        assert issued(f"run_dir={run}", *self.WORDS).config.label_smoothing == 0.3

    def test_without_a_record_of_what_was_typed_every_key_counts(self, run: Path) -> None:
        (run / "overrides.yaml").unlink()
        record = read_saved(run).record
        record.label_smoothing = 0.3
        OmegaConf.save(record, run / "config.yaml")
        with pytest.raises(ConfigError, match="label_smoothing"):
            issued(f"run_dir={run}", *self.WORDS)
