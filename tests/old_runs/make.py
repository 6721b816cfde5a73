"""Makes the fixtures with commit 52a255a (run with its interpreter)."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

PY = sys.executable
HERE = Path("/tmp/w/old_runs")
shutil.rmtree(HERE, ignore_errors=True)
HERE.mkdir()
os.chdir(HERE)
rng = np.random.default_rng(0)
for split, count in (("train", 12), ("val", 6)):
    for label, colour in enumerate(((200, 60, 40), (40, 80, 200))):
        folder = Path("images", split, ("red", "blue")[label])
        folder.mkdir(parents=True)
        for i in range(count):
            noise = rng.integers(-40, 41, (6, 6, 3))
            pix = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8).repeat(4, 0).repeat(4, 1)
            Image.fromarray(pix).save(folder / f"{i}.png")
COMMON = ["device=cpu", "device.threads=1", "device.precision=fp32", "log_every=1", "checkpoint.every_minutes=0.00001"]
DIGITS = [
    "dataset=digits",
    "dataset.max_per_class=16",
    "dataset.resolution=16",
    "batch_size=16",
    "tensorboard=false",
    "model.stride_plan=2",
]
RUNS = {
    "sgd": ["model=v1", "model.width_mult=0.03", *DIGITS, "optim=sgd", "epochs=3"],
    "muon_ema": [
        "model=v1",
        "model.width_mult=0.05",
        *DIGITS,
        "optim=muon",
        "ema.decay=0.9",
        "epochs=3",
        "dataset.val_fraction=0.2",
        "augment=basic",
    ],
    "image_files": [
        "model=v1",
        "model.width_mult=0.03",
        "dataset=imagenet_subset",
        "dataset.root=images",
        "dataset.resolution=32",
        "dataset.cache=memory",
        "dataset.workers=1",
        "batch_size=8",
        "epochs=4",
        "seed=1",
    ],
}
STOP = {"sgd": 17, "muon_ema": 13, "image_files": 7}


def step(run):
    import torch

    try:
        return torch.load(run / "checkpoints/last.pt", weights_only=True)["progress"]["step"]
    except Exception:
        return 0


for name, words in RUNS.items():
    run = Path(name)
    p = subprocess.Popen([PY, "-m", "mobilenet_train", f"run_dir={name}", *words, *COMMON], stdout=subprocess.DEVNULL)
    while step(run) < STOP[name] and p.poll() is None:
        time.sleep(0.002)
    p.send_signal(signal.SIGTERM)
    print(name, p.wait(), step(run))

# what the same code makes of them when it goes on
sys.path.insert(0, "/work/base")
import csv

from mobilenet_train.training import checkpoint

expected = {}
for name in RUNS:
    there = Path("/tmp/w/cont")
    shutil.rmtree(there, ignore_errors=True)
    shutil.copytree(HERE, there)
    subprocess.run([PY, "-m", "mobilenet_train", f"resume={name}"], cwd=there, check=True, stdout=subprocess.DEVNULL)
    saved = checkpoint.load(there / name / "checkpoints/last.pt")
    rows = [
        {k: v for k, v in row.items() if k not in ("images_per_second", "seconds")}
        for row in csv.DictReader((there / name / "metrics.csv").open())
    ]
    expected[name] = {
        "environment": saved["environment"],
        "digests": {p: checkpoint.digest(saved[p]) for p in ("model", "ema", "optimizer")},
        "rows": rows,
    }
Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n")
SWEEP = [
    "-m",
    "model=v1",
    *DIGITS,
    "optim=sgd",
    "max_steps=2",
    "epochs=1",
    "device=cpu",
    "device.threads=1",
    "device.precision=fp32",
    "slots=2",
]
subprocess.run(
    [PY, "-m", "mobilenet_train", *SWEEP, "model.width_mult=0.03,0.05", "optim.lr=0.1,0.2"],
    check=True,
    stdout=subprocess.DEVNULL,
)
subprocess.run(
    [
        PY,
        "-m",
        "mobilenet_train",
        "-m",
        "model=v1",
        "dataset=imagenet_subset",
        "dataset.root=images",
        "dataset.resolution=32",
        "dataset.cache=memory",
        "dataset.workers=1",
        "batch_size=8",
        "max_steps=2",
        "device=cpu",
        "device.threads=1",
        "device.precision=fp32",
        "tensorboard=false",
        "slots=2",
        "model.width_mult=0.03,0.05",
    ],
    check=True,
    stdout=subprocess.DEVNULL,
)
for path in HERE.rglob("*"):
    if path.name in ("lock", "curves.png", "pareto.png") or (path.suffix == ".pt" and "outputs" in str(path)):
        path.unlink()
for path in HERE.glob("*/checkpoints/previous.pt"):
    if "muon" in str(path):
        path.unlink()
