"""The copy that a save is written from: the values as they were, whatever their type and length."""

from __future__ import annotations

import torch

from discovr_ray.train.host_copy import HostCopy
from discovr_ray.train.shard_files import Piece, ShardContent


def test_a_copy_keeps_the_values_until_the_next_one() -> None:
    values = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0], dtype=torch.bfloat16), torch.tensor([6, 7])]
    pieces = [Piece(f"weight/{number}", number, tensor) for number, tensor in enumerate(values)]
    room, content = HostCopy(), ShardContent("student.safetensors", pieces, {"weight/0": 3}, {"steps": "1"})
    (copy,) = room.take([content])
    for tensor in values:
        tensor.add_(10)
    assert [piece.values.tolist() for piece in copy.pieces] == [[1.0, 2.0, 3.0], [4.0, 5.0], [6, 7]]
    assert [piece.values.dtype for piece in copy.pieces] == [torch.float32, torch.bfloat16, torch.int64]
    assert copy._replace(pieces=pieces) == content
    room.take([content])
    assert [piece.values.tolist() for piece in copy.pieces] == [[11.0, 12.0, 13.0], [14.0, 15.0], [16, 17]]


def test_other_sizes_get_other_room() -> None:
    room = HostCopy()
    for length in (3, 5, 0):
        (copy,) = room.take([ShardContent("a", [Piece("weight/a", 0, torch.ones(length))], {}, {})])
        assert copy.pieces[0].values.tolist() == [1.0] * length
