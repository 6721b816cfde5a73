"""A run loaded for use: the trained network and nothing but; foreign, damaged and hostile files are refused."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mobilenet_train
from mobilenet_train import checkpoint
from mobilenet_train.errors import RunError
from mobilenet_train.inference.loading import load_run
from tests.tools import MAINS, rewrite

COMMANDS = sorted(MAINS)


def extra(command: str) -> list[str]:
    """What a command needs besides the run."""
    return [__file__] if command == "mnet-predict" else []


def test_a_run_folder_and_its_checkpoint_file_give_the_same_network(run: Path) -> None:
    folder, file = load_run(run), load_run(run / "checkpoints/last.pt")
    assert (folder.folder, file.folder) == (run, run)
    assert not folder.model.training
    assert folder.class_names == tuple("0123456789")
    assert folder.preprocessing.resolution == 32
    assert folder.preprocessing.stored == (32, 32)
    saved = checkpoint.load(run / "checkpoints/last.pt")["model"]
    for loaded in (folder, file):
        assert loaded.model.state_dict().keys() == saved.keys()
        assert all(torch.equal(value, saved[name]) for name, value in loaded.model.state_dict().items())


def test_the_averaged_weights_are_given_when_asked_for(run: Path) -> None:
    saved = checkpoint.load(run / "checkpoints/last.pt")["ema"]
    loaded = load_run(run, "ema").model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in saved.items())


def test_a_run_without_averaged_weights_says_so(run: Path) -> None:
    with pytest.raises(RunError, match=r"no moving average.*ema\.decay=0"):
        load_run(rewrite(run, ema=None), "ema")


def test_a_run_from_before_there_was_a_key_gets_its_default(run: Path) -> None:
    config = checkpoint.load(run / "checkpoints/last.pt")["config"]
    del config["log_every"]
    config["augment"] = {"name": "basic"}
    del config["model"]["activation"]
    loaded = load_run(rewrite(run, config=config)).config
    assert loaded.model.activation == "paper"  # type: ignore[attr-defined]
    assert loaded.augment.crop_padding == 4
    assert loaded.model.width_mult == 0.25  # type: ignore[attr-defined]


def test_loading_leaves_the_random_state_alone(run: Path) -> None:
    before = torch.get_rng_state()
    load_run(run)
    assert torch.equal(before, torch.get_rng_state())


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before_with_a_warning(
    run: Path, tool: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "checkpoints/last.pt").write_bytes(b"torn")
    loaded = load_run(run)
    assert loaded.checkpoint.path.name == "previous.pt"
    assert loaded.checkpoint.epoch == 1
    assert tool("mnet-eval", run) == 0
    output = capsys.readouterr()
    assert "last.pt" in output.err
    assert "verified" in output.out


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hacked",)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_file_that_would_run_code(
    command: str,
    tmp_path: Path,
    tool: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "model": Hostile()}, tmp_path / "zip.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Hostile(), protocol=2))
    for name in ("zip.pt", "bare.pt"):
        assert tool(command, name, *extra(command)) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"{command}: {name}")
        assert "could run code" in error
        assert error.count("\n") == 1
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_to_call_a_function_that_a_checkpoint_names(
    command: str, run: Path, tool: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    config = checkpoint.load(run / "checkpoints/last.pt")["config"]
    called = {"name": "custom", "factory": "os:system", "args": {"command": f"touch {run}/hacked"}}
    rewrite(run, config={**config, "model": called})
    assert tool(command, run, *extra(command)) == 1
    error = capsys.readouterr().err
    assert "os:system" in error
    assert "--trust-factory" in error
    assert not (run / "hacked").exists()


def test_eval_refuses_to_call_a_data_set_function_that_a_checkpoint_names(
    run: Path, tool: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    config = checkpoint.load(run / "checkpoints/last.pt")["config"]
    args = {"command": f"touch {run}/hacked"}
    dataset = {**config["dataset"], "name": "custom", "factory": "os:system", "args": args}
    rewrite(run, config={**config, "dataset": dataset})
    assert tool("mnet-eval", run) == 1
    assert "os:system" in capsys.readouterr().err
    assert not (run / "hacked").exists()


def test_a_trusted_function_is_called(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_network.py").write_text(
        "from torch import nn\n"
        "def make(num_classes, resolution, width):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * resolution**2, width), nn.Linear(width, num_classes))\n"
    )
    config = checkpoint.load(run / "checkpoints/last.pt")["config"]
    model = {"name": "custom", "factory": "own_network:make", "args": {"width": 2}}
    weights = {"1.weight": torch.ones(2, 3072), "1.bias": torch.zeros(2)}
    weights |= {"2.weight": torch.ones(10, 2), "2.bias": torch.arange(10.0)}
    path = rewrite(run, config={**config, "model": model}, model=weights, ema=None)
    classifier = mobilenet_train.load(path, trust_factory=True)
    assert classifier(torch.zeros(1, 3, 32, 32)).tolist() == [list(range(10))]
    with pytest.raises(RunError, match="only MobileNets have feature maps"):
        classifier.features(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {}}, "configuration cannot be used here"),
        ({"config": None}, "not a whole checkpoint"),
        ({"class_names": ["one", "two"]}, "not a whole checkpoint .*size mismatch"),
        ({"model": {}}, "not a whole checkpoint .*[Mm]issing key"),
        ({"preprocessing": {}}, "not a whole checkpoint .*mean"),
        ({"progress": {}}, "not a whole checkpoint .*epoch"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_right_checksum_is_no_proof_of_sense(run: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(RunError, match=message):
        load_run(rewrite(run, **changes))


def test_a_network_that_claims_to_be_enormous_costs_nothing(run: Path) -> None:
    config = checkpoint.load(run / "checkpoints/last.pt")["config"]
    with pytest.raises(RunError, match="size mismatch"):
        load_run(rewrite(run, config={**config, "model": {**config["model"], "width_mult": 32.0}}))


@pytest.mark.parametrize(("make", "message"), [(False, "does not exist"), (True, "is not a trained run")])
def test_what_is_not_a_run_is_reported_in_one_line(tmp_path: Path, make: bool, message: str) -> None:
    folder = tmp_path / "nothing"
    if make:
        folder.mkdir()
    with pytest.raises(RunError, match=message):
        load_run(folder)
