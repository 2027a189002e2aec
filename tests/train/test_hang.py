"""What the watch over a training process does when the process goes on after all."""

from __future__ import annotations

import subprocess
import sys

SLOW_STEP = """
import time
from discovr_ray.train import hang
hang.LINGER_S = 1.0
late = []
with hang.HangWatch(0.3, lambda step, stacks: late.append(step)) as watch:
    watch.step_done(1)
    while not late:
        time.sleep(0.01)
    with watch.paused():  # step 2 and a save
        time.sleep(1.5)
    while len(late) < 2:
        time.sleep(0.01)
time.sleep(1.5)
print("alive", late)
"""


def test_a_process_that_goes_on_after_all_is_left_alone_and_watched_again() -> None:
    """It goes on once with its steps, once with the end of training, both while it was about to be ended."""
    done = subprocess.run([sys.executable, "-c", SLOW_STEP], capture_output=True, text=True, timeout=60)
    assert done.stdout == "alive [1, 1]\n", done.stderr
    assert "no step was done for 0.3 s after step 1" in done.stderr
    assert done.stderr.count("goes on after all") == 2
