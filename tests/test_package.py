"""The built wheel alone is enough: conf/ is in it and is found from anywhere."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_carries_conf_and_works_without_the_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy: building replaces the compiled kernels that other tests run with
    left_out = shutil.ignore_patterns(".*", "__pycache__", "*.so", "outputs", "tests", "docs")
    shutil.copytree(ROOT, source, ignore=left_out)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = tmp_path.glob("mnet_train-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    shipped = {str(path.relative_to(ROOT / "conf")) for path in (ROOT / "conf").rglob("*.yaml")}
    conf = tmp_path / "site/mobilenet_train/conf"
    assert {str(path.relative_to(conf)) for path in conf.rglob("*.yaml")} == shipped
    code = "from mobilenet_train import cli; import mobilenet_train.cli.train as t; print(cli.__file__); t.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "model=v1", "--cfg", "job"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "site"))
    assert "depth_multiplier: 1" in done.stdout
