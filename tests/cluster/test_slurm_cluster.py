"""cluster/slurm.sh in a Slurm of its own: preempted, requeued, told to save and end.

    SLURM=1 pytest -m slurm tests/cluster/test_slurm_cluster.py

As root, with Debian's slurm-wlm. CI does not run it.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cluster_files import ROOT
from own_slurm import OwnSlurm

from discovr_ray.train import checkpoint

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not os.environ.get("SLURM"), reason="wants root and Slurm's daemons: set SLURM=1"),
]

TINY = """
data.manifest=synthetic data.synthetic_clips=32 data.num_frames=4 data.image_size=32 data.decode_cpus=1
mask.video_ratio=0.5 mask.image_ratio=0.5 model.width=24 model.depth=2 model.heads=2 model.decoder_width=12
model.decoder_depth=1 model.head_hidden=32 model.head_bottleneck=16 model.head_outputs=40 model.num_prototypes=20
engine.global_batch=4 engine.micro_batch=2 schedule.epochs=50000 checkpoint.every_steps=1000000 run.log_every_steps=10
run.workers=2 run.name=first
"""


@pytest.fixture
def slurm() -> Iterator[OwnSlurm]:
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/var/tmp") as folder:
        own = OwnSlurm(Path(folder), port=26817)
        yield own
        own.end()


@pytest.mark.timeout(1500)
def test_preempted_it_goes_on_and_told_to_end_it_saves(slurm: OwnSlurm, tmp_path: Path) -> None:
    log, run = tmp_path / "job.log", tmp_path / "runs" / "first"
    options = ["--mem=8G", "--cpus-per-task=3", "--partition=low", f"--output={log}", f"--chdir={ROOT}"]
    arguments = ["--config", "demo", *TINY.split(), f"run.storage_path={tmp_path / 'runs'}"]
    script = str(ROOT / "cluster/slurm.sh")
    environment = {"DISCOVR_ENV": str(Path(sys.executable).parents[1]), "PYTHONPATH": str(ROOT)}
    environment["RAY_raylet_start_wait_time_s"] = "240"  # on a busy machine
    job = slurm.run("sbatch", "--parsable", *options, script, *arguments, **environment).strip()

    slurm.wait_for("steps", lambda: "step 20/" in text(log), 400)
    slurm.run("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    slurm.wait_for("requeue", lambda: slurm.state(job) == "PENDING", 300)
    (saved,) = steps(run)
    assert saved >= 20

    slurm.run("scontrol", "update", f"jobid={job}", "starttime=now")  # Slurm itself waits for two minutes
    slurm.wait_for("continuation", lambda: f"step {saved // 10 * 10 + 20}/" in text(log), 400)
    assert f"starting at step {saved} of" in text(log)
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    slurm.wait_for("end", lambda: slurm.state(job) in ("COMPLETED", "FAILED"), 200)
    assert steps(run)[0] > saved
    assert len(re.findall("stopped; continue", text(log))) == 2
    assert not (ROOT / f".ray-token-{job}").exists()
    slurm.wait_for("quiet", lambda: processes(job) == [], 60)


def text(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def steps(run: Path) -> list[int]:
    """Of the complete checkpoints, newest first."""
    return [found.state.step for found in checkpoint.find_checkpoints(str(run))]


def processes(job: str) -> list[str]:
    """Command lines of the job's Ray that still run."""
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if f"/tmp/ray-{job}/" in line]
