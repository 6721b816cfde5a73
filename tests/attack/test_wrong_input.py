"""Wrong input of every kind ends in one clear line: names, networks, data sets, command lines, environments."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from mobilenet_train.cli import bench, info, plan, report
from mobilenet_train.console import LONGEST, one_line, printable, say
from mobilenet_train.data import ImageData
from mobilenet_train.data.listing import LARGEST_FILE, BadImageError
from mobilenet_train.errors import ConfigError, RunError
from mobilenet_train.ranks import ranks_from_environment
from mobilenet_train.runs import announce
from mobilenet_train.runs.build import build_run
from mobilenet_train.sweeps.live import LiveJob, View
from mobilenet_train.sweeps.report import as_markdown, show
from mobilenet_train.sweeps.rows import read_rows
from mobilenet_train.sweeps.sweep import Planned, Sweep
from mobilenet_train.weights.pretrained import start_from
from tests.attack.fuzz import as_process, fuzz, in_process
from tests.conftest import configure
from tests.data.image_files_for_tests import draw, encoded

HERE = "tests.attack.test_wrong_input"
TINY = (
    *("dataset=digits", "dataset.resolution=16", "dataset.max_per_class=16", "batch_size=16", "tensorboard=false"),
    *("device.threads=1", "max_updates=1"),
)
HOSTILE = "\x1b[31m[bold]a\nb[/x]"
SHOWN = r"\x1b[31m[bold]a\nb[/x]"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNET_DATA", "/nowhere")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


# --- 17: values are printed as they are, on one line


def test_a_value_is_printed_on_one_line_without_control_characters() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("\udcff\u202e\x9b") == r"\udcff\u202e\x9b"
    assert printable("größer 💥") == "größer 💥"


def test_a_long_message_keeps_its_beginning_and_end_and_shortens_its_values() -> None:
    message = f"run_dir={'x' * 5000} is not allowed: give a shorter one"
    line = one_line(message)
    assert len(line) <= LONGEST
    assert line.startswith("run_dir=xxx")
    assert line.endswith("is not allowed: give a shorter one")
    assert len(one_line("word " * 500)) == LONGEST
    assert one_line("short") == "short"


def printed(show_on: Callable[[Console], object]) -> str:
    console = Console(width=200, force_terminal=True, no_color=True, record=True, file=None)
    with console.capture() as captured:
        show_on(console)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", lambda code: "" if "31" not in code[0] else code[0], captured.get())
    assert "\x1b[31m" not in text
    return text


def hostile_sweep(folder: Path) -> Path:
    from tests.sweeps.made import make_sweep

    made = make_sweep(folder, {(0.1, 0): 60.0, (0.25, 0): 61.0})
    text = (made / "sweep.json").read_text()
    (made / "sweep.json").write_text(text.replace('"0.1"', json.dumps("'[a,b]|\x1b[31m'")))
    return made


def test_messages_show_hostile_names_as_they_are() -> None:
    assert f"warning: {SHOWN}" in printed(lambda console: say(console, HOSTILE, kind="warning"))


def test_the_tables_of_a_sweep_show_hostile_values_as_they_are(tmp_path: Path) -> None:
    folder = hostile_sweep(tmp_path / "s")
    assert r"[a,b]|\x1b[31m" in printed(lambda console: show([folder], console))
    markdown = as_markdown(read_rows([folder]), [folder])
    assert r"[a,b]\|\x1b[31m" in markdown
    live = View([LiveJob(tmp_path / HOSTILE.replace("/", ""), 1)], Console())
    assert SHOWN.replace("/", "") in printed(lambda console: console.print(live.table()))


def test_the_plan_of_a_sweep_shows_lists_of_classes(tmp_path: Path) -> None:
    from mobilenet_train.config.compose import compose_values
    from mobilenet_train.sweeps.forecast import Forecast
    from mobilenet_train.sweeps.jobs import make_job

    config = configure(*TINY)
    jobs = [make_job(config, {"dataset.classes": classes}) for classes in ("[a,b]", "[bold]", "[/x]")]
    planned = [Planned(job, config, [], "waiting") for job in jobs]
    plan_of = Sweep(tmp_path / "[red]s", [], ["dataset.classes"], None, compose_values())  # type: ignore[arg-type]
    forecasts = {job.group: Forecast(1, 1, 1.0) for job in jobs}

    def show_plan(console: Console) -> None:
        plan_of.console = console
        plan_of.show_plan(planned, forecasts, None)

    text = printed(show_plan)
    for shown in ("classes=[a,b]", "classes=[bold]", "classes=[/x]", "sweep [red]s"):
        assert shown in text


def test_the_plan_of_a_run_shows_hostile_class_names_as_they_are() -> None:
    parts = build_run(configure(*TINY, "model=v1", "dataset=custom", f"dataset.factory={HERE}:hostile_classes"))
    assert SHOWN in printed(lambda console: announce.describe(parts, console))


def test_a_difference_of_two_runs_shows_hostile_values_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mobilenet_train.config.saved import Saved
    from mobilenet_train.runs import folder as run_folder

    for name, root in (("[bold]a", "[/x]"), ("b", "\x1b[31mred")):
        (tmp_path / name).mkdir()
        run_folder.write_config(tmp_path / name, Saved(configure(f"dataset.root='{root}'")))
        (tmp_path / name / "summary.json").write_text('{"status": "running"}')
    monkeypatch.setattr(sys, "argv", ["mnet-report", "diff", "[bold]a", "b"])
    with pytest.raises(SystemExit) as end:
        report.main()
    text = "".join(capsys.readouterr())
    assert end.value.code == 0, text
    for shown in ("[bold]a", "[/x]", r"\x1b[31mred"):
        assert shown in text


def test_an_error_of_a_factory_reaches_the_terminal_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from mobilenet_train.cli.guard import guarded

    config = configure(*TINY, "model=custom", f"model.factory={HERE}:fails_badly")

    def command() -> int:
        build_run(config)
        return 0

    assert guarded(command, False) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert SHOWN in message
    assert len(message) <= LONGEST + 1


# --- 19: networks and arrays of one's own


def network(head: Callable[[Tensor], Any] = lambda logits: logits, outputs: int = 10, width: int = 4) -> nn.Module:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, width, 3, stride=4)
            self.head = nn.Linear(width, outputs)

        def forward(self, images: Tensor) -> Any:
            return head(self.head(self.stem(images).mean((2, 3))))

    return Own()


def fails_badly(**_: Any) -> nn.Module:
    raise ValueError(HOSTILE)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "too_few": (lambda: network(outputs=3), "(2, 3)"),
    "too_many": (lambda: network(outputs=30), "(2, 30)"),
    "a_tuple": (lambda: network(lambda logits: (logits, logits)), "a tuple"),
    "flat": (lambda: network(lambda logits: logits.flatten()), "(20,)"),
    "wrong_batch": (lambda: network(lambda logits: logits.mean(0, keepdim=True)), "(1, 10)"),
    "whole_numbers": (lambda: network(lambda logits: logits.long()), "torch.int64"),
    "half": (lambda: network().half(), "float16"),
    "double": (lambda: network().double(), "float64"),
    "detached": (lambda: network(lambda logits: logits.detach()), "without a gradient"),
    "frozen": (lambda: network().requires_grad_(False), "without a parameter to train"),
    "empty": (lambda: nn.Sequential(nn.Flatten()), "without a parameter to train"),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "lazy modules"),
    "failing": (lambda: nn.Linear(5, 10), "RuntimeError"),
}


def made(kind: str, **_: Any) -> nn.Module:
    return NETWORKS[kind][0]()


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_of_ones_own_that_cannot_be_trained_is_refused(kind: str) -> None:
    config = configure(*TINY, "model=custom", f"model.factory={HERE}:made", f"+model.args.kind={kind}")
    with pytest.raises(RunError) as refused:
        build_run(config)
    message = str(refused.value)
    assert message.startswith(f"model.factory={HERE}:made returned a network")
    assert NETWORKS[kind][1] in message


def of_keys(key: str, path: int, **_: Any) -> nn.Module:
    assert key == "a"
    return network(width=path)


def test_arguments_of_a_factory_may_be_called_key_and_path() -> None:
    words = ("model=custom", f"model.factory={HERE}:of_keys", "+model.args.key=a", "+model.args.path=6")
    assert build_run(configure(*TINY, *words)).cost.parameters == 6 * 27 + 6 + 60 + 10


def arrays(**changes: Any) -> ImageData:
    images, labels = np.zeros((24, 16, 16, 3), np.uint8), np.arange(24) % 3
    return ImageData(
        **{
            **{"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels},
            **{"class_names": ["a", "b", "c"], **changes},
        }
    )


def hostile_classes() -> ImageData:
    return arrays(class_names=[HOSTILE, "[bold]", "[/x]"], train_labels=np.array([0, 0, *range(3)] * 5)[:24])


ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "no_names": ({"class_names": None}, "class_names=None"),
    "a_string": ({"class_names": "abc"}, "class_names='abc'"),
    "numbers": ({"class_names": [1, 2, 3]}, "class_names=[1, 2, 3]"),
    "twice": ({"class_names": ["a", "b", "a"]}, "'a' twice"),
    "too_few": ({"class_names": ["a", "b"]}, "2 classes have 0 to 1"),
    "float_labels": ({"train_labels": np.zeros(24)}, "training labels are torch.float64"),
    "bool_labels": ({"test_labels": np.zeros(24, bool)}, "test labels are torch.bool"),
    "complex_labels": ({"test_labels": np.zeros(24, complex)}, "test labels are torch.complex128"),
    "large_labels": ({"test_labels": np.full(24, 2**64 - 1, np.uint64)}, "test labels go from -1"),
    "float_images": ({"train_images": np.zeros((24, 16, 16, 3))}, "training images are torch.float64"),
    "no_pixels": ({"train_images": np.zeros((24, 0, 16, 3), np.uint8)}, "without a pixel"),
    "gradient": ({"train_images": torch.zeros(24, 16, 16, 3, requires_grad=True)}, "training images are torch.float32"),
    "sparse": ({"train_images": torch.zeros(24, 16, dtype=torch.uint8).to_sparse()}, "training images have the shape"),
    "words": ({"train_images": np.array(["a"] * 24)}, "training images are not an array of numbers"),
}


def arrays_of(kind: str) -> ImageData:
    return arrays(**ARRAYS[kind][0])


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_ones_own_that_cannot_be_trained_on_are_refused(kind: str) -> None:
    config = configure(*TINY, "dataset=custom", f"dataset.factory={HERE}:arrays_of", f"+dataset.args.kind={kind}")
    with pytest.raises(RunError) as refused:
        build_run(config)
    message = str(refused.value)
    assert message.startswith(f"dataset.factory={HERE}:arrays_of")
    assert ARRAYS[kind][1] in message


def test_the_readme_s_own_network_and_arrays_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    codes = re.findall(r"```python\n(# mine\.py.*?)```", readme, re.DOTALL)
    commands = re.findall(r"mnet-train ((?:model|dataset)=custom .*)", readme)
    assert len(codes) == len(commands) == 2
    (tmp_path / "mine.py").write_text("\n".join(codes))
    (tmp_path / "words").mkdir()
    labels = np.arange(24) % 2
    images = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3)).astype(np.uint8)
    np.savez(tmp_path / "photos.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    monkeypatch.syspath_prepend(tmp_path)
    words = [word for command in commands for word in command.split()]
    assert build_run(configure(*TINY, *words, "batch_size=8")).cost.parameters == 27 * 16 + 16 + 32 + 34


# --- 20, 24: command lines

LINES = {
    "run_dir=runs/lr=0.1": "\"run_dir='runs/lr=0.1'\"",
    "resume=/d/best(1).pt": "\"resume='/d/best(1).pt'\"",
    "dataset.root=~/data": "\"dataset.root='~/data'\"",
    "dataset.classes=[a,b": "dataset.classes=[a,b cannot be read: a bracket",
    "model=v2,": "model=v2, ends with a comma",
    "epochs=3)": "epochs=3) is not allowed: null (with a budget) or a whole number",
    "run_dir='~nobody-at-all/x'": "there is no user 'nobody-at-all'",
    "epochs:3": "epochs=3",
    "augment.resized_crop=${seed}": "augment.resized_crop=0 is not allowed",
    "ema=${seed}": "ema=0 is not allowed",
    "ema=${eval}": "ema=EvalConfig",
    "model=custom model.factory=a:b model.args=${seed}": "model.args=0 is not allowed",
    "--epochs 3": "epochs=3",
    "--resume X": "resume=X",
    "--dry-run": "dry_run=VALUE",
    "--cfg jobs": "--cfg jobs is not allowed: one of job",
    "--experimental-rerun x": "--experimental-rerun is not an option",
    "dataset=/photos/x": "dataset=folder dataset.root=/photos/x",
    "device=gpu": "did you mean 'cuda'?",
    "model=3": "model=3 is not allowed",
    "model=null": "model=null is not allowed",
    "=3": "=3 has no key",
    f"epochs={'9' * 5000}": "epochs=999",
    "model=v2 -m model.width_mult=0.25,x": "job 2 of 2 (model.width_mult=x)",
    "-m epochs=1,2 hydra/sweeper=basic": "hydra/sweeper=basic is not allowed",
    "-m epochs=1,2 hydra/launcher=basic": "hydra/launcher=basic is not allowed",
    "hydra.run.dir=x": "hydra.run.dir cannot be set",
    "hydra.output_subdir=x": "hydra.output_subdir cannot be set",
    "hydra={run:{dir:x}}": "hydra cannot be set",
}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:40])
def test_a_wrong_command_line_says_what_to_type_and_leaves_nothing(line: str, tmp_path: Path) -> None:
    outcome = in_process(tuple(line.split()), tmp_path)
    assert outcome.code == 2
    assert outcome.faults() == []
    assert outcome.left == ()
    assert LINES[line] in outcome.errors


def test_a_run_folder_alone_says_resume(tmp_path: Path) -> None:
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN/config.yaml").touch()
    assert f"resume={tmp_path}/RUN continues it" in in_process((f"{tmp_path}/RUN",), tmp_path).errors


def test_m_is_found_anywhere_in_the_line(tmp_path: Path) -> None:
    assert in_process(("model=v2", "-m", "model.width_mult=0.25,0.5"), tmp_path).code == 0


# --- 22: out of memory, weights, classes, environment, sizes


def test_a_file_too_large_for_an_image_is_one_bad_image(tmp_path: Path) -> None:
    from mobilenet_train.data.listing import list_tree

    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(encoded(draw(0)))
    with (tmp_path / "ant/huge.jpg").open("wb") as file:
        file.truncate(1000 * LARGEST_FILE)  # sparse: no space, a terabyte to read
    listing = list_tree(tmp_path, None, {}).listing
    number = next(row for row in range(len(listing)) if listing.path(row).name == "huge.jpg")
    with pytest.raises(BadImageError, match="more than any image"):
        listing.read(number)


@pytest.mark.parametrize("label", ["4000000000", "9" * 30, "9" * 10_000])
def test_an_impossible_class_in_a_shard_names_the_file_and_obeys_on_bad_image(label: str, tmp_path: Path) -> None:
    import io
    import tarfile

    for shard in ("train.tar", "test.tar"):
        with tarfile.open(tmp_path / shard, "w") as tar:
            for number in range(6):
                wrong = shard == "train.tar" and number == 3
                text = label if wrong else str(number % 2)
                for suffix, data in (("jpg", encoded(draw(number + len(shard)))), ("cls", text.encode())):
                    member = tarfile.TarInfo(f"{number}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    words = ("dataset=webdataset", "dataset.train=train.tar", "dataset.test=test.tar", "dataset.cache_dir=cache")
    small = ("dataset.resolution=16", "dataset.workers=0", "batch_size=2", "model=v1", "device.threads=1")
    with pytest.raises(RunError, match=r"train\.tar/3\.jpg says class .* dataset\.on_bad_image=skip"):
        build_run(configure(*words, *small))
    parts = build_run(configure(*words, *small, "dataset.on_bad_image=skip"))
    assert (len(parts.dataset.train), len(parts.dataset.test), len(parts.dataset.class_names)) == (5, 6, 2)


def test_classes_with_a_single_image_say_why_none_is_left_for_training(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"photos/{number:03}").mkdir(parents=True)
        (tmp_path / f"photos/{number:03}/a.jpg").write_bytes(b"")
    config = configure("dataset=folder", f"dataset.root={tmp_path}/photos", "dataset.resolution=16", "model=v1")
    with pytest.raises(RunError) as refused:
        build_run(config)
    for word in ("no training images for 30 of 30 classes", "'000' with 1 in all", "dataset.test_fraction=0.2"):
        assert word in str(refused.value)


def test_weights_that_are_not_finite_are_refused_when_they_are_loaded(tmp_path: Path) -> None:
    from mobilenet_train.models import NETWORKS as OURS

    model = OURS["v1"](num_classes=10, resolution=32, width_mult=0.03)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["classifier.1.weight" if "classifier.1.weight" in state else next(iter(state))].view(-1)[0] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(RunError, match=r"model\.weights=.*nan\.pt cannot be trained on: .* not finite"):
        start_from(model, "v1", str(tmp_path / "nan.pt"), tuple("0123456789"))


@pytest.mark.parametrize(
    "setting", ["RANK=x", "RANK=-1", "RANK=1", "RANK=²", "WORLD_SIZE=0", "WORLD_SIZE=", "LOCAL_RANK=a", "LOCAL_RANK=7"]
)
def test_a_wrong_rank_in_the_environment_is_one_line(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, value = setting.partition("=")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}={value} in the environment is not"):
        ranks_from_environment()
    outcome = in_process(("dataset=digits",), tmp_path)
    assert outcome.code == 2
    assert f"{name}={value}" in outcome.errors
    assert outcome.errors.count("\n") == 1


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        (bench, "--width 1e9"),
        (bench, "--width 33"),
        (bench, "--resolution 5000"),
        (bench, f"--batch {10**9}"),
        (bench, f"--classes {10**9}"),
        (bench, f"--batch {'9' * 5000}"),
        (info, "v2 --width 1e9"),
        (info, f"v2 --classes {10**20}"),
        (plan, "--budget-ms 5 --resolution 100000"),
        (plan, f"--budget-ms 5 --classes {10**9}"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else value.__name__.rpartition(".")[2],
)
def test_a_size_without_end_is_refused_by_every_tool(
    tool: Any, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tool", *words.split()])
    with pytest.raises(SystemExit) as end:
        tool.main()
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert words.split()[-2] in message
    assert message.count("\n") == 1
    assert len(message) <= LONGEST + 1


def test_a_measurement_without_memory_says_what_to_lower(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("mobilenet_train.deploy.bench.Bench.run", run)
    monkeypatch.setattr(sys, "argv", ["mnet-bench", "--model", "v1"])
    with pytest.raises(SystemExit) as end:
        bench.main()
    assert end.value.code == 1
    assert "lower --batch" in capsys.readouterr().err


# --- random command lines


def test_random_command_lines_compose_or_end_in_one_clear_line() -> None:
    outcomes = fuzz(in_process, "suite", range(25))
    assert [(outcome.words, outcome.errors, faults) for outcome in outcomes if (faults := outcome.faults())] == []


def test_random_commands_train_a_step_or_end_in_one_clear_line() -> None:
    outcomes = fuzz(as_process, "suite process", range(3))
    assert [(outcome.words, outcome.errors, faults) for outcome in outcomes if (faults := outcome.faults())] == []
