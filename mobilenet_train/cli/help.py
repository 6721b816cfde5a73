"""The text of `mnet-train --help`, from the schema and the YAML files. Imports neither torch nor Hydra."""

import re
from pathlib import Path

from mobilenet_train.config.place import conf_dir
from mobilenet_train.config.schema import OPTIONS

GROUPS = ("model", "dataset", "optim", "augment", "device", "experiment", "variant")

USAGE = """\
mnet-train: trains MobileNetV1, V2 and V3

  mnet-train dataset=digits model=v3_small        a first result in a minute, without network
  mnet-train model=v3_large epochs=20             CIFAR-10
  mnet-train -m model.width_mult=0.5,1.0          a sweep: one run for each value; the same command continues it
  mnet-train resume=outputs/RUN                   continue a run
  mnet-train ... dry_run=true                     the plan, cost and time, without training

Choices: GROUP=NAME, or NAME with your own YAML files under --config-dir DIR
"""

FOOTER = """\
Keys inside a choice are changed as GROUP.KEY=VALUE, e.g. optim.lr=0.1 model.width_mult=0.5.
  --cfg job         print the whole configuration, every key, and stop
  --version         print the version
  --hydra-help      what else Hydra can do (config files, shell completion, multirun)
"""


def help_text(user_conf: Path | None = None) -> str:
    """The text of `mnet-train --help`, read off the YAML files and their comments."""
    lines = [USAGE]
    for group in GROUPS:
        lines += [f"  {group}", *(f"    {name:10} {about}" for name, about in choices(group, user_conf)), ""]
    lines += ["Settings: KEY=VALUE (default, meaning)", ""]
    lines += [f"  {key + '=' + value:32} {about}" for key, value, about in settings()]
    return "\n".join([*lines, "", FOOTER])


def choices(group: str, user_conf: Path | None) -> list[tuple[str, str]]:
    """(name, first comment) of every file of a group; a file of the user's hides a shipped one."""
    files = {
        path.stem: path for folder in (conf_dir(), user_conf) if folder for path in (folder / group).glob("*.yaml")
    }
    order = {"auto": 0, "none": 0, "custom": 2}
    return [(name, _about(files[name])) for name in sorted(files, key=lambda name: (order.get(name, 1), name))]


def settings() -> list[tuple[str, str, str]]:
    """(key, default, meaning) of the keys in train.yaml, nested ones dotted."""
    found, parent = [], ""
    for line in (conf_dir() / "train.yaml").read_text().splitlines():
        if match := re.match(r"(\w+):$", line):
            parent = match[1]
        elif match := re.match(r"( *)(\w+): (.+?)(?: # .+)?$", line):
            key = f"{parent}.{match[2]}" if match[1] else match[2]
            if key in OPTIONS:
                found.append((key, match[3], OPTIONS[key][0].help))
    return found


def _about(path: Path) -> str:
    comments = (line[2:] for line in path.read_text().splitlines() if line.startswith("# "))
    return next((comment for comment in comments if not comment.startswith("@package")), "")
