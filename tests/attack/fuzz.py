"""Random command lines: each composes, or is refused in one clear line that names the key or the argument.

`python -m tests.attack.fuzz --cases 20000 --processes 300 --seed 0` runs it for long: cases compose and check inside
this process and its copies, processes train a tiny step as commands of their own. A case is its seed and number.
"""

import argparse
import io
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mobilenet_train.config.schema import ALIASES, OPTIONS, SCHEMAS
from mobilenet_train.console import LONGEST, printable
from tests.children import Child, mnet_train

CODES = (0, 1, 2, 129, 130, 141, 143)
TINY = (
    *("model=v1", "model.width_mult=0.03", "model.stride_plan=2", "dataset=digits", "dataset.resolution=16"),
    *("dataset.max_per_class=16", "batch_size=16", "tensorboard=false", "device.threads=1", "max_updates=1"),
)


def words_of(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GOOD = words_of("""
model=v1 model=v2 model=v3_large model=custom dataset=digits dataset=folder dataset=webdataset optim=sgd optim=adam
optim=muon augment=strong augment=none device=cpu epochs=3 epochs=1,2 optim.lr=0.1 optim.lr=0.1,0.2 seed=1,2,3
dry_run=true model.width_mult=0.5 augment.resized_crop=[0.25,1.0] dataset.mean=[0.5,0.5,0.5] experiment=tutorial
batch_size=32 ema.decay=0.9 model.factory=a:b +model.args.x=1 dataset.classes=[a,b],[b,c] resume=nowhere run_dir=new
sweep=s slots=2 ~epochs -m
""")
PLAIN = words_of("""
0 1 2 3 -1 0.5 1.5 -0.0 .5 1e-9 nan inf -inf 1e400 -1e308 true false null abc ??? auto none imagenet paper constant
step 0x10 1_0 99999999999999999999999 9223372036854775808 cosine relu v1 v2 v3_large adam sgd muon basic cpu gpu
cuda bf16 custom digits folder torchvision backbone 90s 10m 1h 5x best last ../x /proc/x /dev/null . .. / runs/a
""")
STRUCTURED = words_of("""
'' "" [] {} [1,2,3] [0.5,0.5,0.5] [0.25,1.0] [a,b] [[a],[b]] [[[[1]]]] {a:1} {a:{b:2}} {1:2} {name:v2} [null] [nan]
[a,a] ${seed} ${epochs} ${model} ${eval} ${dataset.mean} ${nope} ${oc.env:HOME} ${oc.env:NOT_SET} ${} ${a ${a:b,c}
${.lr} ${..x} '${seed}' [${seed}] {a:${seed}} a,b 1,2 choice(1,2) range(1,3) range(1 sort(3,1) glob(*) interval(0,1)
choice() shuffle(1)
""")
BROKEN = words_of("""
[ ] { } ( ) [a {a: {a:[ a) ) a, , ,, 1, [1,] {a:1,} a=b runs/lr=0.1 /d/best(1).pt ~/data it's "a 'a a'b = == := :b
a: a|b a&b a;b a*b a?b a!b @x #x $ $x %s %d \\ a\\b \\n é 💥 ɐ ²
""")
HOSTILE = [
    "\x1b[31mred",
    "a\nb",
    "a\tb",
    "\x07",
    "\u202eabc",
    "[bold]",
    "[/x]",
    "x" * 3000,
    "9" * 5000,
    "a b",
    " ",
    "\x7f",
]
FLAGS = words_of("""
-m --multirun -x --epochs --resume --width -c --cfg --cfg=job --resolve --info --info=x -i --config-dir
--config-dir=/nowhere -cd -cn --config-name=nope --config-path=/nowhere --run -r -- - --dry-run --experimental-rerun
--package=x --multi -mm
""")
ARGUMENTS = [
    "",
    "=",
    "==",
    "=3",
    "epochs",
    "epochs:3",
    "model",
    "outputs/RUN",
    "~epochs",
    "~model",
    "~nope",
    "+",
    "~",
    "@",
]


@dataclass(frozen=True)
class Outcome:
    """How a command line ended."""

    words: tuple[str, ...]
    code: object
    errors: str
    left: tuple[str, ...]  # files left behind

    def faults(self) -> list[str]:
        """What is wrong with it; nothing if all is well."""
        found = []
        if self.code not in CODES:
            found.append(f"ended with {self.code}")
        if "Traceback" in self.errors:
            found.append("traceback")
        if self.code in (1, 2):
            found += self.faults_of_refusal(self.errors.removesuffix("\n"))
        if self.code == 2 and self.left:
            found.append(f"left {self.left}")
        return found

    def faults_of_refusal(self, errors: str) -> Iterator[str]:
        lines = [line for line in errors.split("\n") if not line.startswith("mnet-train: max_steps is called")]
        if not lines or not lines[0].startswith("mnet-train: "):
            yield "no message"
        elif len(lines[0]) > LONGEST:
            yield f"{len(lines[0])} characters"
        elif not all(line.isprintable() for line in lines):
            yield "control characters"
        elif self.code == 2 and len(lines) > 1:
            yield "more than one line"
        elif not any(name in lines[0] for word in self.words for name in names_of(word)):
            yield "names neither key nor argument"


def names_of(word: str) -> list[str]:
    """What a message may call a word: its key or option, itself, its value; the beginning, since long ones are cut."""
    key, _, value = word.partition("=")
    key = key.strip("+~").split("@")[0]
    known = key in OPTIONS or key in SCHEMAS
    parts = (key, ALIASES.get(key, ""), word, value.strip("'\"[]{}"), "" if known else key.partition(".")[0])
    return [printable(part)[:12] for part in parts if part] or ["''"]


def random_line(draw: random.Random) -> tuple[str, ...]:
    """A command line of one to four arguments, most of them KEY=VALUE."""
    return tuple(random_argument(draw) for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))))


