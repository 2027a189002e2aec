"""Saving without stalling: training pauses for a copy in memory, everything else goes on behind its back.

At most one save is on its way. The next one waits for it, which is counted: then saves come faster than the storage
takes them. A save that fails costs a warning, `checkpoint.max_failed_saves` of them in a row the run.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from discovr_ray.config.sections import CheckpointConfig
from discovr_ray.data import storage
from discovr_ray.errors import CheckpointError, RunTakenError
from discovr_ray.train import ranks
from discovr_ray.train.checkpoint import TrainState
from discovr_ray.train.claim import begin_attempt
from discovr_ray.train.upload import Save, Times, Upload, Writer

RETRY_PAUSE_S = 5.0  # before the last save of a run is tried again: no later one will make up for it
PATIENCE_S = 60.0  # of a run that ends with an error, for the files of other ranks
log = logging.getLogger(__name__)


class Saver:
    """The saves of one rank. Every rank calls its methods at the same step; `close` asks nobody."""

    def __init__(self, run_uri: str, config: CheckpointConfig, start: str = "") -> None:
        """From now on no other group may save; removes what killed ones left on this machine.

        Args:
            start: see `claim.begin_attempt`.
        Errors:
            RunTakenError: another start of the job has taken the run over; on all ranks.
            StorageError: the storage cannot be reached; on all ranks.
        """
        self.attempt = ranks.from_rank_zero(lambda: begin_attempt(run_uri, start))
        self._base = Path(config.local_folder or tempfile.gettempdir())
        run_prefix = f"discovr-save-{hashlib.sha256(run_uri.encode()).hexdigest()[:12]}-"
        self._prefix = f"{run_prefix}{self.attempt.number}-"
        for left in self._base.glob(f"{run_prefix}*"):
            if not left.name.startswith(self._prefix):
                shutil.rmtree(left, ignore_errors=True)
        local_dir = self.local_folder("save")
        self._writer = Writer(self.attempt, local_dir, ranks.rank(), ranks.world_size(), config.keep)
        self._max_failed = config.max_failed_saves
        self._failed, self._failing_since = 0, 0.0  # in a row; by time.monotonic
        self._upload: Upload | None = None
        self.waited_s = 0.0  # training, for saves that were still on their way, in all
        self.times = Times()  # of the last save that has ended

    def local_folder(self, purpose: str) -> Path:
        """A name on this rank's local disk, not made yet; when the run is killed, its next attempt removes it."""
        return self._base / f"{self._prefix}{purpose}-{ranks.rank()}"

    def save(self, state: TrainState, copy: Callable[[], Callable[[Path], None]]) -> None:
        """Save in the background, after the save before has ended.

        Args:
            copy: makes a copy of the state, while training pauses, and returns what writes this rank's files of it
                into a folder, later and in another thread.
        Errors:
            CheckpointError: too many saves in a row have failed; on all ranks.
            RunTakenError: other workers have taken the place of these; on all ranks.
        """
        times = Times()
        with times.measure("wait"):
            self._settle()
        self.waited_s += times.wait
        if times.wait > 1:
            log.warning(
                "step %d: training waited %.1f s for the checkpoint before (%.1f s in all); checkpoint.every_steps is "
                "short for this storage",
                *(state.step, times.wait, self.waited_s),
            )
        with times.measure("pause"):
            save = Save(state, copy())
        self._start(save, times)

    def finish(self) -> None:
        """Wait until the last save is complete, and repeat it while it fails: no later one will make up for it.

        Errors:
            CheckpointError: `checkpoint.max_failed_saves` tries of this save have failed, for at least
                `storage.outage_patience_s`; on all ranks.
        """
        self._failed = 0
        while self._upload:
            save = self._upload.save
            if not self._settle(storage.settings().outage_patience_s):
                time.sleep(RETRY_PAUSE_S)
                self._start(save._replace(number=save.number + 1), Times())
        self.close()

    def close(self) -> None:
        """Let a save that is on its way end, as far as it depends on this rank, and remove the local folder."""
        if self._upload:
            self._upload.outcome.stored.wait()
            self._upload.join(PATIENCE_S)
            self._upload.outcome.abandoned.set()
            self._upload.join()
            self._upload = None
        shutil.rmtree(self._writer.local_dir, ignore_errors=True)

    def _start(self, save: Save, times: Times) -> None:
        self._upload = Upload(self._writer, save, times)
        self._upload.start()

    def _settle(self, patience_s: float = 0.0) -> bool:
        """Wait for the save on its way, if any; whether it is complete.

        Errors: see `save`; not before saves have failed for `patience_s`.
        """
        upload, self._upload = self._upload, None
        if upload is None:
            return True
        outcome = upload.outcome
        outcome.stored.wait()
        if any(ranks.gathered(outcome.failure)):  # then rank 0 would wait for that rank's files for ever
            outcome.abandoned.set()
        upload.join()
        if outcome.defect:
            raise outcome.defect
        self.times = outcome.times
        ends = ranks.gathered((outcome.failure, outcome.is_taken))
        for failure, is_taken in ends:
            if is_taken:
                raise RunTakenError(failure)
        causes = {rank: failure for rank, (failure, _) in enumerate(ends) if failure}
        self._failed = self._failed + 1 if causes else 0
        if self._failed == 1:
            self._failing_since = time.monotonic()
        is_over = time.monotonic() - self._failing_since >= patience_s
        if self._failed >= self._max_failed and ranks.all_agree(is_over):
            told = "; ".join(f"rank {rank}: {cause}" for rank, cause in causes.items())
            raise CheckpointError(
                f"step {upload.save.state.step}: {self._failed} saves in a row have failed "
                f"(checkpoint.max_failed_saves = {self._max_failed}): {told}"
            )
        return not causes
