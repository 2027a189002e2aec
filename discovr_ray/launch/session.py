"""One worker's part of a run between a (re)start and its end: restore, open the stream, train, save."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.collective import broadcast_from_rank_zero
from ray.util.metrics import Gauge

from discovr_ray.config import Config, derive_plan
from discovr_ray.data import storage
from discovr_ray.data.stream import ClipFailure, ClipStream, MicroBatch, open_stream
from discovr_ray.errors import CheckpointError
from discovr_ray.launch.online_probe import OnlineProbe
from discovr_ray.launch.rank_log import RankLog, session_logs
from discovr_ray.launch.start_weights import load_start_weights
from discovr_ray.launch.usage import Usage
from discovr_ray.model.discovr import Student, Teacher
from discovr_ray.model.weights import export_encoder
from discovr_ray.report.samples import write_samples
from discovr_ray.train import checkpoint
from discovr_ray.train.engine import Engine
from discovr_ray.train.hang import limited
from discovr_ray.train.health import Health
from discovr_ray.train.loop import train
from discovr_ray.train.quarantine import Quarantine
from discovr_ray.train.run_log import QUARANTINE_FILE, RunLog, read_records
from discovr_ray.train.saver import Saver

logger = logging.getLogger(__name__)

# Between two looks for notices that a node is about to be taken away, each of which costs a barrier through an actor.
# Ray Train itself asks the cluster every 5 s.
NOTICE_INTERVAL_S = 5.0


@dataclass(frozen=True)
class WorkerTask:
    """All that a worker is told; plain values and one actor handle, so that it can be pickled."""

    config: dict[str, Any]
    run_uri: str
    access: storage.Access  # the driver's
    clips_sha256: str  # manifest.fingerprint of the clips that the driver checked
    stop_flag: Any  # handle of launch.stop.StopFlag
    start: str  # name of the driver's claim.Claim
    init_sha256: str = ""  # EncoderCard.model_sha256 of model.init_from; "": none is needed


@dataclass(frozen=True)
class WorkerResult:
    """How a worker's training ended. `error` holds what no restart can mend, so that it is not retried."""

    steps: int = 0
    stopped: bool = False  # somebody asked for it
    leaves: bool = False  # the workers have left, after a checkpoint, for a node of theirs is about to be taken away
    error: Exception | None = field(default=None)


