"""Starting from weights: every kind of file, what does not fit, the new last layer, and what is frozen."""

from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from omegaconf import OmegaConf
from safetensors.torch import save_file

from mobilenet_train import checkpoint
from mobilenet_train.config.saved import Saved
from mobilenet_train.config.trained import TRAINED, find_trained
from mobilenet_train.console import one_line
from mobilenet_train.errors import RunError
from mobilenet_train.models import MobileNet, mobilenet_v2, mobilenet_v3_small
from mobilenet_train.runs.build import RunParts, build_run
from mobilenet_train.training.step import train_update
from mobilenet_train.weights.pretrained import TORCHVISION_NAMES, read_weights, start_from
from tests.conftest import TINY, configure

DIGITS = tuple(str(digit) for digit in range(10))


def network(classes: int = 10, width: float = 0.25) -> MobileNet:
    return mobilenet_v3_small(num_classes=classes, resolution=32, width_mult=width)


def trained(folder: Path, names: tuple[str, ...]) -> Path:
    """A run folder of ours with random weights for `names`."""
    (folder / "checkpoints").mkdir(parents=True)
    torch.manual_seed(1)
    record = OmegaConf.to_container(Saved(configure(*TINY)).record)
    contents = {"model": network(len(names)).state_dict(), "class_names": list(names), "config": record}
    contents["fingerprint"] = "of images with another split"
    checkpoint.save(folder / "checkpoints", contents, best=False)
    return folder


def start(model: MobileNet, network: str, source: str, names: tuple[str, ...], width: float = 0.25) -> str:
    return start_from(model, network, source, read_weights(network, source, width), names)


