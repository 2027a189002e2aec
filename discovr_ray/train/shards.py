"""A run's trained state as checkpoint files: which rank writes what, and which files a rank needs to go on.

Two files a rank: the student's weights with AdamW's moments, and the teachers' weights with their centres. What ZeRO
shards, a rank writes as it holds it; of what all ranks hold alike each writes its share.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from discovr_ray.train import ranks
from discovr_ray.train.checkpoint import LocalCheckpoint
from discovr_ray.train.partition import StudentPartition, weight_piece, whole_size
from discovr_ray.train.shard_files import Piece, ShardContent, ShardFile, parse_name, read_pieces

_STEPS = "adamw_steps"


class Shards:
    """Student, optimiser and teachers of one rank, cut as its ZeRO stage and the number of ranks cut them."""

    def __init__(self, student: nn.Module, teacher: nn.Module, optimizer: Any, stage: int, world_size: int) -> None:
        """`optimizer` is the DeepSpeed engine's. The teacher's parameters are sharded at stage 3 alone."""
        self.student = StudentPartition(student, optimizer, stage)
        self._modules = {"student": student, "teacher": teacher}
        self._sharded = {"student": stage > 0, "teacher": stage == 3}
        self._stage, self._world_size = stage, world_size

    def needs(self, name: str) -> bool:
        """Whether this rank loads the file of this name: its own part where it was cut as now, else every part."""
        shard = parse_name(name)
        if shard is None:
            return False
        own = self._own_file(shard.module)
        return shard == own or not self._sharded[shard.module] or shard._replace(rank=own.rank) != own

    def write(self, directory: Path) -> None:
        """Write this rank's two files.

        Errors:
            OSError, SafetensorError: a file cannot be written.
            RuntimeError: AdamW's steps differ between parameters.
        """
        directory.mkdir(parents=True, exist_ok=True)
        for content in self.contents():
            content.write(directory)

    def contents(self) -> list[ShardContent]:
        """What this rank's two files hold; the values are the state itself.

        Errors:
            RuntimeError: AdamW's steps differ between parameters.
        """
        notes = {"student": {_STEPS: str(self.student.steps())}, "teacher": {}}
        contents = []
        for module in self._modules:
            pieces = self._pieces(module)
            if not self._sharded[module]:
                pieces = [piece.share(ranks.rank(), self._world_size) for piece in pieces]
            whole = [*pieces, *self._buffers(module)]  # buffers are tiny: every file has them whole
            contents.append(ShardContent(self._own_file(module).name, whole, self._totals(module), notes[module]))
        return contents

    def read(self, checkpoint: LocalCheckpoint) -> int:
        """Write a checkpoint's values over this rank's state; returns how many updates AdamW has counted.

        Errors:
            OSError, SafetensorError: a file is missing or cannot be read.
            RuntimeError: the checkpoint is of another model.
        """
        notes: dict[str, str] = {}
        state = checkpoint.state
        for module in self._modules:
            names = [
                ShardFile(module, state.zero_stage, rank, state.world_size).name for rank in range(state.world_size)
            ]
            paths = [checkpoint.directory / name for name in names if self.needs(name)]
            content = [*self._pieces(module), *self._buffers(module)]
            notes |= read_pieces(paths, content, self._totals(module))
        return int(notes[_STEPS])

    def _own_file(self, module: str) -> ShardFile:
        return ShardFile(module, self._stage, ranks.rank(), self._world_size)

    def _pieces(self, module: str) -> list[Piece]:
        if module == "student":
            return self.student.pieces()
        named = self._modules[module].named_parameters()
        return [weight_piece(f"weight/{name}", parameter, self._stage) for name, parameter in named]

    def _buffers(self, module: str) -> Iterable[Piece]:
        named = saved_buffers(self._modules[module]).items()
        return [Piece(f"buffer/{name}", 0, buffer.view(-1)) for name, buffer in named]

    def _totals(self, module: str) -> dict[str, int]:
        """Elements of each whole tensor."""
        if module == "student":
            sizes = self.student.totals()
        else:
            named = self._modules[module].named_parameters()
            sizes = {f"weight/{name}": whole_size(parameter, self._stage) for name, parameter in named}
        return sizes | {piece.tensor: len(piece.values) for piece in self._buffers(module)}


def saved_buffers(module: nn.Module) -> dict[str, Any]:
    """Buffers that belong to the state, such as centres; fixed positions do not."""
    saved = module.state_dict().keys()
    return {name: buffer for name, buffer in module.named_buffers() if name in saved}
