"""Tiny runs of the real job, for tests that start it in this process or as a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from discovr_ray.config import Config, load_config
from discovr_ray.data import storage
from discovr_ray.train import checkpoint

ROOT = Path(__file__).resolve().parents[2]
# 18 TRAIN clips of the fixture's 24, 4 steps an epoch
OVERRIDES = {
    "data.num_frames": 4,
    "data.image_size": 32,
    "data.decode_cpus": 1,
    "mask.video_ratio": 0.5,
    "mask.image_ratio": 0.5,
    "model.width": 24,
    "model.depth": 2,
    "model.heads": 2,
    "model.decoder_width": 12,
    "model.decoder_depth": 1,
    "model.head_hidden": 32,
    "model.head_bottleneck": 16,
    "model.head_outputs": 40,
    "model.num_prototypes": 20,
    "schedule.epochs": 2,
    "engine.global_batch": 4,
    "engine.micro_batch": 2,
    "checkpoint.every_steps": 2,
    "run.log_every_steps": 1,
}


def overrides(manifest: str, storage_path: Path | str, **changes: Any) -> list[str]:
    """`section.field=value` for a tiny run; in `changes`, section__field stands for section.field."""
    fields = {"data.manifest": manifest, "run.storage_path": str(storage_path), **OVERRIDES}
    fields |= {name.replace("__", "."): value for name, value in changes.items()}
    return [f"{name}={value}" for name, value in fields.items()]


def tiny_run(manifest: str, storage_path: Path | str, **changes: Any) -> Config:
    return load_config("demo", overrides(manifest, storage_path, **changes))


class Job:
    """A script of jobs/ as a process of its own, with its own Ray."""

    def __init__(self, arguments: list[str], log: Path, script: str = "pretrain.py", **environment: str) -> None:
        self._log = log
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / script), *arguments],
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**inherited, **environment},
            start_new_session=True,
        )

    def wait(self, timeout_s: float = 240) -> int:
        """Exit code."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(self._given_up("does not end")) from None

    def send(self, number: signal.Signals) -> None:
        """Ctrl-C reaches the whole process group, as from a terminal; other signals the driver alone."""
        if number == signal.SIGINT:
            os.killpg(self._process.pid, number)
        else:
            self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9 of the driver alone; Ray must end with it."""
        self._process.kill()
        self._process.wait(30)

    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 240) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert self._process.poll() is None, f"the job ended early:\n{self.output()}"
            assert time.monotonic() < end, self._given_up("waited in vain")
            time.sleep(0.1)

    def _given_up(self, why: str) -> str:
        """Its test fails, and it is ended: nobody else would end it, and it would slow all tests after this one."""
        self.kill()
        return f"{why}:\n{self.output()}"


def complete_steps(run_folder: Path) -> list[int]:
    """Steps of the run's complete checkpoints, newest first."""
    return [found.state.step for found in checkpoint.find_checkpoints(str(run_folder))]


def encoder_bytes(run_folder: Path) -> bytes:
    return storage.read_bytes(storage.join(str(run_folder), "encoder.safetensors"))


def train_workers() -> list[psutil.Process]:
    """Of this session's own Ray; others may run on the same machine."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "TrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found
