"""What a run writes down as it goes: metrics.jsonl, TensorBoard events, quarantine.jsonl, and one line for people."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.tensorboard import SummaryWriter

from discovr_ray.config import Config, RunPlan
from discovr_ray.data import storage
from discovr_ray.errors import RunTakenError
from discovr_ray.train.publisher import Publisher

if TYPE_CHECKING:  # the stream imports Ray, which the loop does not need
    from discovr_ray.data.stream import ClipFailure

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
QUARANTINE_FILE = "quarantine.jsonl"


PUBLISH_INTERVAL_S = 30.0


class RunLog:
    """Rank 0's record of a run.

    On a local run folder the files are written in place. Object stores cannot append, so there they grow in a
    local folder and are copied over in a thread, every half minute and at every checkpoint.
    On resume, records after `start_step` are dropped: the run is about to write them again.
    """

    def __init__(
        self,
        run_uri: str,
        config: Config,
        plan: RunPlan,
        start_step: int,
        local_folder: Path,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`local_folder` is made when it is needed, and removed by `close`.

        Args:
            check: raises RunTakenError once the run folder belongs to others, which is then left alone.
        """
        self._check = check
        self._plan = plan
        self._global_batch = config.engine.global_batch
        self._remote = "://" in run_uri
        self._root = local_folder if self._remote else Path(run_uri)
        self._published_at = 0.0
        kept = [record for record in read_records(run_uri, METRICS_FILE) if record["step"] <= start_step]
        self._write_all(METRICS_FILE, kept)
        # a clip that failed stays on record even when the step that met it is run again
        self._write_all(QUARANTINE_FILE, read_records(run_uri, QUARANTINE_FILE))
        self._tensorboard = SummaryWriter(self._root / "tensorboard", purge_step=start_step + 1 if start_step else None)
        self._publisher = Publisher(self._root, run_uri, check) if self._remote else None

    def metrics(self, record: dict[str, float]) -> None:
        """One logged step: a JSON line (NaN becomes null), TensorBoard scalars and a progress line."""
        if self._is_taken():
            return
        self._append(METRICS_FILE, {key: value if math.isfinite(value) else None for key, value in record.items()})
        for name, value in record.items():
            self._tensorboard.add_scalar(name, value, int(record["step"]))
        logger.info(progress_line(record, self._plan, self._global_batch))
        if time.monotonic() - self._published_at > PUBLISH_INTERVAL_S:
            self.publish()

    def quarantine(self, step: int, epoch: int, failures: Sequence[ClipFailure]) -> None:
        if self._is_taken():
            return
        for failure in failures:
            self._append(
                QUARANTINE_FILE,
                {"clip_id": failure.clip_id, "reason": failure.reason, "step": step, "epoch": epoch},
            )
            logger.warning("clip %s is left out: %s", failure.clip_id, failure.reason)
        self.publish()

    def publish(self) -> None:
        """Have everything written so far copied to the run folder; does not wait for it. Any thread may ask."""
        self._tensorboard.flush()
        self._published_at = time.monotonic()
        if self._publisher:
            self._publisher.ask()

    def close(self) -> None:
        """Waits until everything is in the run folder, or the storage has failed."""
        self._tensorboard.close()
        if self._publisher:
            self._publisher.close()
            shutil.rmtree(self._root, ignore_errors=True)

    def _is_taken(self) -> bool:
        """Of the run folder itself; for a copy of it the publisher asks."""
        try:
            if not self._remote:
                self._check()
        except RunTakenError as error:  # the next save ends all ranks together
            logger.warning("no longer written down: %s", error)
            return True
        return False

    def _append(self, name: str, record: dict[str, Any]) -> None:
        with (self._root / name).open("a") as file:
            file.write(json.dumps(record) + "\n")

    def _write_all(self, name: str, records: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(record) + "\n" for record in records)
        storage.write_bytes(str(self._root / name), text.encode())  # all or nothing, also on a full disk


def read_records(run_uri: str, name: str) -> list[dict[str, Any]]:
    """Objects of a JSONL file of the run; empty when there is none. A line cut by a kill or a full disk is left out."""
    uri = storage.join(run_uri, name)
    if not storage.exists(uri):
        return []
    records = []
    for line in storage.read_bytes(uri).decode(errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            logger.warning("%s: left out a damaged line: %.60s", uri, line)
    return records


def progress_line(record: dict[str, float], plan: RunPlan, global_batch: int) -> str:
    """The record's essentials and the time left at the present speed."""
    step = int(record["step"])
    left_s = round((plan.total_steps - step) * global_batch / max(record["clips_per_s"], 1e-9))
    knn = f"kNN {record['knn_balanced_accuracy']:.1%}  " if "knn_balanced_accuracy" in record else ""
    hours, minutes = divmod(left_s // 60, 60)
    return (
        f"step {step}/{plan.total_steps}  epoch {record['epoch']:.2f}  loss {record['loss']:.4f} "
        f"(video {record['loss_vid']:.3f}, image {record['loss_img']:.3f}, clusters {record['loss_scd']:.3f})  "
        f"lr {record['lr']:.2e}  grad {record['grad_norm']:.2f}  rank {record['rank_me']:.1f}  {knn}"
        f"{record['clips_per_s']:.1f} clips/s  data wait {record['data_wait_share']:.0%}  "
        f"left {hours}:{minutes:02d}:{left_s % 60:02d}"
    )
