"""Findings 14, 15 and 18: no code of others is run, and only the ranks reach the ranks."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore

from mobilenet_train.config.compose import compose_values
from mobilenet_train.config.overrides import parsed
from mobilenet_train.config.resume import Start, resolve
from mobilenet_train.config.saved import Saved, read_saved
from mobilenet_train.distributed import _listening
from mobilenet_train.errors import ConfigError
from mobilenet_train.factory import load_factory
from mobilenet_train.ranks import Ranks
from mobilenet_train.runs import session
from mobilenet_train.runs.advice import resume_command
from mobilenet_train.runs.folder import read_summary, write_config
from mobilenet_train.sweeps.folder import read_manifest
from mobilenet_train.sweeps.jobs import make_job
from mobilenet_train.sweeps.processes import spawn
from tests.attack.helpers import DIGITS, command
from tests.cli.helpers import exit_code
from tests.conftest import configure
from tests.sweeps.conftest import fork_jobs

Capture = pytest.CaptureFixture[str]


# --- 14: whose function is called


FACTORY = ("dataset=custom", "dataset.factory=os:system", "+dataset.args.command=id")


def start_of(*words: str) -> Start:
    return resolve(compose_values(*words), words)


@pytest.fixture
def hostile_run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    write_config(tmp_path / "run", Saved(configure(*FACTORY)))
    return tmp_path / "run"


def test_resume_calls_no_function_that_only_the_saved_file_names(hostile_run: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"run/config\.yaml.*dataset\.factory=os:system.*trust_factory=true"
    ) as caught:
        start_of(f"resume={hostile_run}", "dataset=custom")
    assert "\n" not in str(caught.value)
    (hostile_run / "overrides.yaml").write_text("[seed=0]")  # says that the data set was not typed
    with pytest.raises(ConfigError, match="trust_factory"):
        start_of(f"run_dir={hostile_run}", "seed=0")


@pytest.mark.parametrize("words", [("trust_factory=true",), FACTORY[:2], FACTORY])
def test_a_function_that_the_user_names_or_trusts_is_called(hostile_run: Path, words: tuple[str, ...]) -> None:
    chosen = () if "dataset=custom" in words else ("dataset=custom",)  # as `choices_of_run` adds it
    assert start_of(f"resume={hostile_run}", *chosen, *words).folder == hostile_run
    if words == FACTORY:  # a requeued command, a sweep's child
        assert start_of(f"run_dir={hostile_run}", *words).folder == hostile_run


def test_trust_is_for_one_command_and_never_saved_or_hashed() -> None:
    trusting, plain = configure(*FACTORY, "trust_factory=true"), configure(*FACTORY)
    assert trusting.trust_factory
    assert Saved(trusting).record == Saved(plain).record
    assert "trust_factory" not in Saved(trusting).record
    assert make_job(trusting, {}) == make_job(plain, {})


def test_the_resume_command_that_is_printed_says_what_is_needed(tmp_path: Path) -> None:
    assert resume_command(configure("dataset=digits"), Path("runs/a")) == "mnet-train resume=runs/a"
    assert resume_command(configure(*FACTORY), Path("a")) == "mnet-train resume=a trust_factory=true"
    odd = tmp_path / "lr=0.1 (it's)"
    words = shlex.split(resume_command(configure("dataset=digits"), odd))
    assert parsed(words[1:])[0].value() == str(odd)


OWN = """
from torch import nn

