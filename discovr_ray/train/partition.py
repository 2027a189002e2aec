"""Which part of students, AdamW's moments and teachers a rank holds under ZeRO, as pieces of whole tensors.

DeepSpeed's own checkpoints load only where they were written. So its tables are read here, the one place that knows
them, and the engine keeps checkpoints in a form of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from discovr_ray.train import ranks
from discovr_ray.train.shard_files import Piece

MOMENTS = ("exp_avg", "exp_avg_sq")


def local_weights(parameter: nn.Parameter, stage: int) -> torch.Tensor:
    """What this rank holds of a parameter: all of it, or at stage 3 its shard, flat, with the padding of the last."""
    tensor: torch.Tensor = cast(Any, parameter).ds_tensor if stage == 3 else parameter
    return tensor.data


def whole_size(parameter: nn.Parameter, stage: int) -> int:
    """Elements of a parameter, sharded or not."""
    return int(cast(Any, parameter).ds_numel) if stage == 3 else parameter.numel()


def weight_piece(tensor: str, parameter: nn.Parameter, stage: int) -> Piece:
    """What this rank holds of a parameter that no optimiser updates, without padding."""
    offset, length = _shard_range(parameter) if stage == 3 else (0, parameter.numel())
    return Piece(tensor, offset, local_weights(parameter, stage).view(-1)[:length])


class StudentPartition:
    """This rank's fp32 weights and moments. At stage 0 every rank holds everything."""

    def __init__(self, student: nn.Module, optimizer: Any, stage: int) -> None:
        """`optimizer` is the DeepSpeed engine's, and trains every parameter of the student."""
        self._student, self._optimizer, self._stage = student, optimizer, stage
        self._adamw = optimizer.optimizer if stage else optimizer

    def totals(self) -> dict[str, int]:
        """Elements of each whole tensor that pieces are cut from."""
        named = self._student.named_parameters()
        sizes = {name: whole_size(parameter, self._stage) for name, parameter in named}
        return {f"{kind}/{name}": size for name, size in sizes.items() for kind in ("weight", *MOMENTS)}

    def pieces(self) -> list[Piece]:
        """What this rank holds; the values are the trained state itself."""
        pieces = []
        for name, offset, length, owner, start in self._places():
            state = self._state(owner)
            for kind, tensor in (("weight", owner), *((kind, state[kind]) for kind in MOMENTS)):
                pieces.append(Piece(f"{kind}/{name}", offset, tensor.detach().view(-1)[start : start + length]))
        return pieces

    def steps(self) -> int:
        """Updates that AdamW has counted, for its correction of the moments' bias.

        Errors:
            RuntimeError: it has not updated all parameters equally often.
        """
        counts = {int(self._state(owner)["step"]) for owner in self._owners()}
        if len(counts) != 1:
            raise RuntimeError(f"AdamW has updated some parameters more often than others: {sorted(counts)}")
        return counts.pop()

    def release(self) -> None:
        """Drop gathered parameters, which would miss what is written into the pieces."""
        if self._stage == 3:
            self._optimizer.checkpoint_event_prologue()

    def take_over(self, steps: int) -> None:
        """Make DeepSpeed use what was written into the pieces. Called by all ranks."""
        for owner in self._owners():
            self._state(owner)["step"].fill_(steps)
        if self._stage in (1, 2):
            self._optimizer.update_lp_params()  # gathers the whole parameters from the partitions
        elif self._stage == 3:
            for number in range(len(self._owners())):
                self._optimizer._reassign_or_swap_out_partitioned_parameters(number)
            self._optimizer.checkpoint_event_epilogue()  # gathers the small parameters that every rank keeps whole

    def _owners(self) -> list[torch.Tensor]:
        """The tensors that AdamW updates: the parameters, or this rank's flat partition of each group of them."""
        if self._stage == 0:
            return list(self._student.parameters())
        owners: list[torch.Tensor] = (
            self._optimizer.fp32_partitioned_groups_flat
            if self._stage == 3
            else self._optimizer.single_partition_of_fp32_groups
        )
        return owners

    def _places(self) -> Iterator[_Place]:
        owners = self._owners()
        for number, (name, parameter) in enumerate(self._student.named_parameters()):
            if self._stage == 0:
                yield _Place(name, 0, parameter.numel(), owners[number], 0)
            elif self._stage == 3:
                group, start, _ = self._optimizer.grad_position[self._optimizer.get_param_id(parameter)]
                yield _Place(name, *_shard_range(parameter), owners[group], start)
            elif mapping := cast(Any, parameter)._hp_mapping:  # None where nothing of it lies in this partition
                whole, flat = mapping.lp_fragment_address, mapping.hp_fragment_address
                yield _Place(name, whole.start, whole.numel, owners[mapping.param_group_index], flat.start)

    def _state(self, owner: torch.Tensor) -> dict[str, torch.Tensor]:
        """AdamW's; before its first step as that step would make it."""
        state: dict[str, torch.Tensor] = self._adamw.state[owner]
        if not state:
            state["step"] = torch.zeros((), device=owner.device)
            state |= {kind: torch.zeros_like(owner, requires_grad=False) for kind in MOMENTS}
        return state


class _Place(NamedTuple):
    """Where a stretch of a parameter lies in a tensor that AdamW updates."""

    name: str  # of the parameter
    offset: int  # in the parameter
    length: int
    owner: torch.Tensor
    start: int  # in the owner


def _shard_range(parameter: nn.Parameter) -> tuple[int, int]:
    """(offset, length) of this rank's shard of a parameter at stage 3, without padding."""
    sharded = cast(Any, parameter)
    size, total = int(sharded.partition_numel()), int(sharded.ds_numel)
    offset = min(ranks.rank() * size, total)
    return offset, min(size, total - offset)
