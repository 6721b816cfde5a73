"""Which checkpoint a run continues from: after a stop, and after numbers that were not finite."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from mobilenet_train import checkpoint
from mobilenet_train.config.saved import Saved, from_record
from mobilenet_train.console import say
from mobilenet_train.data.same_images import same_images
from mobilenet_train.errors import RunError
from mobilenet_train.runs.build import RunParts
from mobilenet_train.runs.teacher import refuse_other_teacher
from mobilenet_train.runtime import changes
from mobilenet_train.tracking.metrics_csv import read_metrics


def check_results(folder: Path) -> None:
    """Refuses to begin at the start where a result exists that would be overwritten. Raises RunError naming it."""
    checkpoints = folder / "checkpoints"
    if checkpoint.written(checkpoints):
        return
    if (checkpoints / "best.pt").exists():
        raise RunError(
            f"{checkpoints} has neither last.pt nor previous.pt, but best.pt: put one of them back, give "
            "resume_from=best to train again what came after it, or choose another run_dir"
        )
    if read_metrics(folder):
        raise RunError(
            f"{checkpoints} has no checkpoint, but {folder / 'metrics.csv'} has results: put the checkpoints back, or "
            "choose another run_dir"
        )
    checkpoints.mkdir(exist_ok=True)


def read_checkpoint(folder: Path, which: str, console: Console) -> dict[str, Any] | None:
    """The contents of the newest whole checkpoint, or of best.pt; None where nothing was saved yet.

    A damaged last.pt is set aside, so that the next save keeps the good previous.pt. Raises RunError.
    """
    checkpoints = folder / "checkpoints"
    if which == "best":
        return checkpoint.load(checkpoints / "best.pt")
    found = checkpoint.find_latest(checkpoints)
    if found is None:
        return None
    saved, warning = found
    if warning:
        say(console, warning, kind="warning")
        checkpoint.set_aside(checkpoints / "last.pt")
    return saved


def restore(parts: RunParts, saved: dict[str, Any], record: Saved, folder: Path, console: Console) -> None:
    """Loads a checkpoint into the state.

    Raises RunError if the data, the configuration or the teacher are not those that the run was trained with.
    """
    trained = from_record(OmegaConf.create(dict(saved["config"]))).config
    for key in record.differences(trained)[:1]:
        now, before = (OmegaConf.select(OmegaConf.structured(config), key) for config in (record.config, trained))
        raise RunError(
            f"{folder / 'config.yaml'} says {key}={now}, but the run was trained with {key}={before}: put that back, "
            "or start a new run"
        )
    if not same_images(saved["fingerprint"], parts.dataset.fingerprint):
        raise RunError(
            f"{folder} was trained on other images than those that dataset={parts.config.dataset.name} gives now"
        )
    refuse_other_teacher(saved, parts.config.distill.teacher, parts.plan.teacher)
    parts.state.load_state_dict(saved)
    now = {**parts.environment, "images": parts.dataset.fingerprint}
    changed = changes({**saved["environment"], "images": saved["fingerprint"]}, now)
    if not parts.runtime.deterministic:
        changed.append("device.deterministic=false")
    if changed:
        say(console, f"{', '.join(changed)}: the end may not be bit-identical", kind="note")
    state = parts.state
    say(console, f"resuming {folder} at epoch {state.epoch}, batch {state.batch} (update {state.step})")


@dataclass
class Recovery:
    """Where a run goes back to when numbers were not finite: to each checkpoint once, as long as others are left."""

    folder: Path
    command: str  # that resumes the run
    returned_to: set[int] = field(default_factory=set)  # their updates

    def candidates(self) -> list[tuple[str, dict[str, Any]]]:
        """last.pt, previous.pt and best.pt as far as they are whole, by name, the newest first."""
        found = []
        for name in ("last.pt", "previous.pt", "best.pt"):
            try:
                found.append((name, checkpoint.load(self.folder / "checkpoints" / name)))
            except checkpoint.DamagedCheckpointError:
                continue
        return sorted(found, key=lambda entry: -entry[1]["progress"]["step"])

    def choose(self) -> dict[str, Any]:
        """The newest checkpoint that has not led here yet, else the oldest. Raises RunError if none is whole."""
        candidates = [saved for _, saved in self.candidates()]
        if not candidates:
            raise RunError(f"{self.folder / 'checkpoints'} has no whole checkpoint to go back to")
        fresh = (saved for saved in candidates if saved["progress"]["step"] not in self.returned_to)
        chosen = next(fresh, candidates[-1])
        self.returned_to.add(chosen["progress"]["step"])
        return chosen

    def advice(self) -> str:
        """What is left after the last attempt, in one sentence."""
        candidates = self.candidates()
        if not candidates:
            return "There is no checkpoint yet"
        for name, saved in candidates:
            step = saved["progress"]["step"]
            if step not in self.returned_to:
                path, command = self.folder / "checkpoints" / name, f"{self.command} recover.attempts=1"
                return f"{path} (update {step}) is finite; {command} resumes with a lower learning rate"
        return "Training from every checkpoint that is left led to this again: start a new run with a lower optim.lr"
