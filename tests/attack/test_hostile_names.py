"""Finding 17: names of files, classes and values reach the terminal as they are, on one line."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mobilenet_train.cli import report
from mobilenet_train.console import LONGEST, one_line, printable, say
from mobilenet_train.data import ImageData
from mobilenet_train.runs import announce
from mobilenet_train.runs.build import build_run
from mobilenet_train.sweeps.figures import draw_pareto
from mobilenet_train.sweeps.live import LiveJob, View
from mobilenet_train.sweeps.report import as_markdown, show
from mobilenet_train.sweeps.rows import read_rows
from mobilenet_train.sweeps.sweep import Planned, Sweep
from tests.attack.helpers import DIGITS
from tests.conftest import configure

HERE = "tests.attack.test_hostile_names"
HOSTILE = "\x1b[31m[bold]a\nb[/x]"
SHOWN = r"\x1b[31m[bold]a\nb[/x]"


pytestmark = pytest.mark.usefixtures("empty_folder")


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
    (made / "sweep.json").write_text(text.replace('"0.1"', json.dumps("'[a,b]|\x1b[31m$\\frac$'")))
    return made


def test_messages_show_hostile_names_as_they_are() -> None:
    assert f"warning: {SHOWN}" in printed(lambda console: say(console, HOSTILE, kind="warning"))


def test_the_tables_of_a_sweep_show_hostile_values_as_they_are(tmp_path: Path) -> None:
    folder = hostile_sweep(tmp_path / "s")
    assert r"[a,b]|\x1b[31m" in printed(lambda console: show([folder], console))
    markdown = as_markdown(read_rows([folder]), [folder])
    assert r"[a,b]\|\x1b[31m" in markdown
    draw_pareto(read_rows([folder]), tmp_path / "pareto.png", "$\\frac$")
    live = View([LiveJob(tmp_path / HOSTILE.replace("/", ""), 1)], Console())
    assert SHOWN.replace("/", "") in printed(lambda console: console.print(live.table()))


def test_the_plan_of_a_sweep_shows_lists_of_classes(tmp_path: Path) -> None:
    from mobilenet_train.config.compose import compose_values
    from mobilenet_train.sweeps.forecast import Forecast
    from mobilenet_train.sweeps.jobs import make_job

    config = configure(*DIGITS)
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


def hostile_classes() -> ImageData:
    images, labels, names = np.zeros((24, 16, 16, 3), np.uint8), np.arange(24) % 3, [HOSTILE, "[bold]", "[/x]"]
    return ImageData(images, [0, 0, *labels[2:]], images, labels, names)


def test_the_plan_of_a_run_shows_hostile_class_names_as_they_are() -> None:
    parts = build_run(configure(*DIGITS, "model=v1", "dataset=custom", f"dataset.factory={HERE}:hostile_classes"))
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


def fails_badly(**_: object) -> None:
    raise ValueError(HOSTILE)


def test_an_error_of_a_factory_reaches_the_terminal_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from mobilenet_train.cli.guard import guarded

    config = configure(*DIGITS, "model=custom", f"model.factory={HERE}:fails_badly")

    def command() -> int:
        build_run(config)
        return 0

    assert guarded(command, False) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert SHOWN in message
    assert len(message) <= LONGEST + 1