def random_argument(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.4:
        return draw.choice(GOOD)
    if kind < 0.44:
        return draw.choice(FLAGS)
    if kind < 0.48:
        return draw.choice(ARGUMENTS)
    if kind < 0.5:
        return "".join(draw.choice("abc=[]{}()'\"$,:~+-./\\ \n\x1b0é") for _ in range(draw.randrange(1, 12)))
    prefix = draw.choice(("", "", "", "", "+", "++", "~"))
    return f"{prefix}{random_key(draw)}={random_value(draw)}"


def random_key(draw: random.Random) -> str:
    from mobilenet_train.config.explain import known_keys

    key = draw.choice([*known_keys(), "recipe", "hydra/launcher", "hydra/sweeper", "hydra.run.dir", "hydra.job.name"])
    kind = draw.random()
    if kind < 0.06:
        place = draw.randrange(len(key))
        return key[:place] + draw.choice("xyz.- [@") + key[place + draw.randrange(2) :]
    if kind < 0.1:
        return key.rsplit(".", 1)[-1]
    if kind < 0.13:
        return draw.choice(
            ("model.args.x", "dataset.args.path", "nope", "a.b.c", "model.nope", "x" * 2000, "é", "1", "a b")
        )
    return key


def random_value(draw: random.Random) -> str:
    return draw.choice(draw.choice((PLAIN, PLAIN, STRUCTURED, STRUCTURED, BROKEN, HOSTILE)))


@contextmanager
def checking_only() -> Iterator[None]:
    """Commands end where the configuration is checked: before torch, and before a sweep measures or starts anything."""
    from hydra._internal.hydra import Hydra
    from hydra.types import RunMode

    from mobilenet_train.sweeps.sweep import Sweep

    def plan(self: Any, launcher: object, batch: Sequence[Sequence[str]]) -> list[object]:
        del launcher
        self.plan(batch)
        return []

    def mode(self: Any, config_name: object, overrides: object) -> RunMode:
        del self, config_name, overrides
        return RunMode.MULTIRUN if "--multirun" in sys.argv else RunMode.RUN  # Hydra would compose once more to see it

    with (
        patch("mobilenet_train.runs.start.import_session", lambda _: lambda *_: 0),
        patch.object(Sweep, "run", plan),
        patch.object(Hydra, "get_mode", mode),
    ):
        yield


def in_process(words: tuple[str, ...], folder: Path) -> Outcome:
    """Runs `mnet-train WORDS` in this process, in an empty folder."""
    from hydra.core.global_hydra import GlobalHydra

    from mobilenet_train.cli.train import main

    out, errors = io.StringIO(), io.StringIO()
    code: object = 0
    GlobalHydra.instance().clear()
    with (
        chdir(folder),
        redirect_stdout(out),
        redirect_stderr(errors),
        patch.object(sys, "argv", ["mnet-train", *words]),
        checking_only(),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            code = "an exception"
            traceback.print_exc()
    return Outcome(words, code, errors.getvalue(), emptied(folder))


def as_process(words: tuple[str, ...], folder: Path) -> Outcome:
    """Runs `mnet-train TINY WORDS` as a process of its own, to its end."""
    inner, errors = folder / "in", folder / "errors"
    inner.mkdir(exist_ok=True)
    child = Child(folder / "out", mnet_train(*TINY, *words), inner, errors)
    code = child.wait()
    return Outcome(words, code, errors.read_text(), emptied(inner))


def emptied(folder: Path) -> tuple[str, ...]:
    """The names in the folder, which is empty afterwards."""
    names = tuple(path.name for path in folder.iterdir())
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return names


def fuzz(run: Callable[[tuple[str, ...], Path], Outcome], seed: str, numbers: Sequence[int]) -> list[Outcome]:
    """Runs cases of a seed, each drawn from its own number."""
    os.environ["MNET_DATA"] = "/nowhere"
    os.environ.pop("HYDRA_FULL_ERROR", None)
    with tempfile.TemporaryDirectory() as folder:
        return [run(random_line(random.Random(f"{seed} {number}")), Path(folder)) for number in numbers]


def main() -> None:
    """The long run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20000, help="composed and checked in process")
    parser.add_argument("--processes", type=int, default=300, help="whole commands that train a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    began = time.monotonic()
    chunks = [range(first, arguments.cases, 200)[:] for first in range(min(200, arguments.cases))]
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        parts = pool.imap_unordered(partial(fuzz, in_process, f"{arguments.seed}"), chunks)
        outcomes = [outcome for part in parts for outcome in part]
    whole = fuzz(as_process, f"{arguments.seed} process", range(arguments.processes))
    bad = [(outcome, faults) for outcome in (*outcomes, *whole) if (faults := outcome.faults())]
    for outcome, faults in bad:
        print(f"{'; '.join(faults)}: {outcome.words!r:.300}\n  {outcome.errors[-400:]!r}")
    for name, part in (("in process", outcomes), ("as processes", whole)):
        print(f"{len(part):,} {name}: exit codes {dict(Counter(str(outcome.code) for outcome in part))}")
    print(f"{len(bad)} faults; seed {arguments.seed}, {time.monotonic() - began:.0f} s")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