def build(num_classes, resolution, width=4):
    pooled = (nn.Conv2d(3, width, 3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*pooled, nn.Linear(width, num_classes))
"""
YAML = "defaults: [custom, _self_]\nfactory: own:build\nargs: {width: 5}\n"
LAST_WORDS = "  mnet-train resume="


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with the module `own` and a YAML file that names its function."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/mine.yaml").write_text(YAML)
    return tmp_path


def stop_after_the_first_save() -> None:
    save = session.save

    def save_and_stop(*arguments: Any) -> None:
        save(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    session.save = save_and_stop


@pytest.mark.parametrize("named", ["in YAML", "typed"])
def test_a_run_that_was_stopped_continues_with_the_same_command_or_the_printed_one(own: Path, named: str) -> None:
    words = ["model=custom", "model.factory=own:build"] if named == "typed" else ["--config-dir", "conf", "model=mine"]
    start = [*words, *DIGITS, "epochs=8", "run_dir=run"]
    code, said = command(own, *start, prepare=stop_after_the_first_save)
    assert code == 128 + signal.SIGTERM, said
    printed = shlex.split(said[said.index(LAST_WORDS) :].splitlines()[0])[1:]
    assert printed == ["resume=run", "trust_factory=true"]
    for again in (start, [*words, "resume=run"], printed):
        code, said = command(own, *again, prepare=stop_after_the_first_save)
        assert (code, "resuming run at epoch" in said) == (128 + signal.SIGTERM, True), said
    code, said = command(own, "resume=run")
    assert code == 2
    assert "model.factory=own:build imported and called" in said


@pytest.mark.parametrize(
    "words",
    [("model=custom", "model.factory=own:build", "+model.args.width=4,6"), ("model=mine", "model.args.width=4,6")],
    ids=["typed", "in YAML"],
)
def test_a_sweep_of_ones_own_network_runs_and_is_continued(own: Path, words: tuple[str, ...]) -> None:
    sweep = ("--config-dir", "conf", "-m", *words, *DIGITS, "sweep=s", "slots=2", "epochs=1")
    code, said = command(own, *sweep, prepare=fork_jobs)
    assert code == 0, said
    folder = own / "outputs/s"
    first, second = (folder / job.name for job in read_manifest(folder).jobs)
    assert [read_summary(run)["parameters"] for run in (first, second)] == [4 * 28 + 50, 6 * 28 + 70]
    shutil.rmtree(first)
    (second / "summary.json").unlink()  # as if it had been killed at its end
    code, said = command(own, *sweep, prepare=fork_jobs)
    assert code == 0, said
    assert {read_summary(run)["status"] for run in (first, second)} == {"finished"}
    assert not read_saved(first).config.trust_factory


# --- the current folder


def test_a_users_random_py_is_not_taken_for_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong one')\n")
    child = spawn(["-c", "import random, sys; print(random.__file__)"], stdout=subprocess.PIPE)
    found = Path(child.communicate()[0].strip())
    assert (found.name, found.parent == tmp_path) == ("random.py", False)
    command = [sys.executable, "-m", "mobilenet_train", "--cfg", "job", "dataset=digits", "model=v1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_factory_is_found_in_the_current_folder_after_pythons_own_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    (tmp_path / "of_the_user.py").write_text("def build(): return 7\n")
    assert load_factory("model.factory", "of_the_user:build")() == 7
    assert sys.path[-1] == str(tmp_path)


# --- the network between ranks, and pickles


@pytest.mark.parametrize(
    ("host", "ranks", "listens"),
    [
        ("127.0.0.1", Ranks(0, 2, 0, 2), "0100007F"),
        ("localhost", Ranks(0, 2, 0, 2), "0100007F"),
        ("127.0.0.1", Ranks(0, 4, 0, 2), None),
    ],
    ids=["address", "name", "other machines"],
)
def test_the_ranks_store_listens_where_master_addr_is(host: str, ranks: Ranks, listens: str | None) -> None:
    store = _listening(host, ranks)
    ends = [
        line.split()[1] for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    addresses = {end.partition(":")[0] for end in ends if end.endswith(f":{store.port:04X}")}
    client = TCPStore(host, store.port, wait_for_workers=False)
    client.set("word", "kept")
    assert store.get("word") == b"kept"
    assert addresses - {"0100007F", "0000000000000000FFFF00000100007F"} == (set() if listens else {"0" * 32})


@pytest.mark.parametrize("option", ["--experimental-rerun", "--experimental-rerun=x.pickle", "--exp"])
def test_hydras_rerun_which_reads_a_pickle_is_refused(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert exit_code(monkeypatch, option, "x.pickle") == 2
    message = capsys.readouterr().err
    assert option.partition("=")[0] in message
    assert message.count("\n") == 1
