"""README, docs/ and .github/: commands compose, Python compiles, links lead somewhere, and the site builds strictly."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.types import Override

from mobilenet_train.cli.line import read_line
from mobilenet_train.config.compose import compose_config
from mobilenet_train.config.overrides import parsed
from tests.pages import FENCE, ROOT, TEXTS, blocks

MODULES = {"mnet-eval": "evaluate"}  # of cli/, where it has another name than the command
COMMAND = re.compile(r"(?:^|[ /])(mnet-[a-z]+|-m mobilenet_train) (.+)")
page = pytest.mark.parametrize("page", TEXTS)


def code(page: str) -> list[str]:
    """Lines of shell in blocks, and whatever stands between backquotes."""
    shell = "".join(blocks(page, "bash")).replace("\\\n", " ")
    prose = FENCE.sub("", TEXTS[page])
    indented = re.findall(r"^    (.*)$", prose, re.MULTILINE)
    quoted = re.findall(r"`([^`]+)`", re.sub(r"^    .*$", "", prose, flags=re.MULTILINE))
    return [*shell.splitlines(), *indented, *(" ".join(words.split()) for words in quoted)]


def words_of(text: str) -> list[str]:
    """The words of a command up to a pipe, a redirection, a comment, dots or the caller's own words."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    return list(takewhile(lambda word: word not in ("...", "$@") and not set(word) <= set("|&;<>"), lexer))


def commands(page: str) -> Iterator[tuple[str, list[str]]]:
    """Every command of ours with at least one argument: its name and its words."""
    for line in code(page):
        if found := COMMAND.search(line):
            name, rest = found.groups()
            yield "mnet-train" if name.startswith("-m") else name, words_of(rest)


def one_job(override: Override) -> str:
    """Of a sweep `KEY=A,B` the first job's word."""
    if not override.is_sweep_override():
        return str(override.input_line)
    return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


def compose(words: Sequence[str]) -> None:
    """Raises UserError for what mnet-train would refuse before it looks at data."""
    line = read_line(words)
    folders = [name.removeprefix("--config-dir=") for name in line.options if name.startswith("--config-dir=")]
    places = [f"hydra.searchpath=[file://{Path(folder).resolve()}]" for folder in folders]
    compose_config(*places, *(one_job(override) for override in parsed(line.words)))


def parse(name: str, words: list[str]) -> None:
    """Raises ConfigError for what the command would refuse before it looks at files."""
    module: Any = import_module(f"mobilenet_train.cli.{MODULES.get(name, name.removeprefix('mnet-'))}")
    inner = f"{words[0]}_parser"  # of `mnet-report diff` and `mnet-cache remove`
    if hasattr(module, inner):
        getattr(module, inner)().parse_args(words[1:])
    else:
        module.parser().parse_args(words)


@page
def test_every_command_of_a_page_composes(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_conf/model").mkdir(parents=True)
    (tmp_path / "my_conf/model/mine.yaml").write_text("defaults: [v2, _self_]\n")
    monkeypatch.chdir(tmp_path)
    for name, words in commands(page):
        if name == "mnet-train":
            compose([word for word in words if word != "--help"])
        else:
            parse(name, words)


@page
def test_a_shell_takes_every_command_of_a_page(page: str) -> None:
    lines = [line for line in code(page) if COMMAND.search(line)]
    assert subprocess.run(["bash", "-n"], input="\n".join(lines), text=True, capture_output=True).stderr == ""


def test_the_pages_name_every_command_and_only_extras_and_scripts_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    whole = "\n".join(TEXTS.values())
    assert set(project["scripts"]) <= {name for page in TEXTS for name, _ in commands(page)}
    named = {name for names in re.findall(r"install [^`\n]*\[([\w,]+)\]", whole) for name in names.split(",")}
    assert named - set(project["optional-dependencies"]) == set()
    assert [
        name for name in re.findall(r"(?:python|-f)\s+((?:scripts|docs)/\S+\.\w+)", whole) if not (ROOT / name).exists()
    ] == []


@page
def test_python_on_a_page_compiles(page: str) -> None:
    for body in blocks(page, "python"):
        compile(body, page, "exec")


def anchors(text: str) -> set[str]:
    """The anchors that GitHub and the site give to headings."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@page
def test_every_link_of_a_page_leads_to_a_file_or_heading(page: str) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", TEXTS[page])):
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert broken == []


def test_the_floor_plan_names_every_folder_and_module_of_the_package() -> None:
    plan = set(re.findall(r"[\w]+", blocks("docs/design.md", "text")[0]))
    rooms = {
        path.stem
        for path in (ROOT / "mobilenet_train").iterdir()
        if path.name != "__pycache__" and path.suffix in ("", ".py")
    }
    assert rooms - plan == {"__init__", "__main__"}


def test_the_readme_is_read_in_one_sitting() -> None:
    assert TEXTS["README.md"].count("\n") <= 170


def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install 'mnet-train[docs]'")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: pip install 'mnet-train[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/site/mkdocs.yml", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = "".join(path.read_text() for path in tmp_path.glob("*.html"))
    assert 'id="mobilenet_train.train"' in pages
    assert re.findall(r'(?:src|href)="https?://(?!github|pytorch|arxiv)[^"]*\.(?:js|css|woff2?)', pages) == []
