"""What each job of a sweep will cost, found out before the first one starts.

The measuring runs in child processes: the sweep's own process stays small, and takes no GPU memory.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

from omegaconf import OmegaConf

from mobilenet_train.config.checked import values_of
from mobilenet_train.config.saved import from_record
from mobilenet_train.config.schema import TrainConfig, budget_seconds
from mobilenet_train.errors import ConfigError, RunError, UserError
from mobilenet_train.sweeps.processes import Slots, spawn

if TYPE_CHECKING:
    from mobilenet_train.runs.build import RunParts

SECONDS_BETWEEN_LOOKS = 0.05
PATIENCE = 600.0  # seconds without a sign of life; preparing images gives one for each few
IMAGES_PER_STEP = 16  # in a measured update: fewer than in a real one, so that many jobs are measured soon


@dataclass(frozen=True)
class Forecast:
    """A job's network and time; `seconds` is None where other machines will run it."""

    parameters: int
    multiply_adds: int
    seconds: float | None


def forecast_all(configs: Sequence[TrainConfig], slots: Slots | None) -> list[Forecast]:
    """Builds every network and times a few updates of each, as many side by side as there are slots on a CPU.

    Without slots nothing is timed and no GPU is asked for: the jobs are for other machines.
    Raises UserError for the first job whose data, network or batch size does not fit.
    """
    count = 1 if slots is None or slots.gpus else min(slots.count, len(configs))
    shares = [configs[start::count] for start in range(count)]
    children = [_ask(share, slots) for share in shares]
    answers: list[list[Forecast]] = []
    try:
        answers = [_answers(child) for child in children]
    finally:
        for child in children:
            child.end()
    return [answers[number % count][number // count] for number in range(len(configs))]


def forecast(config: TrainConfig, timed: bool) -> Forecast:
    """Everything that can go wrong before a run's first step goes wrong here. Raises UserError."""
    from mobilenet_train.data.cache import Listener
    from mobilenet_train.runs.build import build_run

    parts = build_run(config, Listener(_sign_of_life, _sign_of_life, lambda: False))
    seconds = _seconds(parts) if timed else None
    return Forecast(parts.cost.parameters, parts.cost.multiply_adds, seconds)


def _sign_of_life(*_: object) -> None:
    print(".", flush=True)


def _seconds(parts: "RunParts") -> float:
    """Of the whole run, from a few updates of fewer images than it will have."""
    from mobilenet_train.data.batches import make_batches
    from mobilenet_train.training.budget import measure_pace

    config, plan = parts.config, parts.plan
    size = min(IMAGES_PER_STEP, config.batch_size)
    few = replace(config, batch_size=size, eval=replace(config.eval, batch_size=size))
    batches = make_batches(few, parts.dataset, parts.runtime.memory_format, parts.runtime.ranks)
    pace = measure_pace(parts.state, batches.train, batches.test, plan)
    training = pace.seconds(plan, 0, plan.updates) * config.batch_size / size
    whole = training + plan.evaluations(plan.updates) * pace.epoch_end
    return whole if config.budget is None else min(whole, budget_seconds(config.budget))


@dataclass(frozen=True)
class Child:
    """A process that measures, and what it prints: files, since a pipe would block who writes while nobody reads."""

    process: subprocess.Popen[str]
    printed: IO[str]
    errors: IO[str]

    def wait(self) -> int:
        """Its exit code. Raises RunError if it gives no sign of life for PATIENCE seconds."""
        size, heard = 0, time.monotonic()
        while (code := self.process.poll()) is None:
            before, size = size, os.fstat(self.printed.fileno()).st_size
            if size != before:
                heard = time.monotonic()
            if time.monotonic() - heard > PATIENCE:
                raise RunError(
                    f"the sweep cannot be measured: its process gave no sign of life for {PATIENCE:g} s and was ended; "
                    "try one of its jobs alone, with dry_run=true"
                )
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return code

    def end(self) -> None:
        """Kills it if it still runs."""
        self.process.kill()
        self.process.wait()
        self.printed.close()
        self.errors.close()


def _ask(configs: Sequence[TrainConfig], slots: Slots | None) -> Child:
    printed, errors = TemporaryFile("w+"), TemporaryFile("w+")  # noqa: SIM115 (`Child.end` closes them)
    with TemporaryFile("w+") as asked:
        json.dump(question(configs, slots), asked)
        asked.seek(0)
        process = spawn(["-m", "mobilenet_train.sweeps.forecast"], stdin=asked, stdout=printed, stderr=errors)
    return Child(process, printed, errors)


def question(configs: Sequence[TrainConfig], slots: Slots | None) -> dict[str, Any]:
    """What the child reads. That a teacher's function is trusted is not part of a configuration's values."""
    here = [values_of(_for_this_machine(config, slots)) for config in configs]
    return {"timed": slots is not None, "trusted": any(config.trust_factory for config in configs), "configs": here}


def _for_this_machine(config: TrainConfig, slots: Slots | None) -> TrainConfig:
    if slots is None:
        return replace(config, device=replace(config.device, name="cpu", precision="auto"))
    return replace(config, device=replace(config.device, threads=slots.threads))


def _answers(child: Child) -> list[Forecast]:
    code = child.wait()
    printed, errors = _contents(child.printed), _contents(child.errors)
    if code != 0:
        reason = errors.strip().splitlines()[-1:] or [f"its process ended with {code}; out of memory?"]
        raise RunError(f"the sweep cannot be measured: {reason[0]}")
    answers: list[dict[str, Any]] = json.loads(printed.splitlines()[-1])
    for answer in answers:
        if "error" in answer:
            raise (ConfigError if answer["exit_code"] == ConfigError.exit_code else RunError)(*answer["error"])
    return [Forecast(**answer) for answer in answers]


def _contents(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def main() -> None:
    """The child: configurations in, forecasts out, as JSON."""
    asked = json.load(sys.stdin)
    answers: list[dict[str, Any]] = []
    for values in asked["configs"]:
        try:
            config = replace(from_record(OmegaConf.create(values)).config, trust_factory=asked["trusted"])
            answers.append(asdict(forecast(config, asked["timed"])))
        except UserError as error:
            answers.append({"error": error.args, "exit_code": error.exit_code})
            break
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
