"""cluster/slurm.sh with stand-ins for Slurm, Ray and the driver: what it starts, and what it does with which signal.

test_slurm_cluster.py runs it in a Slurm of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_files import FOLDER

# each appends what it was called with to its own file in $WORK
STAND_INS = {
    # options up to the first word that is none; -w has a value
    "srun": 'echo "$*" >>$WORK/srun; while [[ $1 == -* ]]; do [ "$1" = -w ] && shift; shift; done; exec "$@"',
    "scontrol": 'echo "$*" >>$WORK/scontrol; [ "$1" != show ] || printf "n1\\nn2\\n"',
    "hostname": 'echo "${HOST_SAYS:-10.0.0.5 10.9.9.9}"',
    "ray": 'case "$*" in *"${DIES:-none}"*) exit 1 ;; esac; exec sleep 60',
    "python": """
case "$*" in
*secrets*) echo 0f0f ;;
*ray.nodes*) echo ${ALIVE:-2} ;;
*) echo "$*" >>$WORK/driver
   trap 'echo TERM >>$WORK/signals; sleep 0.3; exit ${ENDS_WITH:-143}' TERM
   cp "$RAY_AUTH_TOKEN_PATH" $WORK/token
   for _ in $(seq 100); do sleep 0.1; done ;;
esac
""",
}
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_CPUS_PER_TASK": "24",
    "SLURM_GPUS_ON_NODE": "4",
    "SLURM_MEM_PER_NODE": "131072",  # MiB
}


class Script:
    """cluster/slurm.sh in a folder of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        stand_ins = folder / "env" / "bin"
        stand_ins.mkdir(parents=True)
        (stand_ins / "activate").write_text(f"export PATH={stand_ins}:$PATH\n")
        for name, text in STAND_INS.items():
            (stand_ins / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (stand_ins / name).chmod(0o755)
        words = ["bash", str(FOLDER / "slurm.sh"), "--config", "x.yaml", "run.name=first"]
        inherited = {"PATH": os.environ["PATH"], "WORK": str(folder), "DISCOVR_ENV": str(folder / "env")}
        settings = {**inherited, **SLURM, "SLURM_SUBMIT_DIR": str(folder), **environment}
        self.process = subprocess.Popen(words, env=settings, start_new_session=True)

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def wait_for_driver(self) -> None:
        end = time.monotonic() + 20
        while not self.lines("token") or len(self.lines("srun")) < 3:
            assert time.monotonic() < end, self.lines("srun")
            time.sleep(0.05)


@pytest.fixture
def scripts(tmp_path: Path) -> Iterator[list[Script]]:
    started: list[Script] = []
    yield started
    for script in started:
        if script.process.poll() is None:
            os.killpg(script.process.pid, signal.SIGKILL)
            script.process.wait()


def started(scripts: list[Script], folder: Path, **environment: str) -> Script:
    scripts.append(Script(folder, **environment))
    scripts[-1].wait_for_driver()
    return scripts[-1]


@pytest.mark.parametrize(
    ("sent", "ends_with", "code", "requeued"),
    [
        (signal.SIGTERM, 143, 143, True),
        (signal.SIGTERM, 0, 0, False),  # it was done anyway
        (signal.SIGTERM, 1, 1, False),  # the save failed: for people to look at
        (signal.SIGUSR1, 143, 143, False),
    ],
)
def test_the_driver_saves_and_the_job_comes_back_when_asked(
    scripts: list[Script], tmp_path: Path, sent: signal.Signals, ends_with: int, code: int, requeued: bool
) -> None:
    script = started(scripts, tmp_path, ENDS_WITH=str(ends_with))
    script.process.send_signal(sent)
    script.process.send_signal(sent)
    assert script.process.wait(20) == code
    assert script.lines("signals") == ["TERM"]  # a second one would end the driver before it has saved
    assert ("requeue 4711" in script.lines("scontrol")) == requeued


def test_nodes_get_their_share_and_nobody_else_the_token(scripts: list[Script], tmp_path: Path) -> None:
    script = started(scripts, tmp_path)
    token = tmp_path / ".ray-token-4711"
    assert token.stat().st_mode & 0o077 == 0
    assert script.lines("token") == ["0f0f"]
    started_ray = [line for line in script.lines("srun") if "ray start" in line]
    (head,) = [line for line in started_ray if "--head" in line]  # the two start side by side, in any order
    assert len(started_ray) == 2
    for line in started_ray:
        assert "--cpus-per-task=24" in line
        assert "--num-cpus=16 --num-gpus=4" in line
        assert f"--object-store-memory={131072 * 2**20 * 3 // 10}" in line  # 30 % of the job's memory
        assert "0f0f" not in line
    assert "--node-ip-address=10.0.0.5" in head
    (driver,) = script.lines("driver")
    assert driver.startswith("jobs/pretrain.py --config x.yaml run.name=first ")
    assert driver.endswith("run.resume=true")
    script.process.send_signal(signal.SIGTERM)
    script.process.wait(20)
    assert not token.exists()


def test_told_to_stop_while_it_waits_for_nodes_it_starts_no_driver(scripts: list[Script], tmp_path: Path) -> None:
    scripts.append(Script(tmp_path, ALIVE="1"))
    script = scripts[0]
    end = time.monotonic() + 20
    while len(script.lines("srun")) < 3:
        assert time.monotonic() < end
        time.sleep(0.05)
    script.process.send_signal(signal.SIGTERM)
    assert script.process.wait(20) == 0
    assert "requeue 4711" in script.lines("scontrol")
    assert script.lines("driver") == []


def test_a_node_whose_ray_does_not_start_ends_the_job_at_once(scripts: list[Script], tmp_path: Path) -> None:
    scripts.append(Script(tmp_path, ALIVE="1", DIES="--address"))
    assert scripts[0].process.wait(30) == 1  # waiting for it would take minutes
    assert scripts[0].lines("driver") == []
    assert not (tmp_path / ".ray-token-4711").exists()
