"""The built wheel alone is enough, with and without a compiler; what it promises of versions and systems is checked."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.conftest import TINY

ROOT = Path(__file__).resolve().parents[1]
CITATION = ROOT / "CITATION.cff"
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
Build = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds with the compiler that is named. Returns the wheel and the folder that it is unpacked in."""

    @cache
    def run(compiler: str) -> tuple[Path, Path]:
        tmp_path = tmp_path_factory.mktemp("wheel")
        source = tmp_path / "source"  # a copy: building replaces the compiled kernels that other tests run with
        left_out = shutil.ignore_patterns(".*", "__pycache__", "*.so", "outputs", "tests", "docs")
        shutil.copytree(ROOT, source, ignore=left_out)
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
        subprocess.run(command, check=True, timeout=300, cwd=source, env={**os.environ, "CC": compiler})
        (wheel,) = tmp_path.glob("mnet_train-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path / "site")
        return wheel, tmp_path / "site"

    return run


def mnet_train(site: Path, *words: str) -> str:
    """What `mnet-train` of the wheel prints, outside the checkout."""
    code = "from mobilenet_train import cli; import mobilenet_train.cli.train as t; print(cli.__file__); t.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=site.parent,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))
    return done.stdout


def test_the_wheel_carries_conf_and_works_without_the_checkout(build: Build) -> None:
    _, site = build("gcc")
    shipped = {str(path.relative_to(ROOT / "conf")) for path in (ROOT / "conf").rglob("*.yaml")}
    conf = site / "mobilenet_train/conf"
    assert {str(path.relative_to(conf)) for path in conf.rglob("*.yaml")} == shipped
    assert "depth_multiplier: 1" in mnet_train(site, "model=v1", "--cfg", "job")


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("gcc") is None, reason="needs gcc on Linux")
def test_kernels_make_a_wheel_for_this_platform_that_needs_no_openmp_library(build: Build) -> None:
    wheel, site = build("gcc")
    assert re.search(r"-py3-none-linux_\w+\.whl$", wheel.name)
    libraries = list(site.rglob("*.so"))
    assert site / "mobilenet_train/kernels/kernels_any.so" in libraries
    for library in libraries:  # the name of a library that is linked to is in it
        assert not re.search(rb"lib[gi]?omp5?\.so", library.read_bytes())


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", "clang"])
def test_without_gnus_openmp_a_pure_wheel_trains_and_its_plan_tells(compiler: str, build: Build) -> None:
    if compiler == "clang" and shutil.which("clang") is None:
        pytest.skip("clang is not installed")
    wheel, site = build(compiler)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert list(site.rglob("*.so")) == []
    plan = mnet_train(site, *TINY, "device=cpu", "dry_run=true")
    assert "no compiled kernels" in plan


def test_windows_is_refused_in_one_line_by_every_command() -> None:
    commands = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    code = (
        "import sys; from importlib import import_module\n"
        "sys.platform = 'win32'\n"
        "sys.modules.update(fcntl=None, resource=None)  # which Windows does not have\n"
        "for place in sys.argv[1:]:\n"
        "    sys.argv[1:] = ['dataset=digits']\n"
        "    module, _, function = place.partition(':')\n"
        "    try: getattr(import_module(module), function)()\n"
        "    except SystemExit as end: print(end.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *commands.values()], capture_output=True, text=True, check=True)
    refusal = "Windows is not supported: use Linux, which Windows runs as WSL, or macOS"
    assert done.stderr.splitlines() == [f"{name}: {refusal}" for name in commands]
    assert done.stdout.split() == ["1"] * len(commands)


@pytest.mark.parametrize(("schema", "files"), [("github-workflows", WORKFLOWS), ("citation-file-format", [CITATION])])
def test_workflows_and_the_citation_are_what_github_takes(schema: str, files: list[Path]) -> None:
    pytest.importorskip("check_jsonschema")
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    subprocess.run([*check, *map(str, files)], check=True)


def test_the_citation_is_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load(CITATION.read_text())["version"] == project["version"]


def test_the_tests_workflow_runs_every_session_with_its_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    matrix = workflow["jobs"]["versions"]["strategy"]["matrix"]["include"]
    noxfile = (ROOT / "scripts/noxfile.py").read_text()
    sessions = re.findall(r'^    "(\w+)": \("(3\.\d+)", ', noxfile, re.MULTILINE)
    assert [(entry["session"], entry["python"]) for entry in matrix] == sessions
    assert len(sessions) >= 3
