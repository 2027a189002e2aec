"""One call in a process of its own, for a file that took its last process down: the answer, or how the process died."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from ray import cloudpickle

from discovr_ray.data import outage, storage, watchdog

LAST_WORDS = 300  # characters of stderr in a reason


class Outcome(NamedTuple):
    """What the function returned; or how its process died, and what most likely is to blame for it."""

    value: Any
    death: str = ""
    blame: Literal["", "file", "machine", "storage"] = ""  # what the machine did may not happen again


def call_apart(function: Callable[..., Any], *arguments: Any) -> Outcome:
    """function(*arguments) in a new Python process that reaches the storage as this one does.

    The function sets its own time limit (watchdog), and raises nothing.
    """
    child = subprocess.run(
        [sys.executable, "-m", __name__],
        input=cloudpickle.dumps((storage.access(), function, arguments)),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        check=False,
    )
    if child.returncode == 0:
        return Outcome(pickle.loads(child.stdout))
    return _death(child.returncode, child.stderr)


def _death(returncode: int, stderr: bytes) -> Outcome:
    if watchdog.TIMEOUT_MARK in stderr:
        if outage.FRAME_MARK in stderr:
            return Outcome(None, "reading did not end", "storage")
        limit_s = watchdog.base_limit_s()
        reason = f"decoding took longer than {limit_s:g} s ({watchdog.LIMIT_VARIABLE}; large files get more)"
        return Outcome(None, reason, "machine")
    if returncode == -signal.SIGKILL:
        return Outcome(None, "the decoder crashed: SIGKILL (out of memory, or killed by hand)", "machine")
    if returncode < 0:
        return Outcome(None, f"the decoder crashed: {signal.Signals(-returncode).name}", "file")
    words = stderr.decode(errors="replace").strip()[-LAST_WORDS:]
    return Outcome(None, f"the process ended with code {returncode}: {words}", "machine")


def _serve() -> None:
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not end up in the answer
    access, function, arguments = pickle.load(sys.stdin.buffer)
    storage.adopt(access)
    with answer:
        pickle.dump(function(*arguments), answer)


if __name__ == "__main__":
    _serve()
