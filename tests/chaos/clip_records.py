"""What the training workers of a chaos run write down: which clips each step was made of, and when.

The methods of the real worker are wrapped from outside when a worker starts, so the training path is the package's own.
One JSON line an event, one file a process; a line that is in the file survives the kill of its writer.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil


class Recorder:
    """Of one worker process."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / f"{time.time_ns()}_{os.getpid()}.jsonl").open("a", buffering=1)
        self._legs = 0

    def write(self, event: str, **values: Any) -> None:
        self._file.write(json.dumps({"event": event, "time": time.time(), **values}) + "\n")

    def fed_steps(self, session: Any, start_step: int, steps: Iterator[Any]) -> Iterator[Any]:
        """The session's steps, unchanged. Whoever asks for the next one has done the one before."""
        self._legs += 1
        # of all ranks alike, and of no other start of the run
        leg = f"{session._saver.attempt.number}-{self._legs}"
        self.write("start", leg=leg, step=start_step, rank=session.rank, world_size=session.world_size)
        for batches in steps:
            step = batches[0].step
            clips, content = [batch.clip_ids for batch in batches], [digest(batch) for batch in batches]
            self.write("fed", step=step, clips=clips, content=content)
            yield batches
            self.write("done", step=step)


def digest(batch: Any) -> str:
    """Of what the model sees of a micro-batch: pixels and weights."""
    return hashlib.blake2b(batch.frames.numpy().tobytes() + batch.weights.tobytes(), digest_size=8).hexdigest()


def run_recorded(folder: str, loop_config: dict[str, Any]) -> Any:
    """In place of `supervise.run_worker_on_ray`, in every worker process."""
    import ray

    from discovr_ray.launch import supervise
    from discovr_ray.launch.session import Session
    from discovr_ray.train import checkpoint

    recorder = Recorder(Path(folder))
    context, process = ray.train.get_context(), psutil.Process()
    node = ray.get_runtime_context().get_node_id()
    recorder.write(
        "entered", rank=context.get_world_rank(), pid=process.pid, node=node, process_started=process.create_time()
    )

    Session.__init__ = then(Session.__init__, lambda *_: recorder.write("built"))  # type: ignore[method-assign]
    Session._restore = then(Session._restore, lambda *_: recorder.write("restored"))  # type: ignore[method-assign]
    Session.save = then(Session.save, lambda _, step: recorder.write("saving", step=step))  # type: ignore[method-assign]
    checkpoint.seal = then(checkpoint.seal, lambda *args: recorder.write("sealed", step=args[2].step))
    plain_steps = Session.steps
    Session.steps = lambda self, start: recorder.fed_steps(self, start, plain_steps(self, start))  # type: ignore[method-assign,assignment]
    return supervise.run_worker_on_ray(loop_config)


def then(action: Callable[..., Any], tell: Callable[..., None]) -> Callable[..., Any]:
    """The action, and when it has succeeded, a word about it."""

    @functools.wraps(action)
    def both(*args: Any) -> Any:
        result = action(*args)
        tell(*args)
        return result

    return both