def plain(save: Callable[[dict, Path], None], name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.manual_seed(1)
        save(network().state_dict(), folder / name)
        return folder / name

    return write


SOURCES = {
    "run folder": lambda folder: trained(folder / "run", DIGITS),
    "checkpoint": lambda folder: trained(folder / "run", DIGITS) / "checkpoints/last.pt",
    "state dict": plain(torch.save, "weights.pth"),
    "nested": plain(lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path), "nested.pth"),
    "safetensors": plain(save_file, "weights.safetensors"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_weights_of_the_same_classes_are_taken_whole(source: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = network().state_dict()
    model = network()
    message = start(model, "v3_small", str(SOURCES[source](tmp_path)), DIGITS)
    assert message.endswith("last layer kept")
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("names", "why"), [(DIGITS[:7], "7 classes there, 10 here"), (tuple("abcdefghij"), "other classes")]
)
def test_the_last_layer_starts_from_scratch_for_other_classes_and_it_is_logged(
    names: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    message = start(model, "v3_small", str(trained(tmp_path / "run", names)), DIGITS)
    assert message.endswith(f"last layer from scratch ({why})")
    kept = [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]
    learned = [name for name in kept if "num_batches" not in name and before[name].ndim > 1]
    assert learned == ["classifier.3.weight"]


def unpickling(folder: Path) -> Path:
    torch.save({"weights": Path("code")}, folder / "code.pth")
    return folder / "code.pth"


BAD = {
    "does not exist": lambda folder: folder / "nothing.pth",
    "could run code": unpickling,
    "holds no weights": lambda folder: saved([1, 2], folder / "list.pth"),
    "cannot be read": lambda folder: written(folder / "text.safetensors"),
    "is not a v3_small": lambda folder: saved({"features.0.0.weight": torch.zeros(1)}, folder / "little.pth"),
    "another model.width_mult": lambda folder: saved(network(width=0.5).state_dict(), folder / "wide.pth"),
}


def saved(contents: object, path: Path) -> Path:
    torch.save(contents, path)
    return path


def written(path: Path) -> Path:
    path.write_text("no weights")
    return path


@pytest.mark.parametrize("reason", BAD)
def test_weights_that_do_not_fit_are_refused_with_the_file_and_the_reason(reason: str, tmp_path: Path) -> None:
    path = BAD[reason](tmp_path)
    with pytest.raises(RunError, match=reason) as refused:
        start(network(), "v3_small", str(path), DIGITS)
    assert f"model.weights={path}" in str(refused.value)


def test_torchvisions_weights_come_with_their_own_head_for_a_thousand_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = torchvision.models.mobilenet_v3_small()
    weights = torchvision.models.MobileNet_V3_Small_Weights
    monkeypatch.setattr(weights, "get_state_dict", lambda *_, **__: peer.state_dict())
    model = mobilenet_v3_small(num_classes=10, resolution=224)
    message = start(model, "v3_small", "torchvision", DIGITS)
    assert "1000 classes there, 10 here" in message
    assert torch.equal(model.features[0][0].weight, peer.features[0][0].weight)


def test_without_network_the_message_shows_where_to_put_torchvisions_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models.MobileNet_V3_Small_Weights, "get_state_dict", fail)
    with pytest.raises(RunError, match=r"mobilenet_v3_small-.*pth could not be downloaded .*no route to host.*hub"):
        start(mobilenet_v3_small(), "v3_small", "torchvision", DIGITS)


def build(folder: Path, *overrides: str) -> RunParts:
    weights = trained(folder / "old", DIGITS)
    return build_run(configure(*TINY, "model.stride_plan=auto", f"model.weights={weights}", *overrides))


@pytest.mark.parametrize(("choice", "count"), [("backbone", 13), ("3", 3)])
def test_what_is_frozen_keeps_weights_and_statistics_and_the_rest_learns(
    choice: str, count: int, tmp_path: Path
) -> None:
    parts = build(tmp_path, f"model.freeze={choice}")
    model = parts.state.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_update(parts.state, [next(parts.batches.train.epoch(0))], parts.plan)
    model.eval()
    model.train()  # as after an evaluation
    train_update(parts.state, [next(parts.batches.train.epoch(1))], parts.plan)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    frozen = tuple(f"features.{number}." for number in range(count))
    assert not [name for name in changed if name.startswith(frozen)]
    assert {"classifier.0.weight", "classifier.3.weight"} <= changed
    assert ("features.5.block.0.0.weight" in changed) == (count < 13)


def test_more_features_than_there_are_can_not_be_frozen(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"model\.freeze=14: the network has 13 features"):
        build(tmp_path, "model.freeze=14")


def test_a_resumed_run_does_not_need_its_first_weights() -> None:
    gone = configure(*TINY, "model.weights=gone.pth")
    assert build_run(gone, starts=False).origin is None


def timms(monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, torch.Tensor]:
    """timm's smallest network with random weights in the place of huggingface.co."""
    torch.manual_seed(0)
    state = timm.create_model("mobilenetv3_small_050", pretrained=False).state_dict()
    save_file(state, folder / "model.safetensors")

    def download(repository: str, file: str) -> str:
        assert (repository, file) == ("timm/mobilenetv3_small_050.lamb_in1k", "model.safetensors")
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return state


@pytest.mark.parametrize("source", ["timm:mobilenetv3_small_050", "timm:mobilenetv3_small_050.lamb_in1k", "a file"])
def test_timms_weights_come_from_the_hub_or_a_file_with_a_new_head_for_other_classes(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = timms(monkeypatch, tmp_path)
    model = mobilenet_v3_small(num_classes=10, width_mult=0.5)
    source = source if source.startswith("timm:") else str(tmp_path / "model.safetensors")
    assert "1000 classes there, 10 here" in start(model, "v3_small", source, DIGITS, width=0.5)
    assert torch.equal(model.features[0][0].weight, theirs["conv_stem.weight"])
    assert torch.equal(model.classifier[0].weight, theirs["conv_head.weight"].flatten(1))


def test_another_of_timms_networks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timms(monkeypatch, tmp_path)
    with pytest.raises(RunError, match="is not a v2: "):
        start(mobilenet_v2(width_mult=0.5), "v2", str(tmp_path / "model.safetensors"), DIGITS)


def test_without_network_the_message_says_what_to_do_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RunError) as refused:
        start(mobilenet_v3_small(), "v3_small", "timm:mobilenetv3_small_050", DIGITS, width=0.5)
    assert one_line(str(refused.value)) == (  # nothing of it is shortened
        "model.weights=timm:mobilenetv3_small_050: huggingface.co cannot be reached; get model.safetensors of "
        "huggingface.co/timm/mobilenetv3_small_050.lamb_in1k elsewhere and give its path as model.weights, or set "
        "HF_HOME to a cache that has it"
    )


def test_every_name_is_one_that_timm_has_trained_with_that_normalisation() -> None:
    for line in TRAINED:
        if line.source.startswith("timm:"):
            found = timm.get_pretrained_cfg(f"{line.source.removeprefix('timm:')}.{line.tag}", allow_unregistered=False)
            assert found is not None
            assert found.hf_hub_id == line.repository
            assert (found.mean, found.std) == line.normalised
        else:
            metrics = torchvision.models.get_model_weights(TORCHVISION_NAMES[line.network]).DEFAULT.meta["_metrics"]
            assert line.top1 == pytest.approx(metrics["ImageNet-1K"]["acc@1"], abs=0.006)
    assert find_trained("timm:mobilenetv3_large_100", "v3_large", 1.0) == next(
        line
        for line in TRAINED
        if line.tag == timm.get_pretrained_cfg("mobilenetv3_large_100").tag and line.network == "v3_large"
    )
