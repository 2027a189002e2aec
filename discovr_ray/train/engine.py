"""DeepSpeed, and nothing else in the package imports it: student, optimiser and teachers at ZeRO stages 0 to 3.

All parameters are fp32 at every stage, so the tensors that ZeRO shards are the master weights; bf16 is autocast around
the forward passes. The teachers follow the student once per optimiser step, at stage 3 shard by shard.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import nn

from discovr_ray.config import Config
from discovr_ray.errors import CheckpointError
from discovr_ray.model.discovr import Student, StudentOutput, Teacher, TeacherOutput
from discovr_ray.train import ema, ranks
from discovr_ray.train.checkpoint import LocalCheckpoint
from discovr_ray.train.deepspeed_config import accumulation, deepspeed_config, parameter_groups, teacher_config
from discovr_ray.train.host_copy import HostCopy
from discovr_ray.train.partition import local_weights
from discovr_ray.train.shard_files import ShardContent
from discovr_ray.train.shards import Shards, saved_buffers


class Engine:
    """One student with its optimiser, and its teachers. Every method is called by all ranks."""

    def __init__(
        self, student: Student, teacher: Teacher, config: Config, world_size: int, device: torch.device
    ) -> None:
        """Take over both modules; the teacher becomes a copy of the student's parameters of the same names.

        Errors:
            ValueError: a teacher parameter has no equal in the student.
            RuntimeError: several workers without a process group, or deepspeed was imported for another device.
        """
        deepspeed = _prepare_process(world_size, device)
        self._gathered = deepspeed.zero.GatheredParameters
        self.student = student.to(device)
        self.teacher = teacher.to(device).requires_grad_(False).eval()
        self.device = device
        self._stage = config.engine.zero_stage
        self._world_size = world_size
        self._passes = accumulation(config, world_size)
        self._passes_done = 0
        self._bf16 = config.engine.precision == "bf16"
        self._pairs = ema.pair_parameters(teacher, student)
        optimiser = torch.optim.AdamW(
            parameter_groups(student, config.optim),
            betas=(config.optim.beta1, config.optim.beta2),
            eps=config.optim.eps,
            fused=True,  # one sweep over memory, and no temporaries of the model's size
        )
        place = argparse.Namespace(device_rank=device.index or 0)  # else it takes LOCAL_RANK
        self._engine = deepspeed.initialize(
            args=place, model=student, optimizer=optimiser, config=deepspeed_config(config, world_size)
        )[0]
        self._shards = Shards(student, teacher, self._engine.optimizer, self._stage, world_size)
        self._host_copy = HostCopy()
        self._teacher_engine = None
        if self._stage == 3:
            self._teacher_engine = deepspeed.initialize(
                args=place, model=teacher, config=teacher_config(config, world_size)
            )[0]
        ema.copy(self._local_pairs())
        for buffer in saved_buffers(teacher).values():
            dist.broadcast(buffer, 0)

    def forward_student(self, *inputs: torch.Tensor) -> StudentOutput:
        """`Student.forward`, at the run's precision."""
        return cast(StudentOutput, self._engine(*inputs))

    @torch.no_grad()
    def forward_teacher(self, clips: torch.Tensor) -> TeacherOutput:
        """`Teacher.forward`, at the run's precision and without a graph."""
        if self._teacher_engine is not None:
            return cast(TeacherOutput, self._teacher_engine(clips))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            return cast(TeacherOutput, self.teacher(clips))

    def backward(self, loss: torch.Tensor) -> None:
        """Gradient of one accumulation pass. DeepSpeed averages the passes and the ranks of a step."""
        if self._passes_done:
            self._engine.step()  # between passes it only counts
        self._engine.backward(loss)
        self._passes_done += 1

    def step(self, lr: float) -> float:
        """Update the student after the last pass; returns the L2 norm of the whole gradient, before clipping.

        When the norm is NaN or infinite, it is so on all ranks, and the gradient is dropped: weights, moments and
        AdamW's count of updates stay as they were.
        """
        if self._passes_done != self._passes:
            raise RuntimeError(f"step after {self._passes_done} passes; the configuration says {self._passes}")
        self._passes_done = 0
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        if self._stage > 0:  # these compute the norm on the way, and do without the update when it is not finite
            self._engine.step()
            return float(self._engine.get_global_grad_norm())
        norm = self._whole_gradient_norm()
        if math.isfinite(norm):
            self._engine.step()
        else:
            self._engine.zero_grad()
            self._engine.micro_steps += 1  # which tells DeepSpeed the last pass of a step
        return norm

    def update_teacher(self, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student; at stage 3 each rank updates its own shard."""
        self._release_teacher()
        ema.update(self._local_pairs(), momentum)

    def student_state(self) -> dict[str, torch.Tensor]:
        """Whole fp32 parameters and buffers on the CPU; empty on all ranks but 0."""
        return self._whole_state(self.student)

    def teacher_state(self) -> dict[str, torch.Tensor]:
        """Whole fp32 parameters and buffers on the CPU; empty on all ranks but 0."""
        return self._whole_state(self.teacher)

    def encoder_state(self) -> dict[str, torch.Tensor]:
        """Of the teachers only the video encoder, which is what a run gives away; empty on all ranks but 0."""
        return self._whole_state(self.teacher, "video.")

    @torch.no_grad()
    def copy_encoder(self, encoder: nn.Module) -> None:
        """Copy the video teacher's whole weights into an `Encoder` of the same sizes, on every rank."""
        copies = dict(encoder.named_parameters())
        for name, parameter in self.teacher.video.named_parameters():
            with self._gathered(parameter, enabled=self._stage == 3):  # one at a time, to stay small
                copies[name].copy_(parameter)

    def snapshot(self) -> list[ShardContent]:
        """This rank's files of a checkpoint as a copy in host memory; the next snapshot overwrites it.

        The files are those of `save`. Training may go on while they are written, in another thread.
        """
        return self._host_copy.take(self._shards.contents())

    def save(self, directory: Path) -> None:
        """Write this rank's files of a checkpoint, which any number of workers can load, at any ZeRO stage.

        Errors:
            CheckpointError: a file could not be written on some rank; raised on every rank.
        """
        self._all_or_raise("write", directory, lambda: self._shards.write(directory))

    def needs(self, name: str) -> bool:
        """Whether this rank loads the checkpoint file of this name."""
        return self._shards.needs(name)

    def load(self, checkpoint: LocalCheckpoint) -> None:
        """Take the state of a checkpoint whose files were verified. Every value is as it was saved.

        With as many workers and the same ZeRO stage, training then goes on bit for bit.

        Errors:
            CheckpointError: it is of another model, or a rank misses a file; raised on every rank.
        """
        steps: list[int] = []
        self._release_teacher()
        self._shards.student.release()
        self._all_or_raise("load", checkpoint.directory, lambda: steps.append(self._shards.read(checkpoint)))
        self._shards.student.take_over(steps[0])
        self._engine.global_steps = checkpoint.state.step

    def _release_teacher(self) -> None:
        """Drop parameters that are still gathered from the last forward: they would miss a change of the shards."""
        if self._teacher_engine is not None:
            self._teacher_engine.optimizer.partition_all_parameters()

    def _local_pairs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(teacher, student) tensors that this rank holds: whole parameters, or its shards at stage 3.

        Both modules are partitioned by the same rule.
        """
        for pair in self._pairs:
            yield local_weights(pair.teacher, self._stage), local_weights(pair.student, self._stage)

    def _whole_state(self, module: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
        state = {}
        for name, parameter in module.named_parameters():
            if not name.startswith(prefix):
                continue
            with self._gathered(parameter, enabled=self._stage == 3):  # one at a time, to stay small
                if ranks.rank() == 0:
                    state[name] = parameter.detach().to("cpu", copy=True)
        if ranks.rank() == 0:
            buffers = saved_buffers(module).items()
            state |= {name: value.detach().to("cpu", copy=True) for name, value in buffers if name.startswith(prefix)}
        return state

    def _whole_gradient_norm(self) -> float:
        gradients = [p.grad for p in self.student.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def _all_or_raise(self, what: str, directory: Path, action: Callable[[], None]) -> None:
        """Run the action, in which no rank waits for another; if it fails on any of them, every rank raises."""
        failure = None
        try:
            action()
        except (OSError, RuntimeError, SafetensorError) as error:
            failure = str(error).partition("\n")[0]
        if ranks.all_agree(failure is None):
            return
        free = shutil.disk_usage(directory).free if directory.exists() else 0
        reason = f"{failure} ({free / 2**20:.0f} MiB free on that disk)" if failure else "another rank failed"
        raise CheckpointError(f"{directory}: rank {ranks.rank()} cannot {what} the checkpoint: {reason}")


def _prepare_process(world_size: int, device: torch.device) -> Any:
    """Process group, environment and the deepspeed module, as DeepSpeed expects them before `initialize`."""
    if not dist.is_initialized():
        if world_size != 1:
            raise RuntimeError(f"{world_size} workers but no process group; Ray Train or the caller must make one")
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=cast(Any, dist).HashStore(), rank=0, world_size=1)
    os.environ["DS_ACCELERATOR"] = device.type  # read when deepspeed is imported
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed

    accelerator = deepspeed.get_accelerator().device_name()
    if accelerator != device.type:
        raise RuntimeError(
            f"deepspeed was imported for {accelerator} in this process, and now needed for {device.type}"
        )
    # Otherwise it compiles an operator for minutes that only tensor-parallel inference calls; see comm/torch.py,
    # build_shm_op. The table is DeepSpeed's own cache of what the machine can build.
    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(dist.get_backend(), auto_mpi_discovery=False, verbose=False)
    return deepspeed
