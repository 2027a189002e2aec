"""A Slurm of the test's own on this machine: one controller, and two nodes that believe to have four GPUs each.

Needs root and Debian's slurm-wlm. Everything lies below one folder; ports are chosen by the caller.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

CONFIG = """
ClusterName=own
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SwitchType=switch/none
MpiDefault=none
KillWait=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
NodeName=n[1-2] NodeAddr=127.0.0.1 NodeHostname={host} Port=[{first}-{last}] CPUs=24 RealMemory=100000 Gres=gpu:4
PartitionName=low Nodes=ALL Default=YES State=UP PriorityTier=1 GraceTime=300
PartitionName=high Nodes=ALL State=UP PriorityTier=10
"""


class OwnSlurm:
    """`end` stops its daemons and whatever its jobs left behind."""

    def __init__(self, folder: Path, port: int) -> None:
        """port: and the two behind it."""
        self._folder = folder
        (folder / "state").mkdir()
        for number in range(4):  # what a GPU's device file looks like to Slurm
            subprocess.run(["mknod", str(folder / f"gpu{number}"), "c", "1", "3"], check=True)
        host = os.uname().nodename.partition(".")[0]
        config = CONFIG.format(host=host, folder=folder, port=port, first=port + 1, last=port + 2)
        (folder / "slurm.conf").write_text(config)
        (folder / "gres.conf").write_text(f"NodeName=n[1-2] Name=gpu File={folder}/gpu[0-3]\n")
        self._environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons = [self._start("slurmctld", "-D")]
        self._daemons += [self._start("slurmd", "-D", "-N", node) for node in ("n1", "n2")]
        try:
            self.wait_for("idle nodes", lambda: self.run("sinfo", "-h", "-o", "%T %D").split() == ["idle", "2"], 60)
        except BaseException:
            self.end()
            raise

    def run(self, *command: str, **environment: str) -> str:
        """Output of one of Slurm's commands."""
        done = subprocess.run(
            command, env={**self._environment, **environment}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def state(self, job: str) -> str:
        """Such as RUNNING, PENDING, COMPLETED."""
        (word,) = [word for word in self.run("scontrol", "show", "job", job).split() if word.startswith("JobState=")]
        return word.removeprefix("JobState=")

    def wait_for(self, what: str, condition: Callable[[], bool], timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"no {what}: {(self._folder / 'controller.log').read_text()[-3000:]}"
            time.sleep(1)

    def end(self) -> None:
        subprocess.run(["scancel", "--user=root"], env=self._environment, check=False)
        with suppress(AssertionError):
            self.wait_for("end of the jobs", lambda: self.run("squeue", "-h") == "", 60)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(60)

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
