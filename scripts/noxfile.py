"""The fast tests and a training of digits, with the oldest versions that are promised, the newest, and some between.

    pip install 'nox[uv]' && nox -f scripts/noxfile.py -s oldest

Each session needs its Python on this machine and installs the rest into an environment of its own.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import nox

ROOT = Path(__file__).resolve().parents[1]
SESSIONS = {  # name -> Python, extras, and which versions: the floors of pyproject.toml or the newest
    "oldest": ("3.11", "test", "lowest-direct"),
    "middle": ("3.12", "test,export", "lowest-direct"),  # the floors of the exports
    "executorch": ("3.13", "test,export,executorch", "highest"),
    "newest": ("3.14", "test,export", "highest"),
}
FAST = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-m", "not real_data and not faults")

nox.options.envdir = str(ROOT / ".nox")


def declare(name: str, python: str, extras: str, versions: str) -> None:
    """Makes the session known to nox."""

    @nox.session(name=name, python=python, venv_backend="uv")
    def check(session: nox.Session) -> None:
        session.chdir(ROOT)
        session.install("--resolution", versions, "-e", f".[{extras}]")
        session.run("uv", "pip", "list", external=True)
        session.run("pytest", *FAST, *session.posargs)
        with TemporaryDirectory() as folder:
            session.run("mnet-train", "dataset=digits", "model=v3_small", f"run_dir={folder}/digits")


for session_name, settings in SESSIONS.items():
    declare(session_name, *settings)
