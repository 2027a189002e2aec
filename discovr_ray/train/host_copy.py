"""A copy of one rank's state in host memory: files are written from it while training changes the state itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from discovr_ray.train.shard_files import Piece, ShardContent

_ALIGN = 8  # bytes; the widest element


class HostCopy:
    """Room for one copy, kept from save to save: the kernel takes longer to hand out gigabytes than a copy takes."""

    def __init__(self) -> None:
        self._room: dict[str, torch.Tensor] = {}  # file name -> its bytes

    def take(self, contents: Sequence[ShardContent]) -> list[ShardContent]:
        """The same contents with values that no longer change, until the next `take` overwrites them."""
        copies = [content._replace(pieces=list(self._copied(content))) for content in contents]
        if any(piece.values.is_cuda for content in contents for piece in content.pieces):
            torch.cuda.synchronize()  # the copies were only asked for
        return copies

    def _copied(self, content: ShardContent) -> Iterator[Piece]:
        room, start = self._room_of(content), 0
        for piece in content.pieces:
            end = start + piece.values.nbytes
            copy = room[start:end].view(piece.values.dtype)
            copy.copy_(piece.values, non_blocking=True)
            yield piece._replace(values=copy)
            start = _aligned(end)

    def _room_of(self, content: ShardContent) -> torch.Tensor:
        size = sum(_aligned(piece.values.nbytes) for piece in content.pieces)
        room = self._room.get(content.name)
        if room is None or len(room) != size:
            is_cuda = any(piece.values.is_cuda for piece in content.pieces)
            room = self._room[content.name] = torch.empty(size, dtype=torch.uint8, pin_memory=is_cuda)
        return room


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
