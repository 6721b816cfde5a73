"""A sweep's folder as its jobs leave it, without running them."""

import json
from pathlib import Path

from mobilenet_train.config.saved import Saved
from mobilenet_train.runs import folder as run_folder
from mobilenet_train.sweeps.folder import Manifest, write_manifest
from mobilenet_train.sweeps.jobs import make_job
from tests.conftest import TINY, configure

RUNS = {  # (width, seed): top-1
    (0.1, 0): 60.0,
    (0.1, 1): 62.0,
    (0.1, 2): 64.0,
    (0.25, 0): 61.0,
    (0.5, 0): 70.5,
}


def make_sweep(
    folder: Path,
    runs: dict[tuple[float, int], float],
    *words: str,
    states: str = "finished",
    held_out: bool = False,
    fingerprint: str = "0f",
) -> Path:
    """A sweep's folder as its jobs leave it; MAdds and parameters grow with the width."""
    jobs = []
    for (width, seed), top1 in runs.items():
        config = configure(*TINY, *words, f"model.width_mult={width}", f"seed={seed}")
        job = make_job(config, {"model.width_mult": str(width), "seed": str(seed)})
        jobs.append(job)
        run = folder / job.name
        run.mkdir(parents=True)
        run_folder.write_config(run, Saved(config))
        score = {"loss": 1.0, "top1": top1, "top5": None}
        summary = {
            "status": states,
            "final": {"test": score, "val": {**score, "top1": top1 - 3} if held_out else None},
            "best": {"epoch": 1, "top1": top1 + 1, "chosen_on": "test set"},
            "parameters": int(1e6 * width),
            "multiply_adds": int(1e8 * width),
            "images_per_second": 100.0,
            "training_seconds": 60.0,
            "data_fingerprint": fingerprint,
        }
        (run / "summary.json").write_text(json.dumps(summary))
    write_manifest(folder, Manifest([*words, "model.width_mult=0.1,0.25,0.5"], jobs))
    return folder
