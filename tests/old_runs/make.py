"""Makes a folder of this directory: what the installed version of mnet-train leaves behind, for later ones to read.

    python tests/old_runs/make.py FOLDER

`52a255a/` was made with that commit. Runs are stopped in the middle; `expected.json` has what the same version makes of
them when it resumes: the environment, digests of the last checkpoint's parts, and the rows of metrics.csv. The
processor was written into that of 52a255a by hand; the version did not save it.
"""

import csv
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mobilenet_train import checkpoint  # training.checkpoint in 52a255a

HERE = ("device=cpu", "device.threads=1", "device.precision=fp32")
DIGITS = ["dataset=digits", "dataset.max_per_class=16", "dataset.resolution=16", "batch_size=16", "tensorboard=false"]
IMAGES = [
    "dataset=imagenet_subset",
    "dataset.root=images",
    "dataset.resolution=32",
    "dataset.cache=memory",
    "batch_size=8",
]
SMALL = ("model=v1", "model.width_mult=0.03")
MUON = ("model=v1", "model.width_mult=0.05", "optim=muon", "ema.decay=0.9")
RUNS = {  # what is typed, and the update to stop at
    "sgd": ([*SMALL, *DIGITS, "model.stride_plan=2", "optim=sgd", "epochs=3"], 17),
    "muon_ema": ([*MUON, *DIGITS, "model.stride_plan=2", "dataset.val_fraction=0.2", "augment=basic", "epochs=3"], 13),
    "image_files": ([*SMALL, *IMAGES, "batch_size=8", "dataset.workers=1", "epochs=4", "seed=1"], 7),
}
TWO_UPDATES = ("epochs=1", "max_steps=2", "slots=2", *HERE)
SWEEPS = [
    ["model=v1", *DIGITS, "model.stride_plan=2", "optim=sgd", "model.width_mult=0.03,0.05", "optim.lr=0.1,0.2"],
    ["model=v1", *IMAGES, "batch_size=8", "dataset.workers=1", "tensorboard=false", "model.width_mult=0.03,0.05"],
]
TIMES = ("images_per_second", "seconds")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "mobilenet_train", *words]


def make_images(folder: Path) -> None:
    """Noise of two colours: 12 + 12 image files for training, 6 + 6 for testing."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        for name, colour in {"red": (200, 60, 40), "blue": (40, 80, 200)}.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(np.array(colour) + draw.integers(-40, 41, (6, 6, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels.repeat(4, 0).repeat(4, 1)).save(folder / split / name / f"{number}.png")


def start_and_stop(folder: Path, run: str) -> None:
    """Starts a run that saves after every update, and stops it."""
    words, update = RUNS[run]
    saving = ("log_every=1", "checkpoint.every_minutes=0.00001")
    child = subprocess.Popen(command(f"run_dir={run}", *words, *HERE, *saving), cwd=folder)
    while child.poll() is None and updates_done(folder / run) < update:
        time.sleep(0.002)
    child.send_signal(signal.SIGTERM)
    child.wait()


def updates_done(run: Path) -> int:
    try:
        return int(torch.load(run / "checkpoints/last.pt", weights_only=True)["progress"]["step"])
    except (OSError, RuntimeError):  # not there yet, or being replaced
        return 0


def end_of(folder: Path, run: str) -> dict[str, object]:
    """What this version makes of a copy of the run when it resumes."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(shutil.copytree(folder, Path(name, "copy")))
        subprocess.run(command(f"resume={run}"), cwd=copy, check=True)
        saved = checkpoint.load(copy / run / "checkpoints/last.pt")
        with (copy / run / "metrics.csv").open() as file:
            rows = [{key: cell for key, cell in row.items() if key not in TIMES} for row in csv.DictReader(file)]
    digests = {part: checkpoint.digest(saved[part]) for part in ("model", "ema", "optimizer")}
    return {"environment": saved["environment"], "digests": digests, "rows": rows}


def main() -> None:
    folder = Path(sys.argv[1])
    make_images(folder / "images")
    for run in RUNS:
        start_and_stop(folder, run)
    expected = {run: end_of(folder, run) for run in RUNS}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    for words in SWEEPS:
        subprocess.run(command("-m", *words, *TWO_UPDATES, "outputs=sweeps"), cwd=folder, check=True)
    for path in folder.rglob("*"):  # what is not needed to read them
        if path.name in ("lock", "curves.png", "pareto.png") or (path.suffix == ".pt" and "sweeps" in path.parts):
            path.unlink()


if __name__ == "__main__":
    main()