class Session:
    """One worker's part of a run, from (re)start to end; the loop's Context."""

    def __init__(self, config: Config, task: WorkerTask, clips: pa.Table, device: torch.device) -> None:
        """`clips` are the run's rows of the manifest."""
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.device = device
        # of [min, max] those that are there
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, workers=self.world_size))
        self._config = config
        self._task = task
        self._plan = derive_plan(config, clips.num_rows)
        self._clips = clips if self.rank == 0 else clips.schema.empty_table()  # gigabytes at millions
        torch.manual_seed(config.run.seed)
        student = Student(config)
        if task.init_sha256 and not checkpoint.sealed(task.run_uri):
            load_start_weights(student, config.model.init_from, task.init_sha256)
        self._engine = Engine(student, Teacher(config), config, self.world_size, self.device)
        self._log: RunLog | None = None  # rank 0's
        self._rank_log = RankLog(session_logs(), config.run.name, self.rank, config.run.log_every_steps)
        self._usage = Usage(task.run_uri, self.world_size, config.run.use_gpu)
        self._gauges: dict[str, Gauge] = {}
        self._sample_batch: MicroBatch | None = None
        self._probe: OnlineProbe | None = None
        self._notice_at = time.monotonic()  # of the last look
        self._leaves = False

    def run(self) -> WorkerResult:
        config, plan = self._config, self._plan
        self._saver = Saver(self._task.run_uri, config.checkpoint, self._task.start)
        state = self._restore()
        start_step = self._saved_step = state.step if state else 0
        self._health = Health(config, plan, state.skipped_steps if state else ())
        # the file may be ahead of the checkpoint, or behind it where a kill came before it was copied to the storage
        known_bad = {str(record["clip_id"]) for record in read_records(self._task.run_uri, QUARANTINE_FILE)}
        known_bad |= set(state.quarantined if state else ())
        dist.barrier()  # everybody has read before rank 0 writes
        if self.rank == 0:
            checkpoint.retract(self._task.run_uri, newer_than=start_step)
            checkpoint.prune(self._task.run_uri, config.checkpoint.keep)
            checkpoint.remove_orphans(self._task.run_uri)
            local, check = self._saver.local_folder("log"), self._saver.attempt.check
            self._log = RunLog(self._task.run_uri, config, plan, start_step, local, check)
            logger.info("starting at step %d of %d on %d workers", start_step, plan.total_steps, self.world_size)
        self._quarantine = Quarantine(config, plan.num_clips, sorted(known_bad))
        dist.barrier()  # nobody saves while rank 0 cleans
        try:
            steps = train(config, plan, self._engine, self, start_step, self._quarantine, self._health)
            with self._limited_save():
                self._saver.finish()
        finally:
            with self._limited_save():
                self._saver.close()
            if self._log:
                self._log.close()
                self._usage.write()
            self._rank_log.close()
        is_over = steps == plan.total_steps
        return WorkerResult(steps, stopped=not is_over and not self._leaves, leaves=not is_over and self._leaves)

    def _restore(self) -> checkpoint.TrainState | None:
        """What the newest sound checkpoint says, now loaded; None when there is none."""
        folder = self._saver.local_folder("restore")
        try:
            restored = checkpoint.restore(self._task.run_uri, folder, self._engine.needs)
            if restored:
                self._engine.load(restored)
                return restored.state
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if damaged := checkpoint.sealed(self._task.run_uri):
            raise CheckpointError(
                f"{self._task.run_uri}: none of the {len(damaged)} checkpoints is sound (the warnings above say why); "
                "the run does not start over by itself: remove them, or choose another run.name"
            )
        return None

    def steps(self, start_step: int) -> Iterator[list[MicroBatch]]:
        if start_step >= self._plan.total_steps:
            return
        stream: ClipStream | None = None
        if self.rank == 0:
            stream = open_stream(self._clips, self._config, self._plan, self.world_size, start_step)
        stream = broadcast_from_rank_zero(stream)
        with closing(stream.steps(self.rank)) as steps:
            for batches in steps:
                self._rank_log.clips(batches)
                self._sample_batch = next((batch for batch in batches if batch.weights.any()), self._sample_batch)
                yield batches

    def stop_requested(self) -> bool:
        return bool(ray.get(self._task.stop_flag.requested.remote()))

    def notice_due(self) -> bool:
        if time.monotonic() - self._notice_at < NOTICE_INTERVAL_S:
            return False
        self._notice_at = time.monotonic()
        return True

    def node_leaves(self) -> bool:
        info = ray.train.get_preemption_info()
        if info and self.rank == 0:
            left = f" in {info.deadline_ms / 1000 - time.time():.0f} s" if info.deadline_ms else ""
            logger.warning(
                "saving a checkpoint and leaving: nodes of ranks %s are about to be taken away%s",
                *(info.preempted_ranks, left),
            )
        self._leaves = self._leaves or info is not None
        return self._leaves

    def record(self, values: dict[str, float]) -> None:
        assert self._log is not None
        self._log.metrics(values)
        for name, value in values.items():
            if name not in self._gauges:
                self._gauges[name] = Gauge(f"discovr_{name}", f"{name} of the last logged step", tag_keys=("run",))
            self._gauges[name].set(value, tags={"run": self._config.run.name})

    def probe(self, step: int) -> dict[str, float]:
        if self._probe is None:
            self._probe = OnlineProbe(self._config)
        return self._probe.figures(self._engine)

    def quarantine(self, step: int, failures: Sequence[ClipFailure]) -> None:
        assert self._log is not None
        self._log.quarantine(step, (step - 1) // self._plan.steps_per_epoch, failures)  # steps count from 1

    def hung(self, step: int, stacks: str) -> None:
        uri = storage.join(self._task.run_uri, "stacks", f"step_{step:08d}_rank_{self.rank}.txt")
        logger.error("rank %d hangs; where: %s", self.rank, uri)
        storage.write_bytes(uri, stacks.encode())

    def _limited_save(self) -> AbstractContextManager[None]:
        return limited(self._config.checkpoint.hang_timeout_s, self._saved_step, self.hung, "save")

    def save(self, step: int) -> None:
        self._saved_step = step
        self._saver.save(self._state(step), lambda: self._copy(step))

    def _state(self, step: int) -> checkpoint.TrainState:
        return checkpoint.TrainState(
            step=step,
            samples_seen=step * self._config.engine.global_batch,
            num_clips=self._plan.num_clips,
            clips_sha256=self._task.clips_sha256,
            world_size=self.world_size,
            zero_stage=self._config.engine.zero_stage,
            config=self._config.to_dict(),
            quarantined=sorted(self._quarantine.clip_ids),
            skipped_steps=list(self._health.skipped_steps),
        )

    def _copy(self, step: int) -> Callable[[Path], None]:
        """A copy of all that a checkpoint holds, and what writes this rank's files of it. Called by all ranks."""
        shards, batch = self._engine.snapshot(), self._sample_batch
        is_last = step == self._plan.total_steps  # then the report's samples come along
        teacher_state = self._engine.teacher_state() if is_last else self._engine.encoder_state()
        student_state = self._engine.student_state() if is_last else {}

        def write(folder: Path) -> None:
            for shard in shards:
                shard.write(folder)
            if self._log:  # rank 0
                self._log.publish()
                self._usage.write()
                export_encoder(folder, self._config, teacher_state, step)
                if is_last and batch:
                    write_samples(folder, self._config, teacher_state, student_state, batch)

        return write
